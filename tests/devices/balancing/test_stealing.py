"""Tasks that are sent ahead to busy replicas: which ones,
and what becomes of them when things change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from zflow.devices.balancing.actions import Action, Fail, Send, SendAhead
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import LONG, SAMPLES, Replica, Task

WAY = 0.0004  # seconds
WORK = 0.02


class Slips:
    """Tickets in a list."""

    def __init__(self) -> None:
        self.tasks: list[int] = []

    def give(self, task: int) -> int:
        self.tasks.append(task)
        return len(self.tasks)

    def reclaim(self) -> int | None:
        return self.tasks.pop(0) if self.tasks else None


class Pool:
    """A balancer with replicas that have answered some tasks, so that their times are known."""

    def __init__(
        self, names: str, work: float = WORK, retries: int = 3, slots: int = 1, ahead: bool = True
    ) -> None:
        self.balancer = Balancer(retries)
        self.slips = {name: Slips() for name in names}
        self.now = 0.0
        for name in names:
            self.balancer.join(
                Replica(name, slots, tickets=self.slips[name] if ahead else None), 0.0
            )
        for number in range(SAMPLES * len(names)):
            (send,) = self.balancer.submit(Task(1000 + number), self.now)
            assert isinstance(send, Send)
            self.now += work + WAY
            self.balancer.finish(send.replica.name, send.task.id, work, self.now)

    def submit(self, *ids: int, deadline: float = math.inf) -> list[str]:
        return [
            each
            for id in ids
            for each in told(self.balancer.submit(Task(id, deadline=deadline), self.now))
        ]

    def finish(self, name: str, id: int, after: float = WORK) -> list[str]:
        self.now += after
        return told(self.balancer.finish(name, id, after, self.now)[1])

    def begins(self, name: str, id: int) -> None:
        """The replica takes the ticket."""
        self.slips[name].tasks.remove(id)


def told(actions: Iterable[Action]) -> list[str]:
    """`'a < 1'` for a task that is sent, `'a << 1'` for one that is sent ahead,
    `'a > 1'` for one that is recalled.
    """
    result = []
    for action in actions:
        if isinstance(action, Fail):
            result.append(f"{action.task.id} {action.reason}")
        else:
            sign = {Send: "<", SendAhead: "<<"}.get(type(action), ">")
            result.append(f"{action.replica.name} {sign} {action.task.id}")
    return result


class TestWhat:
    def test_one_waits_at_each_busy_replica_and_the_others_in_the_queue(self) -> None:
        pool = Pool("ab")
        assert pool.submit(1, 2, 3, 4, 5) == ["a < 1", "b < 2", "a << 3", "b << 4"]
        assert pool.balancer.queued == 1

    def test_the_next_one_follows_when_one_is_answered(self) -> None:
        pool = Pool("a")
        pool.submit(1, 2, 3)
        pool.begins("a", 2)
        assert pool.finish("a", 1) == ["a << 3"]

    def test_nothing_before_the_times_are_known(self) -> None:
        balancer = Balancer()
        balancer.join(Replica("a", tickets=Slips()), 0.0)
        assert told(balancer.submit(Task(1), 0.0)) == ["a < 1"]
        assert told(balancer.submit(Task(2), 0.0)) == []

    def test_nothing_to_a_replica_without_tickets(self) -> None:
        assert Pool("a", ahead=False).submit(1, 2) == ["a < 1"]

    def test_nothing_where_a_task_may_be_begun_once_at_most(self) -> None:
        assert Pool("a", retries=0).submit(1, 2) == ["a < 1"]

    @pytest.mark.parametrize(
        ("work", "sent"), [(LONG, "a << 2"), (LONG * 0.99, None), (WAY / 2, "a < 2")]
    )
    def test_where_work_is_short_tickets_are_not_worth_it(
        self, work: float, sent: str | None
    ) -> None:
        pool = Pool("a", work=work)
        pool.submit(1)
        window = pool.balancer.replicas["a"].window
        assert pool.submit(2) == ([sent] if sent else ["a < 2"][: window - 1])

    def test_each_task_of_a_bulk_for_itself(self) -> None:
        balancer = Balancer(cut=lambda payload, count: (payload[:count], payload[count:]))
        replica = Replica("a", tickets=Slips())
        balancer.join(replica, 0.0)
        for _ in range(SAMPLES):
            replica.measure(WORK, -WORK - WAY, 0.0)
        balancer._levels.place(replica)
        actions = balancer.submit(Task(1, "abc", count=3), 0.0)
        assert told(actions) == ["a < 1", "a << 2"]
        assert balancer.queued == 1


class TestAReplicaThatIsIdle:
    def test_gets_what_waits_at_another_one(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3)
        assert pool.finish("b", 2) == ["a > 3", "b < 3"]

    def test_gets_the_oldest_of_it(self) -> None:
        pool = Pool("abc")
        pool.submit(1, 2, 3, 4, 5)
        assert pool.finish("c", 3) == ["a > 4", "c < 4"]

    def test_gets_nothing_that_is_begun(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3)
        pool.begins("a", 3)
        assert pool.finish("b", 2) == []
        assert pool.submit(4) == ["b < 4"]
        assert pool.finish("a", 1) == []
        assert pool.finish("a", 3) == []

    def test_gets_it_also_when_it_has_just_come(self) -> None:
        pool = Pool("a")
        pool.submit(1, 2)
        assert told(pool.balancer.join(Replica("b"), pool.now)) == ["a > 2", "b < 2"]

    def test_gets_it_before_what_came_later(self) -> None:
        pool = Pool("a")
        pool.submit(1, 2, 3)
        assert told(pool.balancer.join(Replica("b"), pool.now)) == ["a > 2", "b < 2", "a << 3"]

    def test_gets_it_also_from_one_that_is_to_rest(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3)
        assert told(pool.balancer.lose("a", pool.now)) == []
        assert pool.finish("b", 2) == ["a > 3", "b < 3"]

    def test_gets_what_has_not_arrived_where_it_was_sent(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3, 4, 5)
        assert pool.finish("a", 1) == ["a << 5"]  # and has not heard of 3
        assert pool.finish("b", 2) == []
        pool.begins("b", 4)
        assert pool.finish("b", 4) == ["a > 3", "b < 3"]
        assert pool.slips["a"].tasks == [5]


class TestAReplicaThatTakesLong:
    def test_loses_what_waits_there_to_one_with_room(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3, 4, 5)
        pool.begins("b", 4)
        pool.finish("b", 2, after=2.5 * WORK)
        assert pool.slips["a"].tasks == []  # b has it now, before 5
        assert pool.slips["b"].tasks == [3]
        assert pool.balancer.replicas["a"].window == 1

    def test_keeps_what_it_has_begun(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3, 4, 5)
        pool.begins("a", 3)
        pool.begins("b", 4)
        assert pool.finish("b", 2, after=2.5 * WORK) == ["b << 5"]

    def test_loses_it_also_if_nothing_else_happens(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3, 4)
        pool.begins("b", 4)
        pool.finish("b", 2)
        assert told(pool.balancer.tick(pool.now + WORK / 2)) == []
        assert told(pool.balancer.tick(pool.now + 10 * WORK)) == ["a > 3", "b << 3"]


class TestWhatIsCancelled:
    def test_is_recalled_if_it_is_not_begun(self) -> None:
        pool = Pool("a")
        pool.submit(1, 2, 3)
        assert told(pool.balancer.cancel(2, pool.now)) == ["a > 2", "a << 3"]

    def test_keeps_its_replica_busy_if_it_is(self) -> None:
        pool = Pool("a")
        pool.submit(1, 2, 3)
        pool.begins("a", 2)
        assert told(pool.balancer.cancel(2, pool.now)) == []
        assert pool.finish("a", 1) == ["a << 3"]
        pool.begins("a", 3)
        assert told(pool.balancer.finish("a", 2, WORK, pool.now)[1]) == []

    def test_does_not_take_others_with_it(self) -> None:
        pool = Pool("a")
        pool.submit(1, 2, 3)
        pool.finish("a", 1)  # and has not heard of 2
        assert told(pool.balancer.cancel(3, pool.now)) == ["a > 2", "a > 3", "a < 2"]

    def test_and_has_not_arrived_is_as_if_it_were_begun(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3, 4, 5)
        pool.finish("a", 1)  # and has not heard of 3
        assert told(pool.balancer.cancel(3, pool.now)) == []
        pool.begins("b", 4)
        pool.finish("b", 2)
        # The ticket of 3 is in front of that of 5: what has ended is free, and 5 goes to the other
        # one.
        assert pool.finish("b", 4) == ["a > 5", "b < 5"]
        assert not pool.balancer.replicas["a"].held
        assert not pool.balancer.given_up

    def test_or_expires_is_recalled_as_well(self) -> None:
        pool = Pool("a")
        pool.submit(1)
        pool.submit(2, deadline=pool.now + 0.001)
        assert told(pool.balancer.tick(pool.now + 0.001)) == ["2 expired", "a > 2"]


class TestAReplicaThatDies:
    def test_is_not_blamed_on_what_waited_there(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3)
        task = pool.balancer.tasks[3]
        pool.balancer.crash("a", pool.now)
        assert task.crashes == 0

    def test_leaves_nothing_behind(self) -> None:
        pool = Pool("ab")
        pool.submit(1, 2, 3)
        pool.balancer.leave("a", pool.now)
        pool.finish("b", 2)
        for id in (1, 3):
            pool.finish("b", id)
        assert not pool.balancer.tasks
        assert not pool.balancer._ahead
        assert not pool.balancer.timed


class TestAReplicaThatIsSlow:
    """`a` takes ten times as long as `b`."""

    def pool(self) -> Pool:
        pool = Pool("ab")
        for _ in range(30):
            pool.balancer.replicas["a"].measure(10 * WORK, None, pool.now)
        for replica in pool.balancer.replicas.values():
            pool.balancer._levels.place(replica)
        return pool

    def test_is_sent_nothing_ahead_that_the_other_one_would_begin_sooner(self) -> None:
        pool = self.pool()
        assert pool.submit(1, 2, 3, 4) == ["a < 1", "b < 2", "b << 3"]
        pool.begins("b", 3)
        assert pool.finish("b", 2) == ["b << 4"]

    def test_is_sent_it_when_it_is_about_to_be_done(self) -> None:
        pool = self.pool()
        pool.submit(1, 2, 3, 4)
        pool.begins("b", 3)
        assert pool.finish("b", 2, after=9 * WORK) == ["a << 4"]
