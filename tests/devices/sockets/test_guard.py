"""A loop goes on when something fails in it."""

from __future__ import annotations

import logging
import time

import pytest

from zflow.devices.sockets import guard as module
from zflow.devices.sockets.guard import Guard

log = logging.getLogger("zflow.test")


def fail(error: BaseException) -> None:
    raise error


def test_what_fails_is_logged_once_with_its_traceback_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard(log)
    for number in range(3):
        assert guard.call(fail, KeyError(number)) is None
    assert guard.call(len, "abc") == 3
    assert list(guard.caught.values()) == [3]
    (record,) = caplog.records
    assert record.getMessage() == "failed, and goes on; more of this kind are only counted"
    assert record.exc_info is not None


def test_kinds_are_told_apart_by_what_raised_and_where_and_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_KINDS", 2)
    guard = Guard(log)
    for error in (KeyError(), ValueError(), OSError()):
        guard.call(fail, error)
    assert len(guard.caught) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_a_process_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Guard(log).call(fail, error)


def test_a_turn_that_failed_is_followed_by_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    guard = Guard(log)
    guard.rest()
    assert slept == []
    guard.call(fail, KeyError())
    guard.rest()
    guard.rest()
    assert slept == [module.REST]
    guard.note(KeyError())  # of a message: the next one is another
    guard.rest()
    assert slept == [module.REST]
