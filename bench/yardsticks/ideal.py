"""What perfect knowledge could do: schedules computed from the times alone,
without any overhead.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence


def makespan(times: Iterable[float], servers: int) -> float:
    """Return the seconds that an ideal central queue needs:
    each server takes the next request when it is free.

    >>> makespan([3, 1, 1, 1], servers=2)
    3.0
    """
    free = [0.0] * servers
    for seconds in times:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def unlike_makespan(requests: int, times: Sequence[float]) -> float:
    """Return the least seconds in which servers of these service times can answer so many requests.

    >>> round(unlike_makespan(300, [0.05, 0.005, 0.005]), 3)
    0.715
    """
    ends = heapq.nsmallest(
        requests, (k * seconds for seconds in times for k in range(1, requests + 1))
    )
    return ends[-1]


def waits(arrivals: Sequence[float], times: Sequence[float], servers: int) -> list[float]:
    """Return the seconds that each request waits in an ideal central queue,
    first come first served.

    Args:
        arrivals: when each comes, in seconds, in order.
        times: how long each is worked on, in seconds.
        servers: how many work.

    >>> waits([0.0, 0.0, 1.0], [3.0, 2.0, 1.0], servers=2)
    [0.0, 0.0, 1.0]
    """
    free = [0.0] * servers
    waited = []
    for arrival, seconds in zip(arrivals, times, strict=True):
        begin = max(arrival, free[0])
        heapq.heapreplace(free, begin + seconds)
        waited.append(begin - arrival)
    return waited
