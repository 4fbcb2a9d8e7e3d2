"""What the replicas of one Executor hold, and how it is taken from there. Pure logic, no clock.

A task is taken from its replica when it is answered or has ended otherwise, and when another one is
to have it. What has ended keeps its place where the replica may have begun it, until that answers.
Who gets what is for the balancer to say, and so is who gets the room that is made here.
"""

from __future__ import annotations

from itertools import islice

from zflow.devices.balancing.actions import Action, Fail, Recall
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.overruns import GivenUp
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.stealing import SentAhead, is_stuck, stealable
from zflow.devices.balancing.tasks import Tasks
from zflow.devices.balancing.waiting import Waiting


class Holdings:
    """The replicas, and what they hold.

    Args:
        tasks: all that have not ended; bulks are taken apart there.
        levels: the replicas that have room.
        waiting: where what is taken back goes.

    Attributes:
        replicas: all of them, by name.
        given_up: what replicas hold as None.
        ahead: what was sent ahead to them and is not known to have been begun.
    """

    __slots__ = ("_levels", "_tasks", "_waiting", "ahead", "given_up", "replicas")

    def __init__(self, tasks: Tasks, levels: Levels, waiting: Waiting) -> None:
        self.replicas: dict[bytes, Replica] = {}
        self.given_up = GivenUp(tasks)
        self.ahead = SentAhead()
        self._tasks = tasks
        self._levels = levels
        self._waiting = waiting

    def drop(self, name: bytes) -> Replica | None:
        """Forget a replica, and return it with what it holds; None if there is none of that
        name.
        """
        replica = self.replicas.pop(name, None)
        if replica is not None:
            self._levels.drop(replica)
            self.ahead.begun(replica)
            self._waiting.suspects.forget(replica)
            for id in (
                [id for id, task in replica.held.items() if task is None] if self.given_up else ()
            ):
                self.given_up.pop(id, None)
        return replica

    def release(self, replica: Replica, id: int) -> Task | None:
        """Take a task from the replica that holds it, and return it; None if it was given up.

        The replica is to be placed in its level then.
        """
        held = replica.held.pop(id)
        if held is not None:
            replica.more -= held.count - 1
        if self.ahead:
            self.ahead.pop(id, None)
        if replica.batch:
            replica.batch.discard(id)
        if held is None:
            self.given_up.pop(id, None)
        if replica.alone and not replica.held:
            replica.alone = False
            self._waiting.suspects.forget(replica)
        return held

    def withdraw(self, task: Task) -> list[Action]:
        """Remove a task that has ended from where it is; a replica that may have begun it stays
        occupied.
        """
        replica = task.holder
        if replica is None:
            self._waiting.remove(task)
            return []
        self._tasks.take_apart_held(replica)
        if task.id in self.ahead:
            taken = self.reclaim(replica, task)
            begun = task not in taken
            self._waiting.put_back([other for other in taken if other is not task])
            actions: list[Action] = [Recall(replica, other) for other in taken]
        else:
            begun = task.ahead or task.id in islice(replica.held, replica.working)
            actions = [] if begun else [Recall(replica, task)]
        if begun:
            replica.held[task.id] = None
            self.given_up[task.id] = task.assigned, task.waited
        else:
            replica.held.pop(task.id, None)
            self._levels.place(replica)
        return actions

    def expire(self, now: float) -> list[Action]:
        """End all that is late: one task of a bulk at a time."""
        actions: list[Action] = []
        while (task := self._tasks.due(now)) is not None:
            if task.count > 1:
                task = self.take_apart(task)[0]
            del self._tasks[task.id]
            holder = task.holder
            if holder is not None:
                self._tasks.take_apart_held(holder)
            begun = holder is not None and task.id in islice(holder.held, holder.working)
            seconds = now - task.assigned
            actions.append(
                Fail(task, "expired", None if holder is None else holder.name, seconds, begun)
            )
            actions.extend(self.withdraw(task))
        return actions

    def take_apart(self, task: Task) -> list[Task]:
        """Put its tasks in the place of a bulk, which may also wait, and return them."""
        return (
            self._waiting.queue.singles.take_apart(task)
            if task.holder is None
            else self._tasks.take_apart(task)
        )

    def reclaim(self, replica: Replica, last: Task | None = None) -> list[Task]:
        """Take back what was sent ahead to the replica and is not begun: the first such task, or
        all up to `last`.

        The first may be one whose turn it is already, but which has not got there.
        """
        taken: list[Task] = []
        assert replica.tickets is not None
        while not taken or last not in (None, taken[-1]):
            id = replica.tickets.reclaim()
            if id is None:
                self.ahead.begun(replica)
                break
            if id in replica.held and (task := self.release(replica, id)) is not None:
                taken.append(task)
        self._levels.place(replica)
        return taken

    def take_back(self, replica: Replica, now: float) -> list[Action]:
        """Take back what is `stealable` if the replica is stuck; it gets no more to park until it
        answers.
        """
        if not is_stuck(replica, now):
            return []
        self._tasks.take_apart_held(replica)
        tasks = stealable(replica, self.replicas.values(), self.ahead, now)
        ahead = [task for task in tasks if task.ahead]
        taken = self.reclaim(replica, ahead[-1]) if ahead else []  # but for those that it has begun
        for task in tasks:
            if not task.ahead:  # it may have begun these, too, but who could tell
                del replica.held[task.id]
                taken.append(task)
        if taken:
            replica.window = replica.slots
            self._levels.place(replica)
            self._waiting.put_back(taken)
        return [Recall(replica, task) for task in taken]
