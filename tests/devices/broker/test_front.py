"""The broker's side towards clients, with clients that speak by hand and an owner
that writes down what it is told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq
from helpers import PATIENCE, wait_for
from peers import PAYLOAD, header, request, said

from zflow.devices.broker import failures
from zflow.devices.broker.front import MOST_TARGETS, Front
from zflow.devices.broker.settings import Settings
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    KINDS,
    MEMBER,
    VERSION,
    Cancel,
    Done,
    Failed,
    Hello,
    Message,
    Reply,
    Request,
    Welcome,
)
from zflow.devices.protocol.parts import MEETS
from zflow.devices.protocol.references import Reference
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.zap import CLIENTS

LIMIT = 1000  # bytes of a request
MOST = 2  # requests in flight over a public connection
REFERENCE = Reference(1, 2, 3, 400, 5)
REQUEST = Request(7, "/", None, None, 0, False, [1], [PAYLOAD])


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
    """A front with its owner; what a broker's loop does with it is done
    when the test waits for something.
    """

    def __init__(self, folder: str, **changes: Any) -> None:
        self.context = zmq.Context()
        self.owner = Owner()
        self.guarded: list[tuple[bytes, bytes]] = []
        places = {"front": f"ipc://{folder}/front", "public": "tcp://127.0.0.1:*"}
        settings = Settings(
            [],
            [],
            [],
            back="",
            fan="",
            collector="",
            max_message_bytes=LIMIT,
            **{**places, **changes},
        )
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

    def answers(self, client: zmq.Socket[bytes]) -> list[Message]:
        """What the client hears next, all that was sent in one go."""
        self.until(lambda: client.poll(0))
        return bundles.read(client.recv_multipart(), 0, messages.TO_CLIENT)

    def answer(self, client: zmq.Socket[bytes]) -> Message:
        (heard,) = self.answers(client)
        return heard

    def begun(self, count: int = 1) -> list[tuple[Any, ...]]:
        """The walks and payloads of so many requests that were begun."""
        self.until(lambda: len(self.owner.begun) >= count)
        assert len(self.owner.begun) == count
        return self.owner.begun

    def silent(self, client: zmq.Socket[bytes]) -> None:
        """Nothing was said to the client: what it hears first is the answer to what it asks now."""
        client.send_multipart(said(Hello(99)))
        assert self.answer(client) == Welcome(99, {"pid": 3})


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


def ask(client: zmq.Socket[bytes], **changes: Any) -> None:
    client.send_multipart(said(REQUEST._replace(**changes)))


def ask_several(
    client: zmq.Socket[bytes], first: int, payload: list[bytes], **changes: Any
) -> None:
    ask(client, first=first, docs=[1] * len(payload), payload=payload, **changes)


def referring(first: int = 1) -> bytes:
    """The header of a request whose second frame is a reference."""
    return request(first=first, payload=b"\2")


def error_of(heard: Message) -> tuple[int, str, str]:
    """Which request has failed, the type of the error, and its text."""
    assert isinstance(heard, Failed)
    (error,) = heard.payload
    told = msgpack.unpackb(error)
    return heard.first, told["type"], told["message"]


# -- where it listens ------------------------------------------------------------------------------


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


# -- what clients say ------------------------------------------------------------------------------


def test_who_asks_is_told_about_the_flow(rig: Rig, client: zmq.Socket[bytes]) -> None:
    client.send_multipart(said(Hello(41)))
    assert rig.answer(client) == Welcome(41, {"pid": 3})


def test_a_request_becomes_a_walk(rig: Rig, client: zmq.Socket[bytes]) -> None:
    payload = [b"first", b"second"]
    ask(
        client,
        first=5,
        endpoint="/index",
        targets=["upper"],
        timeout=1500,
        docs=[3],
        payload=payload,
    )
    ((walk, payloads),) = rig.begun()
    assert walk.origin[1:] == (b"client", 5)
    assert (walk.endpoint, walk.targets, walk.timeout) == ("/index", frozenset({"upper"}), 1.5)
    assert (walk.client, walk.docs, walk.size, walk.count, walk.again) == (
        b"client",
        [3],
        11,
        1,
        False,
    )
    assert payloads == [payload]


def test_a_request_for_all_executors_may_take_its_time(rig: Rig, client: zmq.Socket[bytes]) -> None:
    ask(client, timeout=0)
    ((walk, _),) = rig.begun()
    assert (walk.targets, walk.timeout) == (None, None)


def test_a_request_that_may_have_been_begun_before_says_so(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    ask(client, again=True)
    ((walk, _),) = rig.begun()
    assert walk.again


def test_a_small_payload_may_stand_in_the_header_or_behind_it(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    client.send(request(first=5, payload=[b"in it"]))
    client.send_multipart([request(first=7, payload=None), b"behind it"])
    assert [payloads for _, payloads in rig.begun(2)] == [[[b"in it"]], [[b"behind it"]]]


def test_parts_are_taken_apart_into_payloads(rig: Rig, client: zmq.Socket[bytes]) -> None:
    ask(client, parts=[["left", [-2, 1]], ["right", [-1]]], payload=[b"abc", b"large"])
    ((_, payloads),) = rig.begun()
    assert payloads == [[b"ab"], [b"large"], [b"c"]]


def test_a_request_says_that_its_answer_will_meet_others(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    ask(client, parts=[["left", [-1]], [MEETS, []]], payload=[b"a"])
    ((walk, payloads),) = rig.begun()
    assert (walk.meets, payloads) == (True, [[b"a"]])


def test_a_bulk_is_one_walk(rig: Rig, client: zmq.Socket[bytes]) -> None:
    ask_several(client, 5, [b"a", b"bb"], targets=["upper"])
    ((walk, payloads),) = rig.begun()
    assert [origin[1:] for origin in walk.origins] == [(b"client", 5), (b"client", 6)]
    assert (walk.count, walk.docs, walk.size, walk.targets) == (2, [1, 1], 3, frozenset({"upper"}))
    assert payloads == [[b"a", b"bb"]]


def test_requests_that_arrive_together_and_are_alike_are_a_bulk_also_if_they_were_sent_one_by_one(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    within, behind = request(first=5, payload=[b"a"]), request(first=6)
    client.send(
        header(
            VERSION, messages.BUNDLE, [[msgpack.unpackb(within)], [msgpack.unpackb(behind), b"b"]]
        )
    )
    ((walk, payloads),) = rig.begun()
    assert (walk.count, payloads) == (2, [[b"a", b"b"]])


def test_a_request_that_is_under_way_is_not_begun_again(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    ask(client, first=5)
    ask(client, first=5, again=True)
    ask(client, first=6, endpoint="/other")
    walks = [walk for walk, _ in rig.begun(2)]
    assert [walk.origin[2] for walk in walks] == [5, 6]


def test_of_a_bulk_only_what_is_not_under_way_is_begun(rig: Rig, client: zmq.Socket[bytes]) -> None:
    ask(client, first=6)
    rig.begun()
    ask_several(client, 5, [b"a", b"b"])
    _, (walk, payloads) = rig.begun(2)
    assert (walk.origin[2], walk.count, walk.docs, payloads) == (5, 1, [1], [[b"a"]])


def test_anothers_request_of_the_same_id_is_another(rig: Rig, client: zmq.Socket[bytes]) -> None:
    with rig.client(rig.local, b"other") as other:
        for each in (client, other):
            ask(each, first=5)
        assert {walk.client for walk, _ in rig.begun(2)} == {b"client", b"other"}


def test_a_request_under_way_is_cancelled_alone_and_of_another_the_answer_is_unwanted(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    ask_several(client, 5, [b"a", b"b"])
    ((walk, _),) = rig.begun()
    client.send_multipart(said(Cancel(6)))
    client.send_multipart(said(Cancel(7)))
    rig.until(lambda: len(rig.owner.told) == 4)
    assert rig.owner.told[1:] == [
        ("single", (b"client", 6)),
        ("cancel", walk),
        ("unwanted", (b"client", 7)),
    ]


# -- what they may not -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "phrase"),
    [
        ([request()], "a request without a payload"),
        ([request(parts=[]), PAYLOAD], "parts do not fit the frames"),
        ([request(targets=[7]), PAYLOAD], "targets are not text"),
        ([request(targets=["upper"] * (MOST_TARGETS + 1)), PAYLOAD], "too many targets"),
        ([request(targets=[7], docs=[1, 1], payload=[b"a", b"b"])], "targets are not text"),
        ([referring(), PAYLOAD, REFERENCE.pack()], "wrong fields in header"),
        (
            [header(VERSION, messages.BUNDLE, [[msgpack.unpackb(referring()), PAYLOAD, b"x"]])],
            "wrong fields in header",
        ),
        ([header(VERSION, KINDS[Done], 1, 1, [1], None), PAYLOAD], "unknown kind of message"),
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


def test_alike_requests_whose_targets_are_nested_deep_hold_up_nobody_elses(rig: Rig) -> None:
    """They are compared, to be made one, and what is nested like that cannot be."""
    nested: Any = "upper"
    for _ in range(1000):
        nested = [nested]
    with rig.client(rig.local, b"nasty") as nasty, rig.client(rig.local, b"other") as other:
        for id in (7, 8):
            nasty.send_multipart([request(first=id, targets=nested, payload=[PAYLOAD])])
            ask(other, first=2 * id)
        rig.until(lambda: len(rig.owner.dropped) == 2 and len(rig.owner.begun) == 2)
    assert set(rig.owner.dropped) == {"targets are not text"}


def test_who_shares_the_memory_may_refer_to_it_but_only_over_the_private_address(rig: Rig) -> None:
    member = MEMBER + b"member"
    with rig.client(rig.public, member) as elsewhere, rig.client(rig.local, member) as here:
        elsewhere.send_multipart([referring(1), PAYLOAD, REFERENCE.pack()])
        rig.until(lambda: rig.owner.dropped == ["wrong fields in header"])
        here.send_multipart([referring(2), b"first", REFERENCE.pack()])
        ((walk, payloads),) = rig.begun()
    assert rig.owner.checked == [payloads[0]]
    assert payloads == [[b"first", REFERENCE]]
    assert walk.size == 5 + 400, "what it refers to counts"
    assert rig.front.shares_memory(walk.origin)


def test_another_version_is_answered_and_counts_as_malformed(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    client.send_multipart([header(VERSION + 1, KINDS[Request], 41, "and more"), PAYLOAD])
    text = f"this Flow speaks version {VERSION} of the protocol, not {VERSION + 1}"
    assert error_of(rig.answer(client)) == (41, "BadRequest", text)
    assert rig.owner.dropped == ["another version of the protocol"]


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"endpoint": "/" * 1025}, "BadRequest", "the endpoint has more than 1024 characters"),
        (
            {"targets": ["upper", "nobody"]},
            "BadRequest",
            "no Executor is called 'nobody'; there are ['lower', 'upper']",
        ),
        (
            {"payload": [b"x" * LIMIT, b"y"]},
            "RequestTooLarge",
            "a request of 1001 bytes is over the Flow's limit of 1000 bytes",
        ),
    ],
)
def test_a_request_that_cannot_be_is_answered_with_why(
    rig: Rig, client: zmq.Socket[bytes], changes: dict[str, Any], kind: str, text: str
) -> None:
    ask(client, **changes)
    assert error_of(rig.answer(client)) == (7, kind, text)
    ask(client, first=8, payload=[b"x" * LIMIT])
    ((walk, _),) = rig.begun()
    assert walk.origin[2] == 8, "one that can be goes on"


def test_a_flow_that_closes_takes_no_more_requests(rig: Rig, client: zmq.Socket[bytes]) -> None:
    rig.owner.closing = True
    ask(client)
    text = "the Flow is closing and takes no more requests"
    assert error_of(rig.answer(client)) == (7, "FlowNotRunning", text)
    assert rig.owner.begun == []


def test_each_request_of_a_bulk_that_cannot_be_is_answered(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    ask_several(client, 5, [b"a", b"b"], targets=["nobody"])
    assert [error_of(each)[:2] for each in rig.answers(client)] == [
        (5, "BadRequest"),
        (6, "BadRequest"),
    ]


def test_over_a_public_connection_only_so_many_requests_are_in_flight(rig: Rig) -> None:
    with rig.client(rig.public) as client, rig.client(rig.public, b"other") as other:
        for id in (1, 2, 3):
            ask(client, first=id, endpoint=f"/{id}")
        text = f"over one connection a client may have {MOST} requests in flight, not more"
        assert error_of(rig.answer(client)) == (3, "Overloaded", text)
        ask(other, first=1)
        (first, _), *_ = rig.begun(3)
        rig.front.forget(first)
        ask(client, first=4)
        rig.begun(4)


def test_of_a_bulk_as_many_are_begun_as_may_be_in_flight(rig: Rig) -> None:
    with rig.client(rig.public) as client:
        ask_several(client, 5, [b"a", b"b", b"c"])
        assert error_of(rig.answer(client))[:2] == (7, "Overloaded")
        assert [walk.origin[2] for walk, _ in rig.begun(2)] == [5, 6]


def test_over_the_private_address_any_number_may_be(rig: Rig) -> None:
    with rig.client(rig.local) as client:
        ask_several(client, 5, [b"."] * 5 * MOST)
        rig.begun()


def test_a_request_that_has_ended_makes_room_for_another(rig: Rig) -> None:
    with rig.client(rig.public) as client:
        ask_several(client, 0, [b"."] * MOST)
        ((walk, _),) = rig.begun()
        rig.front.answer(walk, None, [b"."] * MOST, 0.0)
        assert rig.answer(client) == Reply(0, MOST, None, None, 0, [b"."] * MOST)
        ask_several(client, MOST, [b"."] * MOST)
        _, (walk, _) = rig.begun(2)
        rig.front.fail(walk, failures.error("BadRequest", "no"))
        assert len(rig.answers(client)) == MOST
        ask_several(client, 2 * MOST, [b"."] * MOST)
        assert rig.begun(3)[-1][0].count == MOST


# -- what they are told ----------------------------------------------------------------------------


def test_an_answer_carries_parts_and_notes_and_how_long_it_took(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    ask(client, first=5)
    ((walk, _),) = rig.begun()
    walk.note("upper", {"shards": 2})
    rig.front.answer(walk, [["a", [1]]], [b"result"], 0.25)
    parts, notes = [["a", [1]]], {"upper": {"shards": 2}}
    assert rig.answer(client) == Reply(5, 1, parts, notes, 250_000, [b"result"])


def test_a_bulk_is_answered_in_one_go(rig: Rig, client: zmq.Socket[bytes]) -> None:
    ask_several(client, 5, [b"a", b"b"])
    ((walk, _),) = rig.begun()
    rig.front.answer(walk, None, [b"A", b"B"], 0.25)
    assert rig.answer(client) == Reply(5, 2, None, None, 250_000, [b"A", b"B"])


def test_all_requests_of_a_bulk_that_fails_fail(rig: Rig, client: zmq.Socket[bytes]) -> None:
    ask_several(client, 5, [b"a", b"b"])
    ((walk, _),) = rig.begun()
    rig.front.fail(walk, b"why", 0.25)
    assert rig.answers(client) == [Failed(id, 250_000, [b"why"]) for id in (5, 6)]


def test_what_one_turn_brings_about_goes_out_together_at_its_end(
    rig: Rig, client: zmq.Socket[bytes]
) -> None:
    for id in (1, 2):
        ask(client, first=id, endpoint=f"/{id}")
    for walk, _ in rig.begun(2):
        rig.front.fail(walk, b"why")
    assert rig.answers(client) == [Failed(id, 0, [b"why"]) for id in (1, 2)], "in one message"


def test_an_answer_to_a_client_that_is_gone_is_dropped(rig: Rig) -> None:
    with rig.client(rig.local, b"gone") as gone:
        ask(gone)
        ((walk, _),) = rig.begun()
    with rig.client(rig.local) as client:
        for _ in range(3):
            rig.front.answer(walk, None, [b"result"], 0.0)
            rig.front.flush()
        rig.silent(client)
