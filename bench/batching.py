"""Batching by pull against batching by a timer: latency and throughput of a model that is cheaper by the batch.

    python bench/batching.py [--quick]

A call takes 10 ms and 1 ms more for each Document (slept), so 32 in one call are worked on 8 times as quickly as one by
one. Requests of one Document come when they like (Poisson), at three rates; a latency counts from the moment at which a
request was to be sent. Measured are zflow without waiting (pull), and with a batch_timeout, for which an idle replica
waits while its batch is not full. The same is computed without any overhead, by zflow's balancer in virtual time, and
so is the usual timer: a batch is closed when it is full or its first request has waited so long, whether or not a
replica is free, and closed batches wait in line.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from zflow import AsyncClient, Document, DocumentArray, Executor, Flow, requests
from zflow.devices.balancer import Balancer
from zflow.devices.replica import Batching, Replica, SendBatch, Task

SIZE = 32  # Documents in a batch
CALL, EACH = 0.010, 0.001  # seconds
SECONDS = 4.0  # of a round, about
HOLDS = (0.0, 0.005, 0.020)  # seconds; 0: pull
LEAD = 0.05  # seconds from the beginning of a round to its first arrival
FULL = SIZE / (CALL + SIZE * EACH)  # requests per second that one replica answers with full batches
LOADS = {"low": 0.3 / (CALL + EACH), "middle": 0.5 * FULL, "high": 0.9 * FULL}  # requests per second
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

    mean: list[float]
    p99: list[float]

    def add(self, latencies: Sequence[float]) -> None:
        """Take in a round."""
        self.mean.append(statistics.fmean(latencies))
        self.p99.append(sorted(latencies)[int(len(latencies) * 0.99)])


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when requests come, in seconds from the beginning; the same for the same seed."""
    draw = random.Random(seed)
    at = [LEAD]
    while at[-1] < LEAD + seconds:
        at.append(at[-1] + draw.expovariate(rate))
    return at


# -- in virtual time --------------------------------------------------------------------------------------------------


def pull(at: Sequence[float], hold: float, sleep: Callable[[int], float]) -> list[float]:
    """Return the latencies if zflow's balancer says who gets what, and only calls take time: `sleep` of their size."""
    balancer = Balancer()
    balancer.join(Replica("model"), 0.0)
    rule = Batching("/", SIZE, hold)
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
                actions += balancer.finish("model", id, sleep(len(done)) / len(done), now)[1]
        while came < len(at) and at[came] <= now:
            actions += balancer.submit(Task(came, batching=rule), now)
            came += 1
        for action in (*actions, *balancer.tick(now)):
            ids = [task.id for task in (action.tasks if isinstance(action, SendBatch) else [action.task])]
            heapq.heappush(due, (now + sleep(len(ids)), ids))
        if (wait := balancer.wake_after(now)) < math.inf:
            heapq.heappush(due, (now + wait, []))
    return latencies


def timer(at: Sequence[float], hold: float, sleep: Callable[[int], float]) -> list[float]:
    """Return the latencies if a batch is closed when full, or `hold` seconds after its first request came."""
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
    """Return a function from the size of a batch to how long its call really sleeps on this machine."""
    over = []
    for _ in range(30):
        begin = time.perf_counter()
        time.sleep(CALL)
        over.append(time.perf_counter() - begin - CALL)
    more = statistics.median(over)
    return lambda count: CALL + EACH * count + more


# -- measured ---------------------------------------------------------------------------------------------------------


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
    """Return the requests per second of a client that has enough of them in flight for every batch to be full."""
    docs = DocumentArray(Document() for _ in range(count))
    begin = time.perf_counter()
    flow.post("/", docs, request_size=1, prefetch=8 * SIZE)
    return count / (time.perf_counter() - begin)


def flow_of(hold: float, size: int = SIZE) -> Flow:
    """Return a Flow of one replica that holds batches back for so long."""
    said = {"/default": {"preferred_batch_size": size, "timeout": hold * 1000}}
    flow: Flow = Flow().add(name="model", uses=Model, uses_dynamic_batching=said)
    return flow


