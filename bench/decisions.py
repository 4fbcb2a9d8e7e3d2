"""What deciding costs as a cluster grows: balancer and fan-out,
called without sockets as the broker calls them.

So sizes that no machine at hand has can be measured: us of one core for each request,
the least of all rounds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

from bench.harness.result import Cell, Ratio, Result, Table
from bench.inside import Balancer, Limits, Node, Pool, Publish, Replica, Send, Task, Walk

SHARDS = (2, 8, 64)
LONG = 0.05  # seconds of work that replicas say they did: so long that nothing is parked


def balancer_cost(replicas: int, queued: int | None, requests: int) -> float:
    """Return us for submitting and finishing one request.

    Args:
        replicas: how many there are.
        queued: how many requests wait all the time; None if half of the replicas are idle.
        requests: how many are measured.
    """
    balancer = Balancer()
    now = 0.0
    for number in range(replicas):
        balancer.join(Replica(b"%d" % number), now)
    held: deque[tuple[bytes, int]] = deque()
    ids = iter(range(10**9))
    for _ in range(replicas // 2 if queued is None else replicas + queued):
        held.extend(_sent(balancer.submit(Task(next(ids)), now)))
    begin = time.perf_counter()
    for _ in range(requests):
        now += 1e-4
        sent = balancer.submit(Task(next(ids)), now)
        name, id = held.popleft()
        sent.extend(balancer.finish(name, id, LONG, now)[1])
        held.extend(_sent(sent))
    return (time.perf_counter() - begin) / requests * 1e6


def _sent(actions: Iterable[object]) -> list[tuple[bytes, int]]:
    return [(action.replica.name, action.task.id) for action in actions if isinstance(action, Send)]


def look_cost(replicas: int, looks: int) -> float:
    """Return us for one look at who might be stuck,
    which the broker takes while anything is parked: 800 a second.
    """
    balancer = Balancer()
    for number in range(replicas):
        balancer.join(Replica(b"%d" % number), 0.0)
    replica = balancer.replicas[b"0"]
    tasks = [Task(1), Task(2)]
    for task in tasks:
        balancer.expect(task)
        balancer.place(task, replica, 0.0)
    begin = time.perf_counter()
    for look in range(looks):
        balancer._look_at = 0.0
        balancer.tick(look * 1e-9)
    return (time.perf_counter() - begin) / looks * 1e6


class Nobody:
    """Whom nothing is answered."""

    def send(self, frames: object) -> None: ...


def fanout_cost(shards: int, groups: int, requests: int) -> float:
    """Return us for one ALL request, from its submission to its last part;
    one for each group is under way.
    """
    pool = Pool(
        0,
        Node("index", shards=shards, groups=groups, polling={"*": "ALL"}),
        retries=3,
        limits=Limits(),
    )
    now = 0.0
    for group in range(groups):
        for shard in range(shards):
            pool.join(Replica(b"%d/%d" % (shard, group), shard=shard), group, now)
    ids = iter(range(0, 10**9, shards))
    published: deque[Publish] = deque()

    def post() -> None:
        actions = pool.submit(Walk((Nobody(), b"", 0), "/"), [("gateway", [[b""]])], next(ids), now)
        published.extend(action for action in actions if isinstance(action, Publish))

    for _ in range(groups):
        post()
    begin = time.perf_counter()
    for _ in range(requests):
        now += 1e-3
        action = published.popleft()
        for shard in range(shards):
            pool.answered(
                b"%d/%d" % (shard, action.group),
                action.scatter.base + shard,
                LONG,
                [b""],
                False,
                now,
            )
        post()
    return (time.perf_counter() - begin) / requests * 1e6


def grows(most: float, least: float) -> Ratio:
    """Return how a cost grows; both are the least of all rounds already."""
    return Ratio(most / least, most / least, most / least)


def balancers(
    counts: Sequence[int], depths: Sequence[int], rounds: int, requests: int
) -> tuple[dict[str, Ratio], Table]:
    """Return what the balancer costs by replicas and by what waits."""
    rows: list[list[Cell]] = []
    idle: dict[int, float] = {}
    depth: dict[int, float] = {}
    for replicas in counts:
        idle[replicas] = min(balancer_cost(replicas, None, requests) for _ in range(rounds))
        costs = [
            min(balancer_cost(replicas, queued, requests) for _ in range(rounds))
            for queued in depths
        ]
        depth[replicas] = costs[-1] / costs[0]
        look = min(look_cost(replicas, requests // 10) for _ in range(rounds))
        rows.append([replicas, idle[replicas], *costs, look])
    ratios = {
        f"balancer, {counts[-1]} replicas / {counts[0]} replicas": grows(
            idle[counts[-1]], idle[counts[0]]
        ),
        f"balancer, {depths[-1]:,} waiting / {depths[0]}, {counts[-1]} replicas": grows(
            depth[counts[-1]], 1.0
        ),
    }
    header = ["replicas", "some idle", *(f"{queued:,} wait" for queued in depths), "a look"]
    return ratios, Table(
        "Balancer: us to submit and finish a request, and to look who is stuck", header, rows
    )


def fanouts(groups: Sequence[int], rounds: int, requests: int) -> tuple[dict[str, Ratio], Table]:
    """Return what a fan-out costs by shards and groups."""
    rows: list[list[Cell]] = []
    costs: dict[tuple[int, int], float] = {}
    for shards in SHARDS:
        for count in groups:
            few = max(20, requests // (4 * shards))
            costs[shards, count] = min(fanout_cost(shards, count, few) for _ in range(rounds))
        rows.append([shards, *(costs[shards, count] for count in groups)])
    name = f"fan-out, {groups[-1]} groups / {groups[0]} group, {SHARDS[1]} shards"
    ratios = {name: grows(costs[SHARDS[1], groups[-1]], costs[SHARDS[1], groups[0]])}
    header = ["shards", *(f"{count} groups" for count in groups)]
    return ratios, Table(
        "Fan-out: us for a request to all shards, all its parts included", header, rows
    )


def measure(quick: bool) -> Result:
    """Return what balancer and fan-out cost, and how that grows."""
    if quick:
        found = [balancers((2, 100), (1, 10_000), 3, 400), fanouts((1, 10), 3, 400)]
    else:
        found = [
            balancers((2, 10, 100, 1000), (1, 100, 10_000, 100_000), 7, 20_000),
            fanouts((1, 10, 100), 7, 20_000),
        ]
    return Result(
        {name: value for ratios, _ in found for name, value in ratios.items()},
        [table for _, table in found],
    )
