"""The broker's side towards replicas, which speak by hand here; the owner writes down what it is told."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq
from helpers import PATIENCE, wait_for
from peers import PAYLOAD, header

from zflow.devices.balancing.replica import BatchKey, Replica, Task
from zflow.devices.broker.back import Back
from zflow.devices.broker.ready import MAX_SLOTS
from zflow.devices.broker.settings import Settings
from zflow.devices.local import tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import APART, DONE, DONES, ERROR, HELLO, LEAVE, MISSED, READY, VERSION
from zflow.devices.protocol.references import Reference
from zflow.devices.routing.fanout import Scatter
from zflow.devices.routing.pool import NO_GROUP, Actions, Limits, Pool
from zflow.devices.routing.walk import Node, Walk
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.port import Port
from zflow.devices.sockets.zap import REPLICAS

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
    """A pool whose owner writes down what becomes of its replicas; each is told that the last fan-out was the 7th."""

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
    """A back with its owner; what a broker's loop does with it is done when the test waits for something."""

    def __init__(self, folder: str, **changes: Any) -> None:
        self.context = zmq.Context()
        self.owner = Owner()
        self.work = Watched(self.owner, 0, Node("work"))
        self.index = Watched(self.owner, 1, Node("index", shards=2))
        self.guarded: list[tuple[bytes, bytes]] = []
        places = {name: f"ipc://{folder}/{name}" for name in ("front", "back", "fan", "collector")}
        self.settings = Settings([], [], [], public="", max_message_bytes=10**6, **{**places, **changes})
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

    def answers(self, replica: zmq.Socket[bytes]) -> list[bundles.Heard]:
        """What the replica hears next, all that was sent in one go."""
        self.until(lambda: replica.poll(0))
        return bundles.read(replica.recv_multipart(), 0, messages.TO_REPLICA)

    def answer(self, replica: zmq.Socket[bytes]) -> list[Any]:
        ((header, payload),) = self.answers(replica)
        assert list(payload) == []
        return header

    def silent(self, replica: zmq.Socket[bytes]) -> None:
        """Nothing was said to the replica: what it hears first is the answer to what it asks now."""
        replica.send(header(VERSION, HELLO, 99))
        assert self.answer(replica)[1:3] == [messages.WELCOME, 99]

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
            replica.send(ready())
            assert self.answer(replica) == [VERSION, messages.ACCEPTED, 7]
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


@pytest.fixture
def remote() -> Iterator[Rig]:
    """One that takes replicas of other machines, too."""
    with rigged(replicas_from=ANYWHERE) as rig:
        yield rig


def ready(executor: str = "work", **changes: Any) -> bytes:
    fields = {"endpoints": ["/a"], "slots": 1, "shard": 0, "group": 0, "batching": {}}
    return header(VERSION, READY, executor, *{**fields, **changes}.values())


def task(id: int = 5, count: int = 1, frames: list[bytes] | None = None) -> Task:
    return Task(id, (Walk("origin", "/a"), [("", [frames or [b"payload"]])]), count=count)


# -- joining ----------------------------------------------------------------------------------------------------------


def test_who_asks_is_told_about_the_flow_and_that_this_is_for_replicas(rig: Rig) -> None:
    with rig.connected() as replica:
        replica.send(header(VERSION, HELLO, 41))
        assert rig.answer(replica) == [VERSION, messages.WELCOME, 41, {"pid": 3, "for_replicas": True}]
    assert rig.owner.told == []


def test_a_replica_that_is_ready_joins_its_pool_and_is_told_so(rig: Rig) -> None:
    with rig.connected() as replica:
        replica.send(ready(slots=3, group=2, batching={"/a": [32, 1500]}))
        assert rig.answer(replica) == [VERSION, messages.ACCEPTED, 7]
    assert rig.told(1) == [("join", rig.work, NAME, 2)]
    assert rig.owner.replicas[NAME].slots == 3
    assert rig.work.names == {NAME: "work/rep-0"}
    assert rig.work.bindings.endpoints == {"/a"}
    assert rig.work.bindings.batching == {"/a": BatchKey("/a", 32, 0.0015)}


