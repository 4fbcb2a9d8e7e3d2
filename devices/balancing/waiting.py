"""What waits for a replica of one Executor, and what of it goes next. Pure logic.

In the queue waits what any replica may have, in turns between clients. Apart from it wait tasks
that may have killed a replica, for one that holds nothing, and those for a replica of their shard
only, as parts of fan-outs are.
"""

from __future__ import annotations

from collections.abc import Sequence

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.quarantine import Quarantine
from zflow.devices.balancing.replica import Task
from zflow.devices.balancing.shards import ShardQueues
from zflow.devices.balancing.taskqueue import TaskQueue
from zflow.devices.balancing.tasks import Tasks


class Waiting:
    """All that waits.

    Args:
        tasks: all tasks that have not ended; bulks are cut there.
        levels: the replicas that have room.

    Attributes:
        queue: what any replica may have.
        shards: what waits for a replica of its shard.
        suspects: what waits for a replica that holds nothing.
    """

    __slots__ = ("queue", "shards", "suspects")

    def __init__(self, tasks: Tasks, levels: Levels) -> None:
        self.queue = TaskQueue(tasks, levels)
        self.shards = ShardQueues(levels)
        self.suspects = Quarantine(levels)

    def __len__(self) -> int:
        return len(self.queue) + len(self.suspects) + self.shards.size

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Put tasks that were sent before in front of all that wait, in their order."""
        for task in reversed(tasks):
            task.holder = None
            if task.suspect:
                self.suspects.appendleft(task)
            elif task.shard is None:
                self.queue.appendleft(task)
            else:
                self.shards.appendleft(task)

    def remove(self, task: Task) -> None:
        """Take out a task that has ended; one that is expected but not here yet does not matter."""
        # Whatever ends here is near the head as a rule: requests that came together end together.
        if task.suspect:
            self.suspects.remove(task)
        elif task.shard is None:
            self.queue.remove(task)
        else:
            self.shards.discard(task)
