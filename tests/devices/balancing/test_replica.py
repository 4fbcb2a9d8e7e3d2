"""Tasks and replicas: what a replica learns from its answers, and how much it may hold for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.balancing.replica import (
    CLEARLY_LONGER,
    HICCUP,
    LONG,
    MAX_WINDOW,
    REMEASURE,
    SAMPLES,
    WORTH,
    Replica,
    Task,
)

WAY = 0.0003  # seconds
SHORT = 0.0001
SETTINGS = settings(deadline=None, derandomize=True)


class Tickets:
    """As many as anybody wants."""

    def give(self, task: int) -> int:
        return task

    def reclaim(self) -> int | None:
        return None


def answers(
    replica: Replica, work: float, way: float = WAY, times: int = SAMPLES, now: float = 0.0
) -> float:
    """Let it answer, and never hold more than one; returns when the last answer came."""
    for _ in range(times):
        sent, now = now, now + work + way
        replica.measure(work, sent, now)
    return now


def held_by(replica: Replica, *tasks: Task) -> Replica:
    """The replica, which was given these tasks."""
    for task in tasks:
        task.holder = replica
        replica.held[task.id] = task
        replica.more += task.count - 1
    return replica


def bulk(first: int, count: int) -> Task:
    return Task(first, list(range(first, first + count)), count=count)


def in_two(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


class TestRoundTrip:
    def test_it_is_believed_when_there_are_enough_samples(self) -> None:
        replica = Replica("a")
        answers(replica, SHORT, times=SAMPLES - 1)
        assert replica.round_trip == math.inf
        assert replica.window == 1
        answers(replica, SHORT, times=1)
        assert replica.round_trip == pytest.approx(WAY)
        assert replica.window > 1

    @SETTINGS
    @given(st.lists(st.floats(0, 10), min_size=SAMPLES, max_size=3 * SAMPLES))
    def test_it_is_the_median_of_the_last_ones(self, ways: list[float]) -> None:
        replica = Replica("a")
        for way in ways:
            replica.measure(0.0, 0.0, way)
        last = ways[-SAMPLES:]
        assert replica.round_trip in last
        assert sum(way < replica.round_trip for way in last) <= SAMPLES // 2
        assert sum(way > replica.round_trip for way in last) <= SAMPLES // 2

    def test_hiccups_of_the_machine_do_not_change_it_and_what_lasts_does(self) -> None:
        replica = Replica("a")
        now = answers(replica, SHORT)
        now = answers(replica, SHORT, way=3.0, times=SAMPLES // 2, now=now)
        assert replica.round_trip == pytest.approx(WAY)
        answers(replica, SHORT, way=3.0, times=1, now=now)
        assert replica.round_trip == pytest.approx(3.0)

    def test_answers_to_what_has_waited_say_nothing_of_it(self) -> None:
        replica = Replica("a")
        now = answers(replica, SHORT)
        for _ in range(3 * SAMPLES):
            replica.measure(SHORT, None, now)
        assert replica.round_trip == pytest.approx(WAY)

    def test_an_answer_that_came_before_it_can_have_come_took_no_way_at_all(self) -> None:
        replica = Replica("a")
        answers(replica, work=1.0, way=-0.5)
        assert replica.round_trip == 0.0


class TestWork:
    def test_the_first_answer_is_believed_and_others_change_it_little_by_little(self) -> None:
        replica = Replica("a")
        answers(replica, 0.1, times=1)
        assert replica.work == replica.usual == 0.1
        answers(replica, 0.2, times=1)
        assert 0.1 < replica.work < 0.15
        answers(replica, 0.2, times=50)
        assert replica.work == pytest.approx(0.2, rel=0.01)

    def test_what_is_usual_is_hardly_changed_by_a_hiccup(self) -> None:
        replica = Replica("a")
        answers(replica, 0.1, times=1)
        answers(replica, 100.0, times=1)
        assert replica.work > 10.0
        assert 0.1 < replica.usual < 0.1 * HICCUP

    def test_what_lasts_becomes_usual(self) -> None:
        replica = Replica("a")
        answers(replica, 0.1, times=1)
        answers(replica, 10.0, times=100)
        assert replica.usual == pytest.approx(10.0, rel=0.01)


class TestWindow:
    @pytest.mark.parametrize("slots", [1, 4, MAX_WINDOW + 36])
    def test_it_is_as_large_as_the_slots_before_anything_is_known(self, slots: int) -> None:
        assert Replica("a", slots).window == slots

    @SETTINGS
    @given(st.floats(1e-7, 10), st.floats(0, 10), st.integers(1, 100))
    def test_it_is_just_large_enough_to_hide_the_round_trip(
        self, work: float, way: float, slots: int
    ) -> None:
        replica = Replica("a", slots)
        answers(replica, work, way)
        way = replica.round_trip  # as far as it can be told in floating point
        behind = replica.window - slots
        assert behind >= 0
        assert replica.window <= replica.widest == max(slots, MAX_WINDOW)
        if way < CLEARLY_LONGER * work:
            assert behind == 0
        elif replica.window < replica.widest:
            assert behind * work >= slots * way * (1 - 1e-9)
            assert (behind - 2) * work < slots * way * (1 + 1e-9)

    def test_it_is_one_larger_where_work_is_short(self) -> None:
        windows = []
        for work in (LONG * 0.99, LONG):
            replica = Replica("a")
            answers(replica, work, way=work / 2)
            windows.append(replica.window)
        assert windows == [3, 2]

    @pytest.mark.parametrize("work", [0.0, 1e-9, 1e-6])
    def test_it_has_an_end(self, work: float) -> None:
        replica = Replica("a")
        answers(replica, work)
        assert replica.window == MAX_WINDOW

    def test_it_closes_when_the_work_gets_longer(self) -> None:
        replica = Replica("a")
        now = answers(replica, SHORT)
        assert replica.window > 1
        replica.measure(1000 * SHORT, None, now)
        assert replica.window == 1

    def test_one_that_is_always_busy_is_let_run_dry_now_and_then_and_measured_again(self) -> None:
        replica = Replica("a")
        now = answers(replica, SHORT)
        wide = replica.window
        replica.measure(SHORT, None, now + REMEASURE * 0.99)
        assert replica.window == wide
        replica.measure(SHORT, None, now + REMEASURE * 1.01)
        assert replica.window == 1
        answers(replica, SHORT, times=1, now=now + REMEASURE * 1.01)
        assert replica.window == wide

    @SETTINGS
    @given(
        st.lists(
            st.tuples(st.floats(-1e300, 1e300), st.none() | st.floats(-1e300, 1e300)), max_size=20
        )
    )
    def test_no_answer_makes_it_smaller_than_the_slots_or_wider_than_it_may_be(
        self, said: list[tuple[float, float | None]]
    ) -> None:
        replica = Replica("a", 2)
        for service, sent in said:
            replica.measure(service, sent, 1.0)
            assert 2 <= replica.window <= MAX_WINDOW


class TestAhead:
    @pytest.mark.parametrize(
        ("work", "way", "ahead"),
        [
            (LONG, WAY, True),
            (LONG * 0.99, WAY, False),
            (1.0, WAY, True),
            (1.0, 0.99, True),
            (1.0, 1.01, False),
        ],
    )
    def test_it_is_worth_it_where_the_work_is_long_and_takes_longer_than_the_round_trip(
        self, work: float, way: float, ahead: bool
    ) -> None:
        replica = Replica("a", tickets=Tickets())
        answers(replica, work, way)
        assert replica.ahead == ahead

    def test_there_is_room_for_one_that_is_sent_ahead_even_if_the_work_is_clearly_longer(
        self,
    ) -> None:
        replicas = [Replica("with tickets", tickets=Tickets()), Replica("without")]
        for replica in replicas:
            answers(replica, 1.0)
        assert [replica.window for replica in replicas] == [2, 1]

    def test_nothing_is_without_tickets_or_as_long_as_the_round_trip_is_not_known(self) -> None:
        replica = Replica("a")
        answers(replica, 1.0)
        assert not replica.ahead
        replica = Replica("a", tickets=Tickets())
        answers(replica, 1.0, times=SAMPLES - 1)
        assert not replica.ahead
        assert replica.window == 1


class TestWhatItHolds:
    def test_a_bulk_counts_as_what_it_is(self) -> None:
        replica = held_by(Replica("a"), Task(1), bulk(2, 3))
        replica.held[9] = None  # given up, and still being worked on
        assert replica.load == 5

    @pytest.mark.parametrize(("slots", "first"), [(1, 2), (2, 3), (4, 3), (5, 6), (6, None)])
    def test_the_first_that_it_cannot_have_begun(self, slots: int, first: int | None) -> None:
        tasks = {task.id: task for task in (Task(1), Task(2), bulk(3, 3), Task(6))}
        replica = held_by(Replica("a", slots), *tasks.values())
        assert replica.working == slots
        assert replica.first_parked is (None if first is None else tasks[first])

    def test_it_is_none_that_was_given_up(self) -> None:
        replica = held_by(Replica("a"), Task(1), Task(2), Task(3))
        replica.held[2] = None
        assert replica.first_parked is replica.held[3]

    def test_a_batch_is_begun_as_a_whole_and_takes_one_of_the_slots(self) -> None:
        replica = held_by(Replica("a", 2), *(Task(id) for id in range(1, 6)))
        replica.batch = {1, 2, 3}
        assert replica.working == 4
        assert replica.first_parked is replica.held[5]

    def test_pieces_stand_where_their_bulk_stood(self) -> None:
        whole = bulk(2, 3)
        replica = held_by(Replica("a"), Task(1), whole, Task(5))
        head = whole.cut(1, in_two)
        replica.put(2, [head, whole])
        assert list(replica.held) == [1, 2, 3, 5]
        assert replica.held[2] is head
        assert replica.held[3] is whole
        assert replica.load == 5


class TestBusyFor:
    def test_as_long_as_all_takes_that_it_holds_since_it_began_the_first(self) -> None:
        replica = held_by(Replica("a"), Task(1), Task(2))
        answers(replica, 0.1)
        for task in replica.held.values():
            assert task is not None
            task.assigned = 5.0
        assert replica.busy_for(5.0) == pytest.approx(0.2)
        assert replica.busy_for(5.05) == pytest.approx(0.15)
        assert replica.busy_for(6.0) == pytest.approx(-0.8)  # late
        replica.last_done = 5.5  # the first had to wait until then
        assert replica.busy_for(5.5) == pytest.approx(0.2)

    def test_slots_share_it(self) -> None:
        replica = held_by(Replica("a", 2), *(Task(id) for id in range(4)))
        answers(replica, 0.1)
        assert replica.busy_for(0.0) == pytest.approx(0.2)

    def test_what_was_given_up_is_worked_on_all_the_same(self) -> None:
        replica = Replica("a")
        answers(replica, 0.1)
        replica.held[1] = None
        replica.last_done = 5.0
        assert replica.busy_for(5.02) == pytest.approx(0.08)


class TestShare:
    def wide(self, work: float, slots: int = 1) -> Replica:
        replica = Replica("a", slots)
        answers(replica, work)
        return replica

    @pytest.mark.parametrize(("count", "peers", "share"), [(9, 3, 3), (10, 3, 4), (1, 3, 1)])
    def test_of_what_takes_long_each_gets_as_much_as_the_others(
        self, count: int, peers: int, share: int
    ) -> None:
        assert self.wide(WORTH, slots=8).share(count, peers) == share

    def test_what_is_soon_done_is_not_divided(self) -> None:
        assert self.wide(WORTH / 20.5).share(10, 10) >= 10

    def test_nor_is_what_takes_no_time_that_can_be_measured(self) -> None:
        replica = self.wide(1e-6)
        answers(replica, 0.0, times=5000)
        assert replica.share(10, 10) >= 10

    def test_it_is_never_more_than_there_is_room(self) -> None:
        replica = held_by(self.wide(1e-6), *(Task(id) for id in range(MAX_WINDOW - 3)))
        assert replica.share(50, 1) == 3

    def test_before_anything_is_known_it_is_what_is_fair(self) -> None:
        assert Replica("a", 8).share(9, 3) == 3

    def test_where_tasks_are_sent_ahead_it_is_one_at_a_time(self) -> None:
        replica = Replica("a", 8, tickets=Tickets())
        answers(replica, 1.0)
        assert replica.ahead
        assert replica.share(8, 1) == 1


class TestHadBetterWait:
    def holding(self, load: int) -> Replica:
        replica = Replica("a")
        answers(replica, 1e-6)
        return held_by(replica, *(Task(id) for id in range(load)))

    def test_what_has_room_as_a_whole_never_waits(self) -> None:
        assert not self.holding(MAX_WINDOW - 9).had_better_wait(9)
        assert self.holding(MAX_WINDOW - 9).had_better_wait(10)

    def test_where_there_is_little_to_do_it_is_cut_rather_than_let_wait(self) -> None:
        assert not self.holding(MAX_WINDOW // 2 - 1).had_better_wait(MAX_WINDOW)
        assert self.holding(MAX_WINDOW // 2).had_better_wait(MAX_WINDOW)

    def test_where_the_window_is_not_as_wide_as_can_be_it_does_not_wait(self) -> None:
        replica = Replica("a")
        answers(replica, SHORT)
        held_by(replica, *(Task(id) for id in range(replica.window - 1)))
        assert not replica.had_better_wait(2)


class TestCut:
    def task(self) -> Task:
        task = Task(5, list("abcde"), deadline=9.0, client="me", count=5)
        task.assigned = 3.0
        return task

    def test_both_parts_are_tasks_with_ids_and_payloads_of_their_own(self) -> None:
        task = self.task()
        head = task.cut(2, in_two)
        assert [(part.id, part.count, part.payload) for part in (head, task)] == [
            (5, 2, ["a", "b"]),
            (7, 3, [*"cde"]),
        ]
        assert [(part.deadline, part.client, part.assigned) for part in (head, task)] == [
            (9.0, "me", 3.0)
        ] * 2

    def test_what_a_replica_holds_it_goes_on_to_hold_and_the_second_part_waits_for_the_first(
        self,
    ) -> None:
        task = self.task()
        replica = held_by(Replica("a"), task)
        head = task.cut(2, in_two)
        assert (head.holder, head.waited) == (replica, False)
        assert (task.holder, task.waited) == (replica, True)

    def test_what_no_replica_holds_has_waited_for_none(self) -> None:
        task = self.task()
        head = task.cut(2, in_two)
        assert (head.holder, head.waited, task.holder, task.waited) == (None, False, None, False)

    @SETTINGS
    @given(st.integers(2, 64), st.data())
    def test_however_it_is_cut_all_are_there_once_and_in_their_order(
        self, count: int, data: st.DataObject
    ) -> None:
        parts = [bulk(100, count)]
        for _ in range(data.draw(st.integers(1, 10))):
            some = [at for at, part in enumerate(parts) if part.count > 1]
            if some:
                at = data.draw(st.sampled_from(some))
                parts.insert(
                    at, parts[at].cut(data.draw(st.integers(1, parts[at].count - 1)), in_two)
                )
        assert flat(part.payload for part in parts) == list(range(100, 100 + count))
        assert all(part.payload == list(range(part.id, part.id + part.count)) for part in parts)


def flat(lists: Iterable[list[Any]]) -> list[Any]:
    return [one for some in lists for one in some]


def test_names_say_what_is_meant() -> None:
    assert (repr(Replica("a")), repr(Task(7))) == ("Replica('a')", "Task(7)")
