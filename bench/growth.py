"""What a request costs the broker's process as a cluster grows: by queue depth,
replicas and clients.

Processor time of a real broker's process, from /proc, for each request of one small Document: its
loop alone, and with libzmq's threads. It depends on the speed of clients and replicas only in so
far as the broker takes in one turn what has come meanwhile. `decisions` measures the logic alone,
in sizes that no machine at hand has.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from bench.common import Echo, seconds_of, small_documents
from bench.harness.processes import brokers, cpu_seconds
from bench.harness.result import Cell, Plot, Ratio, Result, Table, ratio
from zflow import Client, DocumentArray, Flow

# Requests that two replicas may hold with their windows at the widest; what is more waits in the
# queue.
HELD = 128
IN_FLIGHT = 128  # of all clients together, where not the depth is what grows


@dataclass
class Cost:
    """Seconds per request, round by round."""

    loop: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    def row(self) -> list[Cell]:
        """Return us of the loop and the process, and requests per second."""
        return [
            *(statistics.median(each) * 1e6 for each in (self.loop, self.process)),
            statistics.median(self.rate),
        ]


class Rig:
    """A running Flow of `replicas` replicas, and its broker."""

    def __init__(self, replicas: int, running: ExitStack) -> None:
        others = brokers()
        self.flow = running.enter_context(
            Flow().add(name="echo", uses=Echo, replicas=replicas, max_queue=-1)
        )
        (self.pid,) = brokers() - others
        self.flow.post("/", small_documents(1000), request_size=1)  # until the windows have opened

    def add(self, cost: Cost, requests: int, post: Callable[[], object]) -> None:
        """Add what `post`, which posts so many requests, costs."""
        loop, process = cpu_seconds(self.pid)
        spent = seconds_of(post)
        loop_after, process_after = cpu_seconds(self.pid)
        cost.loop.append((loop_after - loop) / requests)
        cost.process.append((process_after - process) / requests)
        cost.rate.append(requests / spent)

    def post(self, docs: DocumentArray, in_flight: int) -> None:
        """Post each Document as a request of its own."""
        self.flow.post("/", docs, request_size=1, prefetch=in_flight, on_done=lambda response: None)


def by_depth(depths: Sequence[int], requests: int, rounds: int) -> dict[int, Cost]:
    """Return costs by how many requests wait, with two replicas."""
    costs = {depth: Cost() for depth in depths}
    with ExitStack() as running:
        rig = Rig(2, running)
        for _ in range(rounds):
            for depth, cost in costs.items():
                docs = small_documents(requests + depth)
                rig.add(cost, len(docs), partial(rig.post, docs, HELD + depth))
    return costs


def by_replicas(counts: Sequence[int], requests: int, rounds: int) -> dict[int, Cost]:
    """Return costs by the number of replicas."""
    costs = {count: Cost() for count in counts}
    docs = small_documents(requests)
    with ExitStack() as running:
        rigs = {count: Rig(count, running) for count in counts}
        for _ in range(rounds):
            for count, rig in rigs.items():
                rig.add(costs[count], requests, partial(rig.post, docs, IN_FLIGHT))
    return costs


def by_clients(counts: Sequence[int], requests: int, rounds: int) -> dict[int, Cost]:
    """Return costs by the number of clients that post at the same time, with two replicas."""
    costs = {count: Cost() for count in counts}
    with ExitStack() as running:
        rig = Rig(2, running)
        assert rig.flow.port is not None
        clients = [running.enter_context(Client(port=rig.flow.port)) for _ in range(max(counts))]
        together(clients, 10)  # until all are connected
        for _ in range(rounds):
            for count, cost in costs.items():
                each = requests // count
                rig.add(cost, each * count, partial(together, clients[:count], each))
    return costs


def together(clients: Sequence[Client], requests: int) -> None:
    """Have each client post so many requests, all at the same time, each in a thread of its own."""
    docs = small_documents(requests)
    prefetch = IN_FLIGHT // len(clients)

    def post(client: Client) -> None:
        client.post("/", docs, request_size=1, prefetch=prefetch, on_done=lambda response: None)

    threads = [threading.Thread(target=post, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def outcome(what: str, costs: dict[int, Cost], aim: float | None) -> tuple[Ratio, Table]:
    """Return how the process's time grows from the least to the most, and a table."""
    least, most = min(costs), max(costs)
    rows: list[list[Cell]] = [
        [count, *cost.row(), ratio(cost.process, costs[least].process).value]
        for count, cost in costs.items()
    ]
    header = [what, "loop us", "process us", "requests/s here", f"process / {least}"]
    table = Table(f"Broker's processor time for a small request, by {what}", header, rows)
    return ratio(costs[most].process, costs[least].process, aim=aim), table


def measure(quick: bool) -> Result:
    """Return the broker's processor time by depth, replicas and clients,
    and how it grows with each.
    """
    requests, rounds = (600, 2) if quick else (20_000, 3)
    found = {
        "depth": (
            by_depth((1, 600) if quick else (1, 100, 10_000, 100_000), requests, rounds),
            1.3,
        ),
        "replicas": (
            by_replicas((2, 8) if quick else (2, 4, 8, 16, 32, 64), requests, rounds),
            1.3,
        ),
        "clients": (by_clients((1, 8) if quick else (1, 4, 16, 64), requests, rounds), None),
    }
    ratios, tables, lines = {}, [], {}
    for what, (costs, aim) in found.items():
        name = f"broker's time per request, {what} {max(costs):,} / {min(costs)}"
        ratios[name], table = outcome(what, costs, aim)
        tables.append(table)
        lines[what] = [
            [float(count), statistics.median(cost.process) * 1e6] for count, cost in costs.items()
        ]
    return Result(
        ratios,
        tables,
        [Plot("Growth", "depth, replicas or clients", "broker's us per request", lines, "x")],
    )
