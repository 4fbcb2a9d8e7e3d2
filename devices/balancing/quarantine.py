"""Tasks that may have killed a replica: each travels alone,
so that the next crash has one suspect. Pure logic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import Replica, Task


class Quarantine(deque[Task]):
    """Quarantine that wait for a replica that holds nothing.

    Args:
        levels: the replicas that have room.

    Attributes:
        reserved: the replica that is kept from new work until it holds nothing,
            because they wait; None for none.
    """

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.reserved: Replica | None = None
        self._levels = levels

    def take(self) -> Iterator[tuple[Replica, Task]]:
        """Take out each one for which a replica is empty, and yield it with that;
        it is given to it before the next.
        """
        for task in list(self) if self._levels.empty else ():
            empty = (
                replica for replica in self._levels.empty if task.shard in (None, replica.shard)
            )
            if (replica := next(empty, None)) is not None:
                self.remove(task)
                replica.alone = True
                yield replica, task

    def reserve(self, replicas: Iterable[Replica]) -> None:
        """Keep one of these from new work if suspects wait, and none any longer if not."""
        if not self:
            self._keep(None)
        elif self.reserved is None:
            # The one that answered last is the least likely to be stuck.
            shards = {task.shard for task in self}
            some = [replica for replica in replicas if None in shards or replica.shard in shards]
            busy = [
                replica
                for replica in some
                if replica.slots and not replica.alone and not replica.lost
            ]
            self._keep(max(busy, key=lambda replica: replica.last_done, default=None))

    def _keep(self, replica: Replica | None) -> None:
        before, self.reserved = self.reserved, replica
        if before is not None:
            before.alone = False
            self._levels.place(before)
        if replica is not None:
            replica.alone = True
            self._levels.place(replica)

    def forget(self, replica: Replica) -> None:
        """This replica holds nothing, or is gone: if it was reserved, it is so no longer."""
        if replica is self.reserved:
            self.reserved = None
            replica.alone = False
