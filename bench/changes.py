"""What those who ask meanwhile notice of scaling and of rolling restarts: the latency,
against an undisturbed Flow's.

One replica works for 10 ms on each request; requests come at random (Poisson) at half of what it
can do, and each one's latency counts from when it should have been sent. Rounds in which nothing
happens take turns with rounds in which the Flow is scaled from one replica to eight and back, and
with rounds of one rolling restart after the other.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from bench.common import percentile
from bench.harness.result import Cell, Ratio, Result, Table
from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, requests

WORK = 0.01  # seconds
LOAD = 0.5
MOST = 8  # replicas
AIM = 3.0  # times the undisturbed 99th percentile


class Work(Executor):
    """Takes its time."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep, as if a GPU worked."""
        time.sleep(WORK)


def nothing(client: Client) -> None:
    """Change nothing."""
    time.sleep(0.1)


def scale(client: Client) -> None:
    """Scale up, and down again."""
    client.scale("work", MOST)
    client.scale("work", 1)


def restart(client: Client) -> None:
    """Put a new process in the place of the replica."""
    client.restart("work")


CHANGES: dict[str, Callable[[Client], None]] = {
    "nothing": nothing,
    "scaling": scale,
    "restarts": restart,
}


async def ask(client: AsyncClient, seconds: float, draw: random.Random) -> list[float]:
    """Post at random times for so long, and return the latencies;
    a request that fails is an error.
    """
    begin = time.perf_counter()
    latencies: list[float] = []

    async def one(at: float) -> None:
        await client.post("/", Document())
        latencies.append(time.perf_counter() - begin - at)

    at, running = 0.0, []
    while (at := at + draw.expovariate(LOAD / WORK)) < seconds:
        await asyncio.sleep(begin + at - time.perf_counter())
        running.append(asyncio.ensure_future(one(at)))
    await asyncio.gather(*running)
    return latencies


async def rounds(
    port: int, count: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return all latencies by what happened meanwhile, and how often it happened."""
    latencies: dict[str, list[float]] = {name: [] for name in CHANGES}
    made = dict.fromkeys(CHANGES, 0)
    with Client(port=port) as commander:
        async with AsyncClient(port=port) as client:
            await ask(client, 0.5, random.Random(-1))
            for number in range(count):
                for name, change in CHANGES.items():
                    asking = asyncio.ensure_future(ask(client, seconds, random.Random(number)))
                    while not asking.done():
                        await asyncio.to_thread(change, commander)
                        made[name] += 1
                    latencies[name] += await asking
    return latencies, made


def measure(quick: bool) -> Result:
    """Return the 99th percentile during changes, in terms of the undisturbed one."""
    with Flow().add(name="work", uses=Work) as flow:
        assert flow.port is not None
        latencies, made = asyncio.run(rounds(flow.port, 1 if quick else 8, 1.0 if quick else 5.0))
    calm = percentile(latencies["nothing"], 99)
    ratios, rows = {}, []
    for name, some in latencies.items():
        value = percentile(some, 99) / calm
        if name != "nothing":
            ratios[f"p99 during {name} / undisturbed"] = Ratio(value, value, value, aim=AIM)
        row: list[Cell] = [
            name,
            made[name],
            len(some),
            percentile(some, 50) * 1000,
            percentile(some, 99) * 1000,
        ]
        rows.append(row)
    header = ["meanwhile", "how often", "requests", "p50 ms", "p99 ms"]
    return Result(
        ratios, [Table(f"Latency of {WORK * 1000:g} ms of work at {LOAD:.0%} load", header, rows)]
    )
