"""Tasks that are not put together: which goes next, and how much of a bulk. Pure logic."""

from __future__ import annotations

import math

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.tasks import Tasks


class Singles(FairQueue[Task]):
    """What waits, single tasks and bulks.

    Args:
        tasks: all that have not ended; bulks are cut there.
        levels: the replicas that have room: they share bulks.
    """

    __slots__ = ("_levels", "_tasks")

    due_at = -math.inf  # none of them waits for others

    def __init__(self, tasks: Tasks, levels: Levels) -> None:
        super().__init__()
        self._tasks = tasks
        self._levels = levels

    def suits(self, replica: Replica) -> bool:
        """Whether a replica with room can be given them."""
        return True

    def take(self, replica: Replica, now: float) -> list[Task]:
        """Take the one whose turn it is, or as much of a bulk as the replica, which has room,
        is to have.

        Returns: that one; none if it is a bulk that had better wait.
        """
        head = self.head
        # What cannot end in time any more lets the youngest go first: else, under overload, all
        # would be late.
        if head.deadline <= now + replica.work * (1 + replica.level // replica.slots):
            if self.tail.count > 1:
                self.take_apart(self.tail)
            return [self.pop()]
        if head.count == 1:
            return [self.popleft()]
        if replica.had_better_wait(head.count):
            return []
        task = self.popleft()
        share = replica.share(task.count, self._levels.peers(replica))
        if share < task.count:
            rest, task = task, self._tasks.cut(task, share)
            self.put_back(rest)
        return [task]

    def take_apart(self, task: Task) -> list[Task]:
        """Put its tasks in the place of a bulk, and return them."""
        pieces = self._tasks.pieces(task)
        self.replace(task, pieces)
        return pieces