def measure(quick: bool) -> dict[str, Any]:
    """Run everything, the ways in turns within each round; return rates, latencies in ms, and ratios."""
    rounds, seconds = (1, 1.0) if quick else (3, SECONDS)
    sleep = slept()
    with ExitStack() as stack:
        flows = {hold: stack.enter_context(flow_of(hold)) for hold in HOLDS}
        single = stack.enter_context(flow_of(0.0, 1))
        loads = {name: asyncio.run(_load(flows, rate, rounds, seconds, sleep)) for name, rate in LOADS.items()}
        floods = [[flood(flow, FLOOD // rounds) for flow in flows.values()] for _ in range(rounds)]
        one_by_one = flood(single, 100)
    pulled = statistics.median(each[0] for each in floods)
    held = statistics.median(each[-1] for each in floods)
    return {
        "loads": loads,
        "throughput": {
            "pull": pulled,
            "held 20 ms": held,
            "one by one": one_by_one,
            "pull / full batches": pulled * sleep(SIZE) / SIZE,
            "pull / held 20 ms": statistics.median(each[0] / each[-1] for each in floods),
        },
    }


async def _load(
    flows: dict[float, Flow], rate: float, rounds: int, seconds: float, sleep: Callable[[int], float]
) -> dict[str, Any]:
    ways = {f"zflow, {_spoken(hold)}": Latencies([], []) for hold in flows}
    ideal = {f"no overhead, {_spoken(hold)}": Latencies([], []) for hold in HOLDS}
    timed = {f"no overhead, timer of {hold * 1000:.0f} ms": Latencies([], []) for hold in HOLDS if hold}
    clients = {hold: AsyncClient(port=flow.port) for hold, flow in flows.items()}
    for number in range(rounds):
        at = arrivals(rate, seconds, seed=number)
        for hold, found in zip(HOLDS, ways.values(), strict=True):
            found.add(await through_flow(clients[hold], at))
        for hold, found in zip(HOLDS, ideal.values(), strict=True):
            found.add(pull(at, hold, sleep))
        for hold, found in zip(HOLDS[1:], timed.values(), strict=True):
            found.add(timer(at, hold, sleep))
    for client in clients.values():
        await client.close()
    rows = {**_rows(ways, ways["zflow, pull"]), **_rows({**ideal, **timed}, ideal["no overhead, pull"])}
    return {
        "rate": rate,
        "ways": rows,
        "overhead": _rows(ways, ideal["no overhead, pull"])["zflow, pull"]["mean ratio"],
    }


def _rows(ways: dict[str, Latencies], base: Latencies) -> dict[str, dict[str, float]]:
    """Return the medians over the rounds, in ms, and as ratios to `base` of the same round."""
    return {
        way: {
            "mean ms": 1000 * statistics.median(found.mean),
            "p99 ms": 1000 * statistics.median(found.p99),
            "mean ratio": statistics.median(a / b for a, b in zip(found.mean, base.mean, strict=True)),
            "p99 ratio": statistics.median(a / b for a, b in zip(found.p99, base.p99, strict=True)),
        }
        for way, found in ways.items()
    }


def _spoken(hold: float) -> str:
    return f"held {hold * 1000:.0f} ms" if hold else "pull"


def main() -> None:
    """Print a table, or with `--json` everything."""
    parser = argparse.ArgumentParser(description="Batching by pull against batching by a timer")
    parser.add_argument("--quick", action="store_true", help="one short round: seconds instead of minutes")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    found = measure(arguments.quick)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for name, load in found["loads"].items():
        print(f"\n{name}: {load['rate']:.0f} requests/s; ratios are to pull of the same kind and round")
        print(f"{'way':28}  mean ms   p99 ms  ratio  ratio of p99")
        print("-" * 65)
        for way, row in load["ways"].items():
            times = f"{row['mean ms']:7.1f}  {row['p99 ms']:7.1f}"
            print(f"{way:28}  {times}  {row['mean ratio']:5.2f}  {row['p99 ratio']:12.2f}")
    ratios = ", ".join(f"{load['overhead']:.2f} ({name})" for name, load in found["loads"].items())
    print(f"\npull, zflow / no overhead: {ratios}")
    print("all at once: " + ", ".join(f"{name} {value:.4g}" for name, value in found["throughput"].items()))


if __name__ == "__main__":
    main()
