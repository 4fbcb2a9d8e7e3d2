"""The broker's side towards replicas, which speak by hand here;
the owner writes down what it is told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from helpers import PATIENCE, wait_for
from peers import PAYLOAD, header, request, said

from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker.back import Back
from zflow.devices.broker.settings import Settings
from zflow.devices.local import tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    KINDS,
    VERSION,
    Accepted,
    Beacon,
    Done,
    Error,
    Hello,
    Leave,
    Message,
    Missed,
    Ready,
    Recall,
    Together,
    Welcome,
    encoder,
)
from zflow.devices.protocol.references import Reference
from zflow.devices.routing.fanout import Scatter
from zflow.devices.routing.pool import Actions, Limits, Pool
from zflow.devices.routing.walk import Node, Walk
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.port import Port

NAME = b"work/rep-0#41"
ELSEWHERE = b"work/rep-0@far#41-0a"
SHARD = b"index/shard-1/rep-0#42"
REFERENCE = Reference(1, 2, 3, 400, 5)
ANYWHERE = "tcp://127.0.0.1:*"


class Owner:
    """Writes down what it is told, and what its pools are."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.leases = self
        self.dropped: list[messages.Malformed] = []
        self.replicas: dict[bytes, Replica] = {}

    def __getattr__(self, what: str) -> Callable[..., None]:
        return lambda *said: self.told.append((what, *said))

    def do(self, pool: Pool, actions: Actions) -> None:
        pass

    def bound(self, pool: Pool) -> None:
        pass

    def plain(self, frames: list[Any]) -> list[Any]:
        return [b"plain " + frame for frame in frames]

    def info(self) -> dict[str, Any]:
        return {"pid": 3}


class Watched(Pool):
    """A pool whose owner writes down what becomes of its replicas;
    each is told that the last fan-out was the 7th.
    """

    def __init__(self, owner: Owner, index: int, node: Node) -> None:
        super().__init__(index, node, 3, Limits())
        self.owner = owner

    def join(self, replica: Replica, group: int, now: float) -> tuple[int, Actions]:
        self.owner.told.append(("join", self, replica.name, group))
        self.owner.replicas[replica.name] = replica
        return 7, super().join(replica, group, now)[1]

    def leave(self, name: Any, now: float) -> Actions:
        self.owner.told.append(("leave", self, name))
        return super().leave(name, now)

    def lose(self, name: Any, now: float, unsent: int | None = None) -> Actions:
        self.owner.told.append(("lose", self, name, unsent))
        return super().lose(name, now, unsent)

    def crash(self, name: Any, now: float, how: str = "") -> Actions:
        self.owner.told.append(("crash", self, name, how))
        return super().crash(name, now, how)

    def missed(self, name: Any, first: int, last: int, now: float) -> Actions:
        self.owner.told.append(("missed", self, name, first, last))
        return super().missed(name, first, last, now)


