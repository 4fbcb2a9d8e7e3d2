"""A Flow that is asked for ten times what it can do: throughput, latency and memory,
against its own peak.

An Executor with two replicas works for 20 ms on each request and lets 50 of them wait
(`max_queue`). First its peak is measured: so many requests in flight that no replica ever idles.
Then requests come ten times as fast as that, at times that do not depend on the answers, over one
connection, while a second client asks for one at a time, and then for nothing but that again. What
latencies are compared with is the time that a full queue takes to be worked off.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from bench.common import percentile
from bench.harness.result import Cell, Ratio, Result, Table
from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, requests
from zflow.errors import Overloaded

WORK = 0.02  # seconds
REPLICAS = 2
QUEUE = 50  # requests that may wait
OVER = 10  # times the capacity


class Work(Executor):
    """Takes its time."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep, as if a GPU worked."""
        time.sleep(WORK)


@dataclass
class Outcome:
    """What became of the requests of one phase."""

    accepted: list[float] = field(default_factory=list)  # seconds that each took
    refused: int = 0
    memory: list[int] = field(default_factory=list)  # bytes of the broker, over time
    seconds: float = 0.0  # from the first request to the last answer


async def ask(client: AsyncClient, outcome: Outcome) -> None:
    """Post one request and note what becomes of it."""
    begin = time.perf_counter()
    try:
        await client.post("/", Document())
    except Overloaded:
        outcome.refused += 1
    else:
        outcome.accepted.append(time.perf_counter() - begin)


async def peak(client: AsyncClient, seconds: float) -> float:
    """Return the requests per second with a few more in flight than there are replicas."""
    outcome = Outcome()
    end = time.perf_counter() + seconds

    async def worker() -> None:
        while time.perf_counter() < end:
            await ask(client, outcome)

    await asyncio.gather(*(worker() for _ in range(4 * REPLICAS)))
    return len(outcome.accepted) / seconds


async def flood(
    client: AsyncClient, rate: float, seconds: float, broker: psutil.Process
) -> Outcome:
    """Ask for `rate` requests per second, whatever becomes of them."""
    outcome = Outcome()
    running: set[asyncio.Task[None]] = set()
    begin = time.perf_counter()
    sent = 0
    while (passed := time.perf_counter() - begin) < seconds:
        while sent < passed * rate:
            task = asyncio.ensure_future(ask(client, outcome))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
        outcome.memory.append(broker.memory_info().rss)
        await asyncio.sleep(0.01)
    await asyncio.gather(*running)
    outcome.seconds = time.perf_counter() - begin
    return outcome


async def one_at_a_time(client: AsyncClient, seconds: float) -> Outcome:
    """Ask for one request after the other."""
    outcome = Outcome()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await ask(client, outcome)
        await asyncio.sleep(0.05)
    return outcome


def once(value: float, better: Literal["lower", "higher"] = "lower") -> Ratio:
    """Return a ratio that was measured once."""
    return Ratio(value, value, value, better)


async def phases(port: int, pid: int, seconds: float) -> Result:
    """Run the three phases and return what came of them."""
    async with AsyncClient(port=port) as client, AsyncClient(port=port) as other:
        await peak(client, 0.3)
        best = await peak(client, min(3.0, seconds))
        broker = psutil.Process(pid)
        outcome, polite = await asyncio.gather(
            flood(client, OVER * best, seconds, broker), one_at_a_time(other, seconds)
        )
        begin = time.perf_counter()
        await client.post("/", Document())
        after = time.perf_counter() - begin
    full = QUEUE * WORK / REPLICAS
    early, late = outcome.memory[len(outcome.memory) // 10], outcome.memory[-1]
    answered = len(outcome.accepted) + len(polite.accepted)
    ratios = {
        "throughput / peak": once(answered / outcome.seconds / best, "higher"),
        "p99 of accepted / a full queue": once(percentile(outcome.accepted, 99) / full),
        "p99 of the other client / a full queue": once(
            percentile(polite.accepted or [0.0], 99) / full
        ),
        "broker's memory, late / early": once(late / early),
        "first request afterwards / a full queue": once(after / full),
    }
    rows: list[list[Cell]] = [
        ["the flood", len(outcome.accepted), outcome.refused],
        ["the other client", len(polite.accepted), polite.refused],
    ]
    title = f"Requests during {seconds:g} s of {OVER} times the peak of {best:.0f} requests/s"
    return Result(ratios, [Table(title, ["of", "accepted", "refused"], rows)])


def measure(quick: bool) -> Result:
    """Start the Flow and measure it."""
    with Flow().add(name="work", uses=Work, replicas=REPLICAS, max_queue=QUEUE) as flow:
        assert flow.port is not None
        return asyncio.run(
            phases(flow.port, Client(port=flow.port).info()["pid"], 1.0 if quick else 60.0)
        )
