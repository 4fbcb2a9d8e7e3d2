"""Batches: which requests go together, in which order, when,
and what becomes of them at the balancer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from zflow.devices.balancing.actions import Action, Fail, Kill, Send, SendBatch
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.batches import Batches
from zflow.devices.balancing.replica import BatchKey, Replica, Task

FOUR = BatchKey("/four", 4)
TWO = BatchKey("/two", 2)
LATE = BatchKey("/late", 4, timeout=0.1)


def batches_of(*tasks: Task) -> Batches:
    assert tasks[0].batching is not None
    batches = Batches(tasks[0].batching)
    for task in tasks:
        batches.append(task)
    return batches


def take(batches: Batches, replica: Replica | None = None, now: float = 0.0) -> list[int]:
    return [task.id for task in batches.take(replica or Replica("a"), now)]


def pool(*names: str, retries: int = 3) -> Balancer:
    balancer = Balancer(retries)
    for name in names:
        assert balancer.join(Replica(name), 0.0) == []
    return balancer


def turn(balancer: Balancer, *tasks: Task, now: float = 0.0) -> list[tuple[str, list[int]]]:
    """Submit tasks in one turn of the broker's loop; who is given what at its end."""
    for task in tasks:
        assert balancer.submit(task, now) == []
    return sent(balancer.tick(now))


def sent(actions: Iterable[Action]) -> list[tuple[str, list[int]]]:
    found = []
    for action in actions:
        assert isinstance(action, (Send, SendBatch))
        tasks = [action.task] if isinstance(action, Send) else action.tasks
        found.append((action.replica.name, [task.id for task in tasks]))
    return found


def some(
    count: int, batching: BatchKey | None = FOUR, first: int = 1, client: str = ""
) -> list[Task]:
    return [Task(id, client=client, batching=batching) for id in range(first, first + count)]


class TestWhatGoesTogether:
    def test_sizes_count_documents(self) -> None:
        sizes = [1, 2, 1, 3, 1, 1]
        batches = batches_of(*(Task(id, docs=docs, batching=FOUR) for id, docs in enumerate(sizes)))
        assert [take(batches) for _ in range(3)] == [[0, 1, 2], [3, 4], [5]]
        assert not batches

    def test_clients_take_turns(self) -> None:
        batches = batches_of(*some(100, client="flood"), *some(2, first=101, client="other"))
        assert [take(batches), take(batches)] == [[1, 101, 2, 102], [3, 4, 5, 6]]

    def test_only_a_replica_that_holds_nothing_gets_them(self) -> None:
        batches = batches_of(*some(2))
        replica = Replica("a")
        replica.held[9] = Task(9)
        assert not batches.suits(replica)
        assert batches.suits(Replica("b"))

    def test_only_the_client_whose_oldest_is_late_is_served_from_behind(self) -> None:
        late = [Task(id, deadline=0.5, client="late", batching=FOUR) for id in (1, 2, 3)]
        replica = Replica("a")
        replica.work = 0.1
        assert take(batches_of(*late, *some(3, first=4, client="other")), replica, 0.4) == [
            3,
            4,
            2,
            5,
        ]


class TestDue:
    def test_always_where_nothing_waits_for_others(self) -> None:
        assert batches_of(*some(1)).due_at == -math.inf

    def test_when_the_oldest_has_waited_for_long_enough_or_they_are_enough(self) -> None:
        batches = batches_of(*some(3, LATE))
        assert batches.due_at == pytest.approx(0.1)
        batches.append(Task(4, batching=LATE))
        assert batches.due_at == -math.inf
        take(batches)
        assert batches.due_at == -math.inf, "nobody is there"

    def test_what_is_put_back_is_the_oldest_again(self) -> None:
        batches = batches_of(*some(2, LATE))
        again = Task(0, batching=LATE)
        again.assigned = -0.05
        batches.appendleft(again)
        assert batches.due_at == pytest.approx(0.05)
        batches.remove(again)
        assert batches.due_at == pytest.approx(0.1)