class Rig:
    """A back with its owner; what a broker's loop does with it is done
    when the test waits for something.
    """

    def __init__(self, folder: str, **changes: Any) -> None:
        self.context = zmq.Context()
        self.owner = Owner()
        self.work = Watched(self.owner, 0, Node("work"))
        self.index = Watched(self.owner, 1, Node("index", shards=2))
        self.guarded: list[tuple[bytes, bytes]] = []
        places = {name: f"ipc://{folder}/{name}" for name in ("front", "back", "fan", "collector")}
        self.settings = Settings(
            [], [], [], public="", max_message_bytes=10**6, **{**places, **changes}
        )
        pools = {"work": self.work, "index": self.index}
        self.back = Back(self.context, self.settings, pools, self.owner, self._guard)
        self.handlers = self.back.handlers(self._read)

    def _guard(self, socket: zmq.Socket[bytes], domain: bytes) -> Meter:
        self.guarded.append((domain, socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0")))
        return Meter(1 << 20, lambda address, reason: None)

    def _read(self, port: Port, handle: Callable[[list[Any]], None]) -> None:
        for frames in port.receive_some(64):
            try:
                handle(frames)
            except messages.Malformed as error:
                self.owner.dropped.append(error)

    def turn(self) -> None:
        for source, _ in self.readable(1):
            self.handlers[source]()
        self.back.tick()

    def readable(self, timeout: int = 0) -> list[Any]:
        return zmq.zmq_poll([(source, zmq.POLLIN) for source in self.handlers], timeout)

    def until(self, condition: Callable[[], Any]) -> None:
        wait_for(lambda: (self.turn(), condition())[1])

    def told(self, count: int) -> list[tuple[Any, ...]]:
        """What the owner is told next, so many things."""
        self.until(lambda: len(self.owner.told) >= count)
        told = list(self.owner.told)
        assert len(told) == count
        self.owner.told.clear()
        return told

    def answers(self, replica: zmq.Socket[bytes]) -> list[Message]:
        """What the replica hears next, all that was sent in one go."""
        self.until(lambda: replica.poll(0))
        return bundles.read(replica.recv_multipart(), 0, messages.TO_REPLICA)

    def answer(self, replica: zmq.Socket[bytes]) -> Message:
        (heard,) = self.answers(replica)
        return heard

    def silent(self, replica: zmq.Socket[bytes]) -> None:
        """Nothing was said to the replica: what it hears first is the answer to what it asks
        now.
        """
        say(replica, Hello(99))
        assert self.answer(replica) == Welcome(99, {"pid": 3, "for_replicas": True})

    @contextmanager
    def connected(self, identity: bytes = NAME, address: str = "") -> Iterator[zmq.Socket[bytes]]:
        """A connection that the back has greeted."""
        context = zmq.Context()
        replica = context.socket(zmq.DEALER)
        replica.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
        replica.set(zmq.ROUTING_ID, identity)
        replica.connect(address or self.settings.back)
        try:
            self.until(lambda: replica.poll(0))
            assert replica.recv_multipart() == [b""]
            yield replica
        finally:
            context.destroy(linger=0)

    @contextmanager
    def joined(self, identity: bytes = NAME, address: str = "") -> Iterator[zmq.Socket[bytes]]:
        """A replica of `work` that is in the pool; what was told of that is forgotten."""
        with self.connected(identity, address) as replica:
            say(replica, ready())
            assert self.answer(replica) == Accepted(7)
            self.owner.told.clear()
            yield replica

    @property
    def public(self) -> str:
        return f"tcp://127.0.0.1:{self.back.addresses[0].rpartition(':')[2]}"


@contextmanager
def rigged(**changes: Any) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(folder, **changes)
        try:
            yield rig
        finally:
            rig.back.close()
            rig.context.term()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def say(replica: zmq.Socket[bytes], *messages: Message) -> None:
    for frames in bundles.frames_of(messages, encoder()):
        replica.send_multipart(frames)


def ready(executor: str = "work", **changes: Any) -> Ready:
    return Ready(executor, ["/a"], 1, 0, 0, {})._replace(**changes)


def task(id: int = 5, count: int = 1, frames: list[bytes] | None = None) -> Task:
    return Task(id, (Walk("origin", "/a"), [("", [frames or [b"payload"]])]), count=count)


def given(first: int, *payload: bytes, total: int = 1, ticket: int = 0) -> messages.Task:
    """What a replica is told of the tasks that `task` returns."""
    return messages.Task(first, total, "/a", None, ticket, list(payload))


# -- what replicas say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (Done(5, 250_000, [3], [b"a", b"b"]), ("answered", 5, 0.25, [b"a", b"b"], [3])),
        (Done(5, 250_000, [3], [b"a"]), ("answered", 5, 0.25, [b"a"], [3])),
        (Done(5, 250_000, [1, 2], [b"a", b"b"]), ("answered", 5, 0.25, [b"a", b"b"], [1, 2])),
        (Error([5], 250_000, [b"why"]), ("failed", [5], 0.25, b"why")),
        (Error([5, 9], 250_000, [b"why"]), ("failed", [5, 9], 0.25, b"why")),
        (Missed(3, 4), ("missed", 3, 4)),
        (Leave(), ("leave",)),
    ],
)
def test_what_a_replica_says_is_passed_on(
    rig: Rig, message: Message, told: tuple[Any, ...]
) -> None:
    with rig.joined() as replica:
        say(replica, message)
        assert rig.told(1) == [(told[0], rig.work, NAME, *told[1:])]


