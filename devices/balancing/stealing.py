"""Work stealing: what waits at one replica is taken back from there and given to others.
Pure logic, no clock.

Of what a replica was given and has not begun is taken back:

- as soon as another replica holds nothing, what was *sent ahead*, the oldest first. It has a
  ticket, which whoever begins it has to take: so it is known not to have been begun.
- when the replica is stuck, whatever waits there, as much as others have room for, the last of it;
  and what waits without a ticket may have been begun after all, and then the first answer counts.
- a while later all that waits there, though others have no room.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from itertools import islice

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import Replica, Task

# Seconds a parked task waits, at least, before another replica may have it: longer than most
# hiccups.
PATIENCE = 0.005
STUCK = 0.05  # seconds it waits, at least, before it is taken back even if all others are busy


class SentAhead(dict[int, Task]):
    """The tasks that were sent ahead and are not known to have been begun, by id;
    the oldest in front.
    """

    def __init__(self) -> None:
        super().__init__()
        # Seconds of work that the quickest replica takes, of those that are sent tasks ahead.
        self._quickest = 0.0
        self._quickest_until = -math.inf  # when to look again which that is

    def oldest_at(self) -> Replica:
        """Who has the oldest of them.

        Raises:
            StopIteration: there is none.
        """
        holder = next(iter(self.values())).holder
        assert holder is not None
        return holder

    def begun(self, replica: Replica) -> None:
        """Nothing of what was sent ahead to the replica can be taken back."""
        for id in replica.held if self else ():
            self.pop(id, None)

    def soonest(
        self, level: int, levels: Levels, replicas: Iterable[Replica], now: float
    ) -> Replica | None:
        """Return a replica that may be sent a task ahead,
        of those with room that hold `level` tasks or more.

        Nothing is sent ahead to one that will be busy for longer than the quickest one needs for
        two tasks: others would have begun it before.
        """
        if now >= self._quickest_until:
            self._quickest_until = now + PATIENCE
            self._quickest = min(replica.work for replica in replicas if replica.ahead)
        # Then the quickest is done with what it has and what was sent ahead to it.
        soon = 2 * self._quickest
        found = (replica for some in levels.by_load[level:] for replica in some)
        return next((each for each in found if not each.ahead or each.busy_for(now) <= soon), None)


def _waits(replica: Replica, now: float) -> tuple[float, float]:
    """For how many seconds the first parked task has waited at the replica,
    and for how many it may.
    """
    first = replica.first_parked
    waited = 0.0 if first is None else now - max(first.assigned, replica.last_done)
    return waited, max(PATIENCE, 4 * replica.round_trip, 2 * replica.work)


def is_stuck(replica: Replica, now: float) -> bool:
    """Whether the replica has been longer at what it does than it usually is, and holds more."""
    waited, patience = _waits(replica, now)
    return waited >= patience


def stealable(
    replica: Replica, others: Iterable[Replica], ahead: Collection[int], now: float
) -> list[Task]:
    """Return the tasks of a stuck replica that are to be taken back, in its order.

    Args:
        others: all replicas; those that have no room do not count, nor does this one.
        ahead: the ids of tasks that were sent ahead and can be taken back;
            others that were are begun.
    """
    waited, patience = _waits(replica, now)
    parked = [
        task for task in islice(replica.held.values(), replica.working, None) if task is not None
    ]
    parked = [task for task in parked if not task.ahead or task.id in ahead]
    free = [other for other in others if other.level >= 0 and other is not replica]
    if waited < max(STUCK, 3 * patience):
        room = sum(other.window - other.level for other in free)
        parked = parked[max(0, len(parked) - room) :]  # the last ones it would begin
    shards = {None, *(other.shard for other in free)}
    return [task for task in parked if task.shard in shards]
