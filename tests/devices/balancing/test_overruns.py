"""Overruns: who is at a task for too long is killed, and the task fails,
if it is known to be the one.
"""

from __future__ import annotations

from typing import Any

import pytest

from zflow.devices.balancing.actions import Action, Fail, Kill
from zflow.devices.balancing.overruns import GivenUp
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.tasks import Tasks


class Case:
    """A replica that was given these tasks, with these ids, at 0.0 s."""

    def __init__(self, *ids: int, slots: int = 1, batch: bool = False) -> None:
        self.tasks = Tasks()
        self.given_up = GivenUp(self.tasks)
        self.replica = Replica("a", slots)
        for id in ids:
            task = Task(id)
            task.holder = self.replica
            self.tasks.add(task)
            self.replica.held[id] = task
        if batch:
            self.replica.batch = set(ids)

    def give_up(self, id: int) -> None:
        """It has ended, but the replica may be at it."""
        task = self.tasks.pop(id)
        self.replica.held[id] = None
        self.given_up[id] = task.assigned, task.waited

    def overrun(self, now: float, again: bool = True) -> list[Any]:
        """What follows with a limit of 1 s: the ids of the tasks that fail, and `'kill'`."""
        return [
            self.said(action) for action in self.given_up.overrun(self.replica, 1.0, now, again)
        ]

    def said(self, action: Action) -> Any:
        if isinstance(action, Kill):
            assert action.replica is self.replica
            return "kill"
        assert isinstance(action, Fail)
        assert (action.reason, action.held_by) == ("overran", "a")
        return action.task.id


def test_nothing_happens_until_the_time_is_over() -> None:
    case = Case(1)
    assert case.overrun(now=1.0) == []
    assert list(case.tasks) == [1]
    assert case.overrun(now=1.01) == [1, "kill"]
    assert not case.tasks


def test_it_says_for_how_long_the_replica_has_been_at_it() -> None:
    case = Case(1)
    (fail, _) = case.given_up.overrun(case.replica, 1.0, 3.5, again=True)
    assert isinstance(fail, Fail)
    assert fail.seconds == 3.5


def test_it_is_killed_once_and_still_holds_what_it_is_at() -> None:
    case = Case(1)
    assert case.overrun(now=2.0) == [1, "kill"]
    assert case.overrun(now=9.0) == []
    assert case.replica.held == {1: None}


def test_what_is_parked_is_not_judged() -> None:
    case = Case(1, 2, 3, slots=2)
    assert case.overrun(now=2.0) == [1, 2, "kill"]
    assert list(case.tasks) == [3]


def test_what_waited_for_others_was_begun_when_the_last_of_them_was_done() -> None:
    case = Case(1)
    case.tasks[1].waited = True
    case.replica.last_done = 5.0
    assert case.overrun(now=6.0) == []
    assert case.overrun(now=6.01) == [1, "kill"]


def test_what_did_not_wait_was_begun_at_once_whatever_else_was_done_meanwhile() -> None:
    case = Case(1, 2, slots=2)
    case.replica.last_done = 5.0
    case.tasks[2].assigned = 5.5
    assert case.overrun(now=6.0) == [1, "kill"]


class TestGivenUp:
    def test_who_does_not_get_done_with_it_is_killed_and_nothing_fails(self) -> None:
        case = Case(1)
        case.give_up(1)
        assert case.overrun(now=1.0) == []
        assert case.overrun(now=1.01) == ["kill"]
        assert case.overrun(now=9.0) == []
        assert not case.given_up

    def test_it_may_have_waited_before(self) -> None:
        case = Case(1)
        case.tasks[1].waited = True
        case.give_up(1)
        case.replica.last_done = 5.0
        assert case.overrun(now=6.0) == []
        assert case.overrun(now=6.01) == ["kill"]


class TestBatch:
    def test_its_tasks_do_not_fail_at_once_each_is_tried_alone_when_the_replica_is_dead(
        self,
    ) -> None:
        case = Case(1, 2, 3, batch=True)
        assert case.overrun(now=1.01) == ["kill"]
        assert list(case.tasks) == [1, 2, 3]

    def test_they_fail_if_it_does_not_die(self) -> None:
        case = Case(1, 2, 3, batch=True)
        assert case.overrun(now=1.5) == ["kill"]
        assert case.overrun(now=2.0) == [1, 2, 3]

    def test_they_fail_at_once_if_they_may_not_be_tried_again(self) -> None:
        case = Case(1, 2, batch=True)
        assert case.overrun(now=1.01, again=False) == [1, 2, "kill"]

    @pytest.mark.parametrize("again", [True, False])
    def test_what_is_alone_in_a_batch_is_to_blame(self, again: bool) -> None:
        case = Case(1, batch=True)
        assert case.overrun(now=1.01, again=again) == [1, "kill"]
