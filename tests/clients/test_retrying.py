"""When what failed is tried again, and after which pauses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from zflow import errors
from zflow.clients import retrying as module
from zflow.clients.retrying import Retrying, retrying_of

FULL = errors.Overloaded("max_queue")
DIED = errors.ReplicaCrashed("it died")
AWAY = errors.FlowUnreachable("nobody answers")
FINAL = [
    errors.ExecutorError("raised"),
    errors.BadRequest("no"),
    errors.DeadlineExceeded("late"),
    errors.FlowNotRunning("over"),
]


@pytest.fixture(autouse=True)
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "uniform", lambda low, high: 1.0)


def pauses(retrying: Retrying, error: errors.ZflowError, most: int = 20) -> list[float]:
    found = []
    for failures in range(1, most + 1):
        pause = retrying.pause(failures, error)
        if pause is None:
            break
        found.append(pause)
    return found


@pytest.mark.parametrize("error", [FULL, DIED, AWAY, *FINAL])
def test_as_a_rule_nothing_is_tried_again(error: errors.ZflowError) -> None:
    assert pauses(Retrying(), error) == []


@pytest.mark.parametrize("error", [FULL, DIED, AWAY])
def test_what_may_pass_is_tried_so_often_after_pauses_that_grow_up_to_a_bound(
    error: errors.ZflowError,
) -> None:
    retrying = retrying_of("fail", 6, 0.5, 3, 2)
    assert pauses(retrying, error) == [0.5, 1, 2, 3, 3]


@pytest.mark.parametrize("error", FINAL)
def test_what_an_executor_says_is_final(error: errors.ZflowError) -> None:
    assert pauses(retrying_of("wait", 6, 0.5, 3, 2), error) == []


def test_who_waits_for_room_waits_however_often_it_takes() -> None:
    retrying = retrying_of("wait", 2, 0.5, 3, 2)
    assert len(pauses(retrying, FULL)) == 20
    assert pauses(retrying, DIED) == [0.5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0.5, 1, 1), "max_attempts must be a whole number of 1 or more, not 0"),
        ((True, 0.5, 1, 1), "max_attempts must be a whole number of 1 or more, not True"),
        ((2, -1, 1, 1), "initial_backoff must be a number of seconds of 0 or more, not -1"),
        ((2, "1", 1, 1), "initial_backoff must be a number of seconds"),
        ((2, 1, float("nan"), 1), "max_backoff must be a number of seconds"),
        ((2, 1, float("inf"), 1), "max_backoff must be a number of seconds"),
        ((2, 1, 1, 0.5), "backoff_multiplier must be a number of 1 or more, not 0.5"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: Any, words: str) -> None:
    with pytest.raises(errors.BadRequest, match=words):
        retrying_of("fail", *arguments)


def test_very_many_failures_are_no_overflow() -> None:
    assert retrying_of("fail", 10**6, 0.5, 3, 1e9).pause(10**6 - 1, DIED) == 3


def test_a_flow_is_reached_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    tries = iter([AWAY, AWAY, None])

    def connect(left: float | None) -> str:
        if (error := next(tries)) is not None:
            raise error
        return "there"

    assert retrying_of("fail", 3, 0.5, 3, 2).reach(connect) == "there"
    assert slept == [0.5, 1]
    tries = iter([AWAY, AWAY])
    with pytest.raises(errors.FlowUnreachable):
        retrying_of("fail", 2, 0.5, 3, 2).reach(connect)


def test_also_from_an_event_loop() -> None:
    tries = iter([AWAY, AWAY, None])

    async def connect(left: float | None) -> str:
        if (error := next(tries)) is not None:
            raise error
        return "there"

    assert asyncio.run(retrying_of("fail", 3, 0, 0, 2).reach_async(connect)) == "there"


def test_all_attempts_to_reach_a_flow_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def connect(left: float | None) -> str:
        given.append(left)
        now[0] += 0.25
        raise AWAY

    async def connect_async(left: float | None) -> str:
        return connect(left)

    retrying = retrying_of("fail", 9, 0.125, 1, 2)
    with pytest.raises(errors.FlowUnreachable):
        retrying.reach(connect, 1000)
    assert given == [1000, 625, 125]
    with pytest.raises(errors.FlowUnreachable):
        asyncio.run(retrying_of("fail", 9, 1, 1, 2).reach_async(connect_async, 1000))
    assert given[3:] == [1000]
