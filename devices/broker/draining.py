"""Replicas that rest: taken out of the competition for maintenance, and put back, while their processes go on.

A replica that rests gets nothing new. Whoever asked for it is told when it has finished what it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zflow.devices.routing.pool import Pool

MOST_WAITING = 64  # for a replica to finish what it has


class Draining:
    """The replicas that rest, and who waits for that.

    Args:
        pools: by name of their Executor.
        lose, find: take a replica out of the competition and put it back.
        tell: tells an origin what came of its command.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        lose: Callable[[Pool, Any], None],
        find: Callable[[Pool, Any], Any],
        tell: Callable[[Any, dict[str, Any]], None],
    ) -> None:
        self._pools = pools
        self._lose = lose
        self._find = find
        self._tell = tell
        self._waiting: list[tuple[Any, Pool, Any]] = []  # (origin, pool, name)
        self._resting: set[Any] = set()  # names; a replica that is lost for another reason is not called back

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def begin(self, origin: Any, command: str, replica: Any) -> None:
        """Let a replica rest (`'drain'`) or compete again (`'undrain'`)."""
        found = [(pool, name) for pool in self._pools.values() for name, text in pool.names.items() if text == replica]
        if not found:
            known = sorted(text for pool in self._pools.values() for text in pool.names.values())
            self._tell(origin, {"error": f"no replica is called {replica!r:.200}; there are {known}"})
            return
        pool, name = found[-1]
        if command == "undrain":
            if name in self._resting:
                self._resting.discard(name)
                self._find(pool, name)
            self._tell(origin, {"replica": replica})
            return
        if len(self._waiting) >= MOST_WAITING:
            self._tell(origin, {"error": "too many replicas are being drained: wait until one of them is done"})
            return
        others = [other for key, other in pool.balancer.replicas.items() if key != name and not other.lost]
        if not any(other.shard == pool.balancer.replicas[name].shard for other in others):
            self._tell(origin, {"error": f"{replica} is the last one that serves its requests: scale up first"})
            return
        self._resting.intersection_update(key for pool in self._pools.values() for key in pool.names)
        self._resting.add(name)
        self._lose(pool, name)
        self._waiting.append((origin, pool, name))
        self.tick()

    def tick(self) -> None:
        """Tell those whose replica has finished what it had, or is gone."""
        for entry in list(self._waiting):
            origin, pool, name = entry
            replica = pool.balancer.replicas.get(name)
            if replica is None or not replica.held:
                self._waiting.remove(entry)
                self._tell(origin, {"replica": pool.names.get(name, "it is gone")})
