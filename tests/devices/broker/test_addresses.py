"""Addresses of external Executors: the far side speaks by hand, the owner notes what it is told, time is virtual."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq
from helpers import free_port, wait_for
from peers import header

from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker import failures
from zflow.devices.broker.addresses import ASK_EVERY, CONNECT_EVERY, GRACE, MAX_SLOTS, SILENT_FOR, Externals, capacity
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import CANCEL, FAILED, FROM_CLIENT, HELLO, REPLY, REQUEST, VERSION, WELCOME
from zflow.devices.routing.pool import Limits, Pool
from zflow.devices.routing.walk import Node, Walk
from zflow.devices.sockets import zap
from zflow.devices.sockets.gate import Gate

INFO = {"instance": "one", "epoch": 0, "executors": {"far": {"slots": 3, "endpoints": ["/a"]}}}


class Owner:
    """Writes down what it is told; an address that is here does join its pool."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.leases = self
        self.replicas: list[Replica] = []
        self.unanswered: list[Task] = []

    def __getattr__(self, what: str) -> Callable[..., None]:
        return lambda pool, name, *said, **more: self.told.append((what, *said, *more.values()))

    def joined(self, pool: Pool, replica: Replica) -> None:
        self.told.append(("joined", replica.slots))
        self.replicas.append(replica)
        pool.join(replica, 0, 0.0)

    def found(self, pool: Pool, name: Any) -> list[Task]:
        self.told.append(("found",))
        return self.unanswered

    def gone(self, pool: Pool, name: Any, how: str) -> None:
        self.told.append(("gone", how))
        pool.crash(name, 0.0, how)

    def plain(self, frames: list[Any]) -> list[Any]:
        return [b"plain " + frame for frame in frames]


