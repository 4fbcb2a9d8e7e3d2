"""What waits: which of it goes next, where it stands, and how it gets back there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import MAX_WINDOW, SAMPLES, BatchKey, Replica, Task
from zflow.devices.balancing.tasks import Tasks
from zflow.devices.balancing.waiting import Waiting

PAIRS = BatchKey("/", 2)


def in_two(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


def bulk(first: int, count: int, **options: Any) -> Task:
    return Task(first, list(range(first, first + count)), count=count, **options)


class Case:
    """An Executor's replicas, all of them empty, and what waits for them."""

    def __init__(self, *replicas: Replica) -> None:
        self.levels = Levels()
        self.tasks = Tasks(in_two)
        self.waiting = Waiting(self.tasks, self.levels)
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
        return ids(self.waiting.take(self.replica, now))

    def take_all(self) -> list[int]:
        order = []
        while self.waiting.queue:
            order += self.take()
        return order


def ids(tasks: list[Task]) -> list[int]:
    return [id for task in tasks for id in range(task.id, task.id + task.count)]


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
        assert case.waiting.queue.head.id == 1
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
        assert case.waiting.queue.head.id == 3
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


class TestBatches:
    def test_what_can_be_put_together_goes_together_to_a_replica_that_holds_nothing(self) -> None:
        case = Case()
        case.append(*(Task(id, batching=PAIRS) for id in (1, 2, 3)))
        assert case.waiting.batches is case.waiting.queue
        assert case.take() == [1, 2]
        case.replica.held[1] = case.tasks[1]
        assert case.take() == []
        case.replica.held.clear()
        assert case.take() == [3]

    def test_they_begin_with_the_first_such_task_and_what_waits_keeps_its_place(self) -> None:
        case = Case()
        case.append(Task(1), Task(2))
        assert case.waiting.batches is None
        case.append(Task(3, batching=PAIRS))
        assert [case.take() for _ in range(3)] == [[1], [2], [3]]

    def test_bulks_that_wait_are_taken_apart_then_and_those_that_a_replica_holds_are_not(self) -> None:
        case = Case()
        held = bulk(1, 2)
        held.holder = case.replica
        case.tasks.add(held)
        case.append(bulk(3, 3), Task(9, batching=PAIRS))
        assert {id: task.count for id, task in case.tasks.items()} == {1: 2, 3: 1, 4: 1, 5: 1, 9: 1}
        assert case.take_all() == [3, 4, 5, 9]


class TestOldest:
    def test_it_is_the_head_of_what_any_replica_may_have(self) -> None:
        case = Case()
        assert case.waiting.oldest(0.0) is None
        case.append(Task(1), Task(2))
        assert case.waiting.oldest(0.0) == 1

    def test_parts_and_suspects_are_none_of_that(self) -> None:
        case = Case()
        case.waiting.shards.append(Task(1, shard=0))
        case.waiting.suspects.append(Task(2))
        assert case.waiting.oldest(0.0) is None
        assert len(case.waiting) == 2

    def test_with_batches_it_is_the_first_that_need_not_wait_for_others(self) -> None:
        late = BatchKey("/late", 4, timeout=1.0)
        case = Case()
        case.append(Task(1, batching=late))
        assert case.waiting.oldest(0.5) is None
        assert case.waiting.oldest(1.0) == 1
        case.append(Task(2, batching=PAIRS))
        assert case.waiting.oldest(0.5) == 2


class TestPutBack:
    def test_in_front_of_all_in_their_order_and_held_by_nobody(self) -> None:
        case = Case()
        case.append(Task(5), Task(6))
        sent = [Task(1), Task(2), Task(3)]
        for task in sent:
            case.tasks.add(task)
            task.holder = case.replica
        case.waiting.put_back(sent)
        assert [task.holder for task in sent] == [None] * 3
        assert case.take_all() == [1, 2, 3, 5, 6]

    def test_suspects_wait_for_a_replica_that_holds_nothing(self) -> None:
        case = Case()
        sent = [Task(1), Task(2), Task(3)]
        sent[0].suspect = sent[2].suspect = True
        case.waiting.put_back(sent)
        assert [task.id for task in case.waiting.suspects] == [1, 3]
        assert case.take_all() == [2]
        assert len(case.waiting) == 2

    def test_parts_wait_for_a_replica_of_their_shard(self) -> None:
        case = Case()
        part = Task(1, shard=0)
        case.waiting.put_back([part])
        assert case.waiting.shards[0].head is part
        assert len(case.waiting) == 1
        assert not case.waiting.queue

    @pytest.mark.parametrize("batches", [True, False])
    def test_a_bulk_as_a_whole_but_for_where_there_are_batches(self, batches: bool) -> None:
        case = Case()
        sent = bulk(1, 3)
        case.tasks.add(sent)
        sent.holder = case.replica
        if batches:
            case.append(Task(9, batching=PAIRS))
        case.waiting.put_back([sent])
        assert {id: task.count for id, task in case.tasks.items() if id != 9} == (
            {1: 1, 2: 1, 3: 1} if batches else {1: 3}
        )
        assert all(task.holder is None for task in case.tasks.values())
        assert len(case.waiting) == 3 + batches


class TestRemove:
    def test_wherever_it_waits(self) -> None:
        case = Case()
        plain, part, suspect = Task(1), Task(2, shard=0), Task(3)
        suspect.suspect = True
        case.append(plain, Task(4))
        case.waiting.put_back([part, suspect])
        assert len(case.waiting) == 4
        for left, task in ((3, plain), (2, part), (1, suspect)):
            case.waiting.remove(task)
            assert len(case.waiting) == left
        assert case.take_all() == [4]

    def test_a_part_that_is_expected_and_not_here_yet_does_not_matter(self) -> None:
        case = Case()
        case.waiting.remove(Task(1, shard=0))
        assert len(case.waiting) == 0

    def test_a_part_that_is_a_suspect(self) -> None:
        case = Case()
        part = Task(1, shard=0)
        part.suspect = True
        case.waiting.put_back([part])
        assert (list(case.waiting.suspects), case.waiting.shards.size) == ([part], 0)
        case.waiting.remove(part)
        assert len(case.waiting) == 0


def test_a_bulk_is_taken_apart_where_it_stands() -> None:
    case = Case()
    case.append(Task(1, [1]), bulk(2, 3, deadline=math.inf), Task(5, [5]))
    pieces = case.waiting.take_apart(case.tasks[2])
    assert [piece.id for piece in pieces] == [2, 3, 4]
    assert len(case.waiting) == 5
    assert case.take_all() == [1, 2, 3, 4, 5]
