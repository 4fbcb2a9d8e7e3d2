"""Balancers that are wrong, each in one way: the simulation has to notice.

What they override is the balancer's own business, so a change to it may ask for one here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zflow.devices.balancing.actions import Action
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.holdings import Holdings
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import Cut, Replica, Task
from zflow.devices.balancing.taskqueue import TaskQueue
from zflow.devices.balancing.tasks import Tasks
from zflow.devices.balancing.waiting import Waiting


def _furnish(
    balancer: Balancer,
    tasks: Tasks | None = None,
    levels: Levels | None = None,
    waiting: type[Waiting] = Waiting,
    holdings: type[Holdings] = Holdings,
) -> None:
    """Make a new balancer of these parts."""
    balancer.tasks = balancer.tasks if tasks is None else tasks
    balancer._levels = levels or balancer._levels
    balancer._waiting = waiting(balancer.tasks, balancer._levels)
    held = balancer._holdings = holdings(balancer.tasks, balancer._levels, balancer._waiting)
    balancer.replicas, balancer.given_up, balancer._ahead = held.replicas, held.given_up, held.ahead


class Forgetful(Balancer):
    """Forgets one of the tasks that a lost replica held."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, waiting=_Leaky)


class _Leaky(Waiting):
    def put_back(self, tasks: Sequence[Task]) -> None:
        """Drop the last one."""
        super().put_back(tasks[:-1])


class Greedy(Balancer):
    """Fills a replica beyond its window."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, levels=_Wide())


class _Wide(Levels):
    def place(self, replica: Replica) -> None:
        """Look at a window that is wider."""
        window, widest = replica.window, replica.widest
        if not replica.alone:
            replica.window = min(window + 1, widest)
        super().place(replica)
        replica.window = window


class Doubling(Balancer):
    """Takes a late answer for a first one."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        self._ended: dict[int, Task] = {}

    def finish(
        self, name: Any, id: int, service: float, now: float, count: int = 1
    ) -> tuple[Task | None, list[Action]]:
        """Answer it again."""
        task, actions = super().finish(name, id, service, now, count)
        if task is not None:
            self._ended[id] = task
        return task or self._ended.get(id), actions


class Shardless(Balancer):
    """Gives a shard's part to whoever has room."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, levels=_Blind())


class _Blind(Levels):
    def of_shard(self, shard: int | None) -> Replica | None:
        """Look at none of them."""
        return self.least()


class Timeless(Balancer):
    """Loses every tenth deadline."""

    def submit(self, task: Task, now: float) -> list[Action]:
        """Forget when it ends."""
        if task.id % 10 == 0:
            task.deadline = math.inf
        return super().submit(task, now)


class Generous(Balancer):
    """Tries a task that kills replicas once more than it may."""

    def crash(self, name: Any, now: float, blame: bool = True, how: str = "") -> list[Action]:
        """Look away for a moment."""
        self.retries += 1
        actions = super().crash(name, now, blame, how)
        self.retries -= 1
        return actions


class Careless(Balancer):
    """Sends tasks that are under suspicion like all others."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, waiting=_Trusting)


class _Trusting(Waiting):
    def put_back(self, tasks: Sequence[Task]) -> None:
        """Suspect none of them."""
        for task in tasks:
            task.suspect = False
        super().put_back(tasks)


class Lazy(Balancer):
    """Leaves tasks in the queue when an answer has made room."""

    def finish(
        self, name: Any, id: int, service: float, now: float, count: int = 1
    ) -> tuple[Task | None, list[Action]]:
        """Look at the queue another time."""
        waiting, self._waiting.queue = self._waiting.queue, TaskQueue(self.tasks, self._levels)
        try:
            return super().finish(name, id, service, now, count)
        finally:
            self._waiting.queue = waiting


class Unfair(Balancer):
    """First come, first served, whoever floods."""

    def submit(self, task: Task, now: float) -> list[Action]:
        """Forget whose it is."""
        task.client = None
        return super().submit(task, now)


class Patient(Balancer):
    """Lets replicas be at a request for twice as long as they may."""

    def overrun(self, limit: float, now: float) -> list[Action]:
        """Give it some more time."""
        return super().overrun(2 * limit, now)


class Hasty(Balancer):
    """Has replicas killed before their time is over."""

    def overrun(self, limit: float, now: float) -> list[Action]:
        """Give it less time."""
        return super().overrun(0.9 * limit, now)


class Cramming(Balancer):
    """Gives batches to replicas that are at something else."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        self._waiting.queue = _Crammed(self.tasks, self._levels)


class _Crammed(TaskQueue):
    def take(self, replica: Replica, now: float) -> list[Task]:
        """Take any replica for one that holds nothing."""
        held, replica.held = replica.held, {}
        try:
            return super().take(replica, now)
        finally:
            replica.held = held


class Wasteful(Balancer):
    """Cuts off what has no room, and throws some of it away."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, tasks=_Scattered(cut))


class _Scattered(Tasks):
    def cut(self, task: Task, count: int) -> Task:
        """Cut off one more."""
        head = super().cut(task, count)
        if task.holder is None and task.count > 3:
            super().cut(task, 1)
        return head


class Grasping(Balancer):
    """Gives what was sent ahead to others without asking whether it is begun."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, holdings=_Snatching)


class _Snatching(Holdings):
    def reclaim(self, replica: Replica, last: Task | None = None) -> list[Task]:
        """Leave the ticket where it is."""
        task = next(task for task in self.ahead.values() if task.holder is replica)
        self.release(replica, task.id)
        self._levels.place(replica)
        return [task]


class Stubborn(Balancer):
    """Believes a replica that died to have been at all of a bulk."""

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        super().__init__(retries, cut)
        _furnish(self, tasks=_Whole(cut))


class _Whole(Tasks):
    def take_apart_held(self, replica: Replica) -> None:
        """Leave it as it is."""


ALL = (
    *(
        Forgetful,
        Greedy,
        Doubling,
        Shardless,
        Timeless,
        Generous,
        Careless,
        Lazy,
        Unfair,
        Patient,
        Hasty,
        Cramming,
    ),
    *(Wasteful, Grasping, Stubborn),
)
BROKEN = {kind.__name__: kind for kind in ALL}
