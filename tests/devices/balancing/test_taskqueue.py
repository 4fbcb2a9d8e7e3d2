"""The queue before an Executor: which tasks go together, whose turn it is, and what is due."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import BatchKey, Replica, Task
from zflow.devices.balancing.taskqueue import TaskQueue
from zflow.devices.balancing.tasks import Tasks

FOUR = BatchKey("/four", 4)
TWO = BatchKey("/two", 2)
LATE = BatchKey("/late", 4, timeout=0.1)


def queue_of(*tasks: Task) -> TaskQueue:
    levels = Levels()
    queue = TaskQueue(Tasks(lambda payload, count: (payload[:count], payload[count:])), levels)
    for task in tasks:
        queue.append(task)
    return queue


def take(queue: TaskQueue, now: float = 0.0) -> list[int]:
    """What a replica that holds nothing gets, as ids."""
    replica = Replica("a")
    replica.level = 0
    return [task.id for task in queue.take(replica, now)] if queue else []


def taken(queue: TaskQueue, now: float = 0.0) -> list[list[int]]:
    """All that is due, batch by batch, as ids."""
    batches = []
    while ids := take(queue, now):
        batches.append(ids)
    return batches


def some(
    count: int, batching: BatchKey | None = FOUR, first: int = 1, client: str = ""
) -> list[Task]:
    return [Task(id, client=client, batching=batching) for id in range(first, first + count)]


class TestWhatGoesTogether:
    def test_sizes_count_documents(self) -> None:
        sizes = [1, 2, 1, 3, 1, 1]
        queue = queue_of(*(Task(id, docs=docs, batching=FOUR) for id, docs in enumerate(sizes)))
        assert taken(queue) == [[0, 1, 2], [3, 4], [5]]

    def test_a_request_with_more_documents_is_a_batch_of_its_own(self) -> None:
        queue = queue_of(
            *(Task(id, docs=docs, batching=FOUR) for id, docs in enumerate([1, 9, 1, 1]))
        )
        assert taken(queue) == [[0], [1], [2, 3]]

    def test_endpoints_that_are_mixed_in_the_queue_form_full_batches(self) -> None:
        queue = queue_of(*(Task(id, batching=TWO if id % 2 else FOUR) for id in range(8)))
        assert taken(queue) == [[0, 2, 4, 6], [1, 3], [5, 7]]

    def test_what_cannot_be_batched_keeps_its_place(self) -> None:
        queue = queue_of(Task(0), *some(2, first=1), Task(3), *some(2, first=4))
        assert taken(queue) == [[0], [1, 2, 4, 5], [3]]

    def test_clients_take_turns_within_a_batch(self) -> None:
        queue = queue_of(*some(100, first=1, client="flood"), *some(2, first=101, client="other"))
        assert taken(queue)[:2] == [[1, 101, 2, 102], [3, 4, 5, 6]]

    def test_who_asks_for_little_at_another_endpoint_does_not_wait_behind_who_floods(self) -> None:
        queue = queue_of(
            *some(100, first=1, client="flood"), Task(101, client="other", batching=TWO)
        )
        assert taken(queue)[1] == [101]

    def test_what_is_put_back_is_next(self) -> None:
        queue = queue_of(*some(1, TWO, 1, "a"), *some(8, FOUR, 2, "b"))
        last = queue.batches[FOUR].of("b")[3]
        assert [take(queue), take(queue)] == [[1], [2, 3, 4, 5]]
        queue.appendleft(last)
        assert taken(queue) == [[5, 6, 7, 8], [9]]

    def test_bulks_and_batches_live_side_by_side(self) -> None:
        bulk = Task(1, [1, 2, 3], count=3)
        queue = queue_of(*some(1, FOUR, 0), bulk, *some(1, FOUR, 4))
        assert len(queue) == 5
        queue.singles.take_apart(bulk)
        assert len(queue) == 5
        assert taken(queue) == [[0, 4], [1], [2], [3]]

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([None, TWO, FOUR]), st.sampled_from("abc"), st.integers(1, 6)
            ),
            max_size=40,
        )
    )
    def test_each_comes_out_once_in_the_order_of_its_client_and_kind(
        self, drawn: list[tuple[BatchKey, str, int]]
    ) -> None:
        tasks = [
            Task(id, client=client, docs=docs, batching=kind)
            for id, (kind, client, docs) in enumerate(drawn)
        ]
        queue = queue_of(*tasks)
        waiting, turns = Counter(task.client for task in tasks), Counter[str]()
        served: list[Task] = []
        replica = Replica("a")
        while len(queue):
            leader = queue.next(0.0)
            batch = queue.take(replica, 0.0)
            assert leader is batch[0]
            assert len({task.batching for task in batch}) == 1
            kind = leader.batching
            assert len(batch) == 1 or (
                kind is not None and sum(task.docs for task in batch) <= kind.size
            )
            turns[leader.client] += 1
            waiting.subtract(task.client for task in batch)
            served += batch
            assert all(
                turns[leader.client] - turns[other] <= 1 for other in waiting if waiting[other]
            )
        assert sorted(task.id for task in served) == [task.id for task in tasks]
        for group in {(task.client, task.batching) for task in tasks}:
            ids = [task.id for task in served if (task.client, task.batching) == group]
            assert ids == sorted(ids)


class TestTurns:
    """They are the clients', whatever their tasks can be put together with."""

    def test_when_batches_come_everybody_keeps_their_turn(self) -> None:
        queue = queue_of(*some(3, None, 1, "a"), *some(1, None, 4, "b"))
        assert take(queue) == [1]
        queue.append(Task(5, client="c", batching=TWO))
        assert taken(queue) == [[4], [2], [5], [3]]

    def test_when_the_last_batch_is_gone_everybody_keeps_their_turn(self) -> None:
        queue = queue_of(
            *some(2, None, 1, "a"), *some(2, None, 3, "b"), Task(5, client="a", batching=TWO)
        )
        assert take(queue) == [1]
        queue.appendleft(Task(0, client="c", batching=TWO))
        assert [take(queue), take(queue)] == [[0, 5], [3]]
        assert not queue.batches
        assert taken(queue) == [[2], [4]]

    def test_whoever_has_nothing_there_any_more_has_no_turn_to_keep(self) -> None:
        queue = queue_of(
            Task(1, client="a", batching=LATE), *some(2, None, 2, "b"), *some(1, None, 4, "a")
        )
        assert take(queue) == [4]
        queue.remove(queue.batches[LATE].head)
        queue.append(Task(5, client="a"))
        assert taken(queue) == [[2], [5], [3]]

    def test_what_is_put_in_front_of_all_is_next_also_if_it_is_in_no_batch(self) -> None:
        queue = queue_of(*some(2, FOUR, 1, "a"))
        queue.appendleft(Task(9, client="b"))
        assert taken(queue) == [[9], [1, 2]]


