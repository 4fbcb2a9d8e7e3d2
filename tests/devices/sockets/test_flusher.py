"""What waits is told by a thread, should whoever put it there be held up."""

from __future__ import annotations

import threading
import time

from helpers import wait_for

from zflow.devices.sockets.flusher import Flusher


def flushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "zflow flusher"]


def test_nothing_is_started_before_something_waits() -> None:
    Flusher(lambda: None, 0.001).close()
    assert not flushers()


def test_it_tells_while_the_turn_is_released_and_not_before() -> None:
    told: list[float] = []
    flusher = Flusher(lambda: told.append(time.monotonic()), 0.001)
    for round in range(3):
        flusher.hold()
        time.sleep(0.01)
        assert len(told) == round
        flusher.turn.release()
        wait_for(lambda round=round: len(told) == round + 1)  # type: ignore[misc]
        flusher.turn.acquire()
    flusher.close()
    assert not flushers()
    assert len(told) == 3


def test_it_tells_nothing_when_it_is_closed() -> None:
    for patience in (0.0, 0.001, 60.0):
        for _ in range(20):
            told: list[bool] = []
            flusher = Flusher(lambda: told.append(True), patience)  # noqa: B023
            flusher.hold()
            flusher.close()
            assert (told, flushers()) == ([], [])
            assert flusher.turn.locked()
