"""Addresses of external Executors: the far side speaks by hand, the owner notes what it is told,
time is virtual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgpack
import pytest
import zmq
from helpers import free_port, wait_for
from peers import said

from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker import failures
from zflow.devices.broker.addresses import ASK_EVERY, CONNECT_EVERY, MAX_SLOTS, Externals, capacity
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    FROM_CLIENT,
    Cancel,
    Failed,
    Hello,
    Message,
    Reply,
    Request,
    Welcome,
)
from zflow.devices.routing.pool import Actions, Limits, Pool
from zflow.devices.routing.walk import Node, Walk
from zflow.devices.sockets import zap
from zflow.devices.sockets.gate import Gate

Wanted = TypeVar("Wanted", bound=Message)
INFO = {"instance": "one", "epoch": 0, "executors": {"far": {"slots": 3, "endpoints": ["/a"]}}}


class Owner:
    """Writes down what it is told; an address that is here does join its pool."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.leases = self
        self.replicas: list[Replica] = []

    def joined(self, pool: Pool, replica: Replica) -> None:
        self.told.append(("joined", replica.slots))
        self.replicas.append(replica)
        pool.join(replica, 0, 0.0)

    def do(self, pool: Pool, actions: Actions) -> None:
        pass

    def bound(self, pool: Pool) -> None:
        pass

    def answered(
        self,
        pool: Pool,
        name: bytes,
        first: int,
        seconds: float,
        payload: Any,
        docs: None,
        notes: Any = None,
    ) -> None:
        self.told.append(("answered", first, seconds, payload, notes))

    def failed(self, pool: Pool, name: bytes, tasks: list[int], seconds: float, error: Any) -> None:
        self.told.append(("failed", tasks, seconds, error))

    def malformed(self, error: Exception, frames: Any) -> None:
        self.told.append(("malformed", str(error)))

    def plain(self, frames: list[Any]) -> list[Any]:
        return [b"plain " + frame for frame in frames]


class Watched(Pool):
    """A pool whose owner writes down what becomes of its addresses."""

    def __init__(self, owner: Owner, node: Node, retries: int) -> None:
        super().__init__(0, node, retries, Limits())
        self.owner = owner
        self.unanswered: list[Task] = []

    def lose(self, name: Any, now: float, unsent: int | None = None) -> Actions:
        self.owner.told.append(("lose", unsent))
        return super().lose(name, now, unsent)

    def crash(self, name: Any, now: float, how: str = "") -> Actions:
        self.owner.told.append(("crash", how))
        return super().crash(name, now, how)

    def find(self, name: Any, now: float) -> tuple[list[Task], Actions]:
        self.owner.told.append(("find",))
        return self.unanswered, super().find(name, now)[1]

    def resize(self, name: Any, slots: int, now: float) -> Actions:
        self.owner.told.append(("resize", slots))
        return super().resize(name, slots, now)


