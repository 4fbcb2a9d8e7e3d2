"""The tasks of one Executor that have not ended, by id, and when they are to have ended.
Pure logic.

Bulks are cut here: both parts are tasks then, with ids and deadlines of their own.
"""

from __future__ import annotations

import heapq
import math

from zflow.devices.balancing.replica import Cut, Replica, Task


class Tasks(dict[int, Task]):
    """All tasks that have not ended; whoever ends one takes it out.

    Args:
        cut: cuts the payload of a bulk; None where there are none.

    Attributes:
        deadlines: a heap of deadlines and ids, also of tasks that have ended meanwhile.

    >>> tasks = Tasks(lambda payload, count: (payload[:count], payload[count:]))
    >>> bulk = Task(7, "abc", deadline=1.0, count=3)
    >>> tasks.add(bulk)
    >>> [(task.id, task.payload) for task in tasks.pieces(bulk)]
    [(7, 'a'), (8, 'b'), (9, 'c')]
    >>> tasks.due(now=1.0)
    Task(7)
    """

    def __init__(self, cut: Cut | None = None) -> None:
        super().__init__()
        self._cut = cut
        self.deadlines: list[tuple[float, int]] = []

    @property
    def can_be_cut(self) -> bool:
        """Whether there may be bulks."""
        return self._cut is not None

    def add(self, task: Task) -> None:
        """Take in a task."""
        self[task.id] = task
        if task.deadline != math.inf:
            # Most of them are of tasks that have ended.
            if len(self.deadlines) > 2 * len(self) + 64:
                self.deadlines = sorted(entry for entry in self.deadlines if entry[1] in self)
            heapq.heappush(self.deadlines, (task.deadline, task.id))

    def due(self, now: float) -> Task | None:
        """The next task, or bulk, whose deadline is over; each deadline is returned once."""
        while self.deadlines and self.deadlines[0][0] <= now:
            task = self.get(heapq.heappop(self.deadlines)[1])
            if task is not None:
                return task
        return None

    def cut(self, task: Task, count: int) -> Task:
        """Return a task for the first `count` of a bulk;
        the given one is for the others from now on.
        """
        assert self._cut is not None
        head = task.cut(count, self._cut)
        self[head.id] = head
        self.add(task)
        return head

    def pieces(self, task: Task) -> list[Task]:
        """Cut a bulk into its tasks."""
        return [*(self.cut(task, 1) for _ in range(task.count - 1)), task]

    def take_apart(self, task: Task) -> list[Task]:
        """Cut a bulk that a replica holds into its tasks, which that holds in its place."""
        id, holder = task.id, task.holder
        pieces = self.pieces(task)
        if holder is not None:
            holder.put(id, pieces)
        return pieces

    def take_apart_held(self, replica: Replica) -> None:
        """Take apart all bulks that the replica holds."""
        for task in list(replica.held.values()) if replica.more else ():
            if task is not None and task.count > 1:
                self.take_apart(task)

    def fit(self, replica: Replica, id: int, count: int) -> int:
        """The replica has answered so many tasks from this one on;
        returns how many can be finished as one.
        """
        if not replica.more:
            return 1
        task = replica.held.get(id)
        if task is None:
            if id not in replica.held:
                self.take_apart_held(replica)  # it may be somewhere in a bulk
            return 1
        if task.count > count:
            replica.put(id, [self.cut(task, count), task])
            return count
        return task.count
