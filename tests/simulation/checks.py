"""What must hold inside a pool between two turns of the broker.
Only this module looks at private parts.

`nobody_waits` is cheap enough for most turns, `agrees` goes through everything,
`empty` is for the end.
"""

from __future__ import annotations

from collections import Counter

from zflow.devices.balancing.replica import BatchKey
from zflow.devices.routing.fanout import ALONE_LIMIT

from .ledger import Violation
from .watch import Holding, Part, WatchedPool


def nobody_waits(pool: WatchedPool, now: float) -> None:
    """No task waits while a replica has room for it, and no fan-out while a group has nothing."""
    balancer = pool.balancer
    pool.learn()
    if balancer.queued:
        waiting = [part for part in pool.open.values() if part.holder is None and part.released]
        ordinary = {part.shard for part in waiting if not part.suspect}
        suspects = {part.shard for part in waiting if part.suspect}
        batches = {
            part.batching for part in waiting if part.batching is not None and not part.suspect
        }
        due = any(_is_due(kind, waiting, now - pool.slack) for kind in batches)
        for holding in pool.holdings.values():
            replica = holding.replica
            if holding.lost:
                continue
            if not holding.held and (None in suspects or replica.shard in suspects):
                raise Violation(
                    f"{holding.name!r} holds nothing, but suspects wait: {_some(waiting)}"
                )
            if due and not holding.held and not replica.alone:
                raise Violation(
                    f"{holding.name!r} holds nothing, but batches wait: {_some(waiting)}"
                )
            if batches or holding.together:
                # What can be put together waits for an empty replica, and others wait behind it.
                continue
            # What is sent ahead is when it is worth it.
            must = replica.slots if replica.ahead else replica.window
            room = not replica.alone and len(holding.held) < must and not _better_waits(pool)
            if room and (None in ordinary or replica.shard in ordinary):
                raise Violation(f"{holding.name!r} has room, but tasks wait: {_some(waiting)}")
    if (
        pool.fanout is not None
        and len(pool.standing) > len(pool.published)
        and balancer.oldest_queued(now) is None
    ):
        least = ALONE_LIMIT if pool.node.groups == 1 else 1
        standing = Counter(group for group, _ in pool.published.values())
        if any(standing[group] < least for group in range(pool.node.groups)):
            raise Violation(
                f"fan-outs wait at {pool.node.name}, but of {pool.node.groups} groups stand "
                f"{standing}"
            )


