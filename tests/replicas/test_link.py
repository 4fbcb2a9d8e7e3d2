"""A replica's line to the broker: what is said over it, in which order tasks are begun,
and how it ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import zmq
from helpers import PATIENCE, in_background, wait_for
from peers import header, said

from zflow.devices.local import arena, tickets
from zflow.devices.local.arena import SHARED_FROM, Arena
from zflow.devices.protocol import bundles, headers, messages
from zflow.devices.protocol.messages import (
    FROM_LOCAL_REPLICA,
    FROM_REPLICA,
    KINDS,
    VERSION,
    Accepted,
    Done,
    Error,
    Leave,
    Message,
    Ready,
    Recall,
    Refused,
    Task,
    Together,
)
from zflow.devices.protocol.references import references
from zflow.devices.sockets import zap
from zflow.devices.sockets.gate import Gate
from zflow.executors.batching import Batching
from zflow.replicas import link as module
from zflow.replicas.link import MOST_FAILED, Answer, Assignment, Link, Stop, StopNow
from zflow.replicas.seat import Seat, identity
from zflow.topology.topology import ExecutorSpec


class Broker:
    """Speaks the broker's part by hand, on sockets in a folder of its own."""

    def __init__(self, folder: str) -> None:
        self.context = zmq.Context()
        self.folder = folder
        self.back = self.listen(zmq.ROUTER, "back")
        self.fan = self.listen(zmq.XPUB, "fan")
        self.collector = self.listen(zmq.PULL, "collector")
        self.identity = b""
        self.links: list[Link] = []

    def listen(self, kind: int, name: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
        if kind == zmq.ROUTER:
            socket.set(zmq.PROBE_ROUTER, 1)
        socket.bind(self.address(name))
        return socket

    def address(self, name: str) -> str:
        return f"ipc://{self.folder}/{name}"

    def seat(self, shards: int = 1, shard_id: int = 0) -> Seat:
        spec = ExecutorSpec("work", ("gateway",), shards=shards)
        return Seat(
            spec,
            3,
            shard_id,
            2,
            self.address("back"),
            self.address("fan"),
            self.address("collector"),
            10**6,
        )

    def link(self, seat: Seat | None = None, slots: int = 1, memory: Arena | None = None) -> Link:
        link = Link(seat or self.seat(), Stop(), slots, memory)
        self.links.append(link)
        return link

    def registered(self, seat: Seat | None = None, **options: Any) -> Link:
        """A link that is in the pool."""
        link = self.link(seat, **options)
        registering = in_background(link.register, ["/a"], {})
        assert isinstance(self.hears(), Ready)
        self.say(Accepted(0))
        assert registering.result(PATIENCE) is None
        return link

    def hears(self) -> Message:
        (heard,) = self.hears_all()
        return heard

    def hears_all(self) -> list[Message]:
        """What comes next from the replica, all that was sent in one go."""
        self.identity, *frames = self.back.recv_multipart()
        return bundles.read(frames, 0, FROM_LOCAL_REPLICA)

    def collects(self) -> Message:
        """What comes next over the collector."""
        self.identity, *frames = self.collector.recv_multipart()
        (heard,) = bundles.read(frames, 0, FROM_REPLICA)
        return heard

    def say(self, message: Message) -> None:
        self.back.send_multipart([self.identity, *said(message)])

    def tasks(self, *ids: int) -> None:
        for id in ids:
            self.say(one(id))

    def publish(self, message: Message) -> None:
        self.fan.send_multipart([messages.topic(3, 2), *said(message)])

    def close(self) -> None:
        for link in self.links:
            link.leave()
        self.context.destroy(linger=0)


@contextmanager
def serving() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(folder)
        yield broker
        broker.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with serving() as broker:
        yield broker


@contextmanager
def tickets_of(broker: Broker) -> Iterator[tuple[Link, tickets.Tickets]]:
    """A link that is in the pool, and the broker's end of the pipe for its tickets."""
    link = broker.link()
    registering = in_background(link.register, ["/a"], {})
    broker.hears()
    issuer = tickets.find(broker.address("back"), broker.identity)
    assert issuer is not None
    broker.say(Accepted(0))
    registering.result(PATIENCE)
    yield link, issuer
    issuer.close()


def settled(broker: Broker, link: Link) -> None:
    """Wait until all that the broker has said has arrived; what it says last tells:
    it goes on all the same.
    """
    broker.say(Refused("so far"))
    wait_for(lambda: (link.drain(), link.refused)[1])
    link.refused = None


def ids(link: Link) -> list[list[int]]:
    """All tasks that can be begun, those of a batch together."""
    return [[task.id for task in tasks] for tasks in iter(link.next, [])]


def begun(link: Link) -> list[Assignment]:
    """The task that is to be begun next, or the batch, when it has arrived."""
    return wait_for(lambda: (link.drain(), link.next())[1])


def one(id: int, ticket: int = 0) -> Task:
    """A task that is told from others by its payload, too."""
    return Task(id, 1, "/a", None, ticket, [b"%d" % id])


def result(id: int, *frames: Any, docs: int | None = 1) -> Answer:
    return Answer([Assignment(id, "/a", None, ())], frames, docs)


# -- joining ---------------------------------------------------------------------------------------


def test_a_replica_says_who_it_is_and_joins(broker: Broker) -> None:
    link = broker.link(slots=4)
    registering = in_background(link.register, ["/a"], {"/a": Batching(32, 0.0015)})
    assert broker.hears() == Ready("work", ["/a"], 4, 0, 2, {"/a": [32, 1500]})
    assert broker.identity == identity("work/rep-2", os.getpid())
    broker.say(Accepted(0))
    assert registering.result(PATIENCE) is None
    assert link.refused is None


def test_one_that_is_refused_is_told_why(broker: Broker) -> None:
    link = broker.link()
    registering = in_background(link.register, ["/a"], {})
    broker.hears()
    broker.say(Refused("there is no Executor 'work'"))
    assert registering.result(PATIENCE) == link.refused == "there is no Executor 'work'"


def test_one_that_has_more_to_say_of_itself_than_a_message_may_hold_is_told_so(
    broker: Broker,
) -> None:
    link = broker.link()
    why = link.register(["/" + "x" * 1000] * 100, {})
    assert why is not None
    assert why.startswith("its 100 endpoints, with what it says of batching, take 100")
    assert "over the limit of 65536" in why


def test_a_broker_that_gives_no_answer_is_named(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REGISTERING", 1)
    nowhere = replace(broker.seat(), back=broker.address("nowhere"))
    link = broker.link(nowhere)
    assert link.register(["/a"], {}) == f"the broker at {nowhere.back} gave no answer"
    assert link.turned_away is None
    somebody = broker.listen(zmq.ROUTER, "nowhere")  # so that what it says at its end need not wait
    wait_for(lambda: (link.drain(), somebody.poll(0))[1])
    link.leave()
    broker.links.clear()


def test_two_of_one_name_on_two_machines_have_different_routing_ids(broker: Broker) -> None:
    identities = set()
    for _ in range(2):
        registering = in_background(
            broker.link(replace(broker.seat(), machine="host")).register, ["/a"], {}
        )
        assert isinstance(broker.hears(), Ready)
        broker.say(Refused("enough"))
        assert registering.result(PATIENCE) == "enough"
        identities.add(broker.identity)
    assert len(identities) == 2
    assert all(one.startswith(identity("work/rep-2@host", os.getpid())) for one in identities)


def test_a_flow_that_turns_a_replica_of_another_machine_away_is_named(broker: Broker) -> None:
    gate = Gate(broker.context, dict, {zap.REPLICAS: 0})  # nobody may connect
    server = broker.context.socket(zmq.ROUTER)
    gate.guard(server, zap.REPLICAS)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    link = broker.link(replace(broker.seat(), machine="host", back=f"tcp://127.0.0.1:{port}"))
    registering = in_background(link.register, ["/"], {})
    told = wait_for(lambda: (gate.serve(), registering.done() and registering.result())[1])
    why = link.turned_away
    link.drain()
    link.answer([result(5, b"result")], 0.1)
    link.flush()  # without waiting for somebody whom it could tell,
    link.leave()  # nor here
    gate.close()
    broker.links.clear()
    assert (
        told
        == why
        == (
            f"the Flow at tcp://127.0.0.1:{port} refuses it: it does not know this key, or has too "
            "many connections"
        )
    )


def test_over_a_new_connection_it_is_ready_again_and_what_had_not_begun_is_forgotten(
    broker: Broker,
) -> None:
    link = broker.registered()
    broker.tasks(1, 2)
    broker.back.send_multipart([broker.identity, b""])
    wait_for(lambda: (link.drain(), broker.back.poll(0))[1])
    assert isinstance(broker.hears(), Ready)
    broker.tasks(3)
    assert begun(link)[0].id == 3


def test_one_that_is_not_in_the_pool_any_more_ends_and_says_so(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    link = broker.registered()
    broker.say(Refused("it binds something else"))
    wait_for(lambda: (link.drain(), link.refused)[1])
    assert link.stop.asked
    assert caplog.messages == ["not in the pool any more: it binds something else"]


# -- tasks -----------------------------------------------------------------------------------------


def test_tasks_are_begun_in_the_order_in_which_they_came(broker: Broker) -> None:
    link = broker.registered()
    assert not link.has_more
    assert link.next() == []
    broker.say(Task(9, 1, "/a", [["left", [1]]], 0, [b"a", b"b"]))
    broker.tasks(3)
    settled(broker, link)
    assert link.has_more
    assert link.next() == [Assignment(9, "/a", [["left", [1]]], [b"a", b"b"])]
    assert link.next() == [Assignment(3, "/a", None, [b"3"])]
    assert not link.has_more


def test_waiting_ends_when_something_arrives(broker: Broker) -> None:
    link = broker.registered()
    broker.tasks(1)
    assert wait_for(link.wait)
    assert ids(link) == [[1]]


def test_a_task_that_is_taken_back_is_not_begun_unless_it_has_been(broker: Broker) -> None:
    link = broker.registered()
    broker.tasks(1, 2, 3)
    settled(broker, link)
    assert link.next()[0].id == 1
    for id in (1, 2, 77, 0):
        broker.say(Recall(id))
    broker.tasks(4)
    settled(broker, link)
    assert ids(link) == [[3], [4]]


def test_a_batch_is_begun_when_all_of_it_is_there(broker: Broker) -> None:
    link = broker.registered()
    broker.tasks(1)
    broker.say(Together(3))
    broker.tasks(2, 3)
    settled(broker, link)
    assert ids(link) == [[1]]
    broker.tasks(4, 5)
    settled(broker, link)
    assert ids(link) == [[2, 3, 4], [5]]


def test_what_was_taken_back_of_a_batch_is_left_out(broker: Broker) -> None:
    link = broker.registered()
    broker.say(Together(2))
    broker.tasks(2, 3)
    broker.say(Recall(2))
    broker.tasks(4)
    settled(broker, link)
    assert ids(link) == [[3], [4]]


def test_what_was_sent_ahead_is_begun_only_with_its_ticket(broker: Broker) -> None:
    with tickets_of(broker) as (link, issuer):
        numbers = [issuer.give(task) for task in (1, 2, 3)]
        for task, number in zip((1, 2, 3), numbers, strict=True):
            broker.say(one(task, ticket=number))
        broker.tasks(4)
        settled(broker, link)
        assert issuer.reclaim() == 1
        assert link.next()[0].id == 2
        assert issuer.reclaim() == 3
        assert ids(link) == [[4]]


def test_nothing_of_a_pipe_for_tickets_is_left_in_the_folder(broker: Broker) -> None:
    with tickets_of(broker):
        assert sorted(os.listdir(broker.folder)) == ["back", "collector", "fan"]


@pytest.mark.parametrize("changes", [{"slots": 2}, {"machine": "host"}, {"shards": 2}])
def test_who_does_several_things_at_once_or_is_elsewhere_has_no_tickets(
    broker: Broker, changes: dict[str, Any]
) -> None:
    seat = replace(broker.seat(changes.get("shards", 1)), machine=changes.get("machine"))
    registering = in_background(broker.link(seat, changes.get("slots", 1)).register, ["/a"], {})
    broker.hears()
    assert tickets.find(broker.address("back"), broker.identity) is None
    broker.say(Accepted(0))
    registering.result(PATIENCE)


# -- answers ---------------------------------------------------------------------------------------


def test_answers_wait_until_they_are_flushed_and_go_together(broker: Broker) -> None:
    link = broker.registered()
    link.answer([result(1, b"a", docs=2)], 0.25)
    link.answer([result(5, b"why", docs=None)], 0.5)
    link.flush()
    assert broker.hears_all() == [
        Done(1, 250_000, [2], [b"a"]),
        Error([5], 500_000, [b"why"]),
    ]


def test_memory_that_may_be_written_to_again_is_sent_at_once(broker: Broker) -> None:
    link = broker.registered()
    own = bytearray(b"x" * 100_000)
    link.answer([result(1, b"first", own)], 0.0)
    own[:] = b"y" * 100_000
    assert broker.hears() == Done(1, 0, [1], [b"first", b"x" * 100_000])


def test_large_frames_go_through_the_memory_that_is_shared(broker: Broker) -> None:
    file = arena.create()
    link = broker.registered(memory=Arena(file, 1, 10 * SHARED_FROM))
    link.answer([result(1, b"first", b"x" * SHARED_FROM)], 0.0)
    link.flush()
    done = broker.hears()
    assert isinstance(done, Done)
    assert len(references(done.payload)) == 1
    assert Arena(file).fetch(done.payload) == [b"first", b"x" * SHARED_FROM]
    os.close(file)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_tasks_that_cannot_be_done_in_one_go_are_named_the_last_ones_first(
    broker: Broker, first: int
) -> None:
    """Each message puts its tasks in front of all that wait. None names a single one:
    that would be an error of it.
    """
    link = broker.registered()
    tasks = [Assignment(id, "/a", None, ()) for id in range(MOST_FAILED + first)]
    link.answer([Answer(tasks, [b"why"], None)], 0.25)
    link.flush()
    named = [list(range(first, MOST_FAILED + first)), list(range(first))]
    if first == 1:
        named = [list(range(MOST_FAILED + 1))]
    heard: list[Message] = []
    while len(heard) < len(named):
        heard += broker.hears_all()
    assert heard == [Error(ids, 250_000, [b"why"]) for ids in named]


# -- the end ---------------------------------------------------------------------------------------


def test_one_that_leaves_says_so_after_its_last_answers(broker: Broker) -> None:
    link = broker.registered()
    broker.links.clear()
    link.answer([result(1, b"a")], 0.0)
    link.flush()
    link.leave()
    assert [broker.hears() for _ in range(2)] == [Done(1, 0, [1], [b"a"]), Leave()]


def test_being_told_to_end_cuts_waiting_short_but_not_working() -> None:
    stop = Stop()
    stop.ask()
    assert stop.asked
    stop.waiting = True
    with pytest.raises(StopNow):
        stop.ask()
    stop.ask()  # once is enough


def test_a_signal_to_end_is_not_taken_for_a_malformed_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may come while a message is decoded, where any other exception says that this is none."""
    stop = Stop()
    stop.waiting = True
    monkeypatch.setattr(headers, "_unpack", stop.ask)
    with pytest.raises(StopNow):
        bundles.read(said(Accepted(7)), 0, messages.TO_REPLICA)


def test_what_no_broker_says_is_passed_over(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad message ends no replica, and whatever comes after it is done."""
    link = broker.registered(slots=4)
    task = KINDS[Task]
    for frames in (
        [b"\xc1"],
        [header(VERSION, 99)],
        said(one(5, ticket=7)),
        [header(VERSION, task, "5", 1, "/a", None, 0, [b"x"])],
        [header(VERSION, task, 5, 2, "/a", None, 0, [b"x"])],
        [header(VERSION, task, 5, 1, "/a", None, 0, []), b"x"],
    ):
        for _ in range(2):
            broker.back.send_multipart([broker.identity, *frames])
    broker.tasks(3)
    assert begun(link)[0].id == 3
    assert len(caplog.records) == 6, "each kind is logged once"
