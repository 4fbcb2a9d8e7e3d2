"""Tasks that can be put together, of one kind: which of them go together, and when. Pure logic.

Clients take turns in a batch. A task is never cut, and none overtakes another of its client: the
first that does not fit ends the batch.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import BatchKey, Replica, Task


class Batches(FairQueue[Task]):
    """What waits of one kind.

    Args:
        key: what its tasks have in common.

    >>> pairs = BatchKey("/encode", size=2)
    >>> batches = Batches(pairs)
    >>> for number in range(3):
    ...     batches.append(Task(number, batching=pairs))
    >>> [batches.take(Replica(b"a"), now=0.0) for _ in range(2)]
    [[Task(0), Task(1)], [Task(2)]]
    """

    __slots__ = ("_docs", "_since", "key")

    def __init__(self, key: BatchKey) -> None:
        super().__init__()
        self.key = key
        self._docs = 0
        # If they have a timeout; who waits longest is in front.
        self._since: OrderedDict[int, Task] = OrderedDict()

    def append(self, item: Task) -> None:
        """Put one behind those of its client."""
        super().append(item)
        self._came(item)

    def appendleft(self, item: Task) -> None:
        """Put one in front of all."""
        super().appendleft(item)
        self._came(item)
        if item.id in self._since:
            self._since.move_to_end(item.id, last=False)

    def remove(self, item: Task) -> None:
        """Take this one out; raises as that of any queue."""
        super().remove(item)
        self._left(item)

    def _take(self, oldest: bool) -> Task:
        task = super()._take(oldest)
        self._left(task)
        return task

    def _came(self, task: Task) -> None:
        self._docs += task.docs
        if self.key.timeout:
            self._since[task.id] = task

    def _left(self, task: Task) -> None:
        self._docs -= task.docs
        self._since.pop(task.id, None)

    @property
    def due_at(self) -> float:
        """Since when, or from when on, they need not wait for others."""
        if not self._since or self._docs >= self.key.size:
            return -math.inf
        return next(iter(self._since.values())).assigned + self.key.timeout

    def suits(self, replica: Replica) -> bool:
        """Whether a replica with room can be given them: nothing goes along with a batch."""
        return not replica.held

    def take(self, replica: Replica, now: float) -> list[Task]:
        """Take the one whose turn it is, and those that go along with it,
        for a replica that they suit.
        """
        # How many will be done at once.
        together = max(1, min(self.size, self.key.size * self.size // self._docs))
        done_by = now + replica.work * together
        tasks = [self._pop(done_by)]
        room = self.key.size - tasks[0].docs
        while room > 0 and self.size and self._next(done_by).docs <= room:
            tasks.append(self._pop(done_by))
            room -= tasks[-1].docs
        return tasks

    def _next(self, done_by: float) -> Task:
        """The one whose turn it is. What cannot end in time any more lets the
        youngest of its client go first.
        """
        return self.head if self.head.deadline > done_by else self.tail

    def _pop(self, done_by: float) -> Task:
        return self.popleft() if self.head.deadline > done_by else self.pop()