class Far:
    """The broker of another Flow, as far as the test makes it one."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], port: int) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.PROBE_ROUTER, 1)
        self.socket.set(zmq.LINGER, 0)
        self.port = port
        self.peer = b""
        self.heard: list[Message] = []

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

    def say(self, message: Message) -> None:
        self.socket.send_multipart([self.peer, *said(message)])

    def close(self) -> None:
        self.socket.close()


class Rig:
    """The addresses of one Executor, here a single one,
    with what a broker's loop does with them.
    """

    def __init__(self, retries: int = 3) -> None:
        self.context = zmq.Context()
        self.now = 100.0
        self.port = free_port()
        self.owner = Owner()
        self.secured: list[bytes] = []
        self.pool = Watched(
            self.owner, Node("far", addresses=(f"tcp://127.0.0.1:{self.port}",)), retries
        )
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

    def hears(self, kind: type[Wanted], count: int = 1) -> list[Wanted]:
        """What the far side hears next of a kind, so many messages; all before is forgotten."""

        def found() -> list[Wanted]:
            return [heard for heard in self.far.heard if isinstance(heard, kind)]

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
        self.hears(Hello)
        self.far.say(Welcome(1, {**INFO, **info}))
        self.told(1)
        return self.owner.replicas[-1]

    def cut(self) -> None:
        """Cut the connection, and let it be noticed."""
        self.far.close()
        self.until(lambda: self.owner.told)

    def back(self, **info: Any) -> None:
        """A far side is at the same port again, and says who it is."""
        self.far = Far(self.context, self.port).listen()
        self.hears(Hello)
        self.far.say(Welcome(1, {**INFO, **info}))


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
    walk.docs = [2]
    return Task(id, (walk, [("", [[b"a", b"b"]])]))


# -- here ------------------------------------------------------------------------------------------


def test_an_address_is_here_when_it_has_said_who_it_is(rig: Rig) -> None:
    rig.far.listen()
    rig.hears(Hello)
    assert rig.owner.told == []
    rig.far.say(Welcome(1, INFO))
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
def test_how_much_a_flow_can_do_at_once_is_the_sum_of_all_its_slots(
    info: dict[str, Any], slots: int
) -> None:
    assert capacity(info) == slots


def test_an_address_never_has_more_slots_than_there_may_be(rig: Rig) -> None:
    assert rig.joined(executors={"far": {"slots": 10**9}}).slots == MAX_SLOTS


def test_it_is_asked_again_and_again_how_much_it_can_do(rig: Rig) -> None:
    rig.joined()
    for slots in (5, 1):
        rig.now += ASK_EVERY * 1.1
        rig.hears(Hello)
        rig.far.say(Welcome(1, {**INFO, "executors": {"far": {"slots": slots}}}))
        assert rig.told() == [("resize", slots)]


def test_a_flow_that_closes_gets_nothing_new(rig: Rig) -> None:
    rig.joined()
    rig.far.say(Welcome(1, {**INFO, "closing": True}))
    assert rig.told() == [("lose", None)]


def test_a_flow_that_closes_already_is_not_here(rig: Rig) -> None:
    rig.far.listen()
    rig.hears(Hello)
    rig.far.say(Welcome(1, {**INFO, "closing": True}))
    rig.far.say(Welcome(1, INFO))
    assert rig.told() == [("joined", 3)], "only when it does not any more"


@pytest.mark.parametrize(
    ("executors", "endpoints"),
    [
        (
            {"a": {"endpoints": ["/a", "/b"]}, "b": {"endpoints": ["/c", 7]}},
            frozenset({"/a", "/b", "/c"}),
        ),
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


# -- requests and answers --------------------------------------------------------------------------


def test_a_task_goes_there_as_a_request_and_nothing_in_it_refers_to_memory(rig: Rig) -> None:
    line = rig.joined().line
    line.give(task())
    assert line.flush()
    assert rig.hears(Request) == [
        Request(5, "/a", None, None, 0, False, [2], [b"plain a", b"plain b"])
    ]


def test_a_task_that_is_taken_back_is_cancelled(rig: Rig) -> None:
    line = rig.joined().line
    line.recall(5)
    line.flush()
    assert rig.hears(Cancel) == [Cancel(5)]


def test_a_result_is_passed_on_with_its_notes_and_time(rig: Rig) -> None:
    rig.joined()
    notes = {"x": {"shards": 2, "succeeded": 1, "failed": {"1": "why"}}}
    rig.far.say(Reply(5, 1, None, notes, 250_000, [b"a", b"b"]))
    assert rig.told() == [("answered", 5, 0.25, [[b"a", b"b"]], notes)]


def test_several_results_in_one_are_passed_on_one_by_one(rig: Rig) -> None:
    rig.joined()
    rig.far.say(Reply(5, 3, None, None, 250_000, [b"a", b"b", b"c"]))
    each = enumerate([b"a", b"b", b"c"], 5)
    assert rig.told(3) == [("answered", id, 0.25, [[frame]], None) for id, frame in each]


def test_a_result_in_parts_is_several_payloads(rig: Rig) -> None:
    rig.joined()
    rig.far.say(Reply(5, 1, [["left", [1]], ["right", [2]]], None, 0, [b"a", b"b", b"c"]))
    assert rig.told() == [("answered", 5, 0.0, [[b"a"], [b"b", b"c"]], None)]


def test_an_error_is_passed_on_as_it_is(rig: Rig) -> None:
    error = failures.error("ExecutorError", "broken")
    rig.joined()
    rig.far.say(Failed(5, 250_000, [error]))
    assert rig.told() == [("failed", [5], 0.25, error)]


def test_what_a_closing_flow_has_not_taken_is_for_others(rig: Rig) -> None:
    rig.joined()
    rig.far.say(Failed(5, 0, [failures.error("FlowNotRunning", "closing")]))
    assert rig.told() == [("lose", 5)]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Reply(5, 1, [["left", [2]]], None, 0, [b"a"]), "parts do not fit the frames"),
        (Reply(5, 1, None, None, 0, []), "an answer without a payload"),
        (Failed(5, 0, []), "an error without a payload"),
    ],
)
def test_a_result_that_cannot_be_read_fails_its_request_and_is_logged_once(
    rig: Rig, caplog: pytest.LogCaptureFixture, answer: Message, why: str
) -> None:
    rig.joined()
    error = failures.error(
        "BadRequest", f"the answer of tcp://127.0.0.1:{rig.port} cannot be read: {why}"
    )
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(2):
            rig.far.say(answer)
            assert rig.told() == [("failed", [5], 0.0, error)]
    said = (
        f"tcp://127.0.0.1:{rig.port} cannot be used: it sent an answer that cannot be read: {why}"
    )
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
        {"a": {**NOTE, "failed": {"1": "x" * 40_000}}},
    ],
)
def test_notes_that_cannot_be_fail_their_request_only(rig: Rig, notes: dict[str, Any]) -> None:
    rig.joined()
    rig.far.say(Reply(5, 1, None, notes, 0, [b"a"]))
    assert rig.told()[0][:2] == ("failed", [5])
    rig.far.say(Reply(6, 1, None, {"a": NOTE}, 0, [b"good"]))
    assert rig.told() == [("answered", 6, 0.0, [[b"good"]], {"a": NOTE})]


@pytest.mark.parametrize(
    "info",
    [
        {**INFO, "instance": NESTED},
        {**INFO, "epoch": NESTED},
        {**INFO, "executors": {"far": {"slots": NESTED, "endpoints": NESTED}}},
        {
            **INFO,
            "executors": {
                "far": {"slots": 2**63, "endpoints": ["/" * 2000, *map(str, range(1001))]}
            },
        },
    ],
)
def test_whatever_it_says_of_itself_does_no_harm(rig: Rig, info: dict[str, Any]) -> None:
    rig.joined()
    rig.far.say(Welcome(1, info))
    rig.far.say(Failed(0, 0, [msgpack.packb({"message": NESTED})]))
    rig.far.say(Reply(6, 1, None, None, 0, [b"good"]))
    rig.until(lambda: ("answered", 6, 0.0, [[b"good"]], None) in rig.owner.told)
    assert rig.owner.replicas[-1].slots <= MAX_SLOTS


def test_one_that_floods_leaves_time_for_others(rig: Rig) -> None:
    rig.joined()
    for id in range(5, 500):
        rig.far.say(Reply(id, 1, None, None, 0, [b"a"]))
    address = rig.externals._addresses[0]
    wait_for(lambda: address.socket.poll(0))
    address.read(rig.now)
    assert len(rig.owner.told) <= 64


# -- who cannot be used ----------------------------------------------------------------------------


def test_what_is_no_flow_is_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.far.listen()
    rig.hears(Hello)
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(3):
            rig.far.socket.send_multipart([rig.far.peer, b"HTTP/1.1 400"])
        rig.far.say(Welcome(1, INFO))
        rig.told()
    (said,) = caplog.messages
    assert "what answers is no zflow Flow of this version" in said


def test_a_flow_of_another_version_is_logged_with_what_it_says(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.far.listen()
    rig.hears(Hello)
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        rig.far.say(Failed(0, 0, [failures.error("BadRequest", "this Flow speaks version 9")]))
        rig.until(lambda: caplog.messages)
    url = f"tcp://127.0.0.1:{rig.port}"
    assert caplog.messages == [
        f"external Executor 'far': {url} cannot be used: this Flow speaks version 9"
    ]
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
    assert said.startswith(
        f"{where} cannot be used: it refuses the connection: it does not know these keys"
    )
    room[zap.CLIENTS] = 1
    rig.now += CONNECT_EVERY
    rig.until(lambda: (gate.serve(), server.poll(0))[1])
    gate.close()
    server.close()
    context.term()


def test_what_is_no_error_has_no_text_of_its_own(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.far.listen()
    rig.hears(Hello)
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        rig.far.say(Failed(0, 0, [msgpack.packb("text")]))
        rig.until(lambda: caplog.messages)
    assert caplog.messages[0].endswith("cannot be used: it speaks another version of the protocol")
