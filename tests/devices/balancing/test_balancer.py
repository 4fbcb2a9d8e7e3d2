"""Which replica gets which task: the rules at the top of the module, one after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pytest

from zflow.devices.balancing.actions import Action, Fail, Kill, Recall, Send
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import (
    CLEARLY_LONGER,
    MAX_WINDOW,
    REMEASURE,
    SAMPLES,
    Replica,
    Task,
)
from zflow.devices.balancing.stealing import PATIENCE, STUCK

WAY = 0.00029  # seconds
_numbers = itertools.count(1_000_000)  # of tasks that a test is not about


def pool(*names: str, retries: int = 3, slots: int = 1) -> Balancer:
    """A balancer with these replicas, idle since 0.0 in this order."""
    balancer = Balancer(retries)
    for name in names:
        assert balancer.join(Replica(name, slots), 0.0) == []
    return balancer


def told(actions: Iterable[Action]) -> list[tuple[str, ...]]:
    """Actions in a form that is easy to compare: `('send', 'a', '1')`,
    `('fail', 'crashed', '1', 'a')`.
    """
    result: list[tuple[str, ...]] = []
    for action in actions:
        if isinstance(action, Fail):
            result.append(("fail", action.reason, str(action.task.id), str(action.held_by)))
        else:
            result.append((type(action).__name__.lower(), action.replica.name, str(action.task.id)))
    return result


def submit(
    balancer: Balancer, *ids: int, now: float = 0.0, deadline: float = math.inf
) -> list[tuple[str, ...]]:
    """Submit tasks of these ids; what the balancer says to all of them."""
    return [each for id in ids for each in told(balancer.submit(Task(id, deadline=deadline), now))]


def finish(
    balancer: Balancer, name: str, id: int, now: float, service: float = 1.0
) -> list[tuple[str, ...]]:
    """Answer a task; it must be the first answer."""
    task, actions = balancer.finish(name, id, service, now)
    assert task is not None
    assert task.id == id
    return told(actions)


def warm(
    balancer: Balancer, work: float, way: float = WAY, now: float = 0.0, times: int = SAMPLES
) -> float:
    """Let every replica answer some tasks, one after the other;
    return the time when they are all idle again.
    """
    for _ in range(times * len(balancer.replicas)):
        (send,) = balancer.submit(Task(next(_numbers)), now)
        assert isinstance(send, Send)
        now += work + way
        balancer.finish(send.replica.name, send.task.id, work, now)
    return now


class TestWhoGetsIt:
    def test_a_task_is_sent_at_once_to_an_idle_replica(self) -> None:
        balancer = pool("a")
        task = Task(1, payload="anything")
        (send,) = balancer.submit(task, 0.0)
        assert isinstance(send, Send)
        assert (send.replica.name, send.task) == ("a", task)
        assert balancer.queued == 0

    def test_among_idle_replicas_it_is_the_one_that_has_been_idle_longest(self) -> None:
        balancer = pool("a", "b", "c")
        assert submit(balancer, 1, 2, 3) == [
            ("send", "a", "1"),
            ("send", "b", "2"),
            ("send", "c", "3"),
        ]
        finish(balancer, "b", 2, 1.0)
        finish(balancer, "c", 3, 2.0)
        finish(balancer, "a", 1, 3.0)
        assert submit(balancer, 4, 5, 6, now=4.0) == [
            ("send", "b", "4"),
            ("send", "c", "5"),
            ("send", "a", "6"),
        ]

    def test_a_busy_replica_gets_nothing_while_another_is_idle(self) -> None:
        balancer = pool("a", "b")
        assert submit(balancer, 1) == [("send", "a", "1")]
        for id in range(2, 9):
            assert submit(balancer, id, now=float(id)) == [("send", "b", str(id))]
            assert finish(balancer, "b", id, id + 0.5) == []

    def test_the_one_that_holds_fewest_gets_it_where_several_have_room(self) -> None:
        balancer = pool("a", "b")
        now = warm(balancer, work=0.0001)  # both windows are 5
        assert submit(balancer, 1, 2, 3, 4, 5, now=now) == [
            ("send", "a", "1"),
            ("send", "b", "2"),
            ("send", "a", "3"),
            ("send", "b", "4"),
            ("send", "a", "5"),
        ]
        finish(balancer, "a", 1, now, service=0.0001)
        finish(balancer, "a", 3, now, service=0.0001)  # a holds one, b two
        assert submit(balancer, 6, now=now) == [("send", "a", "6")]

    def test_what_finds_no_room_waits_in_order(self) -> None:
        balancer = pool("a")
        assert submit(balancer, 1, 2, 3) == [("send", "a", "1")]
        assert balancer.queued == 2
        assert finish(balancer, "a", 1, 1.0) == [("send", "a", "2")]
        assert finish(balancer, "a", 2, 2.0) == [("send", "a", "3")]
        assert finish(balancer, "a", 3, 3.0) == []
        assert balancer.queued == 0

    def test_without_replicas_all_waits_for_the_first_one(self) -> None:
        balancer = Balancer()
        assert submit(balancer, 1, 2) == []
        assert told(balancer.join(Replica("a"), 1.0)) == [("send", "a", "1")]
        assert told(balancer.join(Replica("b"), 1.0)) == [("send", "b", "2")]

    def test_payloads_are_never_looked_into(self) -> None:
        class Untouchable:
            def __eq__(self, other: object) -> bool:
                raise AssertionError("compared")

            __hash__ = None  # type: ignore[assignment]

        balancer = pool("a")
        for id in (1, 2, 3):
            balancer.submit(Task(id, Untouchable(), deadline=5.0), 0.0)
        balancer.cancel(2, 0.0)
        assert told(balancer.crash("a", 0.0)) == []
        assert len(balancer.tick(5.0)) == 2


class TestWindow:
    def test_it_is_one_before_anything_is_known(self) -> None:
        balancer = pool("a")
        assert submit(balancer, 1, 2) == [("send", "a", "1")]

    def test_it_is_one_where_the_work_is_clearly_longer_than_the_way(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=WAY / CLEARLY_LONGER * 1.01)
        assert submit(balancer, 1, 2, 3, now=now) == [("send", "a", "1")]

    @pytest.mark.parametrize(
        ("work", "window"), [(0.0019, 3), (0.0005, 3), (0.0002, 4), (0.0001, 5), (0.00005, 8)]
    )
    def test_it_grows_just_enough_to_hide_the_way_and_one_more(
        self, work: float, window: int
    ) -> None:
        balancer = pool("a")
        now = warm(balancer, work)
        assert len(submit(balancer, *range(100), now=now)) == window
        assert (window - 3) * work < WAY <= (window - 2) * work

    @pytest.mark.parametrize(("work", "window"), [(0.0028, 2), (0.002, 2)])
    def test_where_the_work_is_not_short_it_is_no_larger_than_that(
        self, work: float, window: int
    ) -> None:
        balancer = pool("a")
        now = warm(balancer, work)
        assert len(submit(balancer, *range(100), now=now)) == window
        assert (window - 2) * work < WAY <= (window - 1) * work

    @pytest.mark.parametrize("work", [1e-6, 0.0])
    def test_it_has_an_end(self, work: float) -> None:
        balancer = pool("a")
        now = warm(balancer, work)
        assert len(submit(balancer, *range(100), now=now)) == MAX_WINDOW

    def test_few_samples_of_the_way_are_not_believed(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0001, times=SAMPLES - 1)
        assert len(submit(balancer, 1, 2, now=now)) == 1

    def test_some_hiccups_of_the_machine_do_not_open_it(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.01)
        now = warm(balancer, work=0.01, way=3.0, now=now, times=SAMPLES // 2)
        assert len(submit(balancer, 1, 2, now=now)) == 1

    def test_a_way_that_stays_longer_does(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.01)
        now = warm(balancer, work=0.01, way=0.01, now=now)
        assert len(submit(balancer, *range(9), now=now)) == 2

    def test_it_closes_when_the_work_gets_longer(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0001)
        assert len(submit(balancer, *range(5), now=now)) == 5
        now += 0.05
        finish(balancer, "a", 0, now, service=0.05)  # one long request is enough
        for id in range(1, 5):
            assert submit(balancer, 10 + id, now=now) == []
            assert len(finish(balancer, "a", id, now, service=0.05)) == (id == 4)

    def test_waiting_behind_others_does_not_count_as_the_way(self) -> None:
        balancer = pool("a")
        work = 0.0001
        now = warm(balancer, work)
        submit(balancer, *range(100), now=now)
        for id in range(60):
            now += work
            finish(balancer, "a", id, now, service=work)  # each has waited for the four before it
        assert balancer.replicas["a"].round_trip == pytest.approx(WAY)

    def test_a_replica_that_is_always_busy_is_let_run_dry_now_and_then_to_measure_the_way_again(
        self,
    ) -> None:
        balancer = pool("a")
        work, longer = 0.0001, 0.0008
        now = warm(balancer, work)
        for id in range(20_000):  # the way doubles; each answer finds some more tasks waiting
            submit(balancer, id, now=now)
        arrives: dict[int, float] = dict.fromkeys(range(5), now + WAY / 2)
        free = now
        for id in range(20_000):
            free = max(arrives[id], free) + work
            _, actions = balancer.finish("a", id, work, free + longer / 2)
            arrives.update((a.task.id, free + longer) for a in actions if isinstance(a, Send))
        assert balancer.replicas["a"].round_trip == pytest.approx(longer)
        assert balancer.replicas["a"].window == 10
        assert free - now < 1.15 * 20_000 * work  # most of what it lost, it lost before it knew
        assert free - now > SAMPLES * REMEASURE

    def test_a_replica_with_slots_holds_as_many_at_least(self) -> None:
        balancer = pool("a", slots=4)
        assert len(submit(balancer, *range(9))) == 4

    def test_a_replica_with_slots_holds_enough_to_keep_them_all_busy(self) -> None:
        balancer = pool("a", slots=4)
        now = warm(balancer, work=0.001, way=0.0005)
        assert len(submit(balancer, *range(99), now=now)) == 7

    def test_with_more_slots_than_the_largest_window_the_slots_count(self) -> None:
        balancer = pool("a", slots=100)
        assert len(submit(balancer, *range(200))) == 100
        now = warm(pool("b", slots=100), work=1e-6)
        assert len(submit(balancer, *range(200, 300), now=now)) == 0

    def test_a_service_time_that_cannot_be_is_survived(self) -> None:
        balancer = pool("a")
        for service in (-1.0, -1e300, 1e300, 0.0):
            now = warm(balancer, work=service, way=-service)
        assert balancer.replicas["a"].window >= 1
        submit(balancer, 1, now=now)
        finish(balancer, "a", 1, now)


class TestTakingBack:
    """Replica `a` holds 1, 3 and 5, of which it has begun 1; `b` holds 2 and 4,
    and answers them.
    """

    def start(self, replicas: str = "ab") -> tuple[Balancer, float]:
        balancer = pool(*replicas)
        now = warm(balancer, work=0.0001)
        assert len(submit(balancer, 1, 2, 3, 4, 5, now=now)) == 5
        return balancer, now

    def test_parked_tasks_go_to_others_that_have_room_when_patience_is_over(self) -> None:
        balancer, now = self.start()
        finish(balancer, "b", 2, now, service=0.0001)
        assert balancer.timed
        assert balancer.wake_after(now) == PATIENCE
        assert balancer.tick(now + PATIENCE * 0.9) == []
        now += PATIENCE * 2
        assert told(balancer.tick(now)) == [
            ("recall", "a", "3"),
            ("recall", "a", "5"),
            ("send", "b", "3"),
            ("send", "b", "5"),
        ]
        for id in (4, 3, 5):
            finish(balancer, "b", id, now, service=0.0001)
        assert balancer.tick(now + 3600.0) == []  # what it has begun stays with it
        assert not balancer.timed

    def test_not_more_of_them_than_the_others_have_room_for_and_the_last_ones_first(self) -> None:
        balancer, now = self.start("a")
        balancer.join(Replica("b"), now)  # their windows are 1
        balancer.join(Replica("c"), now)
        assert told(balancer.tick(now + PATIENCE * 1.01)) == [
            ("recall", "a", "4"),
            ("recall", "a", "5"),
            ("send", "b", "4"),
            ("send", "c", "5"),
        ]

    def test_a_replica_that_is_stuck_gets_no_more_to_park(self) -> None:
        balancer, now = self.start("ab")
        for id in (2, 4):
            finish(balancer, "b", id, now, service=0.0001)
        balancer.tick(now + PATIENCE * 1.01)
        assert submit(balancer, 6, 7, 8, 9, now=now) == [
            ("send", "b", "6"),
            ("send", "b", "7"),
            ("send", "b", "8"),
        ]
        assert finish(balancer, "a", 1, now, service=0.0001) == [("send", "a", "9")]

    def test_the_patience_starts_afresh_with_each_answer(self) -> None:
        balancer, now = self.start("a")
        balancer.join(Replica("b"), now)
        now += PATIENCE * 0.9
        finish(balancer, "a", 1, now, service=0.0001)
        assert balancer.tick(now + PATIENCE * 0.4) == []
        assert told(balancer.tick(now + PATIENCE * 1.01)) == [
            ("recall", "a", "5"),
            ("send", "b", "5"),
        ]

    def test_a_long_way_or_long_work_needs_more_patience(self) -> None:
        for work, way, patience in ((0.0005, 0.005, 0.020), (0.010, 0.0015, 0.020)):
            balancer = pool("a")
            now = warm(balancer, work, way)
            assert len(submit(balancer, 1, 2, now=now)) == 2
            balancer.join(Replica("b"), now)
            assert balancer.tick(now + patience * 0.9) == []
            assert told(balancer.tick(now + patience * 1.01)) == [
                ("recall", "a", "2"),
                ("send", "b", "2"),
            ]

    def test_where_nobody_is_idle_they_stay_until_the_replica_is_stuck(self) -> None:
        balancer, now = self.start("a")
        balancer.join(Replica("b"), now)
        assert submit(balancer, 6, 7, now=now) == [("send", "b", "6")]
        assert balancer.wake_after(now) == STUCK
        assert balancer.tick(now + STUCK * 0.9) == []
        assert told(balancer.tick(now + STUCK * 1.01)) == [
            ("recall", "a", str(id)) for id in (2, 3, 4, 5)
        ]
        # They are in front of what came after them, and `a` gets none of it.
        now += STUCK
        for id in (6, 2, 3, 4, 5):
            following = {6: 2, 2: 3, 3: 4, 4: 5, 5: 7}[id]
            assert finish(balancer, "b", id, now) == [("send", "b", str(following))]
        assert submit(balancer, 8, now=now) == []
        assert finish(balancer, "a", 1, now, service=0.0001) == [("send", "a", "8")]

    def test_a_replica_that_was_stuck_has_its_window_again_when_it_answers(self) -> None:
        balancer, now = self.start("a")
        now += STUCK * 1.01
        assert len(balancer.tick(now)) == 4
        assert balancer.queued == 4
        assert len(finish(balancer, "a", 1, now, service=0.0001)) == 4

    def test_a_single_answer_may_come_from_the_replica_it_was_taken_from(self) -> None:
        balancer, now = self.start("a")
        balancer.join(Replica("b"), now)
        now += PATIENCE * 1.01
        assert told(balancer.tick(now)) == [("recall", "a", "5"), ("send", "b", "5")]
        finish(balancer, "a", 5, now)  # it had begun it after all; `b` has, too
        assert submit(balancer, 6, now=now) == []
        task, actions = balancer.finish("b", 5, 0.1, now + 0.1)
        assert task is None
        assert told(actions) == [("send", "b", "6")]

    def test_an_answer_of_the_former_holder_recalls_what_the_new_one_has_not_begun(self) -> None:
        balancer, now = self.start("ab")
        for id in (2, 4):
            finish(balancer, "b", id, now, service=0.0001)
        balancer.tick(now + PATIENCE * 1.01)  # b: 3, 5
        task, actions = balancer.finish("a", 5, 0.0001, now)
        assert task is not None
        assert told(actions) == [("recall", "b", "5")]

    def test_it_counts_even_if_the_new_one_is_lost_and_the_task_waits_again(self) -> None:
        balancer, now = self.start("a")
        balancer.join(Replica("b"), now)
        now += PATIENCE * 1.01
        assert told(balancer.tick(now)) == [("recall", "a", "5"), ("send", "b", "5")]
        balancer.crash("b", now)
        assert balancer.queued == 1
        assert finish(balancer, "a", 5, now) == []
        assert balancer.queued == 0

    def test_with_at_most_once_nothing_is_ever_parked(self) -> None:
        balancer = pool("a", retries=0)
        now = warm(balancer, work=1e-6)
        assert len(submit(balancer, 1, 2, now=now)) == 1
        assert not balancer.timed


class TestCrash:
    def test_tasks_of_a_lost_replica_go_to_others(self) -> None:
        balancer = pool("a", "b")
        assert submit(balancer, 1) == [("send", "a", "1")]
        assert told(balancer.crash("a", 1.0)) == [("send", "b", "1")]
        assert finish(balancer, "b", 1, 2.0) == []

    def test_they_go_before_those_that_have_not_been_sent(self) -> None:
        balancer = pool("a", "b")
        submit(balancer, 1, 2, 3, 4)
        assert told(balancer.crash("a", 1.0)) == []
        assert finish(balancer, "b", 2, 1.0) == [("send", "b", "1")]

    def test_what_kills_every_replica_ends_as_an_error(self) -> None:
        balancer = pool("a", "b", "c", "d", "e", retries=3)
        submit(balancer, 1)
        assert told(balancer.crash("a", 1.0)) == [("send", "b", "1")]
        assert told(balancer.crash("b", 1.0)) == [("send", "c", "1")]
        assert told(balancer.crash("c", 1.0)) == [("send", "d", "1")]
        (fail,) = balancer.crash("d", 1.0)
        assert told([fail]) == [("fail", "crashed", "1", "d")]
        assert isinstance(fail, Fail)
        assert fail.task.crashes == 4
        assert submit(balancer, 2) == [("send", "e", "2")]

    def test_only_what_was_being_worked_on_is_blamed(self) -> None:
        balancer = pool("a", retries=1)
        now = warm(balancer, work=0.0001)
        assert len(submit(balancer, 1, 2, 3, now=now)) == 3
        balancer.crash("a", now)
        assert {id: task.crashes for id, task in balancer.tasks.items()} == {1: 1, 2: 0, 3: 0}

    def test_with_slots_all_that_may_have_begun_are_blamed(self) -> None:
        balancer = pool("a", slots=2)
        now = warm(balancer, work=0.0001)
        assert len(submit(balancer, 1, 2, 3, now=now)) == 3
        finish(balancer, "a", 1, now, service=0.0001)
        balancer.crash("a", now)
        assert {id: task.crashes for id, task in balancer.tasks.items()} == {2: 1, 3: 1}

    def test_suspects_travel_alone(self) -> None:
        balancer = pool("a", "b")
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, 2, 3, 4, now=now)  # a: 1, 3; b: 2, 4
        balancer.crash("a", now)
        assert submit(balancer, 5, now=now) == []  # b is kept for a suspect
        assert finish(balancer, "b", 2, now, service=0.0001) == []
        assert finish(balancer, "b", 4, now, service=0.0001) == [("send", "b", "1")]
        assert submit(balancer, 6, now=now) == []
        assert finish(balancer, "b", 1, now, service=0.0001) == [("send", "b", "3")]
        assert finish(balancer, "b", 3, now, service=0.0001) == [
            ("send", "b", "5"),
            ("send", "b", "6"),
        ]

    def test_so_the_neighbours_of_what_kills_replicas_survive(self) -> None:
        """Task 3 kills whoever begins it; the others are innocent,
        and each is begun a few times at most.
        """
        balancer = pool("a", retries=2)
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, 2, 3, 4, 5, now=now)
        done, failed, names = [], [], itertools.count()
        name = "a"
        while balancer.tasks:
            now += 0.001
            held = next(iter(balancer.replicas[name].held))
            if held == 3:
                failed += [each for each in told(balancer.crash(name, now)) if each[0] == "fail"]
                name = f"a{next(names)}"
                balancer.join(Replica(name), now)
            else:
                finish(balancer, name, held, now, service=0.0001)
                done.append(held)
        assert sorted(done) == [1, 2, 4, 5]
        assert [each[2] for each in failed] == ["3"]
        assert next(names) == 3

    def test_only_one_replica_is_kept_for_suspects_the_others_go_on(self) -> None:
        balancer = pool("a", "b", "c")
        now = warm(balancer, work=0.0001)
        # All full: a 1 4 7.., b 2 5 8.., c 3 6 9..
        assert len(submit(balancer, *range(1, 16), now=now)) == 15
        balancer.crash("a", now)
        assert finish(balancer, "c", 3, now, service=0.0001) == []  # the one that answered is kept
        assert submit(balancer, 20, now=now) == []
        assert finish(balancer, "b", 2, now, service=0.0001) == [("send", "b", "20")]

    def test_it_is_kept_no_longer_than_a_suspect_waits(self) -> None:
        balancer = pool("a", "b", slots=2)
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, 2, 3, now=now)
        balancer.crash("a", now)
        assert submit(balancer, 4, now=now) == []
        balancer.cancel(1, now)
        assert told(balancer.cancel(3, now)) == [("send", "b", "4")]

    def test_a_cancelled_task_that_kills_its_replica_is_not_brought_back(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, 2, now=now)
        assert balancer.cancel(1, now) == []
        assert balancer.crash("a", now) == []
        assert balancer.tasks.keys() == {2}
        assert balancer.tasks[2].crashes == 0

    def test_retries_0_is_at_most_once(self) -> None:
        balancer = pool("a", "b", retries=0)
        submit(balancer, 1)
        assert told(balancer.crash("a", 1.0)) == [("fail", "crashed", "1", "a")]
        assert not balancer.tasks

    def test_retries_0_lets_even_a_replica_with_slots_hold_one_at_a_time(self) -> None:
        balancer = pool("a", retries=0, slots=8)
        assert len(submit(balancer, 1, 2)) == 1
        assert told(balancer.crash("a", 1.0)) == [("fail", "crashed", "1", "a")]
        assert told(balancer.join(Replica("b", 8), 1.0)) == [("send", "b", "2")]

    def test_a_replica_that_is_unknown_cannot_crash_or_leave(self) -> None:
        balancer = pool("a")
        submit(balancer, 1)
        assert balancer.crash("b", 1.0) == []
        assert balancer.leave("b", 1.0) == []
        assert finish(balancer, "a", 1, 1.0) == []

    def test_an_answer_that_comes_after_the_crash_is_of_no_use(self) -> None:
        balancer = pool("a", "b")
        submit(balancer, 1)
        balancer.crash("a", 1.0)
        assert balancer.finish("a", 1, 1.0, 1.1) == (None, [])
        assert finish(balancer, "b", 1, 2.0) == []


class TestLost:
    """Between the end of a replica and the last of what it said."""

    def test_it_gets_nothing_new(self) -> None:
        balancer = pool("a", "b")
        assert balancer.lose("a", 0.0) == []
        assert submit(balancer, 1, 2) == [("send", "b", "1")]

    def test_what_it_had_may_still_be_answered(self) -> None:
        balancer = pool("a", "b")
        submit(balancer, 1)
        assert balancer.lose("a", 0.0) == []
        assert finish(balancer, "a", 1, 1.0) == []
        assert balancer.crash("a", 1.0) == []

    def test_what_was_not_goes_to_others_when_it_is_buried(self) -> None:
        balancer = pool("a", "b")
        submit(balancer, 1)
        balancer.lose("a", 0.0)
        assert told(balancer.crash("a", 1.0)) == [("send", "b", "1")]
        assert balancer.tasks[1].crashes == 1

    @pytest.mark.parametrize("retries", [0, 3])
    def test_what_did_not_get_to_it_goes_to_others_at_once_and_without_blame(
        self, retries: int
    ) -> None:
        balancer = pool("a", "b", retries=retries)
        submit(balancer, 1)
        assert told(balancer.lose("a", 0.0, unsent=1)) == [("send", "b", "1")]
        assert balancer.crash("a", 1.0) == []
        assert balancer.tasks[1].crashes == 0

    def test_no_suspect_waits_for_it(self) -> None:
        balancer = pool("a", "b", "c")
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, 2, 3, 4, now=now)  # a: 1, 4; b: 2; c: 3
        balancer.crash("a", now)  # c is kept for them
        balancer.lose("c", now)
        assert finish(balancer, "b", 2, now, service=0.0001) == [("send", "b", "1")]
        balancer = pool("a", "b")
        submit(balancer, 1)
        balancer.lose("b", 0.0)
        assert balancer.crash("a", 0.0) == []
        assert told(balancer.join(Replica("c"), 0.0)) == [("send", "c", "1")]

    def test_who_is_unknown_cannot_be_lost(self) -> None:
        balancer = pool("a")
        assert balancer.lose("b", 0.0, unsent=1) == []
        assert submit(balancer, 1) == [("send", "a", "1")]


class TestLeaveAndJoin:
    def test_a_replica_that_leaves_hands_its_tasks_on_without_blame(self) -> None:
        balancer = pool("a", "b", retries=0)
        submit(balancer, 1)
        assert told(balancer.leave("a", 1.0)) == [("send", "b", "1")]
        assert balancer.tasks[1].crashes == 0
        assert submit(balancer, 2) == []

    def test_its_tasks_go_first_and_in_their_order(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, 2, 3, now=now)
        balancer.join(Replica("b"), now)
        submit(balancer, 9, 4, 5, 6, 7, now=now)
        balancer.leave("a", now)
        order = []
        for id in (9, 1, 2, 3, 4, 5, 6, 7):
            order += finish(balancer, "b", id, now)
        assert [each[2] for each in order] == ["1", "2", "3", "4", "5", "6", "7"]

    def test_a_suspect_stays_one_when_its_replica_leaves(self) -> None:
        balancer = pool("a", "b")
        now = warm(balancer, work=0.0001)
        submit(balancer, 1, now=now)
        balancer.crash("a", now)
        balancer.join(Replica("c"), now)
        assert told(balancer.leave("b", now)) == [("send", "c", "1")]
        assert submit(balancer, 2, now=now) == []

    def test_a_replica_that_joins_again_has_begun_afresh(self) -> None:
        balancer = pool("a", "b")
        submit(balancer, 1, 2)
        assert told(balancer.join(Replica("a"), 1.0)) == [("send", "a", "1")]
        assert finish(balancer, "a", 1, 2.0) == []
        assert list(balancer.replicas) == ["b", "a"]

    def test_with_at_most_once_a_replica_that_joins_again_may_have_begun_what_it_had(self) -> None:
        balancer = pool("a", retries=0)
        submit(balancer, 1, 2)
        assert told(balancer.join(Replica("a"), 1.0)) == [
            ("fail", "crashed", "1", "a"),
            ("send", "a", "2"),
        ]


class TestAnswers:
    def test_the_first_answer_counts(self) -> None:
        balancer = pool("a")
        submit(balancer, 1)
        finish(balancer, "a", 1, 1.0)
        assert balancer.finish("a", 1, 1.0, 2.0) == (None, [])

    def test_of_an_unknown_replica_or_for_an_unknown_task_are_of_no_use(self) -> None:
        balancer = pool("a")
        submit(balancer, 1)
        assert balancer.finish("b", 1, 1.0, 1.0) == (None, [])
        assert balancer.finish("a", 2, 1.0, 1.0) == (None, [])
        assert balancer.tasks.keys() == {1}
        assert submit(balancer, 3) == []

    def test_with_slots_they_come_in_any_order(self) -> None:
        balancer = pool("a", slots=3)
        assert len(submit(balancer, 1, 2, 3, 4, 5)) == 3
        assert finish(balancer, "a", 2, 1.0) == [("send", "a", "4")]
        assert finish(balancer, "a", 4, 2.0) == [("send", "a", "5")]
        for id in (1, 5, 3):
            assert finish(balancer, "a", id, 3.0) == []


class TestCancel:
    def test_what_waits_is_gone_at_once(self) -> None:
        balancer = pool("a")
        submit(balancer, 1, 2, 3)
        assert balancer.cancel(2, 0.5) == []
        assert balancer.queued == 1
        assert finish(balancer, "a", 1, 1.0) == [("send", "a", "3")]

    def test_what_has_begun_keeps_its_replica_busy_until_it_answers(self) -> None:
        balancer = pool("a")
        submit(balancer, 1, 2)
        assert balancer.cancel(1, 0.5) == []
        assert balancer.queued == 1
        task, actions = balancer.finish("a", 1, 1.0, 1.0)
        assert task is None
        assert told(actions) == [("send", "a", "2")]

    def test_what_is_parked_is_recalled_and_makes_room(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0003)  # the window is 3
        assert len(submit(balancer, 1, 2, 3, 4, now=now)) == 3
        assert told(balancer.cancel(2, now)) == [("recall", "a", "2"), ("send", "a", "4")]

    def test_what_is_unknown_or_over_is_not_there_to_be_cancelled(self) -> None:
        balancer = pool("a")
        submit(balancer, 1)
        finish(balancer, "a", 1, 1.0)
        assert balancer.cancel(1, 2.0) == []
        assert balancer.cancel(2, 2.0) == []

    def test_it_keeps_no_memory_of_what_ended_while_it_waited(self) -> None:
        balancer = Balancer()
        submit(balancer, 0)
        for id in range(1, 1000):
            submit(balancer, id, deadline=1e9)
            balancer.cancel(id, 0.0)
        assert balancer.queued == 1
        assert len(balancer.tasks.deadlines) < 100
        assert len(balancer._waiting.queue) == 1


class TestDeadlines:
    def test_of_a_task_that_waits(self) -> None:
        balancer = pool("a")
        submit(balancer, 1)
        submit(balancer, 2, deadline=2.0)
        assert balancer.timed
        assert balancer.wake_after(0.5) == 1.5
        assert balancer.tick(1.9) == []
        assert told(balancer.tick(2.0)) == [("fail", "expired", "2", "None")]
        assert not balancer.timed
        assert finish(balancer, "a", 1, 3.0) == []

    def test_of_a_task_that_has_begun(self) -> None:
        balancer = pool("a")
        submit(balancer, 1, 2, deadline=2.0)
        balancer.tasks[2].deadline = math.inf
        submit(balancer, 3, deadline=5.0)
        assert told(balancer.tick(2.0)) == [
            ("fail", "expired", "1", "a"),
            ("fail", "expired", "2", "None"),
        ]
        assert balancer.wake_after(2.0) == 3.0
        task, actions = balancer.finish("a", 1, 2.5, 2.5)  # too late, but now it is free again
        assert task is None
        assert told(actions) == [("send", "a", "3")]

    def test_of_a_parked_task(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0003)
        submit(balancer, 1, now=now)
        submit(balancer, 2, now=now, deadline=now + 0.001)
        assert told(balancer.tick(now + 0.001)) == [
            ("fail", "expired", "2", "a"),
            ("recall", "a", "2"),
        ]

    def test_of_a_suspect(self) -> None:
        balancer = pool("a")
        submit(balancer, 1, deadline=2.0)
        balancer.crash("a", 1.0)
        assert told(balancer.tick(2.0)) == [("fail", "expired", "1", "None")]
        assert balancer.join(Replica("b"), 3.0) == []

    def test_what_cannot_end_in_time_any_more_lets_the_youngest_go_first(self) -> None:
        """Under overload all would else be begun too late to end in time."""
        balancer = pool("a")
        now = warm(balancer, work=1.0)
        submit(balancer, 1, 2, 3, now=now, deadline=now + 1.5)
        submit(balancer, 4, 5, now=now, deadline=now + 5.0)
        order = []
        for id in (1, 5, 4, 3):
            now += 1.0
            order += finish(balancer, "a", id, now)
        assert [each[2] for each in order] == ["5", "4", "3", "2"]

    def test_no_task_is_sent_whose_own_has_passed_in_the_same_moment(self) -> None:
        balancer = pool("a")
        now = warm(balancer, work=0.0003)
        # 1 to 3 are held, 4 and 5 wait.
        submit(balancer, 1, 2, 3, 4, 5, now=now, deadline=now + 0.001)
        assert [each[0] for each in told(balancer.tick(now + 0.001))].count("send") == 0
        assert not balancer.tasks

    def test_the_earliest_comes_first_whatever_the_order_of_arrival(self) -> None:
        balancer = Balancer()
        for id, deadline in enumerate((5.0, 1.0, 3.0)):
            submit(balancer, id, deadline=deadline)
        assert balancer.wake_after(0.0) == 1.0
        assert [each[2] for each in told(balancer.tick(4.0))] == ["1", "2"]
        assert balancer.wake_after(4.0) == 1.0
        assert balancer.wake_after(99.0) == 0.0

    def test_without_any_and_without_parked_tasks_time_changes_nothing(self) -> None:
        balancer = pool("a")
        submit(balancer, 1, 2)
        assert not balancer.timed
        assert balancer.wake_after(0.0) == math.inf
        assert balancer.tick(1e9) == []


class TestOverrun:
    def test_who_is_at_a_task_for_too_long_is_killed_once(self) -> None:
        balancer = pool("a", "b")
        submit(balancer, 1, now=0.0)
        submit(balancer, 2, now=0.5)
        assert balancer.overrun(1.0, 1.0) == []
        fail, kill = balancer.overrun(1.0, 1.1)
        assert (fail.task.id, fail.reason, fail.held_by, kill.replica.name) == (
            1,
            "overran",
            "a",
            "a",
        )
        assert balancer.overrun(1.0, 1.2) == []
        assert balancer.tasks.keys() == {2}

    def test_who_is_at_a_task_that_was_given_up_is_killed_as_well(self) -> None:
        """Nothing else would ever free it."""
        balancer = pool("a")
        submit(balancer, 1, now=0.0)
        balancer.cancel(1, 0.5)
        assert balancer.overrun(1.0, 0.9) == []
        assert balancer.overrun(1.0, 1.1) == [Kill(balancer.replicas["a"])]
        assert balancer.overrun(1.0, 1.2) == []

    @pytest.mark.parametrize("end", ["answer", "crash", "leave", "unsent"])
    def test_what_was_given_up_is_forgotten_with_its_replica_or_its_answer(self, end: str) -> None:
        balancer = pool("a")
        submit(balancer, 1, now=0.0)
        balancer.cancel(1, 0.5)
        assert balancer.given_up
        if end == "answer":
            balancer.finish("a", 1, 0.6, 0.6)
        elif end == "crash":
            balancer.crash("a", 0.6)
        elif end == "unsent":
            balancer.lose("a", 0.6, unsent=1)
        else:
            balancer.leave("a", 0.6)
        assert not balancer.given_up


def test_names_in_a_traceback_say_what_is_meant() -> None:
    assert repr(Send(Replica("a"), Task(7))) == "Send(replica=Replica('a'), task=Task(7))"
    assert repr(Recall(Replica("a"), Task(7))) == "Recall(replica=Replica('a'), task=Task(7))"
