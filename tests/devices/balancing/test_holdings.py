"""What replicas hold, and what becomes of it when it is taken from there."""

from __future__ import annotations

from typing import Any

from tickets import Tickets

from zflow.devices.balancing.actions import Action, Fail, Recall
from zflow.devices.balancing.holdings import Holdings
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.stealing import PATIENCE
from zflow.devices.balancing.tasks import Tasks
from zflow.devices.balancing.waiting import Waiting


def in_two(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


def bulk(first: int, count: int, **options: Any) -> Task:
    return Task(first, list(range(first, first + count)), count=count, **options)


class Case:
    """Replicas `a` and `b`, which may hold four tasks each and begin one at a time."""

    def __init__(self, names: str = "ab", slots: int = 1) -> None:
        self.tasks = Tasks(in_two)
        self.levels = Levels()
        self.waiting = Waiting(self.tasks, self.levels)
        self.holdings = Holdings(self.tasks, self.levels, self.waiting)
        self.tickets = {name: Tickets() for name in names}
        for name in names:
            replica = self.holdings.replicas[name] = Replica(
                name, slots, tickets=self.tickets[name]
            )
            replica.window, replica.round_trip = 4, 0.0
            self.levels.widen(replica)
            self.levels.place(replica)

    def give(self, name: str, *tasks: Task, ahead: bool = False) -> Replica:
        """Give these to the replica, at 0.0 s."""
        replica = self.holdings.replicas[name]
        for task in tasks:
            self.tasks.add(task)
            task.holder, task.ahead = replica, ahead
            replica.held[task.id] = task
            replica.more += task.count - 1
            if ahead:
                self.tickets[name].give(task.id)
                self.holdings.ahead[task.id] = task
        self.levels.place(replica)
        return replica

    def end(self, id: int) -> list[str]:
        """What follows when nobody wants it any more."""
        return told(self.holdings.withdraw(self.tasks.pop(id)))

    @property
    def queued(self) -> list[int]:
        """The ids of what any replica may have, taken out."""
        order = []
        while self.waiting.queue:
            order += [task.id for task in self.waiting.queue.take(Replica("c"), 0.0)]
        return order


def told(actions: list[Action]) -> list[str]:
    """`'a > 1'` for a task that is recalled, `'1 expired'` for one that fails."""
    result = []
    for action in actions:
        if isinstance(action, Fail):
            result.append(f"{action.task.id} {action.reason}")
        else:
            assert isinstance(action, Recall)
            result.append(f"{action.replica.name} > {action.task.id}")
    return result


class TestRelease:
    def test_it_is_returned_and_nothing_is_left_of_it(self) -> None:
        case = Case()
        task = Task(1)
        replica = case.give("a", task, ahead=True)
        replica.batch = {1, 2}
        assert case.holdings.release(replica, 1) is task
        assert not replica.held
        assert replica.batch == {2}
        assert not case.holdings.ahead

    def test_a_bulk_counts_as_many(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), bulk(2, 3))
        assert replica.load == 4
        case.holdings.release(replica, 2)
        assert replica.load == 1

    def test_what_was_given_up_is_of_no_use(self) -> None:
        case = Case()
        replica = case.give("a", Task(1))
        case.end(1)
        assert case.holdings.release(replica, 1) is None
        assert not case.holdings.given_up

    def test_who_was_to_be_alone_with_it_is_so_no_longer(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), Task(2))
        replica.alone = True
        case.waiting.suspects.reserved = replica
        case.holdings.release(replica, 1)
        assert replica.alone
        case.holdings.release(replica, 2)
        assert not replica.alone
        assert case.waiting.suspects.reserved is None


class TestDrop:
    def test_it_is_returned_with_what_it_holds(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), Task(2))
        assert case.holdings.drop("a") is replica
        assert list(replica.held) == [1, 2]
        assert list(case.holdings.replicas) == ["b"]
        assert (case.levels.parked, case.levels.room) == (0, 1)

    def test_nothing_of_it_can_be_taken_back_and_nothing_was_given_up(self) -> None:
        case = Case()
        case.give("a", Task(1))
        case.give("a", Task(2), ahead=True)
        case.give("b", Task(3))
        case.give("b", Task(4), ahead=True)
        case.end(1)
        case.end(3)
        case.holdings.drop("a")
        assert list(case.holdings.ahead) == [4]
        assert list(case.holdings.given_up) == [3]

    def test_one_that_is_not_there(self) -> None:
        assert Case().holdings.drop("c") is None


class TestWithdraw:
    def test_what_may_be_begun_keeps_its_place(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), Task(2))
        assert case.end(1) == []
        assert list(replica.held) == [1, 2]
        assert replica.held[1] is None
        assert case.holdings.given_up == {1: (0.0, False)}

    def test_what_is_parked_is_recalled(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), Task(2))
        assert case.end(2) == ["a > 2"]
        assert list(replica.held) == [1]
        assert case.levels.parked == 0

    def test_what_waits_does_so_no_longer(self) -> None:
        case = Case()
        for id in (1, 2):
            case.tasks.add(Task(id))
            case.waiting.queue.append(case.tasks[id])
        assert case.end(1) == []
        assert case.queued == [2]

    def test_bulks_at_the_same_replica_are_taken_apart(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), bulk(2, 2), Task(4))
        assert case.end(4) == ["a > 4"]
        assert list(replica.held) == [1, 2, 3]

    def test_others_that_were_sent_ahead_before_it_go_along_and_wait(self) -> None:
        case = Case()
        case.give("a", Task(1))
        case.give("a", Task(2), Task(3), ahead=True)
        assert case.end(3) == ["a > 2", "a > 3"]
        assert case.queued == [2]

    def test_what_was_sent_ahead_and_is_begun_keeps_its_place(self) -> None:
        case = Case()
        replica = case.give("a", Task(1))
        case.give("a", Task(2), ahead=True)
        case.tickets["a"].out.remove(2)
        assert case.end(2) == []
        assert replica.held[2] is None
        assert list(case.holdings.given_up) == [2]


