"""Batching by pull against batching by a timer:
latency and throughput of a model that is cheaper by the batch.

A call takes 10 ms and 1 ms more for each Document (slept), so 32 in one call are worked on 8 times
as quickly as one by one. Requests of one Document come when they like (Poisson), at three rates; a
latency counts from the moment at which a request was to be sent. Measured are zflow without waiting
(pull), and with a batch_timeout, for which an idle replica waits while its batch is not full. The
same is computed without any overhead, by zflow's balancer in virtual time, and so is the usual
timer: a batch is closed when it is full or its first request has waited so long, whether or not a
replica is free, and closed batches wait in line.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.common import percentile
from bench.harness.result import Cell, Ratio, Result, Table, ratio
from bench.inside import Balancer, BatchKey, Replica, SendBatch, Task
from zflow import AsyncClient, Document, DocumentArray, Executor, Flow, requests

SIZE = 32  # Documents in a batch
CALL, EACH = 0.010, 0.001  # seconds
SECONDS = 4.0  # of a round, about
HOLDS = (0.0, 0.005, 0.020)  # seconds; 0: pull
LEAD = 0.05  # seconds from the beginning of a round to its first arrival
FULL = SIZE / (CALL + SIZE * EACH)  # requests per second that one replica answers with full batches
# Requests per second.
LOADS = {"low": 0.3 / (CALL + EACH), "middle": 0.5 * FULL, "high": 0.9 * FULL}
FLOOD = 3000  # requests that are sent all at once


class Model(Executor):
    """Takes some time for a call, and a little more for each Document."""

    @requests(batch_size=SIZE)
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep for a batch's time."""
        time.sleep(CALL + EACH * len(docs))


