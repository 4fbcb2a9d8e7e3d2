"""The queue before an Executor: what any of its replicas may have. Pure logic.

It is made of several: one for all tasks that go one by one, and one for each kind that can be put
together. Clients take turns over all of them, and the one whose turn it is gets its oldest task
served. What can be put together with that one goes along, of all clients in turn, and costs nobody
a turn: it would fill no other batch sooner.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from zflow.devices.balancing.batches import Batches
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import BatchKey, Replica, Task
from zflow.devices.balancing.singles import Singles
from zflow.devices.balancing.tasks import Tasks

Queue = Singles | Batches


class TaskQueue:
    """What waits.

    Args:
        tasks: all that have not ended.
        levels: the replicas that have room.

    Attributes:
        singles: those that go one by one.
        batches: the others by what they have in common, none of them empty.

    >>> pairs = BatchKey("/encode", size=2)
    >>> queue = TaskQueue(Tasks(), Levels())
    >>> for number, batching in enumerate([pairs, None, pairs, pairs]):
    ...     queue.append(Task(number, batching=batching))
    >>> [queue.take(Replica(b"a"), now=0.0) for _ in range(3)]
    [[Task(0), Task(2)], [Task(1)], [Task(3)]]
    """

    __slots__ = ("_turns", "batches", "singles")

    def __init__(self, tasks: Tasks, levels: Levels) -> None:
        self.singles = Singles(tasks, levels)
        self.batches: dict[BatchKey, Batches] = {}
        # All clients of whom something waits, if there are batches. Else turns are what the singles
        # say, and cost nothing more.
        self._turns: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return sum(queue.size for queue in self._queues) if self.batches else self.singles.size

    def __bool__(self) -> bool:
        return self.singles.size > 0 or bool(self.batches)

    def append(self, task: Task) -> None:
        """Put one behind those of its client."""
        if task.batching is None and not self.batches:
            self.singles.append(task)
            return
        self._of(task).append(task)
        self._turns.setdefault(task.client)

    def appendleft(self, task: Task) -> None:
        """Put one in front of all."""
        self._of(task).appendleft(task)
        if self.batches:
            self._turns[task.client] = None
            self._turns.move_to_end(task.client, last=False)

    def remove(self, task: Task) -> None:
        """Take this one out.

        Raises:
            KeyError, ValueError: it is not there.
        """
        self._of(task).remove(task)
        self._left([task])

    def next(self, now: float) -> Task | None:
        """The one whose turn it is, of those that need not wait for others to fill their batch."""
        if not self.batches:
            return self.singles.head if self.singles.size else None
        turn = self._turn(now)
        return None if turn is None else turn[1].of(turn[0])[0]

    def take(self, replica: Replica, now: float) -> list[Task]:
        """Take out what a replica with room gets next; something must wait.

        Returns: a task, or several to be done in one go; none, if none is due,
        or the one that is had better wait.
        """
        if not self.batches:
            return self.singles.take(replica, now)
        turn = self._turn(now)
        if turn is None or not turn[1].suits(replica):
            return []
        client, queue = turn
        queue.prefer(client)
        tasks = queue.take(replica, now)
        if tasks:
            self._turns.move_to_end(client)
            self._left(tasks)
        return tasks

    def wake_after(self, now: float) -> float:
        """In how many seconds more will be due, if nothing else happens; infinity for never."""
        return min(
            (queue.due_at - now for queue in self.batches.values() if queue.due_at > now),
            default=math.inf,
        )

    @property
    def _queues(self) -> list[Queue]:
        return [self.singles, *self.batches.values()]

    def _of(self, task: Task) -> Queue:
        """Where the task stands, or is to."""
        key = task.batching
        if key is None:
            return self.singles
        queue = self.batches.get(key)
        if queue is None:
            if not self.batches:
                self._turns = OrderedDict.fromkeys(self.singles.clients)
            queue = self.batches[key] = Batches(key)
        return queue

    def _turn(self, now: float) -> tuple[Hashable, Queue] | None:
        """Whose turn it is, and where its oldest task is that is due."""
        due = [queue for queue in self._queues if queue.due_at <= now]
        for client in self._turns:
            queues = [queue for queue in due if client in queue.clients]
            if queues:
                return client, min(queues, key=lambda queue: queue.of(client)[0].id)
        return None

    def _left(self, tasks: Sequence[Task]) -> None:
        """These, which are of one kind, do not wait any more."""
        if not self.batches:
            return
        key = tasks[0].batching
        if key is not None and not self.batches[key].size:
            del self.batches[key]
        waiting = set[Hashable]().union(*(queue.clients for queue in self._queues))
        for client in {task.client for task in tasks} - waiting:
            del self._turns[client]
        if not self.batches:
            self.singles.order(self._turns)
            self._turns.clear()
