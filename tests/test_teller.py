"""What waits is told by a thread, should whoever put it there be held up."""

from __future__ import annotations

import threading
import time

from helpers import wait_for

from zflow.devices.sockets.flusher import Teller


def tellers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "zflow teller"]


def test_nothing_is_started_before_something_waits() -> None:
    Teller(lambda: None, 0.001).close()
    assert not tellers()


def test_it_tells_while_the_turn_is_released_and_not_before() -> None:
    told: list[float] = []
    teller = Teller(lambda: told.append(time.monotonic()), 0.001)
    for round in range(3):
        teller.hold()
        time.sleep(0.01)
        assert len(told) == round
        teller.turn.release()
        wait_for(lambda round=round: len(told) == round + 1)  # type: ignore[misc]
        teller.turn.acquire()
    teller.close()
    assert not tellers()
    assert len(told) == 3


def test_it_tells_nothing_when_it_is_closed() -> None:
    for patience in (0.0, 0.001, 60.0):
        for _ in range(20):
            told: list[bool] = []
            teller = Teller(lambda: told.append(True), patience)  # noqa: B023
            teller.hold()
            teller.close()
            assert (told, tellers()) == ([], [])
            assert teller.turn.locked()