class TestWaitingForOthers:
    def test_nothing_waits_unless_it_is_told_to(self) -> None:
        assert taken(queue_of(*some(1))) == [[1]]

    def test_a_batch_that_is_not_full_waits_for_as_long_as_it_may(self) -> None:
        queue = queue_of(*some(3, LATE))
        assert taken(queue, 0.05) == []
        assert queue.wake_after(0.05) == pytest.approx(0.05)
        assert taken(queue, 0.1) == [[1, 2, 3]]
        assert queue.wake_after(0.1) == math.inf

    def test_a_full_one_does_not(self) -> None:
        assert taken(queue_of(*some(5, LATE))) == [[1, 2, 3, 4]]

    def test_it_is_the_oldest_that_has_waited_long_enough_whosever_it_is(self) -> None:
        late, later = Task(1, client="a", batching=LATE), Task(2, client="b", batching=LATE)
        later.assigned = 0.09
        queue = queue_of(late, later)
        queue.remove(late)
        assert taken(queue, 0.15) == []
        assert taken(queue, 0.2) == [[2]]

    def test_what_waits_for_others_is_passed_by(self) -> None:
        queue = queue_of(*some(2, LATE), *some(2, TWO, first=3), Task(5))
        assert taken(queue) == [[3, 4], [5]]
        assert queue.next(0.0) is None


class TestSuits:
    def test_a_batch_goes_to_a_replica_that_holds_nothing_and_whatever_is_behind_it_waits(
        self,
    ) -> None:
        queue = queue_of(*some(2, TWO, 1, "a"), Task(3, client="b"))
        busy = Replica("a")
        busy.held[9] = Task(9)
        assert queue.take(busy, 0.0) == []
        assert taken(queue) == [[1, 2], [3]]

    def test_when_nobody_is_served_nobodys_turn_changes(self) -> None:
        queue = queue_of(
            *(
                Task(id, client=client, batching=FOUR)
                for id, client in ((1, "a"), (2, "b"), (3, "c"))
            )
        )
        queue.appendleft(Task(5, client="c", batching=TWO))
        busy = Replica("a")
        busy.held[9] = Task(9)
        assert queue.take(busy, 0.0) == []
        queue.appendleft(Task(0, client="a", batching=FOUR))
        assert taken(queue) == [[0, 2, 3, 1], [5]]


class TestNext:
    def test_it_is_the_head_of_what_goes_one_by_one(self) -> None:
        queue = queue_of()
        assert queue.next(0.0) is None
        queue.append(Task(1))
        queue.append(Task(2))
        assert queue.next(0.0) == queue.singles.head

    def test_with_batches_it_is_the_first_that_need_not_wait_for_others(self) -> None:
        late, soon = Task(1, batching=LATE), Task(2, batching=TWO)
        queue = queue_of(late)
        assert queue.next(0.05) is None
        assert queue.next(0.1) is late
        queue.append(soon)
        assert queue.next(0.05) is soon
