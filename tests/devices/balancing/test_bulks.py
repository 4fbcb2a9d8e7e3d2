"""Bulks: tasks that are one as long as the same becomes of all,
and are cut and taken apart where it does not.
"""

from __future__ import annotations

from typing import Any

import pytest

from zflow.devices.balancing.actions import Fail, Recall, Send
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import MAX_WINDOW, SAMPLES, BatchKey, Replica, Task
from zflow.devices.balancing.stealing import PATIENCE

LONG = 10.0  # seconds of work, after which a window is as small as can be
SHORT = 10e-6  # and as wide as can be


def cut(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


def pool(*names: str, work: float = SHORT, slots: int = 1) -> Balancer:
    """A balancer whose replicas are known to work for so long, with a way of a millisecond."""
    balancer = Balancer(3, cut)
    for name in names:
        replica = Replica(name, slots)
        for _ in range(SAMPLES):
            replica.measure(work, -work - 0.001, 0.0)
        balancer.join(replica, 0.0)
    return balancer


def bulk(first: int, count: int, **options: Any) -> Task:
    return Task(first, list(range(first, first + count)), count=count, **options)


def given_out(actions: Any) -> list[tuple[str, list[int]]]:
    """Which replica is sent which tasks, by their payloads."""
    return [
        (action.replica.name, list(action.task.payload))
        for action in actions
        if isinstance(action, Send)
    ]


def held(balancer: Balancer, name: str) -> list[list[int]]:
    return [
        list(task.payload) for task in balancer.replicas[name].held.values() if task is not None
    ]


class TestGivenOut:
    def test_it_goes_to_one_replica_as_one_if_it_is_soon_done(self) -> None:
        balancer = pool("a", "b")
        assert given_out(balancer.submit(bulk(0, 20), 0.0)) == [("a", list(range(20)))]
        assert given_out(balancer.submit(bulk(20, 20), 0.0)) == [("b", list(range(20, 40)))]
        assert balancer.replicas["a"].load == 20

    def test_it_does_so_also_if_the_work_takes_no_time_that_can_be_measured(self) -> None:
        balancer = pool("a", "b")
        for _ in range(5000):
            balancer.replicas["a"].measure(0.0, None, 0.0)
        assert given_out(balancer.submit(bulk(0, 20), 0.0)) == [("a", list(range(20)))]

    def test_it_is_divided_where_the_work_is_worth_it(self) -> None:
        balancer = pool("a", "b", work=200e-6)  # windows of 7
        assert given_out(balancer.submit(bulk(0, 8), 0.0)) == [
            ("a", [0, 1, 2, 3]),
            ("b", [4, 5, 6, 7]),
        ]

    def test_where_nothing_is_parked_each_replica_gets_one_at_a_time(self) -> None:
        balancer = pool("a", "b", work=LONG)
        assert given_out(balancer.submit(bulk(0, 4), 0.0)) == [("a", [0]), ("b", [1])]
        assert balancer.queued == 2
        task, actions = balancer.finish("b", 1, LONG, LONG)
        assert task is not None
        assert task.payload == [1]
        assert given_out(actions) == [("b", [2])]
        assert given_out(balancer.finish("a", 0, LONG, LONG)[1]) == [("a", [3])]
        assert balancer.queued == 0

    def test_all_slots_are_used(self) -> None:
        balancer = pool("a", work=LONG, slots=100)
        assert given_out(balancer.submit(bulk(0, 60), 0.0)) == [("a", list(range(60)))]
        assert given_out(balancer.submit(bulk(60, 64), 0.0)) == [("a", list(range(60, 100)))]

    def test_it_waits_for_room_rather_than_being_cut_where_there_is_enough_to_do(self) -> None:
        balancer = pool("a")
        half = MAX_WINDOW // 2
        balancer.submit(bulk(0, half), 0.0)
        assert balancer.submit(bulk(100, half + 1), 0.0) == []
        task, actions = balancer.finish("a", 0, SHORT, 0.001, half)
        assert task is not None
        assert task.count == half
        assert given_out(actions) == [("a", list(range(100, 100 + half + 1)))]

    def test_clients_take_turns(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 3, client="flood"), 0.0)
        balancer.submit(bulk(10, 2, client="other"), 0.0)
        order = [0]
        for at in range(4):
            (send,) = balancer.finish("a", order[-1], LONG, LONG * (at + 1))[1]
            assert isinstance(send, Send)
            order.append(send.task.id)
        assert order == [0, 1, 10, 2, 11]


