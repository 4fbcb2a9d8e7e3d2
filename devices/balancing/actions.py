"""What the balancer says is to be done: pure data, which whoever owns the sockets carries out."""

from __future__ import annotations

from typing import NamedTuple

from zflow.devices.balancing.replica import Replica, Task


class Send(NamedTuple):
    """Send the task to the replica."""

    replica: Replica
    task: Task


class SendAhead(NamedTuple):
    """Send the task to the replica, which is busy,
    and which is to begin it only if it gets its ticket.
    """

    replica: Replica
    task: Task
    ticket: int


class SendBatch(NamedTuple):
    """Send the tasks to the replica, to be worked on in one go."""

    replica: Replica
    tasks: list[Task]


class Recall(NamedTuple):
    """Tell the replica to skip the task if it has not begun it."""

    replica: Replica
    task: Task


class Fail(NamedTuple):
    """The task has ended without a result.

    `reason` is `'crashed'`, `'expired'` or `'overran'`; a pool has more of them.
    """

    task: Task
    reason: str
    held_by: bytes | None = None  # the name of the replica that had it, if one had
    seconds: float = 0.0  # for how long that had it, or it was queued
    begun: bool = True  # whether that had begun it, as far as can be told


class Kill(NamedTuple):
    """End the replica's process: it has been at a task for too long."""

    replica: Replica


Action = Send | SendAhead | SendBatch | Recall | Fail | Kill
