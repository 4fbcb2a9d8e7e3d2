"""The replicas of one Executor by how many tasks they hold: which of them gets the next one.
Pure logic.
"""

from __future__ import annotations

from zflow.devices.balancing.replica import Replica


class Levels:
    """Replicas that have room, and how many tasks are parked with all of them together.

    Attributes:
        by_load: at n, the replicas with room that hold n tasks, the one that got there first in
            front.
        lowest: all before this one are empty.
        room: how many replicas have room.
        parked: tasks that replicas hold and cannot have begun.

    >>> a, b = Replica(b"a"), Replica(b"b")
    >>> levels = Levels()
    >>> for replica in (a, b):
    ...     levels.widen(replica)
    ...     levels.place(replica)
    >>> levels.least()
    Replica(b'a')
    """

    __slots__ = ("by_load", "lowest", "parked", "room")

    def __init__(self) -> None:
        self.by_load: list[dict[Replica, None]] = [{}]
        self.lowest = 0
        self.room = 0
        self.parked = 0

    @property
    def empty(self) -> dict[Replica, None]:
        """Those that hold nothing, and may be given something."""
        return self.by_load[0]

    def widen(self, replica: Replica) -> None:
        """Make room for a replica that may hold more tasks than any before it."""
        while len(self.by_load) < replica.widest:
            self.by_load.append({})

    def least(self) -> Replica | None:
        """The replica that holds fewest of those with room; None if there is none."""
        if not self.room:
            return None
        while not (level := self.by_load[self.lowest]):
            self.lowest += 1
        return next(iter(level))

    def of_shard(self, shard: int | None) -> Replica | None:
        """The replica of the shard that holds fewest of those with room; None if there is none."""
        return next(
            (replica for level in self.by_load for replica in level if replica.shard == shard), None
        )

    def peers(self, replica: Replica) -> int:
        """How many replicas hold as many tasks as this one, itself included, and have room."""
        return len(self.by_load[replica.level])

    def place(self, replica: Replica) -> None:
        """Put a replica where it belongs; call it after every change to what it holds or may
        hold.
        """
        if replica.level >= 0:
            del self.by_load[replica.level][replica]
            self.room -= 1
        held = len(replica.held) + replica.more
        working = replica.working if replica.batch else replica.slots
        parked = held - working if held > working else 0
        if parked != replica.parked:
            self.parked += parked - replica.parked
            replica.parked = parked
        if (
            not replica.lost
            and replica.slots
            and held < (1 if replica.alone or replica.batch else replica.window)
        ):
            self.by_load[held][replica] = None
            replica.level = held
            self.room += 1
            if held < self.lowest:
                self.lowest = held
        else:
            replica.level = -1

    def drop(self, replica: Replica) -> None:
        """Forget a replica."""
        if replica.level >= 0:
            del self.by_load[replica.level][replica]
            self.room -= 1
        self.parked -= replica.parked