class TestAnswered:
    @pytest.mark.parametrize("counts", [[8], [1] * 8, [3, 5], [1, 6, 1]])
    def test_a_part_from_the_front_on_is_a_bulk_of_its_own(self, counts: list[int]) -> None:
        balancer = pool("a")
        balancer.submit(bulk(0, 8), 0.0)
        first = 0
        for count in counts:
            assert balancer.fit("a", first, 8 - first if count == 8 - first else count) == count
            task, actions = balancer.finish("a", first, SHORT, 0.001, count)
            assert task is not None
            assert (task.payload, actions) == (list(range(first, first + count)), [])
            first += count
        assert balancer.replicas["a"].load == 0
        assert not balancer.tasks

    def test_one_in_the_middle_takes_the_others_apart(self) -> None:
        balancer = pool("a", slots=4)
        balancer.submit(bulk(0, 4), 0.0)
        task, _ = balancer.finish("a", 2, SHORT, 0.001)
        assert task is not None
        assert task.payload == [2]
        assert held(balancer, "a") == [[0], [1], [3]]
        assert [balancer.fit("a", 0, 2), balancer.fit("a", 3, 1)] == [1, 1]

    def test_an_answer_for_several_is_of_no_use_where_they_have_ended(self) -> None:
        balancer = pool("a")
        balancer.submit(bulk(0, 4), 0.0)
        balancer.single(0)
        for id in range(4):
            balancer.cancel(id, 0.0)
        assert balancer.fit("a", 0, 4) == 1
        assert balancer.finish("a", 0, SHORT, 0.001) == (None, [])
        assert balancer.replicas["a"].load == 0


class TestSomethingBecomesOfOne:
    def test_only_the_first_is_suspected_of_a_crash_and_all_travel_alone(self) -> None:
        balancer = pool("a")
        balancer.submit(bulk(0, 5), 0.0)
        assert balancer.finish("a", 0, SHORT, 0.001)[0] is not None
        assert balancer.crash("a", 0.002) == []
        assert [(task.payload, task.crashes) for task in balancer.tasks.values()] == [
            ([1], 1),
            ([2], 0),
            ([3], 0),
            ([4], 0),
        ]
        balancer.join(Replica("b"), 0.003)
        assert held(balancer, "b") == [[1]]

    def test_a_replica_that_leaves_gives_the_whole_back(self) -> None:
        balancer = pool("a", "b")
        balancer.submit(bulk(0, 5), 0.0)
        assert given_out(balancer.leave("a", 0.001)) == [("b", [0, 1, 2, 3, 4])]

    def test_what_could_not_be_sent_goes_to_another_one_as_a_whole(self) -> None:
        balancer = pool("a", "b")
        balancer.submit(bulk(0, 5), 0.0)
        assert given_out(balancer.lose("a", 0.001, unsent=0)) == [("b", [0, 1, 2, 3, 4])]

    @pytest.mark.parametrize("queued", [True, False])
    def test_one_is_cancelled(self, queued: bool) -> None:
        balancer = pool("a", work=LONG) if queued else pool("a")
        if queued:
            balancer.submit(Task(99, [99]), 0.0)
        balancer.submit(bulk(0, 4), 0.0)
        balancer.single(0)
        actions = balancer.cancel(2, 0.001)
        assert [action.task.id for action in actions if isinstance(action, Recall)] == (
            [] if queued else [2]
        )
        assert sorted(id for id in balancer.tasks if id != 99) == [0, 1, 3]
        assert balancer.queued == (3 if queued else 0)

    def test_all_are_cancelled(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 4), 0.0)
        assert balancer.cancel(1, 0.0) == []
        assert list(balancer.tasks) == [0]

    def test_each_expires(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 3, deadline=20.0), 0.0)
        fails = [action for action in balancer.tick(20.0) if isinstance(action, Fail)]
        assert [(fail.task.payload, fail.held_by) for fail in fails] == [
            ([0], "a"),
            ([1], None),
            ([2], None),
        ]
        assert not balancer.tasks

    def test_what_is_parked_with_a_stuck_replica_is_taken_back_one_by_one(self) -> None:
        balancer = pool("a", "b")
        balancer.submit(bulk(0, 4), 0.0)
        actions = balancer.tick(PATIENCE * 10)
        assert [action.task.id for action in actions if isinstance(action, Recall)] == [1, 2, 3]
        assert held(balancer, "a") == [[0]]
        assert [ids for _, ids in given_out(actions)] == [[1], [2], [3]]

    def test_what_waits_stays_one_beside_a_batch(self) -> None:
        balancer = pool("a", "b", work=LONG)
        balancer.submit(Task(8, [8]), 0.0)
        balancer.submit(Task(9, [9]), 0.0)
        balancer.submit(bulk(0, 4), 0.0)
        balancer.submit(Task(10, [10], batching=BatchKey("/", 2)), 0.0)
        assert balancer.queued == 5
        assert balancer.tasks[0].count == 4
        assert given_out(balancer.finish("a", 8, LONG, LONG)[1]) == [("a", [0])]

    def test_the_youngest_goes_first_where_the_oldest_cannot_be_in_time(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(Task(99, [99]), 0.0)
        balancer.submit(bulk(0, 3, deadline=LONG + 1), 0.0)
        assert given_out(balancer.finish("a", 99, LONG, LONG)[1]) == [("a", [2])]


class TestQueue:
    def test_it_counts_what_its_items_stand_for(self) -> None:
        queue: FairQueue[Task] = FairQueue()
        tasks = [bulk(0, 3), bulk(3, 1), bulk(4, 6)]
        for task in tasks:
            queue.append(task)
        assert len(queue) == 10
        queue.replace(tasks[2], [bulk(4 + at, 2) for at in (0, 2, 4)])
        assert len(queue) == 10
        assert queue.popleft() is tasks[0]
        queue.put_back(tasks[0])
        queue.remove(tasks[1])
        assert [queue.popleft().id for _ in range(4)] == [0, 4, 6, 8]
        assert len(queue) == 0
