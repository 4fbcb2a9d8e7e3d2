"""Virtual time: a heap of what is to happen when, and lines that deliver in order.
Knows nothing of the cluster.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any


class Clock:
    """What happens when; `now` is in seconds."""

    __slots__ = ("_events", "_order", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def monotonic(self) -> float:
        """The time, as the module `time` tells it."""
        return self.now

    def at(self, time: float, function: Callable[..., None], *arguments: Any) -> None:
        """Call the function at that time; what is to happen at the same time
        happens in the order of these calls.
        """
        self._order += 1
        heapq.heappush(self._events, (time, self._order, function, arguments))

    @property
    def next(self) -> float:
        """When the next thing happens; infinity if nothing does."""
        return self._events[0][0] if self._events else math.inf

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, function, arguments = heapq.heappop(self._events)
        function(*arguments)


class Line:
    """One direction of a connection: what is sent first arrives first, whatever the delays."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0.0  # when the last message arrives

    def arrival(self, now: float, delay: float) -> float:
        """When a message that is sent now arrives."""
        self.last = max(self.last, now + delay)
        return self.last
