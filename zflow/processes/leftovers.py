"""What dead replicas have left: processes that they started, which hold GPU memory and ports,
and nobody else ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zflow.system import family

AGAIN = 0.02  # seconds until it is looked again whether anything is left, doubled each time
AGAIN_AT_MOST = 5.0


@dataclass(eq=False)
class _Dead:
    """A replica that has died, with its session and mark,
    and when it is to be looked again what it has left.
    """

    pid: int
    mark: int
    since: float
    look_at: float
    pause: float = AGAIN


class Leftovers:
    """Ends them, at once; what forks meanwhile, and what cleans up by itself,
    when it is looked again.

    Args:
        alive: returns the process ids of the replicas that live.
    """

    def __init__(self, alive: Callable[[], Iterable[int]]) -> None:
        self._alive = alive
        self._dead: list[_Dead] = []

    @property
    def timers(self) -> list[float]:
        """When `check` is to be called."""
        return [one.look_at for one in self._dead]

    def of(self, pid: int, mark: int) -> None:
        """A replica has died."""
        now = time.monotonic()
        self._dead.append(_Dead(pid, mark, now, now))
        self.check(now)

    def check(self, now: float) -> None:
        """End what is left as far as it is time to look for it."""
        for one in [each for each in self._dead if each.look_at <= now]:
            left = family.left_by(one.pid, one.mark, self._alive())
            family.kill(left, now - one.since >= family.PATIENCE)
            one.pause = min(AGAIN_AT_MOST, 2 * one.pause)
            one.look_at = now + one.pause
            if not left:
                self._dead.remove(one)
