"""What waits for a replica of its shard: a queue for each shard. Pure logic.

A queue is looked at only while a replica of its shard has room, and only at its head: so what it
costs to give out a task does not grow with how many wait. Clients take turns in each of them,
as in the queue for all replicas.
"""

from __future__ import annotations

from collections.abc import Iterator

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import Replica, Task


class ShardQueues(dict[int | None, FairQueue[Task]]):
    """The queues by shard, none of them empty.

    Args:
        levels: the replicas that have room.

    Attributes:
        size: how many tasks wait in all of them together.

    >>> queues = ShardQueues(Levels())
    >>> for task in (Task(1, shard=0), Task(2, shard=1), Task(3, shard=0)):
    ...     queues.append(task)
    >>> {shard: len(queue) for shard, queue in queues.items()}
    {0: 2, 1: 1}
    """

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.size = 0
        self._levels = levels

    def append(self, task: Task) -> None:
        """Put one behind those of its shard and its client."""
        self._queue(task).append(task)
        self.size += 1

    def appendleft(self, task: Task) -> None:
        """Put one in front of all of its shard."""
        self._queue(task).appendleft(task)
        self.size += 1

    def _queue(self, task: Task) -> FairQueue[Task]:
        queue = self.get(task.shard)
        if queue is None:
            queue = self[task.shard] = FairQueue()
        return queue

    def discard(self, task: Task) -> None:
        """Take this one out if it is there."""
        queue = self.get(task.shard)
        if queue is not None:
            self.size -= len(queue)
            queue.discard(task)
            self._left(task.shard, queue)
            self.size += len(queue)

    def take(self) -> Iterator[tuple[Replica, Task]]:
        """Take out each one for which a replica has room, and yield it with that;
        it is given to it before the next.
        """
        for shard, queue in list(self.items()) if self._levels.room else ():
            while queue and (replica := self._levels.of_shard(shard)) is not None:
                task = queue.popleft()
                self.size -= 1
                self._left(shard, queue)
                yield replica, task

    def _left(self, shard: int | None, queue: FairQueue[Task]) -> None:
        """One does not wait any more."""
        if not queue:
            del self[shard]
