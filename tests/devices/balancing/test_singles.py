"""Tasks that go one by one: which is next, how much of a bulk a replica gets,
and what is taken apart.
"""

from __future__ import annotations

import math
from typing import Any

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import MAX_WINDOW, SAMPLES, Replica, Task
from zflow.devices.balancing.singles import Singles
from zflow.devices.balancing.tasks import Tasks


def in_two(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


def bulk(first: int, count: int, **options: Any) -> Task:
    return Task(first, list(range(first, first + count)), count=count, **options)


class Case:
    """An Executor's replicas, all of them empty, and what waits for them."""

    def __init__(self, *replicas: Replica) -> None:
        self.levels = Levels()
        self.tasks = Tasks(in_two)
        self.waiting = Singles(self.tasks, self.levels)
        self.replica = replicas[0] if replicas else Replica("a")
        for replica in replicas or [self.replica]:
            self.levels.widen(replica)
            self.levels.place(replica)

    def append(self, *tasks: Task) -> None:
        for task in tasks:
            self.tasks.add(task)
            self.waiting.append(task)

    def take(self, now: float = 0.0) -> list[int]:
        """The ids of what the replica gets next, each of a bulk."""
        tasks = self.waiting.take(self.replica, now)
        return [id for task in tasks for id in range(task.id, task.id + task.count)]

    def take_all(self) -> list[int]:
        order = []
        while self.waiting:
            order += self.take()
        return order


def replica(work: float, way: float = 0.001, slots: int = 1) -> Replica:
    """A replica that is known to work for so long."""
    found = Replica("a", slots)
    for _ in range(SAMPLES):
        found.measure(work, 0.0, work + way)
    return found


class TestTake:
    def test_first_come_first_served_and_clients_take_turns(self) -> None:
        case = Case()
        case.append(*(Task(id, client="flood") for id in (1, 2, 3)), Task(4, client="other"))
        assert len(case.waiting) == 4
        assert case.take_all() == [1, 4, 2, 3]
        assert len(case.waiting) == 0

    def test_what_cannot_end_in_time_any_more_lets_the_youngest_go_first(self) -> None:
        case = Case(replica(work=1.0))
        case.append(*(Task(id, deadline=2.0) for id in (1, 2, 3)))
        assert case.take(now=0.9) == [1]
        assert case.take(now=1.0) == [3]

    def test_what_is_parked_at_the_replica_is_done_before(self) -> None:
        case = Case(replica(work=1.0, way=5.0))
        for id in (10, 11):
            case.replica.held[id] = Task(id)
        case.levels.place(case.replica)
        case.append(*(Task(id, deadline=4.0) for id in (1, 2)))
        assert case.take(now=0.9) == [1]
        assert case.take(now=1.1) == [2]
        case.append(*(Task(id, deadline=4.0) for id in (3, 4)))
        assert case.take(now=1.1) == [4]

    def test_a_bulk_of_the_youngest_is_taken_apart(self) -> None:
        case = Case(replica(work=1.0))
        case.append(Task(1, [1], deadline=0.5), bulk(2, 3, deadline=0.5))
        assert case.take() == [4]
        assert case.waiting.head.id == 1
        assert sorted(case.tasks) == [1, 2, 3, 4]
        assert len(case.waiting) == 3

    def test_a_bulk_goes_as_one_where_it_is_soon_done(self) -> None:
        case = Case(replica(work=1e-5), replica(work=1e-5))
        case.append(bulk(1, 20))
        (task,) = case.waiting.take(case.replica, 0.0)
        assert (task.id, task.count) == (1, 20)
        assert len(case.waiting) == 0

    def test_it_is_cut_where_others_can_work_on_it_too_and_what_is_left_is_next(self) -> None:
        case = Case(*(replica(work=1.0, slots=8) for _ in range(3)))
        case.append(bulk(1, 6, client="me"), Task(9, [9], client="me"))
        assert case.take() == [1, 2]
        assert case.waiting.head.id == 3
        assert len(case.waiting) == 5
        assert sorted(case.tasks) == [1, 3, 9]

    def test_what_is_left_of_it_waits_for_the_turn_of_its_client(self) -> None:
        case = Case(replica(work=1.0))
        case.append(bulk(1, 2, client="me"), Task(9, [9], client="other"))
        assert [case.take() for _ in range(3)] == [[1], [9], [2]]

    def test_it_waits_itself_where_it_would_be_cut_though_there_is_enough_to_do(self) -> None:
        case = Case(replica(work=1e-6))
        for id in range(100, 100 + MAX_WINDOW // 2):
            case.replica.held[id] = Task(id)
        case.levels.place(case.replica)
        case.append(bulk(1, MAX_WINDOW // 2 + 1))
        assert case.take() == []
        assert len(case.waiting) == MAX_WINDOW // 2 + 1


def test_a_bulk_is_taken_apart_where_it_stands() -> None:
    case = Case()
    case.append(Task(1, [1]), bulk(2, 3, deadline=math.inf), Task(5, [5]))
    pieces = case.waiting.take_apart(case.tasks[2])
    assert [piece.id for piece in pieces] == [2, 3, 4]
    assert len(case.waiting) == 5
    assert case.take_all() == [1, 2, 3, 4, 5]
