"""What waits: where it stands, and how it gets back there."""

from __future__ import annotations

from typing import Any

import pytest

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import BatchKey, Replica, Task
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
            self.waiting.queue.append(task)

    def take(self, now: float = 0.0) -> list[int]:
        """The ids of what the replica gets next, each of a bulk."""
        return ids(self.waiting.queue.take(self.replica, now))

    def take_all(self) -> list[int]:
        order = []
        while self.waiting.queue:
            order += self.take()
        return order


def ids(tasks: list[Task]) -> list[int]:
    return [id for task in tasks for id in range(task.id, task.id + task.count)]


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
    def test_a_bulk_as_a_whole_also_beside_batches(self, batches: bool) -> None:
        case = Case()
        sent = bulk(1, 3)
        case.tasks.add(sent)
        sent.holder = case.replica
        if batches:
            case.append(Task(9, batching=PAIRS))
        case.waiting.put_back([sent])
        assert sent.count == 3
        assert sent.holder is None
        assert len(case.waiting) == 3 + batches
        assert case.take_all() == [1, 2, 3, *([9] if batches else [])]


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
