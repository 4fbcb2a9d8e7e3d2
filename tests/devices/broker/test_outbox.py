"""What a turn has to send: what is carried out at once, what goes at the turn's end, and what
follows if it cannot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import pytest

from zflow.devices.balancing.actions import Fail, Kill, Recall, Send, SendAhead, SendBatch
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker.mishaps import OURS, Mishaps
from zflow.devices.broker.outbox import Outbox
from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import Fanout, Message
from zflow.devices.routing.fanout import Publish, Scatter
from zflow.devices.routing.pool import Broken, Limits, Outcome, Pool
from zflow.devices.routing.walk import Node, Walk


class Way:
    """The line to a replica: what it was given, and what of that was sent."""

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.waiting: list[Any] = []
        self.sent: list[list[Any]] = []
        self.breaks: Exception | None = None
        self.gone = False

    def give(self, task: Task, ticket: int = 0) -> None:
        self.waiting.append((task.id, ticket) if ticket else task.id)

    def give_together(self, tasks: Sequence[Task]) -> None:
        self.waiting.append([task.id for task in tasks])

    def recall(self, id: int) -> None:
        self.waiting.append(-id)

    def flush(self) -> bool:
        waiting, self.waiting = self.waiting, []
        if self.breaks is not None:
            raise self.breaks
        if not self.gone:
            self.sent.append(waiting)
        return not self.gone


class Clients:
    """The front: what clients are to be told, and what they were."""

    def __init__(self) -> None:
        self.to_say: list[str] = []
        self.said: list[str] = []

    @property
    def waiting(self) -> bool:
        return bool(self.to_say)

    def flush(self) -> None:
        self.said += self.to_say
        self.to_say.clear()


class Broker:
    """All that is around an outbox."""

    def __init__(self) -> None:
        self.pool = Pool(3, Node("work"), 3, Limits(queue=1))
        self.unreached: list[tuple[bytes, int]] = []
        self.follows: Callable[[], None] = lambda: None  # from one that could not be reached
        self.published: list[tuple[bytes, Message]] = []
        self.refuses: list[int] = []  # numbers of fan-outs
        self.clients = Clients()
        self.told: list[tuple[Any, ...]] = []
        self.outcomes: list[Outcome] = []
        self.walks: list[Walk] = []
        self.failed: list[tuple[Walk, str]] = []
        self.mishaps = Mishaps(lambda: self.walks, self._fail)
        this: Any = self
        clients: Any = self.clients
        self.outbox = Outbox(this, clients, this, self.mishaps, self._go_on)

    def _fail(self, walk: Walk, error: bytes) -> None:
        self.failed.append((walk, msgpack.unpackb(error)["type"]))

    def _go_on(self, pool: Pool, outcome: Outcome, now: float) -> None:
        assert pool is self.pool
        self.outcomes.append(outcome)

    def unreachable(self, identity: bytes, unsent: int) -> None:
        self.unreached.append((identity, unsent))
        self.follows()

    def publish(self, topic: bytes, message: Fanout) -> None:
        if message.number in self.refuses:
            raise OSError("no room")
        self.published.append((topic, message))

    def tell(self, *message: Any) -> None:
        self.told.append(message)

    def do(self, *actions: Any) -> None:
        self.outbox.do(self.pool, actions)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def replica(number: int) -> tuple[Replica, Way]:
    name = b"work/rep-%d#1" % number
    made, way = Replica(name), Way(name)
    made.line = way
    return made, way


def task(id: int, count: int = 1) -> Task:
    return Task(id, (Walk(("port", b"client", id), "/a"), [("gateway", [[b"in"]])]), count=count)


def scatter(base: int) -> Scatter:
    return Scatter(base, 2, (Walk(("port", b"client", base), "/a"), [("gateway", [[b"in"]])]))


def test_what_a_replica_is_to_get_goes_at_the_turns_end_in_one(broker: Broker) -> None:
    (first, one), (second, two) = replica(0), replica(1)
    broker.do(Send(first, task(1)), Send(second, task(2)), SendAhead(first, task(3), 9))
    broker.do(SendBatch(first, [task(4), task(5)]), Recall(first, task(6)), Recall(second, task(7)))
    assert (one.sent, two.sent) == ([], [])
    broker.outbox.flush()
    assert (one.sent, two.sent) == ([[1, (3, 9), [4, 5], -6]], [[2, -7]])
    broker.outbox.flush()
    assert (len(one.sent), len(two.sent)) == (1, 1), "there was nothing more"


def test_tasks_that_could_not_be_sent_are_told_from_the_last_to_the_first(broker: Broker) -> None:
    gone, way = replica(0)
    way.gone = True
    broker.do(Send(gone, task(1, count=3)), SendAhead(gone, task(4), 9), Recall(gone, task(5)))
    broker.outbox.flush()
    assert broker.unreached == [(way.identity, id) for id in (4, 3, 2, 1)]


def test_what_follows_from_that_is_sent_in_the_same_turn(broker: Broker) -> None:
    (gone, way), (other, there) = replica(0), replica(1)
    way.gone = True
    broker.follows = lambda: broker.do(Send(other, task(1)))
    broker.do(Send(gone, task(1)))
    broker.outbox.flush()
    assert there.sent == [[1]]


def test_a_replica_that_cannot_be_sent_to_costs_its_own_requests_alone(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    (bad, way), (good, there) = replica(0), replica(1)
    way.breaks = ValueError("planted")
    for id in (1, 2):
        broker.walks.append(Walk(("port", b"client", id), "/a"))
        broker.walks[-1].open.add((3, id))
    broker.do(Send(bad, task(1)), Send(good, task(2)))
    with caplog.at_level(logging.CRITICAL, "zflow.broker"):
        broker.outbox.flush()
    assert broker.failed == [(broker.walks[0], "ZflowError")]
    assert (there.sent, broker.unreached) == ([[2]], [])
    assert broker.mishaps.counts == {OURS: 1}


def test_a_task_that_was_given_up_is_told_at_once_and_why(broker: Broker) -> None:
    lost = task(1)
    broker.do(Fail(lost, "overloaded"))
    (outcome,) = broker.outcomes
    assert isinstance(outcome, Broken)
    assert outcome.walk is lost.payload[0]
    told = msgpack.unpackb(outcome.error)
    assert told["type"] == "Overloaded"
    assert "wait for Executor 'work'" in told["message"]


def test_the_manager_is_told_whom_to_kill(broker: Broker) -> None:
    broker.do(Kill(replica(0)[0]))
    assert broker.told == [("kill", b"work/rep-0#1")]


def test_a_fan_out_is_published_once_and_one_that_fails_keeps_no_other(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refuses = [6]
    broker.do(Publish(1, 6, scatter(10), []), Publish(1, 7, scatter(20), [1]))
    assert broker.published == []
    with caplog.at_level(logging.CRITICAL, "zflow.broker"):
        broker.outbox.flush()
        broker.outbox.flush()
    said = Fanout(7, 20, "/a", None, [1], [b"in"])
    assert broker.published == [(messages.topic(3, 1), said)]
    assert [walk.origin[2] for walk, _ in broker.failed] == [10], "its request has failed"


def test_clients_are_told_in_the_same_moment(broker: Broker) -> None:
    broker.clients.to_say.append("an answer")
    broker.outbox.flush()
    assert broker.clients.said == ["an answer"]
