"""Tasks that only some replicas may have from now on, or that any may have again. Pure logic,
no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from zflow.devices.balancing.actions import Action, Recall
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import Task


def redirect(
    balancer: Balancer, tasks: Sequence[Task], shard: int | None, now: float
) -> list[Action]:
    """Let only replicas of this shard have these tasks, none of which is a bulk; None: any replica.

    A replica that has begun one, or holds it without a ticket, keeps it.
    """
    actions: list[Action] = []
    for task in tasks:
        if task.holder is not None and task.ahead:
            holder = task.holder
            taken = balancer._holdings.reclaim(
                holder, task
            )  # else whoever is empty next would get it
            balancer._waiting.put_back(taken)
            actions += [Recall(holder, one) for one in taken]
    waiting = [task for task in tasks if task.holder is None]
    for task in waiting:
        balancer._waiting.remove(task)
    for task in tasks:
        task.shard = shard
    balancer._waiting.put_back(waiting)
    return actions + balancer._dispatch(now)
