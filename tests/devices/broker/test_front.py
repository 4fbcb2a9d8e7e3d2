"""The broker's side towards clients, with clients that speak by hand and an owner that writes down what it is told."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq
from helpers import PATIENCE, wait_for
from peers import PAYLOAD, header, request

from zflow.devices.broker import failures
from zflow.devices.broker.front import MOST_TARGETS, Front
from zflow.devices.broker.settings import Settings
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import AGAIN, CANCEL, CONTROL, HELLO, MEMBER, REQUEST, REQUESTS, VERSION
from zflow.devices.protocol.references import Reference
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.zap import CLIENTS

LIMIT = 1000  # bytes of a request
MOST = 2  # requests in flight over a public connection
REFERENCE = Reference(1, 2, 3, 400, 5)


class Owner:
    """Writes down what it is told; a request that has begun is under way until the test ends it."""

    closing = False
    names = ("upper", "lower")

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.leases = self
        self.walks: dict[Any, Walk] = {}
        self.dropped: list[str] = []
        self.checked: list[Any] = []  # payloads that may refer to memory

    @property
    def begun(self) -> list[tuple[Any, ...]]:
        return [said[1:] for said in self.told if said[0] == "begin"]

    def begin(self, walk: Walk, payloads: Any) -> None:
        self.walks.update(dict.fromkeys(walk.origins, walk))
        self.told.append(("begin", walk, payloads))

    def under_way(self, origin: Any) -> Walk | None:
        return self.walks.get(origin)

    def single(self, origin: Any) -> Walk:
        self.told.append(("single", origin[1:]))
        return self.walks[origin]

    def cancel(self, walk: Walk) -> None:
        self.told.append(("cancel", walk))

    def unwanted(self, origin: Any) -> None:
        self.told.append(("unwanted", origin[1:]))

    def control(self, origin: Any, command: str, arguments: dict[Any, Any]) -> None:
        self.told.append(("control", origin, command, arguments))

    def check(self, frames: Any) -> None:
        self.checked.append(frames)

    def info(self) -> dict[str, Any]:
        return {"pid": 3}

    def malformed(self, error: messages.Malformed, frames: Any) -> None:
        self.dropped.append(str(error))


class Rig:
    """A front with its owner; what a broker's loop does with it is done when the test waits for something."""

    def __init__(self, folder: str, **changes: Any) -> None:
        self.context = zmq.Context()
        self.owner = Owner()
        self.guarded: list[tuple[bytes, bytes]] = []
        places = {"front": f"ipc://{folder}/front", "public": "tcp://127.0.0.1:*"}
        settings = Settings([], [], [], back="", fan="", collector="", max_message_bytes=LIMIT, **{**places, **changes})
        self.front = Front(self.context, settings, self.owner, self._guard)
        self.local, public = self.front.addresses
        self.public = f"tcp://127.0.0.1:{public.rpartition(':')[2]}"

    def _guard(self, socket: zmq.Socket[bytes], domain: bytes) -> Meter:
        self.guarded.append((domain, socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0")))
        return Meter(LIMIT, lambda address, reason: None)

    def turn(self) -> None:
        handlers = self.front.handlers()
        for source, _ in zmq.zmq_poll([(source, zmq.POLLIN) for source in handlers], 1):
            handlers[source]()
        self.front.flush()

    def until(self, condition: Any) -> None:
        wait_for(lambda: (self.turn(), condition())[1])

    @contextmanager
    def client(self, address: str, identity: bytes = b"client") -> Iterator[zmq.Socket[bytes]]:
        """A connection that the front has greeted."""
        context = zmq.Context()
        client = context.socket(zmq.DEALER)
        client.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
        client.set(zmq.ROUTING_ID, identity)
        client.connect(address)
        try:
            self.until(lambda: client.poll(0))
            assert client.recv_multipart() == [b""]
            yield client
        finally:
            context.destroy(linger=0)

    def answers(self, client: zmq.Socket[bytes]) -> list[bundles.Heard]:
        """What the client hears next, all that was sent in one go."""
        self.until(lambda: client.poll(0))
        return bundles.read(client.recv_multipart(), 0, messages.TO_CLIENT)

    def answer(self, client: zmq.Socket[bytes]) -> bundles.Heard:
        (heard,) = self.answers(client)
        return heard

    def begun(self, count: int = 1) -> list[tuple[Any, ...]]:
        """The walks and payloads of so many requests that were begun."""
        self.until(lambda: len(self.owner.begun) >= count)
        assert len(self.owner.begun) == count
        return self.owner.begun

    def silent(self, client: zmq.Socket[bytes]) -> None:
        """Nothing was said to the client: what it hears first is the answer to what it asks now."""
        client.send(header(VERSION, HELLO, 99))
        assert self.answer(client)[0][1:3] == [messages.WELCOME, 99]


@contextmanager
def rigged(**changes: Any) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(folder, **changes)
        try:
            yield rig
        finally:
            rig.front.close()
            rig.context.term()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged(max_requests_per_client=MOST) as rig:
        yield rig


@pytest.fixture(params=["local", "public"])
def client(rig: Rig, request: pytest.FixtureRequest) -> Iterator[zmq.Socket[bytes]]:
    with rig.client(getattr(rig, request.param)) as client:
        yield client


def referring(id: int = 1) -> bytes:
    """The header of a request whose second frame is a reference."""
    return header(*msgpack.unpackb(request(id=id)), b"\2")


def bulk(first: int, payloads: list[bytes], targets: Any = None) -> bytes:
    return header(VERSION, REQUESTS, first, "/", targets, 0, [1] * len(payloads), payloads)


def error_of(heard: bundles.Heard) -> tuple[str, str]:
    """The type and the text of the error that a request has failed with."""
    (_, kind, _, _), (error,) = heard
    assert kind == messages.FAILED
    said = msgpack.unpackb(error)
    return said["type"], said["message"]


# -- where it listens -------------------------------------------------------------------------------------------------


def test_it_listens_in_private_and_in_public_which_is_guarded_before_it_listens(rig: Rig) -> None:
    local, public = rig.front.addresses
    assert (local[:6], public[:6]) == ("ipc://", "tcp://")
    assert rig.guarded == [(CLIENTS, b"")]


def test_an_address_that_is_taken_is_named(rig: Rig) -> None:
    context = zmq.Context()
    settings = Settings([], [], [], "ipc://*", rig.public, "", "", "", LIMIT)
    with pytest.raises(zmq.ZMQError, match=f"in use.*: {rig.public}") as caught:
        Front(context, settings, Owner(), lambda *_: Meter(LIMIT, print))
    assert caught.value.errno == zmq.EADDRINUSE
    context.destroy(linger=0)


# -- what clients say -------------------------------------------------------------------------------------------------


def test_who_asks_is_told_about_the_flow(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send(header(VERSION, HELLO, 41))
    assert rig.answer(client) == ([VERSION, messages.WELCOME, 41, {"pid": 3}], [])


def test_a_request_becomes_a_walk(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(id=5, endpoint="/index", targets=["upper"], ms=1500, docs=3), b"first", b"second"])
    ((walk, payloads),) = rig.begun()
    assert walk.origin[1:] == (b"client", 5)
    assert (walk.endpoint, walk.targets, walk.timeout) == ("/index", frozenset({"upper"}), 1.5)
    assert (walk.client, walk.docs, walk.size, walk.count, walk.again) == (b"client", 3, 11, 1, False)
    assert payloads == [[b"first", b"second"]]


def test_a_request_for_all_executors_may_take_its_time(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(ms=0), PAYLOAD])
    ((walk, _),) = rig.begun()
    assert (walk.targets, walk.timeout) == (None, None)


def test_a_request_that_may_have_been_begun_before_says_so(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(kind=AGAIN), PAYLOAD])
    ((walk, _),) = rig.begun()
    assert walk.again