class TestExpire:
    def test_all_that_is_late_ends_wherever_it_is(self) -> None:
        case = Case()
        case.give("a", Task(1, deadline=1.0), Task(2, deadline=2.0), Task(3, deadline=3.0))
        case.tasks.add(Task(4, deadline=1.5))
        case.waiting.queue.append(case.tasks[4])
        assert told(case.holdings.expire(2.0)) == ["1 expired", "4 expired", "2 expired", "a > 2"]
        assert list(case.tasks) == [3]
        assert case.holdings.expire(2.0) == []

    def test_it_says_who_had_it_for_how_long_and_whether_it_was_begun(self) -> None:
        case = Case()
        case.give("a", Task(1, deadline=1.0), Task(2, deadline=1.0))
        first, second, _ = case.holdings.expire(1.5)
        assert isinstance(first, Fail)
        assert isinstance(second, Fail)
        assert (first.held_by, first.seconds, first.begun) == ("a", 1.5, True)
        assert (second.held_by, second.seconds, second.begun) == ("a", 1.5, False)

    def test_of_a_bulk_each_task_does(self) -> None:
        case = Case()
        case.give("a", bulk(1, 3, deadline=1.0))
        assert sorted(told(case.holdings.expire(1.0))) == [
            *("1 expired", "2 expired", "3 expired"),
            *("a > 2", "a > 3"),
        ]
        assert not case.tasks


class TestTakeApart:
    def test_its_tasks_stand_where_it_stood(self) -> None:
        case = Case()
        replica = case.give("a", bulk(1, 2), Task(3))
        assert [task.id for task in case.holdings.take_apart(case.tasks[1])] == [1, 2]
        assert list(replica.held) == [1, 2, 3]
        assert replica.load == 3

    def test_also_in_the_queue(self) -> None:
        case = Case()
        for task in (bulk(1, 2), Task(3)):
            case.tasks.add(task)
            case.waiting.queue.append(task)
        assert [task.id for task in case.holdings.take_apart(case.tasks[1])] == [1, 2]
        assert case.queued == [1, 2, 3]


class TestReclaim:
    def case(self) -> tuple[Case, Replica]:
        """`a` is at 1, and was sent three tasks ahead."""
        case = Case()
        case.give("a", Task(1))
        return case, case.give("a", Task(2), Task(3), Task(4), ahead=True)

    def test_the_first_that_is_not_begun(self) -> None:
        case, replica = self.case()
        assert [task.id for task in case.holdings.reclaim(replica)] == [2]
        assert list(replica.held) == [1, 3, 4]
        assert case.levels.parked == 2
        assert replica.level == 3

    def test_all_up_to_one(self) -> None:
        case, replica = self.case()
        assert [task.id for task in case.holdings.reclaim(replica, case.tasks[3])] == [2, 3]
        assert list(case.holdings.ahead) == [4]

    def test_but_for_what_is_begun(self) -> None:
        case, replica = self.case()
        case.tickets["a"].out.remove(2)
        assert [task.id for task in case.holdings.reclaim(replica)] == [3]

    def test_none_if_all_is_begun_and_nobody_asks_again(self) -> None:
        case, replica = self.case()
        case.tickets["a"].out.clear()
        assert case.holdings.reclaim(replica) == []
        assert not case.holdings.ahead
        assert list(replica.held) == [1, 2, 3, 4]

    def test_what_has_ended_meanwhile_is_passed_over(self) -> None:
        case, replica = self.case()
        case.holdings.release(replica, 2)
        assert [task.id for task in case.holdings.reclaim(replica)] == [3]


class TestTakeBack:
    def test_nothing_until_the_replica_is_stuck(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), Task(2))
        assert case.holdings.take_back(replica, PATIENCE / 2) == []
        assert told(case.holdings.take_back(replica, PATIENCE)) == ["a > 2"]

    def test_what_waits_there_waits_for_others_in_its_order(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), bulk(2, 2), Task(4))
        assert told(case.holdings.take_back(replica, PATIENCE)) == ["a > 2", "a > 3", "a > 4"]
        assert list(replica.held) == [1]
        assert case.queued == [2, 3, 4]

    def test_it_gets_no_more_to_park(self) -> None:
        case = Case()
        replica = case.give("a", Task(1), Task(2))
        case.holdings.take_back(replica, PATIENCE)
        assert (replica.window, replica.level, case.levels.parked) == (1, -1, 0)

    def test_of_what_was_sent_ahead_that_which_is_not_begun(self) -> None:
        case = Case()
        case.give("a", Task(1))
        replica = case.give("a", Task(2), Task(3), ahead=True)
        case.tickets["a"].out.remove(2)
        assert told(case.holdings.take_back(replica, PATIENCE)) == ["a > 3"]
        assert list(replica.held) == [1, 2]

    def test_nothing_where_all_of_it_is_begun(self) -> None:
        case = Case()
        case.give("a", Task(1))
        replica = case.give("a", Task(2), ahead=True)
        case.tickets["a"].out.clear()
        assert case.holdings.take_back(replica, PATIENCE) == []
        assert replica.window == 4
