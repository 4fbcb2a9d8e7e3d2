"""What a request costs the broker as a cluster grows: by replicas, by what waits in the queue, by shards and groups.

The balancer and the fan-out are called as the broker calls them, without sockets, so sizes that no machine at hand has
can be measured: us of one core for each request. Then real Flows with as many replicas as start in a moment: processor
time of the broker's process for each request, its loop alone and with libzmq's threads.

python bench/growth.py [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable

import psutil
from common import Echo, print_table, quick, small_documents
from scatter import cpu_seconds

from zflow import Flow
from zflow.devices.balancer import Balancer
from zflow.devices.fanout import Publish
from zflow.devices.pool import Limits, Pool
from zflow.devices.replica import Replica, Send, Task
from zflow.devices.router import Node, Walk

LONG = 0.05  # seconds of work that replicas say they did: so long that nothing is parked
REPLICAS = (2, 10, 100, 1000)
QUEUED = (1, 100, 10_000, 100_000)
GROUPS = (1, 10, 100)


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
        balancer.join(Replica(number), now)
    held: deque[tuple[object, int]] = deque()
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


def _sent(actions: Iterable[object]) -> list[tuple[object, int]]:
    return [(action.replica.name, action.task.id) for action in actions if isinstance(action, Send)]


def look_cost(replicas: int, looks: int) -> float:
    """Return us for one look at who might be stuck, which the broker takes while anything is parked: 800 a second."""
    balancer = Balancer()
    for number in range(replicas):
        balancer.join(Replica(number), 0.0)
    replica = balancer.replicas[0]
    tasks = [Task(1), Task(2)]
    for task in tasks:
        balancer.expect(task)
        balancer.place(task, replica, 0.0)
    begin = time.perf_counter()
    for look in range(looks):
        balancer._look_at = 0.0
        balancer.tick(look * 1e-9)
    return (time.perf_counter() - begin) / looks * 1e6


def fanout_cost(shards: int, groups: int, requests: int) -> float:
    """Return us for one ALL request, from its submission to its last part; one for each group is under way."""
    pool = Pool(0, Node("index", shards=shards, groups=groups, polling={"*": "ALL"}), retries=3, limits=Limits())
    now = 0.0
    for group in range(groups):
        for shard in range(shards):
            pool.join(Replica((shard, group), shard=shard), group, now)
    ids = iter(range(0, 10**9, shards))
    published: deque[Publish] = deque()

    def post() -> None:
        actions = pool.submit(Walk(None, "/"), [("gateway", [[b""]])], next(ids), now)
        published.extend(action for action in actions if isinstance(action, Publish))

    for _ in range(groups):
        post()
    begin = time.perf_counter()
    for _ in range(requests):
        now += 1e-3
        action = published.popleft()
        for shard in range(shards):
            pool.answered((shard, action.group), action.scatter.base + shard, LONG, [b""], False, now)
        post()
    return (time.perf_counter() - begin) / requests * 1e6


def broker_cost(replicas: int, requests: int) -> tuple[float, float, float]:
    """Return us of the broker's loop and of its whole process for one small request, and requests per second."""
    others = _brokers()
    with Flow().add(name="echo", uses=Echo, replicas=replicas) as flow:
        (pid,) = _brokers() - others
        flow.post("/", small_documents(2000), request_size=1, prefetch=128)  # until the windows have opened
        docs = small_documents(requests)
        loop, process = cpu_seconds(pid)
        begin = time.perf_counter()
        flow.post("/", docs, request_size=1, prefetch=128)
        spent = time.perf_counter() - begin
        loop_after, process_after = cpu_seconds(pid)
    return (loop_after - loop) / requests * 1e6, (process_after - process) / requests * 1e6, requests / spent


def _brokers() -> set[int]:
    processes = psutil.Process().children(recursive=True)
    return {process.pid for process in processes if process.cmdline()[:1] == ["zflow: broker"]}


def main() -> None:
    """Print four tables and how each cost grows."""
    short = quick("What a request costs the broker as a cluster grows")
    rounds, requests = (3, 2000) if short else (7, 20_000)

    rows: list[list[object]] = []
    idle: dict[int, float] = {}
    depth: dict[int, float] = {}
    for replicas in REPLICAS:
        idle[replicas] = min(balancer_cost(replicas, None, requests) for _ in range(rounds))
        costs = [min(balancer_cost(replicas, queued, requests) for _ in range(rounds)) for queued in QUEUED]
        depth[replicas] = costs[-1] / costs[0]
        look = min(look_cost(replicas, requests // 10) for _ in range(rounds))
        rows.append([replicas, f"{idle[replicas]:.2f}", *(f"{cost:.2f}" for cost in costs), f"{look:.1f}"])
    header = ["replicas", "some idle", *(f"{queued:,} wait" for queued in QUEUED), "a look"]
    print_table("Balancer: us to submit and finish a request, and to look who is stuck", header, rows)
    print(f"1,000 replicas / 2 replicas, some idle: ratio {idle[1000] / idle[2]:.2f}")
    print(f"100,000 waiting / 1, with 1,000 replicas: ratio {depth[1000]:.2f}")

    rows, fan = [], {}
    for shards in (2, 8, 64):
        for groups in GROUPS:
            few = max(20, requests // (4 * shards))
            fan[shards, groups] = min(fanout_cost(shards, groups, few) for _ in range(rounds))
        rows.append([shards, *(f"{fan[shards, groups]:.0f}" for groups in GROUPS)])
    print_table("Fan-out: us for an ALL request, all its parts included", ["shards", *map(str, GROUPS)], rows)
    print(f"100 groups / 1 group, 8 shards: ratio {fan[8, 100] / fan[8, 1]:.2f}")

    rows, loops = [], {}
    for replicas in (2, 10) if short else (2, 10, 100):
        measured = [broker_cost(replicas, requests) for _ in range(1 if short else 3)]
        loop, process, rate = (statistics.median(column) for column in zip(*measured, strict=True))
        loops[replicas] = loop
        rows.append([replicas, f"{loop:.1f}", f"{process:.1f}", f"{rate:,.0f}", f"{1e6 / loop:,.0f}"])
    header = ["replicas", "loop us", "process us", "requests/s here", "if the loop had a core"]
    print_table("Broker: processor time for a small request, 128 in flight", header, rows)
    most = max(loops)
    print(f"{most} replicas / 2 replicas: ratio {loops[most] / loops[2]:.2f}")


if __name__ == "__main__":
    main()