def test_parts_are_taken_apart_into_payloads(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(parts=[["left", [-2, 1]], ["right", [-1]]]), b"abc", b"large"])
    ((_, payloads),) = rig.begun()
    assert payloads == [[b"ab"], [b"large"], [b"c"]]


def test_a_bulk_is_one_walk(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send(bulk(5, [b"a", b"bb"], ["upper"]))
    ((walk, payloads),) = rig.begun()
    assert [origin[1:] for origin in walk.origins] == [(b"client", 5), (b"client", 6)]
    assert (walk.count, walk.docs, walk.size, walk.targets) == (2, [1, 1], 3, frozenset({"upper"}))
    assert payloads == [[b"a", b"bb"]]


def test_requests_that_arrive_together_and_are_alike_are_a_bulk_also_if_they_were_sent_one_by_one(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    entries = [[[VERSION, REQUEST, id, "/", None, None, 0, 1], b"."] for id in (5, 6)]
    client.send(header(VERSION, bundles.BUNDLE, entries))
    ((walk, payloads),) = rig.begun()
    assert (walk.count, payloads) == (2, [[b".", b"."]])


def test_a_request_that_is_under_way_is_not_begun_again(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(id=5), PAYLOAD])
    client.send_multipart([request(id=5, kind=AGAIN), PAYLOAD])
    client.send_multipart([request(id=6, endpoint="/other"), PAYLOAD])
    walks = [walk for walk, _ in rig.begun(2)]
    assert [walk.origin[2] for walk in walks] == [5, 6]


def test_of_a_bulk_only_what_is_not_under_way_is_begun(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(id=6), PAYLOAD])
    rig.begun()
    client.send(bulk(5, [b"a", b"b"]))
    _, (walk, payloads) = rig.begun(2)
    assert (walk.origin[2], walk.count, walk.docs, payloads) == (5, 1, 1, [[b"a"]])