def test_a_replica_may_leave_open_what_it_binds(rig: Rig) -> None:
    with rig.connected() as replica:
        replica.send(ready(endpoints=None))
        rig.answer(replica)
    assert rig.told(1) == [("join", rig.work, NAME, 0)]
    assert rig.work.bindings.endpoints is None


def test_one_that_connects_anew_joins_anew(rig: Rig) -> None:
    with rig.joined() as replica:
        replica.send(ready(slots=2))
        assert rig.answer(replica) == [VERSION, messages.ACCEPTED, 7]
    assert rig.owner.replicas[NAME].slots == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"executor": "nobody"},
            "there is no Executor 'nobody' here that replicas can join; there are ['index', 'work']",
        ),
        ({"shard": 1}, "there is no shard 1, there are 1"),
        ({"slots": MAX_SLOTS + 1}, f"it has {MAX_SLOTS + 1} slots, and may have 1 to {MAX_SLOTS}"),
    ],
)
def test_who_cannot_be_a_replica_is_told_why(rig: Rig, changes: dict[str, Any], why: str) -> None:
    with rig.connected() as replica:
        replica.send(ready(**changes))
        assert rig.answer(replica) == [VERSION, messages.REFUSED, why]
    assert rig.owner.replicas == {}


def test_a_reason_is_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with rig.connected() as replica, caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(3):
            replica.send(ready(slots=0))
            rig.answer(replica)
    assert caplog.messages == [
        "a replica that calls itself 'work/rep-0' is refused: it has 0 slots, and may have 1 to 1024"
    ]


def test_a_name_is_one_replicas_only(rig: Rig) -> None:
    with rig.joined() as replica:
        replica.send(ready("index"))
        assert rig.answer(replica) == [VERSION, messages.REFUSED, "another replica has that name"]


def test_a_shard_is_taken_in_when_its_subscription_has_arrived(rig: Rig) -> None:
    fan = rig.context.socket(zmq.SUB)
    with fan, rig.connected(SHARD) as replica:
        replica.send(ready("index", shard=1))
        rig.silent(replica)
        fan.subscribe(messages.topic(1, 0))
        fan.subscribe(messages.own_topic(SHARD))
        fan.connect(rig.settings.fan)
        assert rig.answer(replica) == [VERSION, messages.ACCEPTED, 7]
        assert rig.owner.replicas[SHARD].shard == 1
        rig.back.publish([messages.topic(1, 0), b"first"])
        rig.until(lambda: fan.poll(0))
        assert fan.recv_multipart() == [messages.topic(1, 0), b"first"], "nothing that is published is missed"


def test_a_subscription_may_arrive_first(rig: Rig) -> None:
    fan = rig.context.socket(zmq.SUB)
    with fan, rig.connected(SHARD) as replica:
        fan.subscribe(messages.own_topic(SHARD))
        fan.connect(rig.settings.fan)
        rig.until(lambda: (rig.back.publish([messages.own_topic(SHARD), b""]), fan.poll(0))[1])
        replica.send(ready("index", shard=1))
        assert rig.answer(replica) == [VERSION, messages.ACCEPTED, 7]


# -- what replicas say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ([header(VERSION, DONE, 5, 250_000, 3), b"a", b"b"], ("answered", 5, 0.25, [b"a", b"b"], False, 3)),
        ([header(VERSION, ERROR, 5, 250_000), b"why"], ("answered", 5, 0.25, b"why", True)),
        (
            [header(VERSION, DONES, 5, 250_000, [1, 2], [b"a", b"b"])],
            ("answered_in_line", 5, 0.25, [b"a", b"b"], [1, 2]),
        ),
        ([header(VERSION, APART, [5, 6], 250_000), b"why"], ("apart", [5, 6], 0.25, b"why")),
        ([header(VERSION, MISSED, 3, 4)], ("missed", 3, 4)),
        ([header(VERSION, LEAVE)], ("leave",)),
    ],
)
def test_what_a_replica_says_is_passed_on(rig: Rig, frames: list[bytes], told: tuple[Any, ...]) -> None:
    with rig.joined() as replica:
        replica.send_multipart(frames)
        assert rig.told(1) == [(told[0], rig.work, NAME, *told[1:])]


