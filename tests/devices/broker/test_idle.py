"""When the broker has nothing to do: said once, and not before a moment has passed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zflow.devices.broker import idle
from zflow.devices.broker.idle import Idle


def test_memory_is_given_back_once_after_each_time_that_there_was_something_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(idle, "time", clock)
    looked_at = Idle(lambda: given.append(clock.now))

    def turn(now: float, busy: bool = False) -> list[float]:
        clock.now = now
        looked_at.turn(busy)
        return given

    assert turn(0.0) == turn(5.0) == []
    assert turn(6.0, busy=True) == turn(6.1) == turn(6.9) == []
    assert turn(7.0, busy=True) == turn(7.1) == turn(8.0) == []
    assert turn(8.1) == turn(9.2) == turn(20.0) == [8.1]
    assert turn(21.0, busy=True) == turn(21.1) == [8.1]
    assert turn(22.1) == [8.1, 22.1]
