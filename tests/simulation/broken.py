"""Balancers that are wrong, each in one way: the simulation has to notice.

What they override is the balancer's own business, so a change to it may ask for one here.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from zflow.devices.balancer import Action, Balancer, Replica, Task


class Forgetful(Balancer):
    """Forgets one of the tasks that a lost replica held."""

    def _requeue(self, tasks: list[Task]) -> None:
        super()._requeue(tasks[:-1])


class Greedy(Balancer):
    """Fills a replica beyond its window."""

    def _place(self, replica: Replica) -> None:
        window, widest = replica.window, replica.widest
        if not replica.alone:
            replica.window = min(window + 1, widest)
        super()._place(replica)
        replica.window = window


class Doubling(Balancer):
    """Takes a late answer for a first one."""

    def __init__(self, retries: int = 3) -> None:
        super().__init__(retries)
        self._ended: dict[int, Task] = {}

    def finish(self, name: Any, id: int, service: float, now: float) -> tuple[Task | None, list[Action]]:
        """Answer it again."""
        task, actions = super().finish(name, id, service, now)
        if task is not None:
            self._ended[id] = task
        return task or self._ended.get(id), actions


class Shardless(Balancer):
    """Gives a shard's part to whoever has room."""

    def _of_shard(self, shard: int | None) -> Replica | None:
        return self._least_held()


class Timeless(Balancer):
    """Loses every tenth deadline."""

    def submit(self, task: Task, now: float) -> list[Action]:
        """Forget when it ends."""
        if task.id % 10 == 0:
            task.deadline = math.inf
        return super().submit(task, now)


class Generous(Balancer):
    """Tries a task that kills replicas once more than it may."""

    def crash(self, name: Any, now: float) -> list[Action]:
        """Look away for a moment."""
        self.retries += 1
        actions = super().crash(name, now)
        self.retries -= 1
        return actions


class Careless(Balancer):
    """Sends tasks that are under suspicion like all others."""

    def _requeue(self, tasks: list[Task]) -> None:
        for task in tasks:
            task.suspect = False
        super()._requeue(tasks)


class Lazy(Balancer):
    """Leaves tasks in the queue when an answer has made room."""

    def finish(self, name: Any, id: int, service: float, now: float) -> tuple[Task | None, list[Action]]:
        """Look at the queue another time."""
        waiting, self._queue = self._queue, deque()
        try:
            return super().finish(name, id, service, now)
        finally:
            self._queue.extend(waiting)


BROKEN = {kind.__name__: kind for kind in (Forgetful, Greedy, Doubling, Shardless, Timeless, Generous, Careless, Lazy)}