@dataclass
class Latencies:
    """Of one way at one rate: the mean and the 99th percentile of each round, in seconds."""

    mean: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def add(self, latencies: Sequence[float]) -> None:
        """Take in a round."""
        self.mean.append(statistics.fmean(latencies))
        self.p99.append(percentile(latencies, 99))


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when requests come, in seconds from the beginning; the same for the same seed."""
    draw = random.Random(seed)
    at = [LEAD]
    while at[-1] < LEAD + seconds:
        at.append(at[-1] + draw.expovariate(rate))
    return at


# -- in virtual time -------------------------------------------------------------------------------


def pull(at: Sequence[float], hold: float, sleep: Callable[[int], float]) -> list[float]:
    """Return the latencies if zflow's balancer says who gets what, and only calls take time:
    `sleep` of their size.
    """
    balancer = Balancer()
    balancer.join(Replica(b"model"), 0.0)
    rule = BatchKey("/", SIZE, hold)
    latencies = [0.0] * len(at)
    due: list[tuple[float, list[int]]] = []  # when, and which tasks are done then
    came = 0
    while came < len(at) or due:
        now = min(at[came] if came < len(at) else math.inf, due[0][0] if due else math.inf)
        actions: list[Any] = []
        while due and due[0][0] <= now:
            done = heapq.heappop(due)[1]
            for id in done:
                latencies[id] = now - at[id]
                actions += balancer.finish(b"model", id, sleep(len(done)) / len(done), now)[1]
        while came < len(at) and at[came] <= now:
            actions += balancer.submit(Task(came, batching=rule), now)
            came += 1
        for action in (*actions, *balancer.tick(now)):
            ids = [
                task.id
                for task in (action.tasks if isinstance(action, SendBatch) else [action.task])
            ]
            heapq.heappush(due, (now + sleep(len(ids)), ids))
        if (wait := balancer.wake_after(now)) < math.inf:
            heapq.heappush(due, (now + wait, []))
    return latencies


def timer(at: Sequence[float], hold: float, sleep: Callable[[int], float]) -> list[float]:
    """Return the latencies if a batch is closed when full,
    or `hold` seconds after its first request came.
    """
    latencies: list[float] = []
    free = 0.0
    for batch, closed in _closed(at, hold):
        free = max(free, closed) + sleep(len(batch))
        latencies += [free - came for came in batch]
    return latencies


def _closed(at: Sequence[float], hold: float) -> Iterator[tuple[list[float], float]]:
    batch: list[float] = []
    for came in at:
        if batch and came > batch[0] + hold:
            yield batch, batch[0] + hold
            batch = []
        batch.append(came)
        if len(batch) == SIZE:
            yield batch, came
            batch = []
    if batch:
        yield batch, batch[0] + hold


def slept() -> Callable[[int], float]:
    """Return a function from the size of a batch to how long its call
    really sleeps on this machine.
    """
    over = []
    for _ in range(30):
        begin = time.perf_counter()
        time.sleep(CALL)
        over.append(time.perf_counter() - begin - CALL)
    more = statistics.median(over)
    return lambda count: CALL + EACH * count + more


# -- measured --------------------------------------------------------------------------------------


async def through_flow(client: AsyncClient, at: Sequence[float]) -> list[float]:
    """Post each request when its time has come; return how long after that each was answered."""
    latencies = [0.0] * len(at)
    begin = time.perf_counter()

    async def one(number: int) -> None:
        await asyncio.sleep(begin + at[number] - time.perf_counter())
        await client.post("/", Document())
        latencies[number] = time.perf_counter() - begin - at[number]

    await asyncio.gather(*(one(number) for number in range(len(at))))
    return latencies


def flood(flow: Flow, count: int) -> float:
    """Return the requests per second of a client that has enough of them in
    flight for every batch to be full.
    """
    docs = DocumentArray(Document() for _ in range(count))
    begin = time.perf_counter()
    flow.post("/", docs, request_size=1, prefetch=8 * SIZE)
    return count / (time.perf_counter() - begin)


def flow_of(hold: float, size: int = SIZE) -> Flow:
    """Return a Flow of one replica that holds batches back for so long."""
    said = {"/default": {"preferred_batch_size": size, "timeout": hold * 1000}}
    flow: Flow = Flow().add(name="model", uses=Model, uses_dynamic_batching=said)
    return flow


async def load(
    flows: dict[float, Flow],
    rate: float,
    rounds: int,
    seconds: float,
    sleep: Callable[[int], float],
) -> dict[str, Latencies]:
    """Return the latencies of all ways at this rate; within a round they take turns."""
    ways = {
        f"{who}, {spoken(hold)}": Latencies() for who in ("zflow", "no overhead") for hold in HOLDS
    }
    ways |= {f"no overhead, timer of {hold * 1000:.0f} ms": Latencies() for hold in HOLDS if hold}
    clients = {hold: AsyncClient(port=flow.port) for hold, flow in flows.items()}
    for number in range(rounds):
        at = arrivals(rate, seconds, seed=number)
        for hold in HOLDS:
            ways[f"zflow, {spoken(hold)}"].add(await through_flow(clients[hold], at))
            ways[f"no overhead, {spoken(hold)}"].add(pull(at, hold, sleep))
            if hold:
                ways[f"no overhead, timer of {hold * 1000:.0f} ms"].add(timer(at, hold, sleep))
    for client in clients.values():
        await client.close()
    return ways


def spoken(hold: float) -> str:
    """Return what a way is called: pull, or pull that holds back a batch which is not full."""
    return f"held {hold * 1000:.0f} ms" if hold else "pull"


def latency(name: str, ways: dict[str, Latencies]) -> tuple[dict[str, Ratio], list[list[Cell]]]:
    """Return ratios and lines of one rate."""
    pulled, ideal = ways["zflow, pull"], ways["no overhead, pull"]
    ratios = {
        f"mean latency, {name} load, zflow / no overhead": ratio(pulled.mean, ideal.mean),
        f"mean latency, {name} load, no overhead, pull / timer of 20 ms": ratio(
            ideal.mean, ways["no overhead, timer of 20 ms"].mean
        ),
    }
    rows: list[list[Cell]] = []
    for way, found in ways.items():
        times = [1000 * statistics.median(values) for values in (found.mean, found.p99)]
        base = pulled if way.startswith("zflow") else ideal
        rows.append([f"{name}, {way}", *times, ratio(found.mean, base.mean).value])
    return ratios, rows


def measure(quick: bool) -> Result:
    """Return latencies by rate and way, and what a flood of requests gets done."""
    rounds, seconds = (1, 1.0) if quick else (3, SECONDS)
    sleep = slept()
    ratios: dict[str, Ratio] = {}
    rows: list[list[Cell]] = []
    with ExitStack() as stack:
        flows = {hold: stack.enter_context(flow_of(hold)) for hold in HOLDS}
        single = stack.enter_context(flow_of(0.0, 1))
        for name, rate in LOADS.items():
            more, lines = latency(name, asyncio.run(load(flows, rate, rounds, seconds, sleep)))
            ratios |= more
            rows += lines
        floods = {
            hold: [flood(flow, FLOOD // 3) for _ in range(rounds)] for hold, flow in flows.items()
        }
        alone = [flood(single, 100) for _ in range(rounds)]
    best = [SIZE / sleep(SIZE)] * rounds
    ratios["requests/s, zflow, pull / full batches only"] = ratio(
        floods[0.0], best, better="higher"
    )
    ratios["requests/s, zflow, pull / one by one"] = ratio(floods[0.0], alone, better="higher")
    rates: list[list[Cell]] = [
        [f"zflow, {spoken(hold)}", statistics.median(each)] for hold, each in floods.items()
    ]
    rates += [["zflow, one by one", statistics.median(alone)], ["full batches only", best[0]]]
    title = (
        f"Latency at {', '.join(f'{rate:.0f}' for rate in LOADS.values())} requests/s (low, "
        "middle, high load)"
    )
    return Result(
        ratios,
        [
            Table(title, ["load and way", "mean ms", "p99 ms", "mean / pull"], rows),
            Table("More requests than can be done", ["way", "requests/s"], rates),
        ],
    )
