"""Tasks that have not ended: when they are to, and how bulks of them are cut."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.tasks import Tasks


def in_two(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


def bulk(first: int, count: int, **options: Any) -> Task:
    return Task(first, list(range(first, first + count)), count=count, **options)


def tasks_of(*some: Task) -> Tasks:
    tasks = Tasks(in_two)
    for task in some:
        tasks.add(task)
    return tasks


def held_by(replica: Replica, *tasks: Task) -> Replica:
    """The replica, which was given these tasks."""
    for task in tasks:
        task.holder = replica
        replica.held[task.id] = task
        replica.more += task.count - 1
    return replica


def held(replica: Replica) -> list[list[int] | None]:
    """The payloads of what it holds."""
    return [None if task is None else task.payload for task in replica.held.values()]


def due(tasks: Tasks, now: float) -> list[int]:
    """The ids of all that is due."""
    ids = []
    while (task := tasks.due(now)) is not None:
        ids.append(task.id)
    return ids


class TestDeadlines:
    def test_the_earliest_comes_first_and_each_once(self) -> None:
        tasks = tasks_of(
            Task(1, deadline=5.0), Task(2, deadline=3.0), Task(3), Task(4, deadline=4.0)
        )
        assert due(tasks, 2.9) == []
        assert due(tasks, 4.0) == [2, 4]
        assert due(tasks, 4.0) == []
        assert due(tasks, math.inf) == [1]

    def test_what_has_ended_is_not_due(self) -> None:
        tasks = tasks_of(Task(1, deadline=1.0), Task(2, deadline=2.0))
        del tasks[1]
        assert due(tasks, 9.0) == [2]

    def test_each_part_of_a_bulk_has_that_of_the_whole(self) -> None:
        tasks = tasks_of(bulk(1, 3, deadline=1.0))
        tasks.pieces(tasks[1])
        assert sorted(due(tasks, 1.0)) == [1, 2, 3]

    def test_those_of_what_has_ended_are_forgotten(self) -> None:
        tasks = tasks_of(Task(0, deadline=9.0))
        for id in range(1, 5000):
            tasks.add(Task(id, deadline=float(id)))
            del tasks[id]
        assert len(tasks.deadlines) < 100
        assert due(tasks, 9.0) == [0]

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=300), st.integers(0, 20))
    def test_all_that_is_due_is_said_whatever_has_ended(
        self, drawn: list[tuple[int, bool]], now: int
    ) -> None:
        tasks = Tasks()
        for id, (deadline, ends) in enumerate(drawn):
            tasks.add(Task(id, deadline=float(deadline)))
            if ends:
                del tasks[id]
        late = [id for id, (deadline, ends) in enumerate(drawn) if not ends and deadline <= now]
        assert due(tasks, float(now)) == sorted(late, key=lambda id: (drawn[id][0], id))


class TestCut:
    def test_there_are_bulks_only_where_they_can_be_cut(self) -> None:
        assert tasks_of().can_be_cut
        assert not Tasks().can_be_cut

    def test_both_parts_have_not_ended(self) -> None:
        whole = bulk(1, 5)
        tasks = tasks_of(whole)
        head = tasks.cut(whole, 2)
        assert {id: task.payload for id, task in tasks.items()} == {1: [1, 2], 3: [3, 4, 5]}
        assert (tasks[1], tasks[3]) == (head, whole)

    def test_pieces_are_single_tasks_in_their_order(self) -> None:
        tasks = tasks_of(bulk(1, 4))
        pieces = tasks.pieces(tasks[1])
        assert [(task.id, task.payload, task.count) for task in pieces] == [
            (id, [id], 1) for id in (1, 2, 3, 4)
        ]
        assert list(tasks.values()) == pieces

    def test_one_that_is_single_is_its_only_piece(self) -> None:
        tasks = tasks_of(Task(1))
        assert tasks.pieces(tasks[1]) == [tasks[1]]


class TestTakeApart:
    def test_their_holder_holds_them_where_the_bulk_stood(self) -> None:
        tasks = tasks_of(Task(1, [1]), bulk(2, 3), Task(5, [5]))
        replica = held_by(Replica("a"), *tasks.values())
        pieces = tasks.take_apart(tasks[2])
        assert held(replica) == [[1], [2], [3], [4], [5]]
        assert [piece.holder for piece in pieces] == [replica] * 3
        assert replica.load == 5

    def test_what_nobody_holds_is_just_cut(self) -> None:
        tasks = tasks_of(bulk(2, 3))
        assert [piece.holder for piece in tasks.take_apart(tasks[2])] == [None] * 3
        assert sorted(tasks) == [2, 3, 4]

    def test_all_bulks_of_a_replica_are_and_what_was_given_up_stays_where_it_is(self) -> None:
        tasks = tasks_of(bulk(1, 2), Task(3, [3]), bulk(4, 2))
        replica = held_by(Replica("a"), *tasks.values())
        replica.held[3] = None
        tasks.take_apart_held(replica)
        assert held(replica) == [[1], [2], None, [4], [5]]
        assert replica.load == 5


class TestFit:
    """How many of the tasks that a replica has answered can be finished as one."""

    def test_all_of_a_bulk(self) -> None:
        tasks = tasks_of(bulk(1, 4))
        replica = held_by(Replica("a"), *tasks.values())
        assert tasks.fit(replica, 1, 4) == 4
        assert tasks.fit(replica, 1, 9) == 4  # the others are of what comes behind it
        assert held(replica) == [[1, 2, 3, 4]]

    def test_the_first_of_it_are_cut_off(self) -> None:
        tasks = tasks_of(bulk(1, 4))
        replica = held_by(Replica("a"), *tasks.values())
        assert tasks.fit(replica, 1, 3) == 3
        assert held(replica) == [[1, 2, 3], [4]]
        assert replica.load == 4

    def test_one_in_the_middle_takes_it_apart(self) -> None:
        tasks = tasks_of(bulk(1, 4))
        replica = held_by(Replica("a"), *tasks.values())
        assert tasks.fit(replica, 3, 2) == 1
        assert held(replica) == [[1], [2], [3], [4]]

    def test_single_tasks_are_finished_one_by_one(self) -> None:
        tasks = tasks_of(Task(1, [1]), Task(2, [2]))
        replica = held_by(Replica("a"), *tasks.values())
        assert tasks.fit(replica, 1, 2) == 1
        assert tasks.fit(replica, 7, 2) == 1

    def test_so_is_what_was_given_up(self) -> None:
        tasks = tasks_of(Task(1, [1]), bulk(2, 3))
        replica = held_by(Replica("a"), *tasks.values())
        replica.held[1] = None
        assert tasks.fit(replica, 1, 4) == 1
        assert held(replica) == [None, [2, 3, 4]]

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
    def test_whatever_is_answered_each_task_is_finished_once(
        self, sizes: list[int], data: st.DataObject
    ) -> None:
        first, some = 1, []
        for size in sizes:
            some.append(bulk(first, size))
            first += size
        tasks = tasks_of(*some)
        replica = held_by(Replica("a"), *some)
        left = list(range(1, first))
        while left:
            id = data.draw(st.sampled_from(left))
            after = next(
                (at for at, other in enumerate(range(id, first)) if other not in left), first - id
            )
            count = tasks.fit(replica, id, data.draw(st.integers(1, after)))
            task = replica.held.pop(id)
            assert task is not None
            assert task is tasks.pop(id)
            assert (task.count, task.payload) == (count, list(range(id, id + count)))
            replica.more -= count - 1
            left = [other for other in left if other not in task.payload]
            assert replica.load == len(left)
        assert not tasks