class TestAtTheBalancer:
    def test_what_comes_in_one_turn_goes_together(self) -> None:
        assert turn(pool("a", "b"), *some(6)) == [("a", [1, 2, 3, 4]), ("b", [5, 6])]

    def test_an_idle_replica_takes_what_is_queued_and_gets_nothing_more_until_it_is_done(
        self,
    ) -> None:
        balancer = pool("a")
        assert turn(balancer, *some(1)) == [("a", [1])]
        assert turn(balancer, *some(5, first=2), now=0.1) == []
        assert sent(balancer.finish("a", 1, 1.0, 1.0)[1]) == [("a", [2, 3, 4, 5])]
        for id in (2, 3, 4):
            assert balancer.finish("a", id, 0.25, 2.0)[1] == []
        assert sent(balancer.finish("a", 5, 0.25, 2.0)[1]) == [("a", [6])]

    def test_a_batch_waits_for_an_empty_replica_and_what_follows_waits_behind_it(self) -> None:
        balancer = pool("a")
        for number in range(7):  # quick, and far away: its window opens
            balancer.submit(Task(number), 0.001 * number)
            balancer.finish("a", number, 0.0001, 0.001 * number + 0.0005)
        assert sent(balancer.submit(Task(201), 0.007)) == [("a", [201])]
        assert balancer.replicas["a"].window > 1
        assert turn(balancer, *some(2, first=202), Task(204), now=0.007) == []
        assert sent(balancer.finish("a", 201, 0.0001, 0.008)[1]) == [("a", [202, 203])]

    def test_the_clock_sends_what_has_waited_long_enough(self) -> None:
        balancer = pool("a")
        assert turn(balancer, *some(2, LATE)) == []
        assert balancer.timed
        assert balancer.wake_after(0.04) == pytest.approx(0.06)
        assert sent(balancer.tick(0.1)) == [("a", [1, 2])]

    def test_what_cannot_end_in_time_lets_the_youngest_go_first(self) -> None:
        balancer = pool("a")
        assert turn(balancer, *some(4)) == [("a", [1, 2, 3, 4])]
        tasks = some(8, first=5)
        for task in tasks:
            task.deadline = 0.9 if task.id < 9 else 5.0
        assert turn(balancer, *tasks, now=0.1) == []
        actions = [balancer.finish("a", id, 0.2, 0.8)[1] for id in (1, 2, 3, 4)]  # 0.8 s for four
        assert sent(actions[-1]) == [("a", [12, 11, 10, 9])]

    def test_what_is_in_no_batch_is_sent_at_once_if_nothing_waits(self) -> None:
        balancer = pool("a", "b")
        assert turn(balancer, *some(2)) == [("a", [1, 2])]
        assert sent(balancer.submit(Task(3), 0.1)) == [("b", [3])]

    def test_one_that_nobody_wants_any_more_still_occupies_the_replica(self) -> None:
        balancer = pool("a")
        turn(balancer, *some(2))
        assert balancer.cancel(1, 0.1) == []
        assert balancer.finish("a", 2, 0.1, 0.2)[1] == []
        assert turn(balancer, *some(1, first=3)) == []
        assert sent(balancer.finish("a", 1, 0.1, 0.2)[1]) == [("a", [3])]

    def test_a_batch_that_could_not_be_done_in_one_go_is_done_one_by_one_wherever_there_is_room(
        self,
    ) -> None:
        balancer = pool("a", "b", "c")
        turn(balancer, *some(3), *some(3, TWO, first=4))
        assert sent(balancer.apart("a", [1, 2, 3], 1.0)) == [("a", [1])]
        for id in (4, 5):
            actions = balancer.finish("b", id, 0.5, 1.5)[1]
        assert sent(actions) == [("b", [2])]
        assert sent(balancer.finish("c", 6, 1.0, 1.5)[1]) == [("c", [3])]

    def test_of_a_batch_that_came_apart_what_was_cancelled_is_not_tried_again(self) -> None:
        balancer = pool("a", "b")
        turn(balancer, *some(3))
        balancer.cancel(2, 0.5)
        assert sent(balancer.apart("a", [1, 2, 3], 1.0)) == [("b", [1]), ("a", [3])]
        assert balancer.apart("gone", [1], 1.0) == []


class TestCrashes:
    def test_all_of_a_batch_are_suspects_and_travel_alone(self) -> None:
        balancer = pool("a", "b", retries=1)
        assert turn(balancer, *some(3)) == [("a", [1, 2, 3])]
        assert sent(balancer.crash("a", 1.0)) == [("b", [1])]
        assert sent(balancer.finish("b", 1, 0.1, 2.0)[1]) == [("b", [2])]
        (fail,) = balancer.crash("b", 3.0)
        assert isinstance(fail, Fail)
        assert (fail.task.id, fail.reason, fail.task.crashes) == (2, "crashed", 2)
        assert sent(balancer.join(Replica("c"), 4.0)) == [("c", [3])]

    def test_what_may_be_begun_once_only_fails_with_its_replica(self) -> None:
        balancer = pool("a", retries=0)
        turn(balancer, *some(3))
        assert [
            action.task.id for action in balancer.crash("a", 1.0) if isinstance(action, Fail)
        ] == [1, 2, 3]

    def test_a_batch_that_takes_too_long_is_tried_again_one_by_one(self) -> None:
        balancer = pool("a", "b")
        turn(balancer, *some(2))
        assert [type(action) for action in balancer.overrun(0.5, 0.6)] == [Kill]
        assert balancer.overrun(0.5, 0.7) == []
        assert sent(balancer.crash("a", 0.8)) == [("b", [1])]
        fail, kill = balancer.overrun(0.5, 1.4)
        assert isinstance(fail, Fail)
        assert (fail.task.id, fail.reason) == (1, "overran")
        assert isinstance(kill, Kill)

    def test_a_replica_that_nobody_can_kill_does_not_keep_its_batch_for_ever(self) -> None:
        balancer = pool("a")
        turn(balancer, *some(2))
        balancer.overrun(0.5, 0.6)
        assert [
            action.task.id for action in balancer.overrun(0.5, 1.1) if isinstance(action, Fail)
        ] == [1, 2]

    @pytest.mark.parametrize("retries", [0, 3])
    def test_each_ends_once_whatever_it_was_given_with(self, retries: int) -> None:
        balancer = pool("a", retries=retries)
        turn(balancer, *some(3))
        assert balancer.finish("a", 2, 0.1, 0.1)[0] is not None
        assert balancer.finish("a", 2, 0.1, 0.1)[0] is None
