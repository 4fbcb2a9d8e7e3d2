"""Replicas that rest: taken out of the competition for maintenance, and put back,
while their processes go on.

A replica that rests gets nothing new. Whoever asked for it is told
when it has finished what it had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zflow.devices.routing.pool import Actions, Pool
from zflow.devices.routing.walk import Origin

LONGEST = 2**53  # ms
MOST_WAITING = 64  # for a replica to finish what it has


def objection(timeout: object) -> str | None:
    """Why a command cannot have this as the time that it may take; None if it can, or has none."""
    if timeout is None or (type(timeout) is int and 1 <= timeout <= LONGEST):
        return None
    return f"timeout must be a whole number of ms from 1 to {LONGEST}, not {timeout!r:.80}"


class _Waiting(NamedTuple):
    """Somebody who waits until a replica has finished what it had."""

    origin: Origin
    pool: Pool
    name: bytes  # of the replica
    timeout: int | None  # ms
    until: float


class Draining:
    """The replicas that rest, and who waits for that.

    Args:
        pools: by name of their Executor.
        do: carries out what follows when a replica is taken out of the competition, or put back.
        tell: tells an origin what came of its command.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        do: Callable[[Pool, Actions], None],
        tell: Callable[[Origin, dict[str, object]], None],
    ) -> None:
        self._pools = pools
        self._do = do
        self._tell = tell
        self._waiting: list[_Waiting] = []
        # Names; a replica that is lost for another reason is not called back.
        self._resting: set[bytes] = set()

    @property
    def wait(self) -> float:
        """In how many seconds `tick` is to be called at the latest."""
        return (
            min(each.until for each in self._waiting) - time.monotonic()
            if self._waiting
            else math.inf
        )

    def begin(self, origin: Origin, command: str, replica: object, timeout: Any = None) -> None:
        """Let a replica rest (`'drain'`), which may take so many ms,
        or compete again (`'undrain'`).
        """
        if why := objection(timeout):
            self._tell(origin, {"error": why})
            return
        found = [
            (pool, name)
            for pool in self._pools.values()
            for name, text in pool.names.items()
            if text == replica
        ]
        if not found:
            known = sorted(text for pool in self._pools.values() for text in pool.names.values())
            self._tell(
                origin, {"error": f"no replica is called {replica!r:.200}; there are {known}"}
            )
            return
        pool, name = found[-1]
        if command == "undrain":
            if name in self._resting:
                self._resting.discard(name)
                self._compete(pool, name)
            self._tell(origin, {"replica": replica})
            return
        if len(self._waiting) >= MOST_WAITING:
            self._tell(
                origin,
                {"error": "too many replicas are being drained: wait until one of them is done"},
            )
            return
        others = [
            other for key, other in pool.balancer.replicas.items() if key != name and not other.lost
        ]
        if not any(other.shard == pool.balancer.replicas[name].shard for other in others):
            self._tell(
                origin,
                {"error": f"{replica} is the last one that serves its requests: scale up first"},
            )
            return
        self._resting.intersection_update(
            key for pool in self._pools.values() for key in pool.names
        )
        self._resting.add(name)
        self._do(pool, pool.lose(name, time.monotonic()))
        until = math.inf if timeout is None else time.monotonic() + timeout / 1000
        self._waiting.append(_Waiting(origin, pool, name, timeout, until))
        self.tick()

    def tick(self) -> None:
        """Tell those whose replica has finished what it had, or is gone,
        and those who have waited for too long.
        """
        for each in list(self._waiting):
            replica = each.pool.balancer.replicas.get(each.name)
            if replica is None or not replica.held:
                self._waiting.remove(each)
                self._tell(each.origin, {"replica": each.pool.names.get(each.name, "it is gone")})
            elif each.until <= time.monotonic():
                self._waiting.remove(each)
                self._give_up(each)

    def _compete(self, pool: Pool, name: bytes) -> None:
        self._do(pool, pool.find(name, time.monotonic())[1])

    def _give_up(self, waiting: _Waiting) -> None:
        """Let the replica compete again, unless somebody else still waits for it to rest."""
        _, pool, name, timeout, _ = waiting
        if name in self._resting and all(other.name != name for other in self._waiting):
            self._resting.discard(name)
            self._compete(pool, name)
        error = (
            f"{pool.names.get(name, 'it')} was not done with what it had within "
            f"timeout={timeout} ms, and goes on"
        )
        self._tell(waiting.origin, {"error": error})
