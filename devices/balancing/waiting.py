"""What waits for a replica of one Executor, and what of it goes next. Pure logic.

In the queue waits what any replica may have, in turns between clients. Apart from it wait tasks that may have killed a
replica, for one that holds nothing, and those for a replica of their shard only, as parts of fan-outs are.
"""

from __future__ import annotations

from collections.abc import Sequence

from zflow.devices.balancing.batches import BatchQueue
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.quarantine import Quarantine
from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.shards import ShardQueues
from zflow.devices.balancing.tasks import Tasks


class Waiting:
    """All that waits.

    Args:
        tasks: all tasks that have not ended; bulks are cut there.
        levels: the replicas that have room.

    Attributes:
        queue: what any replica may have.
        batches: the same queue, once there are tasks that can be put together; before, None.
        shards: what waits for a replica of its shard.
        suspects: what waits for a replica that holds nothing.
    """

    __slots__ = ("_levels", "_tasks", "batches", "queue", "shards", "suspects")

    def __init__(self, tasks: Tasks, levels: Levels) -> None:
        self.queue: FairQueue[Task] | BatchQueue = FairQueue()
        self.batches: BatchQueue | None = None
        self.shards = ShardQueues(levels)
        self.suspects = Quarantine(levels)
        self._tasks = tasks
        self._levels = levels

    def __len__(self) -> int:
        return len(self.queue) + len(self.suspects) + self.shards.size

    def oldest(self, now: float) -> int | None:
        """The id of the task at the head of those that any replica may have, or None."""
        if isinstance(self.queue, FairQueue):
            return self.queue.head.id if self.queue else None
        task = self.queue.next(now)
        return None if task is None else task.id

    def append(self, task: Task) -> None:
        """Put a task that any replica may have behind those of its client."""
        if task.batching is not None and self.batches is None:
            self._begin_batches()
        self.queue.append(task)

    def _begin_batches(self) -> None:
        """Tasks can be put together from now on, which is seen of each one alone."""
        queue = self.queue
        assert isinstance(queue, FairQueue)
        for task in list(self._tasks.values()):
            if task.count > 1 and task.holder is None:
                self.take_apart(task)
        self.queue = self.batches = BatchQueue(queue)

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Put tasks that were sent before in front of all that wait, in their order."""
        for task in reversed(tasks):
            task.holder = None
            if task.count > 1 and self.batches is not None:
                self.put_back(self._tasks.pieces(task))
            elif task.suspect:
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

    def take_apart(self, task: Task) -> list[Task]:
        """Put its tasks in the place of a bulk in the queue, and return them."""
        assert isinstance(self.queue, FairQueue)  # there are no bulks where there are batches
        pieces = self._tasks.pieces(task)
        self.queue.replace(task, pieces)
        return pieces

    def take(self, replica: Replica, now: float) -> list[Task]:
        """Take out of the queue, which is not empty, what a replica with room gets next.

        Returns one task, or several that are to be done in one go; none if what is due had better wait.
        """
        queue = self.queue
        if isinstance(queue, BatchQueue):
            return queue.take(now, not replica.held, replica.work)
        head = queue.head
        # What cannot end in time any more lets the youngest go first: else, under overload, all would be late.
        if head.deadline <= now + replica.work * (1 + replica.level // replica.slots):
            if queue.tail.count > 1:
                self.take_apart(queue.tail)
            return [queue.pop()]
        if head.count == 1:
            return [queue.popleft()]
        if replica.had_better_wait(head.count):
            return []
        task = queue.popleft()
        share = replica.share(task.count, self._levels.peers(replica))
        if share < task.count:
            rest, task = task, self._tasks.cut(task, share)
            queue.put_back(rest)
        return [task]