def test_anothers_request_of_the_same_id_is_another(rig: Rig, client: zmq.Socket[bytes]) -> None:
    with rig.client(rig.local, b"other") as other:
        for each in (client, other):
            each.send_multipart([request(id=5), PAYLOAD])
        assert {walk.client for walk, _ in rig.begun(2)} == {b"client", b"other"}


def test_a_request_under_way_is_cancelled_alone_and_of_another_the_answer_is_unwanted(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    client.send(bulk(5, [b"a", b"b"]))
    ((walk, _),) = rig.begun()
    client.send(header(VERSION, CANCEL, 6))
    client.send(header(VERSION, CANCEL, 7))
    rig.until(lambda: len(rig.owner.told) == 4)
    assert rig.owner.told[1:] == [("single", (b"client", 6)), ("cancel", walk), ("unwanted", (b"client", 7))]


# -- what they may not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "phrase"),
    [
        ([request()], "a request without a payload"),
        ([request(parts=[]), PAYLOAD], "parts do not fit the frames"),
        ([request(targets=[7]), PAYLOAD], "targets are not text"),
        ([request(targets=["upper"] * (MOST_TARGETS + 1)), PAYLOAD], "targets are not text"),
        ([bulk(5, [b"a", b"b"], [7])], "targets are not text"),
        ([referring(), PAYLOAD, REFERENCE.pack()], "wrong fields in header"),
        ([header(VERSION, bundles.BUNDLE, [[msgpack.unpackb(referring()), PAYLOAD, b"x"]])], "wrong fields in header"),
        ([header(VERSION, messages.DONE, 1, 1, 1), PAYLOAD], "unknown kind of message"),
    ],
)
def test_what_is_malformed_is_dropped_and_the_owner_told(
    rig: Rig, client: zmq.Socket[bytes], frames: list[bytes], phrase: str
) -> None:
    client.send_multipart(frames)
    rig.until(lambda: rig.owner.dropped)
    assert rig.owner.dropped == [phrase]
    rig.silent(client)
    assert rig.owner.begun == []


def test_who_shares_the_memory_may_refer_to_it_but_only_over_the_private_address(rig: Rig) -> None:
    member = MEMBER + b"member"
    with rig.client(rig.public, member) as elsewhere, rig.client(rig.local, member) as here:
        elsewhere.send_multipart([referring(id=1), PAYLOAD, REFERENCE.pack()])
        rig.until(lambda: rig.owner.dropped == ["wrong fields in header"])
        here.send_multipart([referring(id=2), b"first", REFERENCE.pack()])
        ((walk, payloads),) = rig.begun()
    assert rig.owner.checked == [payloads[0]]
    assert payloads == [[b"first", REFERENCE]]
    assert walk.size == 5 + 400, "what it refers to counts"
    assert rig.front.shares_memory(walk.origin)


