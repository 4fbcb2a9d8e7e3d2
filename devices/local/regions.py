"""Which process writes to which region of a Flow's shared memory. For the process manager,
which starts them all.
"""

from __future__ import annotations

import contextlib

from zflow.devices.local.arena import CLIENT, Arena
from zflow.devices.protocol.references import REGIONS


class Regions:
    """Which process has which region; for the process manager,
    which alone starts processes that write.

    Args:
        arena: the manager's view.
    """

    #: Seconds after its owner's end before a region is looked at: what that has said last may still
    #: reach the broker.
    AFTER = 1.0

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._busy: set[int] = {CLIENT}
        # Regions whose owners have ended, and when they are to be looked at.
        self._left: dict[int, float] = {}

    def deal(self) -> int:
        """Return a region for a new process: the first that is free."""
        region = next(number for number in range(REGIONS) if number not in self._busy)
        self._busy.add(region)
        return region

    def ended(self, region: int, now: float) -> None:
        """The region's owner has ended."""
        self._left[region] = now + self.AFTER

    @property
    def timers(self) -> list[float]:
        """When `reclaim` is to be called."""
        return list(self._left.values())

    def reclaim(self, now: float) -> None:
        """Free the regions whose time has come; what requests still need is looked at again
        later.
        """
        for region in [region for region, at in self._left.items() if at <= now]:
            free = False
            # It cannot be looked at now: there are too many files or mappings.
            with contextlib.suppress(OSError):
                free = self._arena.reclaim(region)
            if free:
                del self._left[region]
                self._busy.discard(region)
            else:
                self._left[region] = now + self.AFTER