def test_a_shards_answers_come_over_the_collector_too(rig: Rig) -> None:
    collector = rig.context.socket(zmq.PUSH)
    with collector, rig.joined():
        collector.connect(rig.settings.collector)
        collector.send_multipart([NAME, header(VERSION, DONE, 5, 0, 1), b"a"])
        collector.send_multipart([NAME, ready()])
        assert rig.told(1) == [("answered", rig.work, NAME, 5, 0.0, [b"a"], False, 1)]
        rig.until(lambda: rig.owner.dropped)  # nobody joins over it, as nobody could be answered there
        assert isinstance(rig.owner.dropped[0], messages.Unexpected)


@pytest.mark.parametrize(
    ("frames", "phrase"),
    [
        ([header(VERSION, DONE, 5, 1, 1)], "an answer without a payload"),
        ([header(VERSION, ERROR, 5, 1)], "an answer without a payload"),
        ([header(VERSION, APART, [5], 1)], "an answer without a payload"),
        ([header(VERSION, APART, ["5"], 1), b"why"], "tasks are not numbers"),
        ([header(VERSION, messages.REQUEST, 7, "/", None, None, 0, 1), PAYLOAD], "unknown kind of message"),
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
        stranger.send_multipart([header(VERSION, DONE, 5, 1, 1), b"a", b"b"])
        assert rig.told(1) == [("unheard", NAME, [b"a", b"b"])]
    assert [type(error) for error in rig.owner.dropped] == [messages.Unexpected]


def test_one_that_has_left_is_nobody(rig: Rig) -> None:
    with rig.joined() as replica:
        replica.send(header(VERSION, LEAVE))
        replica.send_multipart([header(VERSION, DONE, 5, 1, 1), b"a"])
        assert [what for what, *_ in rig.told(2)] == ["leave", "unheard"]


# -- what they are told -----------------------------------------------------------------------------------------------


def test_a_task_is_sent_when_the_line_is_flushed(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give(task(frames=[b"a", b"b"]))
        rig.silent(replica)
        assert line.flush()
        assert rig.answers(replica) == [([VERSION, messages.TASK, 5, "/a", None], [b"a", b"b"])]


def test_a_bulk_is_one_message_and_arrives_as_its_tasks(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give(task(5, 2, [b"a", b"b"]))
        line.flush()
        tasks = [([VERSION, messages.TASK, id, "/a", None], [frame]) for id, frame in ((5, b"a"), (6, b"b"))]
        assert rig.answers(replica) == tasks


def test_a_batch_is_announced_with_how_many_there_are(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.give_together([task(5, frames=[b"a"]), task(9, frames=[b"b"])])
        line.flush()
        heard = rig.answers(replica)
        assert [header[1:3] for header, _ in heard] == [[messages.TOGETHER, 2], [messages.TASK, 5], [messages.TASK, 9]]


def test_a_task_is_taken_back(rig: Rig) -> None:
    with rig.joined() as replica:
        line = rig.owner.replicas[NAME].line
        line.recall(5)
        line.flush()
        assert rig.answer(replica) == [VERSION, messages.RECALL, 5]


def test_to_a_replica_with_a_pipe_for_tickets_tasks_are_sent_ahead(rig: Rig) -> None:
    with rig.connected() as replica:
        own = tickets.make(rig.settings.back, NAME)
        assert own is not None
        replica.send(ready())
        rig.answer(replica)
        tickets.remove(rig.settings.back, NAME)
        joined = rig.owner.replicas[NAME]
        assert joined.tickets is not None
        ticket = joined.tickets.give(5)
        joined.line.give_ahead(task(), ticket)
        joined.line.flush()
        assert rig.answers(replica) == [([VERSION, messages.AHEAD, 5, "/a", None, ticket], [b"payload"])]
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
        replica.send(ready("index", shard=1))
        rig.answer(replica)
        assert rig.index.fanout is not None
        idle = rig.back.wait
        rig.index.fanout.submit(Scatter(10, 2), 0.0)
        assert rig.back.wait < idle
        rig.until(lambda: fan.poll(0))
        topic, said = fan.recv_multipart()
    assert (topic, msgpack.unpackb(said)) == (messages.topic(1, 0), [VERSION, messages.BEACON, 1])


# -- those that are gone ----------------------------------------------------------------------------------------------


def test_what_one_that_died_said_before_counts(rig: Rig) -> None:
    with rig.joined() as replica:
        replica.send_multipart([header(VERSION, DONE, 5, 0, 1), b"last words"])
        wait_for(rig.readable)
    rig.back.dead(NAME, "SIGKILL")
    wait_for(lambda: (rig.back.tick(), len(rig.owner.told) == 3)[1])
    assert rig.owner.told == [
        ("lose", rig.work, NAME, None),
        ("answered", rig.work, NAME, 5, 0.0, [b"last words"], False, 1),
        ("crash", rig.work, NAME, "SIGKILL"),
    ]


def test_one_that_cannot_be_reached_is_buried_with_what_it_has_not_begun(rig: Rig) -> None:
    with rig.joined():
        pass
    rig.back.unreachable(NAME, 5)
    assert rig.told(2) == [("lose", rig.work, NAME, 5), ("crash", rig.work, NAME, "its connection broke")]


def test_the_dead_do_not_join(rig: Rig) -> None:
    """It was ready when it died, and only then that is read."""
    with rig.connected() as replica:
        replica.send(ready())
        wait_for(rig.readable)
        rig.back.dead(NAME, "SIGKILL")
        rig.silent(replica)
    assert rig.owner.told == []


def test_its_successor_joins(rig: Rig) -> None:
    with rig.joined():
        pass
    rig.back.dead(NAME, "SIGKILL")
    rig.told(2)
    with rig.joined(b"work/rep-0#43"):
        assert list(rig.work.names) == [b"work/rep-0#43"]


def test_while_somebody_is_to_be_buried_the_next_look_is_soon(rig: Rig) -> None:
    with rig.joined():
        idle = rig.back.wait
    rig.back.dead(NAME, "SIGKILL")
    assert rig.back.wait < idle
    rig.told(2)
    assert rig.back.wait == idle


# -- other machines ---------------------------------------------------------------------------------------------------


def test_replicas_of_other_machines_come_only_where_they_are_wanted(rig: Rig, remote: Rig) -> None:
    assert (rig.back.addresses, rig.guarded) == ([], [])
    assert len(remote.back.addresses) == 1
    assert remote.guarded == [(REPLICAS, b"")], "it is guarded before it listens"


def test_one_of_another_machine_that_differs_is_refused_and_nothing_that_it_said_counts(remote: Rig) -> None:
    with remote.joined(), remote.connected(b"work/rep-0@far#1-0a", remote.public) as far:
        for changes, words in (
            ({"endpoints": ["/b"]}, "it binds ['/b'], but the Executor's replicas in its Flow ['/a']"),
            ({"batching": {"/a": [5, 0]}}, "it takes requests in batches {'/a': [5, 0 ms]}, but "),
            ({"endpoints": ["/b"], "slots": 0, "batching": {"/a": [5, 2**64 - 1]}}, "0 slots"),
        ):
            far.send(ready(**changes))
            said = remote.answer(far)
            assert said[1] == messages.REFUSED
            assert words in said[2]
        assert list(remote.owner.replicas) == [NAME]
        assert (remote.work.bindings.endpoints, remote.work.bindings.batching) == ({"/a"}, {})
        far.send(ready())
        assert remote.answer(far)[1] == messages.ACCEPTED


def test_one_of_another_machine_is_sent_away_when_those_here_differ_from_it(remote: Rig) -> None:
    name = b"work/rep-0@far#1-0a"
    with remote.joined(name, remote.public) as far, remote.connected() as here:
        here.send(ready(endpoints=["/a", "/b"]))
        assert remote.answer(here)[1] == messages.ACCEPTED
        kind, why = remote.answer(far)[1:]
        assert kind == messages.REFUSED
        assert "it binds ['/a'], but the Executor's replicas in its Flow ['/a', '/b']" in why
        assert remote.told(2)[1] == ("lose", remote.work, name, None), "it gets nothing new"
        remote.work.balancer.replicas[name].held[5] = None
        for id in (4, 5):  # of which it was given the second
            far.send_multipart([header(VERSION, DONE, id, 1, 1), PAYLOAD])
        far.send(header(VERSION, LEAVE))
        assert [said[0] for said in remote.told(2)] == ["answered", "leave"], "what it had begun still counts"
        assert [str(error) for error in remote.owner.dropped] == ["an answer to what it was not given"]


def test_a_replica_of_another_machine_is_in_no_group_and_gets_plain_frames(remote: Rig) -> None:
    name = b"work/rep-0@host#41-0a"
    with remote.connected(name, remote.public) as replica:
        replica.send(ready(group=5))
        remote.answer(replica)
        assert remote.told(1) == [("join", remote.work, name, NO_GROUP)]
        line = remote.owner.replicas[name].line
        line.give(task(frames=[b"a", b"b"]))
        line.flush()
        assert remote.answers(replica)[0][1] == [b"plain a", b"plain b"]


def test_a_reference_to_memory_from_another_machine_is_malformed(remote: Rig) -> None:
    with remote.joined(ELSEWHERE, remote.public) as replica:
        replica.send_multipart([header(VERSION, DONE, 5, 0, 1, b"\2"), b"first", REFERENCE.pack()])
        remote.until(lambda: remote.owner.dropped)
    assert {str(error) for error in remote.owner.dropped} == {"wrong fields in header"}
    with remote.joined(b"work/rep-1#43") as replica:
        replica.send_multipart([header(VERSION, DONE, 5, 0, 1, b"\2"), b"first", REFERENCE.pack()])
        remote.until(lambda: remote.owner.told)
        assert ("answered", remote.work, b"work/rep-1#43", 5, 0.0, [b"first", REFERENCE], False, 1) in remote.owner.told


def test_a_replica_of_another_machine_whose_connection_is_gone_is_missed(
    remote: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        with remote.joined(ELSEWHERE, remote.public):
            pass
        told = remote.told(2)
    assert told == [("lose", remote.work, ELSEWHERE, None), ("crash", remote.work, ELSEWHERE, "its connection broke")]
    assert caplog.messages == ["work/rep-0@far on another machine is gone"]


@pytest.mark.parametrize("name", [NAME, b"work/rep-0", b"work/rep-0#x", b"work/rep-0#@far", b"work/rep-0@far#42"])
def test_a_name_of_this_machine_is_no_name_of_another(remote: Rig, name: bytes) -> None:
    with remote.joined(NAME), remote.connected(name, remote.public) as other:
        other.send(ready())
        assert remote.answer(other) == [
            VERSION,
            messages.REFUSED,
            "such a name is for replicas of the Flow's own machine",
        ]


def test_an_address_that_is_taken_is_named(remote: Rig) -> None:
    context = zmq.Context()
    places = dict.fromkeys(("front", "back", "fan", "collector"), "ipc://*")
    settings = Settings([], [], [], public="", max_message_bytes=1, replicas_from=remote.public, **places)
    with pytest.raises(zmq.ZMQError, match=remote.public) as caught:
        Back(context, settings, {}, Owner(), lambda *_: Meter(1 << 20, lambda address, reason: None))
    assert caught.value.errno == zmq.EADDRINUSE
    context.destroy(linger=0)