def test_another_version_is_answered_and_counts_as_malformed(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([header(VERSION + 1, REQUEST, 41, "and more"), PAYLOAD])
    heard = rig.answer(client)
    assert heard[0][2] == 41
    text = f"this Flow speaks version {VERSION} of the protocol, not {VERSION + 1}"
    assert error_of(heard) == ("BadRequest", text)
    assert rig.owner.dropped == ["another version of the protocol"]


@pytest.mark.parametrize(
    ("frames", "kind", "text"),
    [
        ([request(endpoint="/" * 1025), PAYLOAD], "BadRequest", "the endpoint has more than 1024 characters"),
        (
            [request(targets=["upper", "nobody"]), PAYLOAD],
            "BadRequest",
            "no Executor is called 'nobody'; there are ['lower', 'upper']",
        ),
        (
            [request(), b"x" * LIMIT, b"y"],
            "RequestTooLarge",
            "a request of 1001 bytes is over the Flow's limit of 1000 bytes",
        ),
    ],
)
def test_a_request_that_cannot_be_is_answered_with_why(
    rig: Rig, client: zmq.Socket[bytes], frames: list[bytes], kind: str, text: str
) -> None:
    client.send_multipart(frames)
    assert error_of(rig.answer(client)) == (kind, text)
    client.send_multipart([request(id=8), b"x" * LIMIT])
    ((walk, _),) = rig.begun()
    assert walk.origin[2] == 8, "one that can be goes on"


def test_a_flow_that_closes_takes_no_more_requests(rig: Rig, client: zmq.Socket[bytes]) -> None:
    rig.owner.closing = True
    client.send_multipart([request(), PAYLOAD])
    text = "the Flow is closing and takes no more requests"
    assert error_of(rig.answer(client)) == ("FlowNotRunning", text)
    assert rig.owner.begun == []


def test_each_request_of_a_bulk_that_cannot_be_is_answered(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send(bulk(5, [b"a", b"b"], ["nobody"]))
    heard = rig.answers(client)
    assert [header[2] for header, _ in heard] == [5, 6]
    assert [error_of(each)[0] for each in heard] == ["BadRequest", "BadRequest"]


def test_over_a_public_connection_only_so_many_requests_are_in_flight(rig: Rig) -> None:
    with rig.client(rig.public) as client, rig.client(rig.public, b"other") as other:
        for id in (1, 2, 3):
            client.send_multipart([request(id=id, endpoint=f"/{id}"), PAYLOAD])
        heard = rig.answer(client)
        text = f"over one connection a client may have {MOST} requests in flight, not more"
        assert (heard[0][2], error_of(heard)) == (3, ("Overloaded", text))
        other.send_multipart([request(id=1), PAYLOAD])
        (first, _), *_ = rig.begun(3)
        rig.front.forget(first)
        client.send_multipart([request(id=4), PAYLOAD])
        rig.begun(4)


def test_of_a_bulk_as_many_are_begun_as_may_be_in_flight(rig: Rig) -> None:
    with rig.client(rig.public) as client:
        client.send(bulk(5, [b"a", b"b", b"c"]))
        heard = rig.answer(client)
        assert (heard[0][2], error_of(heard)[0]) == (7, "Overloaded")
        assert [walk.origin[2] for walk, _ in rig.begun(2)] == [5, 6]


def test_over_the_private_address_any_number_may_be(rig: Rig) -> None:
    with rig.client(rig.local) as client:
        client.send(bulk(5, [b"."] * 5 * MOST))
        rig.begun()


def test_a_request_that_has_ended_makes_room_for_another(rig: Rig) -> None:
    with rig.client(rig.public) as client:
        client.send(bulk(0, [b"."] * MOST))
        ((walk, _),) = rig.begun()
        rig.front.answer(walk, None, [b"."] * MOST, 0.0)
        assert len(rig.answers(client)) == MOST
        client.send(bulk(MOST, [b"."] * MOST))
        _, (walk, _) = rig.begun(2)
        rig.front.fail(walk, failures.error("BadRequest", "no"))
        assert len(rig.answers(client)) == MOST
        client.send(bulk(2 * MOST, [b"."] * MOST))
        assert rig.begun(3)[-1][0].count == MOST


# -- changing the Flow ------------------------------------------------------------------------------------------------


def test_a_command_is_carried_out_by_the_owner_and_answered_when_it_is_done(rig: Rig) -> None:
    with rig.client(rig.local) as client:
        client.send(header(VERSION, CONTROL, 5, "scale", {"replicas": 3}))
        rig.until(lambda: rig.owner.told)
        ((what, origin, *command),) = rig.owner.told
        assert (what, command) == ("control", ["scale", {"replicas": 3}])
        rig.silent(client)
        rig.front.controlled(origin, {"replicas": 3})
        assert rig.answer(client)[0] == [VERSION, messages.CONTROLLED, 5, {"replicas": 3}]


def test_what_came_of_a_command_is_no_longer_than_a_header_may_be(rig: Rig) -> None:
    with rig.client(rig.local) as client:
        client.send(header(VERSION, CONTROL, 5, "scale", {"replicas": 3}))
        rig.until(lambda: rig.owner.told)
        rig.front.controlled(rig.owner.told[0][1], {"error": "\u20ac" * 100_000})
        assert rig.answer(client)[0] == [VERSION, messages.CONTROLLED, 5, {"error": "\u20ac" * 10_000}]


def test_over_the_public_address_commands_are_taken_only_if_the_flow_says_so() -> None:
    for allowed in (False, True):
        with rigged(allow_control=allowed) as rig, rig.client(rig.public) as client:
            client.send(header(VERSION, CONTROL, 5, "scale", {}))
            if allowed:
                rig.until(lambda rig=rig: rig.owner.told)
                continue
            (_, kind, id, result), _ = rig.answer(client)
            assert (kind, id) == (messages.CONTROLLED, 5)
            assert "allow_control=True lets whoever reaches it, and keys (curve=) those" in result["error"]
            assert rig.owner.told == []


def test_with_keys_the_commands_of_one_who_is_no_admin_are_refused_and_what_else_it_says_is_heard() -> None:
    """Also in a bundle; over the private address anybody may."""
    admin = {"lists": lambda: {b"admins": frozenset([b"somebody else"])}, "secret": b"x", "allow_control": True}
    command = (VERSION, CONTROL, 5, "scale", {})
    hello = (VERSION, HELLO, 6)
    with rigged(**admin) as rig:
        with rig.client(rig.public) as client:
            client.send(header(VERSION, bundles.BUNDLE, [[command], [hello]]))
            (refusal, _), (welcome, _) = rig.answers(client)
            assert refusal[1:3] == [messages.CONTROLLED, 5]
            assert "this key may not change the Flow" in refusal[3]["error"]
            assert welcome[1:3] == [messages.WELCOME, 6]
            assert rig.owner.told == []
        with rig.client(rig.local, b"own") as client:
            client.send(header(*command))
            rig.until(lambda: rig.owner.told)


# -- what they are told -----------------------------------------------------------------------------------------------


def test_an_answer_carries_parts_and_notes_and_how_long_it_took(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart([request(id=5), PAYLOAD])
    ((walk, _),) = rig.begun()
    walk.note("upper", {"shards": 2})
    rig.front.answer(walk, [["a", [1]]], [b"result"], 0.25)
    parts, notes = [["a", [1]]], {"upper": {"shards": 2}}
    assert rig.answer(client) == ([VERSION, messages.REPLY, 5, parts, notes, 250_000], [b"result"])


def test_a_bulk_is_answered_in_one_go(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send(bulk(5, [b"a", b"b"]))
    ((walk, _),) = rig.begun()
    rig.front.answer(walk, None, [b"A", b"B"], 0.25)
    assert rig.answers(client) == [
        ([VERSION, messages.REPLY, 5, None, None, 250_000], [b"A"]),
        ([VERSION, messages.REPLY, 6, None, None, 250_000], [b"B"]),
    ]


def test_all_requests_of_a_bulk_that_fails_fail(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send(bulk(5, [b"a", b"b"]))
    ((walk, _),) = rig.begun()
    rig.front.fail(walk, b"why", 0.25)
    assert rig.answers(client) == [([VERSION, messages.FAILED, id, 250_000], [b"why"]) for id in (5, 6)]


def test_what_one_turn_brings_about_goes_out_together_at_its_end(rig: Rig, client: zmq.Socket[bytes]) -> None:
    for id in (1, 2):
        client.send_multipart([request(id=id, endpoint=f"/{id}"), PAYLOAD])
    for walk, _ in rig.begun(2):
        rig.front.fail(walk, b"why")
    assert [header[2] for header, _ in rig.answers(client)] == [1, 2], "in one message"


def test_an_answer_to_a_client_that_is_gone_is_dropped(rig: Rig) -> None:
    with rig.client(rig.local, b"gone") as gone:
        gone.send_multipart([request(), PAYLOAD])
        ((walk, _),) = rig.begun()
    with rig.client(rig.local) as client:
        for _ in range(3):
            rig.front.answer(walk, None, [b"result"], 0.0)
            rig.front.flush()
        rig.silent(client)
