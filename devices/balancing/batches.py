"""The queue before an Executor that takes requests in batches: which of them go together, and when. Pure logic.

As in the plain queue, clients take turns, and the one whose turn it is gets its oldest task served. What can be put
together with that one goes along, of all clients in turn, and costs nobody a turn: it would fill no other batch sooner.
A task is never cut, and none overtakes another of its client and its kind: the first that does not fit ends the batch.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import BatchKey, Task


class BatchQueue:
    """What waits, by what can be put together.

    Args:
        waiting: a plain queue that this one takes the place of; it is emptied.

    >>> pairs = BatchKey("/encode", size=2)
    >>> queue = BatchQueue(FairQueue())
    >>> for number, batching in enumerate([pairs, None, pairs, pairs]):
    ...     queue.append(Task(number, batching=batching))
    >>> [queue.take(now=0.0, empty=True, seconds=0.0) for _ in range(3)]
    [[Task(0), Task(2)], [Task(1)], [Task(3)]]
    """

    __slots__ = ("_lines", "_size", "_turns")

    def __init__(self, waiting: FairQueue[Task]) -> None:
        self._lines: dict[BatchKey | None, BatchLane] = {}  # none of them empty
        self._size = 0
        self._turns: OrderedDict[Any, int] = OrderedDict()  # how many tasks each client has; whose turn it is in front
        while waiting:
            self.append(waiting.popleft())

    def __len__(self) -> int:
        return self._size

    def append(self, task: Task) -> None:
        """Put one behind those of its client."""
        self._size += 1
        self._line(task.batching).append(task)
        self._turns[task.client] = self._turns.get(task.client, 0) + 1

    def appendleft(self, task: Task) -> None:
        """Put one in front of all."""
        self._size += 1
        self._line(task.batching).appendleft(task)
        self._turns[task.client] = self._turns.get(task.client, 0) + 1
        self._turns.move_to_end(task.client, last=False)

    def remove(self, task: Task) -> None:
        """Take this one out.

        Raises:
            KeyError, ValueError: it is not there.
        """
        line = self._lines[task.batching]
        line.queue.remove(task)
        self._left(line, task)

    def next(self, now: float) -> Task | None:
        """The one whose turn it is, of those that need not wait for others to fill their batch."""
        turn = self._turn(now)
        return None if turn is None else turn[1].queue.of(turn[0])[0]

    def take(self, now: float, empty: bool, seconds: float) -> list[Task]:
        """Take the one whose turn it is, and all that goes along with it.

        Args:
            empty: whether who is to get them holds nothing else, as a batch asks for.
            seconds: how long that needs for one task. If the oldest of a client cannot end in time any more, its
                youngest goes first: else, under overload, all would be late.

        Returns: the tasks; none, if none is due, or the one that is cannot be given to who is not empty.
        """
        turn = self._turn(now)
        if turn is None:
            return []
        client, line = turn
        if line.batching is not None and not empty:
            return []
        line.queue.prefer(client)
        tasks = line.take(now + seconds * line.together)
        self._turns.move_to_end(client)
        for task in tasks:
            self._left(line, task)
        return tasks

    def wake_after(self, now: float) -> float:
        """In how many seconds more will be due, if nothing else happens; infinity for never."""
        return min((line.due_at - now for line in self._lines.values() if line.due_at > now), default=math.inf)

    def _turn(self, now: float) -> tuple[Any, BatchLane] | None:
        """Whose turn it is, and where its oldest task is that is due."""
        due = [line for line in self._lines.values() if line.due_at <= now]
        for client in self._turns if due else ():
            lines = [line for line in due if line.queue.of(client)]
            if lines:
                return client, min(lines, key=lambda line: line.queue.of(client)[0].id)
        return None

    def _line(self, batching: BatchKey | None) -> BatchLane:
        line = self._lines.get(batching)
        if line is None:
            line = self._lines[batching] = BatchLane(batching)
        return line

    def _left(self, line: BatchLane, task: Task) -> None:
        """The task does not wait any more."""
        self._size -= 1
        line.left(task)
        if not line.queue:
            self._lines.pop(line.batching, None)
        self._turns[task.client] -= 1
        if not self._turns[task.client]:
            del self._turns[task.client]


class BatchLane:
    """Tasks that can be put together, or, with None, those that cannot be put together with any."""

    __slots__ = ("_docs", "_since", "batching", "queue")

    def __init__(self, batching: BatchKey | None) -> None:
        self.batching = batching
        self.queue: FairQueue[Task] = FairQueue()
        self._docs = 0
        self._since: OrderedDict[int, Task] = OrderedDict()  # the one that has been waiting longest in front

    def append(self, task: Task) -> None:
        """Put one behind those of its client."""
        self.queue.append(task)
        self._came(task)

    def appendleft(self, task: Task) -> None:
        """Put one in front of all."""
        self.queue.appendleft(task)
        self._came(task)
        if task.id in self._since:
            self._since.move_to_end(task.id, last=False)

    def _came(self, task: Task) -> None:
        self._docs += task.docs
        if self.batching is not None and self.batching.timeout:
            self._since[task.id] = task

    def left(self, task: Task) -> None:
        """It was taken out of the queue."""
        self._docs -= task.docs
        self._since.pop(task.id, None)

    @property
    def due_at(self) -> float:
        """Since when, or from when on, they need not wait for others."""
        if self.batching is None or not self._since or self._docs >= self.batching.size:
            return -math.inf
        return next(iter(self._since.values())).assigned + self.batching.timeout

    @property
    def together(self) -> int:
        """How many of them go together, about."""
        if self.batching is None:
            return 1
        return max(1, min(len(self.queue), self.batching.size * len(self.queue) // self._docs))

    def take(self, done_by: float) -> list[Task]:
        """Take one of the client whose turn it is, and those that go along with it, to be done by that time."""
        tasks = [self._pop(done_by)]
        room = 0 if self.batching is None else self.batching.size - tasks[0].docs
        while room > 0 and self.queue and self._next(done_by).docs <= room:
            tasks.append(self._pop(done_by))
            room -= tasks[-1].docs
        return tasks

    def _next(self, done_by: float) -> Task:
        head = self.queue.head
        return head if head.deadline > done_by else self.queue.tail

    def _pop(self, done_by: float) -> Task:
        return self.queue.popleft() if self.queue.head.deadline > done_by else self.queue.pop()