class Far:
    """The broker of another Flow, as far as the test makes it one."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], port: int) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.PROBE_ROUTER, 1)
        self.socket.set(zmq.LINGER, 0)
        self.port = port
        self.peer = b""
        self.heard: list[bundles.Heard] = []

    def listen(self) -> Far:
        # The one before it may not have let go of the port yet.
        wait_for(self._bound, what="the port is free")
        return self

    def _bound(self) -> bool:
        try:
            self.socket.bind(f"tcp://127.0.0.1:{self.port}")
        except zmq.ZMQError:
            return False
        return True

    def turn(self) -> None:
        while self.socket.poll(0):
            self.peer, *frames = self.socket.recv_multipart()
            self.heard += bundles.read(frames, 0, FROM_CLIENT)

    def say(self, *fields: Any, payload: tuple[bytes, ...] = ()) -> None:
        if fields[0] == WELCOME:
            fields, payload = fields[:2], (msgpack.packb(fields[2]),)
        self.socket.send_multipart([self.peer, header(VERSION, *fields), *payload])

    def close(self) -> None:
        self.socket.close()


class Rig:
    """The addresses of one Executor, here a single one, with what a broker's loop does with them."""

    def __init__(self, retries: int = 3) -> None:
        self.context = zmq.Context()
        self.now = 100.0
        self.port = free_port()
        self.owner = Owner()
        self.secured: list[bytes] = []
        self.pool = Pool(0, Node("far", addresses=(f"tcp://127.0.0.1:{self.port}",)), retries, Limits())
        self.externals = Externals(self.context, [self.pool], self.owner, self._secure)
        self.handlers = self.externals.handlers(lambda: self.now)
        self.far = Far(self.context, self.port)

    def _secure(self, pool: Pool, socket: zmq.Socket[bytes]) -> None:
        assert pool is self.pool
        self.secured.append(socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0"))

    def turn(self) -> None:
        for source, _ in zmq.zmq_poll([(source, zmq.POLLIN) for source in self.handlers], 1):
            self.handlers[source]()
        self.externals.tick(self.now)
        if not self.far.socket.closed:
            self.far.turn()

    def until(self, condition: Callable[[], Any]) -> None:
        wait_for(lambda: (self.turn(), condition())[1])

    def told(self, count: int = 1) -> list[tuple[Any, ...]]:
        """What the owner is told next, so many things."""
        self.until(lambda: len(self.owner.told) >= count)
        told = list(self.owner.told)
        self.owner.told.clear()
        assert len(told) == count, told
        return told

    def hears(self, kind: int, count: int = 1) -> list[bundles.Heard]:
        """What the far side hears next of a kind, so many messages; all before is forgotten."""

        def found() -> list[bundles.Heard]:
            return [heard for heard in self.far.heard if heard[0][1] == kind]

        self.until(lambda: len(found()) >= count)
        heard = found()
        self.far.heard.clear()
        assert len(heard) == count, heard
        return heard

    def joined(self, **info: Any) -> Replica:
        """Let the far side say who it is; the replica that it is from now on."""
        if self.far.socket.closed:
            self.far = Far(self.context, self.port)
        self.far.listen()
        self.hears(HELLO)
        self.far.say(WELCOME, 1, {**INFO, **info})
        self.told(1)
        return self.owner.replicas[-1]

    def cut(self) -> None:
        """Cut the connection, and let it be noticed."""
        self.far.close()
        self.until(lambda: self.owner.told)

    def back(self, **info: Any) -> None:
        """A far side is at the same port again, and says who it is."""
        self.far = Far(self.context, self.port).listen()
        self.hears(HELLO)
        self.far.say(WELCOME, 1, {**INFO, **info})


@contextmanager
def rigged(**options: Any) -> Iterator[Rig]:
    rig = Rig(**options)
    try:
        yield rig
    finally:
        rig.externals.close()
        rig.far.close()
        rig.context.term()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def task(id: int = 5) -> Task:
    walk = Walk("origin", "/a")
    walk.docs = 2
    return Task(id, (walk, [("", [[b"a", b"b"]])]))


# -- here -------------------------------------------------------------------------------------------------------------


def test_an_address_is_here_when_it_has_said_who_it_is(rig: Rig) -> None:
    rig.far.listen()
    rig.hears(HELLO)
    assert rig.owner.told == []
    rig.far.say(WELCOME, 1, INFO)
    assert rig.told() == [("joined", 3)]
    (replica,) = rig.owner.replicas
    assert replica.name == b"far@127.0.0.1:%d" % rig.port
    assert replica.line.identity == replica.name


def test_its_socket_is_secured_before_it_connects(rig: Rig) -> None:
    assert rig.secured == [b""]


@pytest.mark.parametrize(
    ("info", "slots"),
    [
        ({"executors": {"a": {"slots": 3}, "b": {"slots": 1}}}, 4),
        ({"executors": {"a": {"slots": 3}, "b": {"slots": -1}, "c": {"slots": "9"}, "d": 9}}, 3),
        ({"executors": {"a": {"slots": 0}}}, 0),
        ({"executors": {"a": {"slots": 10**9}}}, 10**9),
        ({"executors": {"a": {}}}, 0),
        ({"executors": {}}, 1),
        ({"executors": ["a"]}, 1),
        ({}, 1),
    ],
)
def test_how_much_a_flow_can_do_at_once_is_the_sum_of_all_its_slots(info: dict[str, Any], slots: int) -> None:
    assert capacity(info) == slots


def test_an_address_never_has_more_slots_than_there_may_be(rig: Rig) -> None:
    assert rig.joined(executors={"far": {"slots": 10**9}}).slots == MAX_SLOTS


def test_it_is_asked_again_and_again_how_much_it_can_do(rig: Rig) -> None:
    rig.joined()
    for slots in (5, 1):
        rig.now += ASK_EVERY * 1.1
        rig.hears(HELLO)
        rig.far.say(WELCOME, 1, {**INFO, "executors": {"far": {"slots": slots}}})
        assert rig.told() == [("resized", slots)]


def test_a_flow_that_closes_gets_nothing_new(rig: Rig) -> None:
    rig.joined()
    rig.far.say(WELCOME, 1, {**INFO, "closing": True})
    assert rig.told() == [("lost",)]


def test_a_flow_that_closes_already_is_not_here(rig: Rig) -> None:
    rig.far.listen()
    rig.hears(HELLO)
    rig.far.say(WELCOME, 1, {**INFO, "closing": True})
    rig.far.say(WELCOME, 1, INFO)
    assert rig.told() == [("joined", 3)], "only when it does not any more"


@pytest.mark.parametrize(
    ("executors", "endpoints"),
    [
        ({"a": {"endpoints": ["/a", "/b"]}, "b": {"endpoints": ["/c", 7]}}, frozenset({"/a", "/b", "/c"})),
        ({"a": {"endpoints": ["/a"]}, "b": {"endpoints": None}}, None),
        ({}, frozenset()),
    ],
)
def test_what_it_binds_is_what_all_its_executors_do(
    rig: Rig, executors: dict[str, Any], endpoints: frozenset[str] | None
) -> None:
    assert rig.externals.endpoints(rig.pool) is None, "not known yet"
    rig.joined(executors=executors)
    assert rig.externals.endpoints(rig.pool) == endpoints


def test_there_may_be_no_addresses_at_all() -> None:
    context = zmq.Context()
    with context:
        none = Externals(context, [Pool(0, Node("near"), 3, Limits())], Owner(), lambda *_: None)
        assert not none
        assert none.handlers(lambda: 0.0) == {}


# -- requests and answers ---------------------------------------------------------------------------------------------


def test_a_task_goes_there_as_a_request_and_nothing_in_it_refers_to_memory(rig: Rig) -> None:
    line = rig.joined().line
    line.give(task())
    assert line.flush()
    ((said, payload),) = rig.hears(REQUEST)
    assert said == [VERSION, REQUEST, 5, "/a", None, None, 0, 2]
    assert payload == [b"plain a", b"plain b"]


def test_a_task_that_is_taken_back_is_cancelled(rig: Rig) -> None:
    line = rig.joined().line
    line.recall(5)
    line.flush()
    assert rig.hears(CANCEL)[0][0] == [VERSION, CANCEL, 5]


def test_a_result_is_passed_on_with_its_notes_and_time(rig: Rig) -> None:
    rig.joined()
    notes = {"x": {"shards": 2, "succeeded": 1, "failed": {"1": "why"}}}
    rig.far.say(REPLY, 5, None, notes, 250_000, payload=(b"a", b"b"))
    assert rig.told() == [("answered", 5, 0.25, [[b"a", b"b"]], False, notes)]


def test_a_result_in_parts_is_several_payloads(rig: Rig) -> None:
    rig.joined()
    rig.far.say(REPLY, 5, [["left", [1]], ["right", [2]]], None, 0, payload=(b"a", b"b", b"c"))
    assert rig.told() == [("answered", 5, 0.0, [[b"a"], [b"b", b"c"]], False, None)]


def test_an_error_is_passed_on_as_it_is(rig: Rig) -> None:
    error = failures.error("ExecutorError", "broken")
    rig.joined()
    rig.far.say(FAILED, 5, 250_000, payload=(error,))
    assert rig.told() == [("answered", 5, 0.25, error, True)]


def test_what_a_closing_flow_has_not_taken_is_for_others(rig: Rig) -> None:
    rig.joined()
    rig.far.say(FAILED, 5, 0, payload=(failures.error("FlowNotRunning", "closing"),))
    assert rig.told() == [("lost", 5)]


@pytest.mark.parametrize(
    ("parts", "payload", "why"),
    [
        ([["left", [2]]], (b"a",), "parts do not fit the frames"),
        (None, (), "an answer without a payload"),
    ],
)
def test_a_result_that_cannot_be_read_fails_its_request_and_is_logged_once(
    rig: Rig, caplog: pytest.LogCaptureFixture, parts: Any, payload: tuple[bytes, ...], why: str
) -> None:
    rig.joined()
    error = failures.error("BadRequest", f"the answer of tcp://127.0.0.1:{rig.port} cannot be read: {why}")
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(2):
            rig.far.say(REPLY, 5, parts, None, 0, payload=payload)
            assert rig.told() == [("answered", 5, 0.0, error, True)]
    said = f"tcp://127.0.0.1:{rig.port} cannot be used: it sent an answer that cannot be read: {why}"
    assert caplog.messages == [f"external Executor 'far': {said}"]


NESTED: Any = "x"
for _ in range(1000):
    NESTED = [NESTED]
NOTE = {"shards": 2, "succeeded": 1, "failed": {"1": "why"}}


@pytest.mark.parametrize(
    "notes",
    [
        {"a": NESTED},
        {"a": {**NOTE, "failed": {"1": NESTED}}},
        {"a": {**NOTE, "shards": "2"}},
        {"a": {**NOTE, "failed": {"1": "x" * 9000}}},
    ],
)
def test_notes_that_cannot_be_fail_their_request_only(rig: Rig, notes: dict[str, Any]) -> None:
    rig.joined()
    rig.far.say(REPLY, 5, None, notes, 0, payload=(b"a",))
    assert rig.told()[0][:2] == ("answered", 5)
    rig.far.say(REPLY, 6, None, {"a": NOTE}, 0, payload=(b"good",))
    assert rig.told() == [("answered", 6, 0.0, [[b"good"]], False, {"a": NOTE})]


@pytest.mark.parametrize(
    "info",
    [
        {**INFO, "instance": NESTED},
        {**INFO, "epoch": NESTED},
        {**INFO, "executors": {"far": {"slots": NESTED, "endpoints": NESTED}}},
        {**INFO, "executors": {"far": {"slots": 2**63, "endpoints": ["/" * 2000, *map(str, range(1001))]}}},
    ],
)
def test_whatever_it_says_of_itself_does_no_harm(rig: Rig, info: dict[str, Any]) -> None:
    rig.joined()
    rig.far.say(WELCOME, 1, info)
    rig.far.say(FAILED, 0, 0, payload=(msgpack.packb({"message": NESTED}),))
    rig.far.say(REPLY, 6, None, None, 0, payload=(b"good",))
    rig.until(lambda: ("answered", 6, 0.0, [[b"good"]], False, None) in rig.owner.told)
    assert rig.owner.replicas[-1].slots <= MAX_SLOTS


def test_one_that_floods_leaves_time_for_others(rig: Rig) -> None:
    rig.joined()
    for id in range(5, 500):
        rig.far.say(REPLY, id, None, None, 0, payload=(b"a",))
    address = rig.externals._addresses[0]
    wait_for(lambda: address.socket.poll(0))
    address.read(rig.now)
    assert len(rig.owner.told) <= 64


# -- who cannot be used -----------------------------------------------------------------------------------------------


def test_what_is_no_flow_is_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.far.listen()
    rig.hears(HELLO)
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(3):
            rig.far.socket.send_multipart([rig.far.peer, b"HTTP/1.1 400"])
        rig.far.say(WELCOME, 1, INFO)
        rig.told()
    (said,) = caplog.messages
    assert "what answers is no zflow Flow of this version" in said


def test_a_flow_of_another_version_is_logged_with_what_it_says(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.far.listen()
    rig.hears(HELLO)
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        rig.far.say(FAILED, 0, 0, payload=(failures.error("BadRequest", "this Flow speaks version 9"),))
        rig.until(lambda: caplog.messages)
    url = f"tcp://127.0.0.1:{rig.port}"
    assert caplog.messages == [f"external Executor 'far': {url} cannot be used: this Flow speaks version 9"]
    assert rig.owner.told == []


def test_a_server_that_refuses_the_connection_is_logged_once_and_tried_until_it_does_not(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    context = zmq.Context()
    room = {zap.CLIENTS: 0}  # nobody may connect
    asked: list[bool] = []
    gate = Gate(context, lambda: (asked.append(True), {})[1], room)
    server = context.socket(zmq.ROUTER)
    server.set(zmq.LINGER, 0)
    server.set(zmq.PROBE_ROUTER, 1)  # greets as a broker does
    gate.guard(server, zap.CLIENTS)
    server.bind(f"tcp://127.0.0.1:{rig.port}")
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        rig.until(lambda: (gate.serve(), len(asked) == 2)[1])  # at first at once,
        rig.until(
            lambda: (gate.serve(), setattr(rig, "now", rig.now + CONNECT_EVERY), len(asked) == 5)[2]
        )  # then by time
    (said,) = [line for line in caplog.messages if line.startswith("external")]
    where = f"external Executor 'far': tcp://127.0.0.1:{rig.port}"
    assert said.startswith(f"{where} cannot be used: it refuses the connection: it does not know these keys")
    room[zap.CLIENTS] = 1
    rig.now += CONNECT_EVERY
    rig.until(lambda: (gate.serve(), server.poll(0))[1])
    gate.close()
    server.close()
    context.term()


# -- cut and back -----------------------------------------------------------------------------------------------------


def test_a_flow_that_is_back_soon_is_sent_again_what_it_had_not_answered(rig: Rig) -> None:
    rig.joined()
    rig.cut()
    assert rig.told() == [("lost",)]
    rig.now += GRACE / 2
    rig.owner.unanswered = [task(5)]
    rig.back()
    assert rig.told(2) == [("found",), ("resized", 3)]
    ((said, payload),) = rig.hears(messages.AGAIN)
    assert said == [VERSION, messages.AGAIN, 5, "/a", None, None, 0, 2]
    assert payload == [b"plain a", b"plain b"]


def test_one_that_is_not_is_given_up_and_what_it_was_given_cancelled_when_it_is_back(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    replica = rig.joined()
    replica.held[5] = task(5)
    rig.cut()
    rig.now += GRACE * 1.1
    assert rig.told(2) == [("lost",), ("gone", "it does not answer")]
    assert f"tcp://127.0.0.1:{rig.port} does not answer; still trying" in caplog.messages[-1]
    rig.back()
    assert rig.hears(CANCEL)[0][0] == [VERSION, CANCEL, 5]
    assert rig.told() == [("joined", 3)]


@pytest.mark.parametrize("anew", [{"instance": "two"}, {"epoch": 1}])
def test_another_flow_at_the_same_address_knows_nothing_of_what_the_one_before_had(
    rig: Rig, anew: dict[str, Any]
) -> None:
    rig.joined().held[5] = task(5)
    rig.cut()
    rig.back(**anew)
    assert rig.told(3) == [("lost",), ("gone", "it does not answer"), ("joined", 3)]
    rig.now += ASK_EVERY * 1.1
    rig.until(lambda: rig.far.heard)
    assert [said[1] for said, _ in rig.far.heard] == [HELLO], "nothing is cancelled there"


def test_where_nothing_is_begun_twice_there_is_nothing_to_wait_for() -> None:
    with rigged(retries=0) as rig:
        rig.joined()
        rig.cut()
        assert rig.told(2) == [("lost",), ("gone", "it does not answer")]


def test_one_that_says_nothing_although_it_was_asked_is_lost(rig: Rig) -> None:
    rig.joined()
    rig.now += ASK_EVERY * 1.1
    rig.hears(HELLO)
    rig.now += SILENT_FOR * 0.9
    rig.until(lambda: rig.far.heard)
    assert rig.owner.told == [], "not yet"
    rig.now += SILENT_FOR * 0.2
    assert rig.told() == [("lost",)]


def test_one_that_is_silent_is_asked_once_in_a_while_not_with_each_turn(rig: Rig) -> None:
    rig.joined()
    for _ in range(3):
        rig.now += ASK_EVERY * 1.1
        for _ in range(50):
            rig.turn()
    rig.hears(HELLO, 3)


def test_giving_a_task_while_the_connection_is_cut_neither_waits_nor_fails(rig: Rig) -> None:
    line = rig.joined().line
    rig.cut()
    line.give(task())
    assert line.flush()


def test_an_address_is_tried_until_somebody_is_there(rig: Rig) -> None:
    for _ in range(5):
        rig.turn()
        rig.now += 3600
    assert rig.owner.told == []
    rig.joined()


def test_what_is_no_error_has_no_text_of_its_own(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.far.listen()
    rig.hears(HELLO)
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        rig.far.say(FAILED, 0, 0, payload=(msgpack.packb("text"),))
        rig.until(lambda: caplog.messages)
    assert caplog.messages[0].endswith("cannot be used: it speaks another version of the protocol")