def _better_waits(pool: WatchedPool) -> bool:
    """Whether the bulk in front need not be cut if it waits,
    and all replicas have enough to do meanwhile.
    """
    queue, replica = pool.balancer._waiting.queue.singles, pool.balancer._levels.least()
    if not queue or replica is None:
        return False
    held = len(pool.holdings[replica.name].held)
    if queue.head.count <= replica.window - held or replica.window < replica.widest:
        return False
    return held >= max(replica.slots, replica.window // 2)


def _is_due(kind: BatchKey, waiting: list[Part], now: float) -> bool:
    """Whether some of them need not wait for others."""
    parts = [part for part in waiting if part.batching == kind and not part.suspect]
    return (
        sum(part.docs for part in parts) >= kind.size
        or min(part.since for part in parts) + kind.timeout <= now
    )


def _some(parts: list[Part]) -> list[int]:
    return [part.id for part in parts[:5]]


def agrees(pool: WatchedPool, now: float) -> None:
    """The balancer's accounts agree with those that were kept of its actions."""
    balancer = pool.balancer
    if pool.fanout is not None:
        pool.fanout.settle()
    pool.learn()
    late = pool.overdue(now)
    if late:
        raise Violation(
            f"{pool.node.name}: tasks {late[:5]} go on for more than {pool.limits.run} s"
        )
    tasks = {id for task in balancer.tasks.values() for id in range(task.id, task.id + task.count)}
    if not tasks <= pool.open.keys() or any(id != task.id for id, task in balancer.tasks.items()):
        raise Violation(
            f"{pool.node.name}: tasks {sorted(tasks - pool.open.keys())[:5]} have ended"
        )
    waiting = 0
    for part in pool.open.values():
        waiting += part.holder is None and part.released
        if part.released and part.id not in tasks:
            raise Violation(f"task {part.id} has not ended, and is forgotten")
        if part.crashes > pool.retries:
            raise Violation(
                f"task {part.id} goes on after {part.crashes} crashes, with retries={pool.retries}"
            )
        if part.deadline < now - pool.slack:
            raise Violation(
                f"task {part.id} was to expire at {part.deadline:.6f}, and it is {now:.6f}"
            )
    if balancer.queued != waiting:
        raise Violation(
            f"{pool.node.name}: {waiting} tasks wait, but the balancer counts {balancer.queued}"
        )
    if balancer.replicas.keys() != pool.holdings.keys():
        strangers = balancer.replicas.keys() ^ pool.holdings.keys()
        raise Violation(f"{pool.node.name}: replicas {strangers} are not known to both")
    for holding in pool.holdings.values():
        _replica_agrees(pool, holding)
    nobodys = balancer.given_up.keys() - {
        id for holding in pool.holdings.values() for id in holding.given_up
    }
    if nobodys:
        raise Violation(f"{pool.node.name}: tasks {nobodys} were given up, and nobody is at them")
    if balancer._levels.parked != sum(holding.replica.parked for holding in pool.holdings.values()):
        raise Violation(
            f"{pool.node.name}: {balancer._levels.parked} parked tasks were counted, wrongly"
        )
    if any(balancer._levels.by_load[: balancer._levels.lowest]):
        raise Violation(
            f"{pool.node.name}: there are replicas below level {balancer._levels.lowest}"
        )
    if sum(map(len, balancer._levels.by_load)) != sum(
        holding.replica.level >= 0 for holding in pool.holdings.values()
    ):
        raise Violation(f"{pool.node.name}: the levels have other replicas than those with room")
    if sum(map(len, balancer._levels.by_load)) != balancer._levels.room:
        raise Violation(
            f"{pool.node.name}: {balancer._levels.room} replicas with room were counted, wrongly"
        )
    if pool.fanout is not None:
        standing = {(group.index, number) for group in pool.fanout.groups for number in group.open}
        strange = standing ^ set(pool.published.values())
        if strange:
            raise Violation(f"{pool.node.name}: open fan-outs {strange} are not known to both")


def _replica_agrees(pool: WatchedPool, holding: Holding) -> None:
    replica = holding.replica
    count = len(holding.held)
    ids = [
        each
        for id, task in replica.held.items()
        for each in range(id, id + (task.count if task else 1))
    ]
    if ids != list(holding.held) or replica.load != count:
        raise Violation(
            f"{replica}: holds {ids}, {replica.load} in all, but was sent {list(holding.held)}"
        )
    if any((task is None) != (id in holding.given_up) for id, task in replica.held.items()):
        raise Violation(f"{replica}: {replica.held}, of which {holding.given_up} have ended")
    if replica.batch != holding.together:
        raise Violation(
            f"{replica}: is at the batch {replica.batch}, but was given {holding.together}"
        )
    if replica.parked != max(0, count - holding.working):
        raise Violation(
            f"{replica}: {replica.parked} are parked of {count} with {replica.slots} slots"
        )
    room = not replica.lost and count < (1 if replica.alone or replica.batch else replica.window)
    if replica.level != (count if room else -1) or (
        room and replica not in pool.balancer._levels.by_load[count]
    ):
        raise Violation(
            f"{replica}: holds {count}, room: {room}, but stands in level {replica.level}"
        )
    if not replica.slots <= replica.window <= replica.widest:
        raise Violation(f"{replica}: a window of {replica.window} for {replica.slots} slots")


def bounded(pool: WatchedPool) -> None:
    """Deadlines of what has ended do not pile up."""
    if len(pool.balancer.tasks.deadlines) > 2 * pool.most + 66:
        raise Violation(
            f"{pool.node.name}: {len(pool.balancer.tasks.deadlines)} deadlines for "
            f"{len(pool.open)} tasks"
        )


def empty(pool: WatchedPool, now: float) -> None:
    """Everything has ended, so nothing is left of it."""
    agrees(pool, now)
    if pool.open or pool.balancer.queued or pool.standing:
        raise Violation(f"{pool.node.name}: tasks {list(pool.open)[:5]} never ended")
    held = {holding.name: list(holding.held) for holding in pool.holdings.values() if holding.held}
    if held:
        raise Violation(f"{pool.node.name}: replicas hold what they have answered: {held}")
    if pool.fanout is not None and (len(pool.fanout) or pool.fanout.under_way):
        raise Violation(f"{pool.node.name}: {len(pool.fanout)} fan-outs are left")
    waiting = pool.balancer._waiting
    if waiting.suspects or waiting.suspects.reserved is not None or waiting.shards:
        raise Violation(f"{pool.node.name}: suspects or parts are left")
    if pool.balancer.given_up or pool._sizes or pool._bytes:
        raise Violation(
            f"{pool.node.name}: something is left of requests: {pool.balancer.given_up}, "
            f"{pool._sizes}"
        )
    if pool.tick(now + 1e6) or pool.timed:
        raise Violation(f"{pool.node.name}: time still brings something about")