def test_a_shards_answers_come_over_the_collector_too(rig: Rig) -> None:
    collector = rig.context.socket(zmq.PUSH)
    with collector, rig.joined():
        collector.connect(rig.settings.collector)
        collector.send_multipart([NAME, *said(Done(5, 0, [1], [b"a"]))])
        collector.send_multipart([NAME, *said(ready())])
        assert rig.told(1) == [("answered", rig.work, NAME, 5, 0.0, [b"a"], [1])]
        # Nobody joins over it, as nobody could be answered there.
        rig.until(lambda: rig.owner.dropped)
        assert isinstance(rig.owner.dropped[0], messages.Unexpected)


@pytest.mark.parametrize(
    ("frames", "phrase"),
    [
        (said(Done(5, 1, [1], [])), "an answer without a payload"),
        (said(Error([5], 1, [])), "an answer without a payload"),
        (said(Error([5, 6], 1, [])), "an answer without a payload"),
        ([header(VERSION, KINDS[Error], ["5"], 1, [b"why"])], "an answer that is none"),
        ([request(), PAYLOAD], "unknown kind of message"),
    ],
)
def test_what_is_malformed_is_not_passed_on(rig: Rig, frames: list[bytes], phrase: str) -> None:
    with rig.joined() as replica:
        replica.send_multipart(frames)
        rig.until(lambda: rig.owner.dropped)
        assert list(map(str, rig.owner.dropped)) == [phrase]
        rig.silent(replica)
    assert rig.owner.told == []


def test_an_answer_from_nobody_is_unexpected_but_its_memory_is_looked_after(rig: Rig) -> None:
    with rig.connected() as stranger:
        say(stranger, Done(5, 1, [1], [b"a", b"b"]))
        assert rig.told(1) == [("unheard", NAME, [b"a", b"b"])]
    assert [type(error) for error in rig.owner.dropped] == [messages.Unexpected]


def test_one_that_has_left_is_nobody(rig: Rig) -> None:
    with rig.joined() as replica:
        say(replica, Leave())
        say(replica, Done(5, 1, [1], [b"a"]))
        assert [what for what, *_ in rig.told(2)] == ["leave", "unheard"]


# -- what they are told ----------------------------------------------------------------------------


