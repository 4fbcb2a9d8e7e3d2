"""Replicas that have been at a task for too long: the task fails,
and the replica is to be killed. Pure logic.
"""

from __future__ import annotations

import math
from itertools import islice

from zflow.devices.balancing.actions import Action, Fail, Kill
from zflow.devices.balancing.replica import Replica
from zflow.devices.balancing.tasks import Tasks


class GivenUp(dict[int, tuple[float, bool]]):
    """Tasks that have ended while their replica may be at them, by id: when each was given to it,
    and if it waited.

    Args:
        tasks: all that have not ended.
    """

    def __init__(self, tasks: Tasks) -> None:
        super().__init__()
        self._tasks = tasks

    def overrun(self, replica: Replica, limit: float, now: float, again: bool) -> list[Action]:
        """Fail the tasks that the replica has been at for more than `limit` seconds,
        and have it killed.

        A replica that does not get done with what was given up is killed, too: nothing else would
        ever free it. What it has of a batch does not fail at once: when it is dead each task is
        tried again alone, and shows whose fault it is.

        Args:
            again: whether tasks may be tried again.
        """
        actions: list[Action] = []
        late = 0
        for id, task in list(islice(replica.held.items(), replica.working)):
            # Infinity: the replica is to be killed already.
            given_up = self.get(id, (math.inf, False))
            begun, waited = given_up if task is None else (task.assigned, task.waited)
            seconds = now - (max(begun, replica.last_done) if waited else begun)
            if seconds <= limit:
                continue
            late += 1
            self.pop(id, None)
            shared = again and len(replica.batch) > 1 and id in replica.batch
            if task is not None and not (shared and seconds < 2 * limit):
                del self._tasks[id]
                replica.held[id] = None
                actions.append(Fail(task, "overran", replica.name, seconds))
        if late and not replica.killed:
            replica.killed = True
            actions.append(Kill(replica))
        return actions
