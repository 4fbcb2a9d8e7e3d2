"""Who gets in over TCP and who does not: frames and events for what we decide."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from zflow.devices.sockets import zap
from zflow.devices.sockets.zap import CLIENTS, REPLICAS, Connections, Handler, Refusals

SERVER, CLIENT, REPLICA, STRANGER, OTHER = (zmq.curve_keypair() for _ in range(5))
SECRETS = [secret for _, secret in (SERVER, CLIENT, REPLICA, STRANGER, OTHER)]
LISTS = {CLIENTS: frozenset({CLIENT[0]}), REPLICAS: frozenset({REPLICA[0]})}


# -- the decision ----------------------------------------------------------------------------------

KEY = z85.decode(CLIENT[0])


def handler(lists=None, connections=0, refusals=None):
    lists = LISTS if lists is None else lists
    return Handler(
        lambda: lists,
        {CLIENTS: 10, REPLICAS: 10},
        lambda domain: connections,
        refusals or Refusals(),
    )


def request(
    domain=CLIENTS, mechanism=b"CURVE", credentials=(KEY,), version=b"1.0", address=b"10.0.0.1"
):
    return [version, b"1", domain, address, b"", mechanism, *credentials]


def test_a_request_that_holds_is_granted():
    assert handler().reply(request(), 0) == [b"1.0", b"1", b"200", b"", CLIENT[0], b""]
    assert handler({}).reply(request(mechanism=b"NULL", credentials=()), 0) == [
        b"1.0",
        b"1",
        b"200",
        b"",
        b"",
        b"",
    ]
    assert handler(connections=10).reply(request(), 0)[2] == b"200"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(version=b"2.0"), b"not a ZAP 1.0 request"),
        (request()[:5], b"not a ZAP 1.0 request"),
        (request(domain=b"others"), b"there is nothing to connect to"),
        (request(domain=b""), b"there is nothing to connect to"),
        (request(mechanism=b"NULL", credentials=()), b"it has no key"),
        (request(mechanism=b"PLAIN", credentials=(b"a", b"b")), b"it has no key"),
        (request(mechanism=b"GSSAPI", credentials=(b"a",)), b"it has no key"),
        (request(credentials=()), b"its key is malformed"),
        (request(credentials=(KEY, KEY)), b"its key is malformed"),
        (request(credentials=(KEY[:31],)), b"its key is malformed"),
        (request(credentials=(bytes(32),)), b"its key is not on the list"),
    ],
)
def test_everything_else_is_refused(asked, reason):
    assert handler().reply(asked, 0) == [b"1.0", b"1", b"400", reason, b"", b""]


def test_a_list_that_is_empty_is_not_a_list_that_is_not_there():
    assert (
        handler({CLIENTS: frozenset()}).reply(request(mechanism=b"NULL", credentials=()), 0)[2]
        == b"400"
    )
    assert handler({CLIENTS: frozenset()}).reply(request(), 0)[2] == b"400"
    assert handler({}).reply(request(mechanism=b"PLAIN", credentials=(b"", b"")), 0)[2] == b"400"


frames = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"1.0", CLIENTS, REPLICAS, b"NULL", b"CURVE", b"PLAIN", bytes(32)]),
)


@given(st.lists(frames, max_size=10))
def test_no_request_is_too_strange_to_be_refused(asked):
    reply = handler().reply(asked, 0)
    assert len(reply) == 6
    assert reply[0] == b"1.0"
    assert reply[2] == b"400"


@given(st.integers(0, 6), frames)
def test_a_good_request_with_one_frame_changed_is_refused_unless_that_frame_says_nothing(at, frame):
    asked = request()
    original, asked[at] = asked[at], frame
    granted = handler().reply(asked, 0)[2] == b"200"
    assert granted == (at in (1, 3, 4) or frame == original)


@given(st.binary(max_size=100))
def test_an_address_cannot_break_the_log_line(address):
    text = zap._printable(address)
    assert text.isprintable()
    assert text.isascii()
    assert len(text) <= 256


# -- the log ---------------------------------------------------------------------------------------


def test_a_flood_is_one_line_and_then_a_number_each_second(caplog):
    refusals = Refusals()
    for step in range(2500):
        refusals.add(CLIENTS, "10.0.0.1", "it has no key", "", 100 + step / 1000)
    refusals.tick(103.1)
    refusals.tick(110)
    assert caplog.messages == [
        "refused a client from 10.0.0.1: it has no key",
        "refused a client from 10.0.0.1 999 times more: it has no key",
        "refused a client from 10.0.0.1 1000 times more: it has no key",
        "refused a client from 10.0.0.1 500 times more: it has no key",
    ]
    assert not refusals._more


def test_each_address_and_each_reason_is_named(caplog):
    refusals = Refusals()
    refusals.add(CLIENTS, "10.0.0.1", "it has no key", "", 0)
    refusals.add(CLIENTS, "10.0.0.2", "it has no key", "", 0)
    refusals.add(REPLICAS, "10.0.0.1", "it has no key", "", 0)
    refusals.add(CLIENTS, "10.0.0.1", "too many connections", "the limit is 3", 0)
    refusals.add(CLIENTS, "10.0.0.1", "too many connections", "the limit is 4", 0)
    assert len(caplog.messages) == 4
    assert (
        caplog.messages[3]
        == "refused a client from 10.0.0.1: too many connections (the limit is 3)"
    )
    refusals.add(CLIENTS, "10.0.0.1", "it has no key", "", 50)
    assert caplog.messages[4:] == [
        "refused a client from 10.0.0.1 1 times more: too many connections",
        "refused a client from 10.0.0.1: it has no key",
    ]


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 0.5)), max_size=400))
def test_no_flood_fills_the_log_or_the_memory_and_every_refusal_is_told_of(attempts):
    lines = []
    refusals, now = Refusals(), 0.0
    collector = logging.Handler()
    collector.emit = lambda record: lines.append((now, record.getMessage()))
    zap.log.addHandler(collector)
    try:
        for address, pause in attempts:
            now += pause
            refusals.add(CLIENTS, f"10.0.0.{address}", "it has no key", "", now)
            assert len(refusals._more) <= zap.MAX_LINES
        for _ in range(2):
            now += 2 * zap.EVERY
            refusals.tick(now)
    finally:
        zap.log.removeHandler(collector)
    assert not refusals._more
    words = [line.split(" from ")[-1].split() for _, line in lines]
    named = sum(
        int(line[1]) if line[2:3] == ["times"] else 1 for line in words if line[0].startswith("10.")
    )
    unnamed = sum(
        int(line.split()[1])
        for _, line in lines
        if line.startswith("refused") and "too many" in line
    )
    assert named + unnamed == len(attempts)


# -- the count -------------------------------------------------------------------------------------

ACCEPTED, DISCONNECTED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)
AUTH, PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH), int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
NO_DETAIL = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
NUMBERS = [ACCEPTED, DISCONNECTED, AUTH, PROTOCOL, NO_DETAIL]


@given(st.lists(st.tuples(st.sampled_from(NUMBERS), st.integers(0, 5)), max_size=60))
def test_what_was_accepted_and_has_not_ended_is_open(events):
    connections, open = Connections(True, lambda address, reason: None), set()
    for event, value in events:
        connections.happened(event, value, "10.0.0.1")
        if event == ACCEPTED:
            open.add(value)
        elif event == DISCONNECTED:
            open.discard(value)
        assert connections.count == len(open)


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(-(2**31), 2**31 - 1))))
def test_no_event_is_too_strange(events):
    connections = Connections(True, lambda address, reason: None)
    for event in events:
        connections.happened(*event)


@pytest.mark.parametrize(
    ("event", "value", "keyed", "open"),
    [
        (PROTOCOL, 0x11000002, "it has no key", "it has a key, and this Flow has none"),
        (
            PROTOCOL,
            0x11000001,
            "it expects another server's key, or has not the secret of its own",
            None,
        ),
        (PROTOCOL, 0x10000013, "its handshake makes no sense", "its handshake makes no sense"),
        (
            NO_DETAIL,
            errno.EAGAIN,
            "it did not say who it is within 5 s",
            "it did not say who it is within 5 s",
        ),
        (
            NO_DETAIL,
            errno.EPIPE,
            "it hung up in the handshake, as one without the right keys does",
            "",
        ),
        (AUTH, 400, "", ""),
    ],
)
def test_what_fails_before_the_handler_is_asked_is_reported_with_its_address(
    event, value, keyed, open
):
    for has_keys, reason in ((True, keyed), (False, open)):
        told = []
        connections = Connections(has_keys, lambda *refusal, told=told: told.append(refusal))
        connections.happened(ACCEPTED, 21, "10.0.0.1")
        connections.happened(ACCEPTED, 22, "10.0.0.2")
        connections.happened(event, value)
        connections.happened(DISCONNECTED, 21)
        connections.happened(DISCONNECTED, 22)
        if reason is not None:
            assert told == ([("10.0.0.1", reason)] if reason else [])


def test_an_address_that_cannot_be_known_for_sure_is_not_named():
    assert zap._address(10**6) == ""
    with open("/dev/null", "rb") as file:
        assert zap._address(file.fileno()) == ""
        assert not file.read()  # still open
    told = []
    connections = Connections(True, lambda *refusal: told.append(refusal))
    monitor = Recorded([(ACCEPTED, 0), (PROTOCOL, 0x11000002), (DISCONNECTED, 0)])
    connections.read(monitor)
    assert told == [(zap.UNKNOWN_ADDRESS, "it has no key")]


class Recorded:
    """A monitor that tells what it is told to."""

    def __init__(self, events):
        self._events = [
            event.to_bytes(2, "little") + value.to_bytes(4, "little") for event, value in events
        ]

    def recv_multipart(self, flags):
        if not self._events:
            raise zmq.Again
        return [self._events.pop(0), b"tcp://127.0.0.1:1"]


def test_who_only_connects_imports_none_of_what_guards_a_broker():
    code = "import sys, zflow.clients.connection, zflow.replicas.link; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    found = {name.removeprefix("zflow.devices.sockets.") for name in out.split()}
    assert "zap" in found
    assert not found & {"gate", "guarded", "listener", "meter", "trains"}