def test_a_task_is_sent_when_the_line_is_flushed(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give(task(frames=[b"a", b"b"]))
        rig.silent(replica)
        assert line.flush()
        assert rig.answer(replica) == given(5, b"a", b"b")


def test_a_bulk_is_one_message(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give(task(5, 2, [b"a", b"b"]))
        line.flush()
        assert rig.answer(replica) == given(5, b"a", b"b", total=2)


def test_a_batch_is_announced_with_how_many_there_are(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give_together([task(5, frames=[b"a"]), task(9, frames=[b"b"])])
        line.flush()
        assert rig.answers(replica) == [Together(2), given(5, b"a"), given(9, b"b")]


def test_tasks_of_a_batch_whose_ids_follow_one_another_are_one_message_too(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give_together([task(5, frames=[b"a"]), task(6, frames=[b"b"])])
        line.flush()
        assert rig.answers(replica) == [Together(2), given(5, b"a", b"b", total=2)]


def test_a_task_is_taken_back(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.recall(5)
        line.flush()
        assert rig.answer(replica) == Recall(5)


def test_to_a_replica_with_a_pipe_for_tickets_tasks_are_sent_ahead(rig: Rig) -> None:
    with rig.connected() as replica:
        own = tickets.make(rig.settings.back, NAME)
        assert own is not None
        say(replica, ready())
        rig.answer(replica)
        tickets.remove(rig.settings.back, NAME)
        joined = rig.owner.replicas[NAME]
        assert joined.tickets is not None
        ticket = joined.tickets.give(5)
        joined.line.give(task(), ticket)
        joined.line.flush()
        assert ticket
        assert rig.answer(replica) == given(5, b"payload", ticket=ticket)
        assert own.take(ticket)
        own.close()


def test_to_a_replica_without_one_nothing_is(rig: Rig) -> None:
    with rig.joined():
        assert rig.owner.replicas[NAME].tickets is None


def test_a_line_says_when_its_replica_is_gone(rig: Rig) -> None:
    with rig.joined():
        line = rig.owner.replicas[NAME].line
        assert line.reached()
    wait_for(lambda: not line.reached())
    line.give(task())
    assert not line.flush()


def test_groups_with_fan_outs_under_way_are_told_the_number_of_the_last_one(rig: Rig) -> None:
    fan = rig.context.socket(zmq.SUB)
    with fan, rig.connected(SHARD) as replica:
        for topic in (messages.topic(1, 0), messages.own_topic(SHARD)):
            fan.subscribe(topic)
        fan.connect(rig.settings.fan)
        say(replica, ready("index", shard=1))
        rig.answer(replica)
        assert rig.index.fanout is not None
        idle = rig.back.wait
        rig.index.fanout.submit(Scatter(10, 2), 0.0)
        assert rig.back.wait < idle
        rig.until(lambda: fan.poll(0))
        assert fan.recv_multipart() == [messages.topic(1, 0), *said(Beacon(1))]


# -- those that are gone ---------------------------------------------------------------------------


def test_what_one_that_died_said_before_counts(rig: Rig) -> None:
    with rig.joined() as replica:
        say(replica, Done(5, 0, [1], [b"last words"]))
        wait_for(rig.readable)
    rig.back.crash(NAME, "SIGKILL")
    wait_for(lambda: (rig.back.tick(), len(rig.owner.told) == 3)[1])
    assert rig.owner.told == [
        ("lose", rig.work, NAME, None),
        ("answered", rig.work, NAME, 5, 0.0, [b"last words"], [1]),
        ("crash", rig.work, NAME, "SIGKILL"),
    ]


def test_one_that_cannot_be_reached_is_buried_with_what_it_has_not_begun(rig: Rig) -> None:
    with rig.joined():
        pass
    rig.back.unreachable(NAME, 5)
    assert rig.told(2) == [
        ("lose", rig.work, NAME, 5),
        ("crash", rig.work, NAME, "its connection broke"),
    ]


def test_the_dead_do_not_join(rig: Rig) -> None:
    """It was ready when it died, and only then that is read."""
    with rig.connected() as replica:
        say(replica, ready())
        wait_for(rig.readable)
        rig.back.crash(NAME, "SIGKILL")
        rig.silent(replica)
    assert rig.owner.told == []


def test_its_successor_joins(rig: Rig) -> None:
    with rig.joined():
        pass
    rig.back.crash(NAME, "SIGKILL")
    rig.told(2)
    with rig.joined(b"work/rep-0#43"):
        assert list(rig.work.names) == [b"work/rep-0#43"]


def test_while_somebody_is_to_be_buried_the_next_look_is_soon(rig: Rig) -> None:
    with rig.joined():
        idle = rig.back.wait
    rig.back.crash(NAME, "SIGKILL")
    assert rig.back.wait < idle
    rig.told(2)
    assert rig.back.wait == idle
