"""Requests to all shards: how long they take and what they cost the broker,
against a plain ROUTER that sends copies.

One post after the other goes to all of S shards, which answer with nothing, as a search of much
with few results would. The yardstick is a plain ROUTER that sends the same bytes S times, to S
workers (`yardsticks.scatter`). All of them, for each S,
are there at once and are measured in turns, round by round.

Processor time is that of the broker's process, user and system. It is made up of

- `request`: what the broker's loop spends on taking the request in, sending it to all, and
  answering it, once all shards have. Counted inside the broker, by a clock around the methods that
  do this;
- `replies`: the rest of the loop's time, which is reading S answers and being woken for them;
- `I/O`: ZeroMQ's own thread, which moves the bytes of every message over the sockets,
  S times out and S times in.
"""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.common import percentile, same_bytes, small_documents
from bench.harness.processes import brokers, cpu_seconds
from bench.harness.result import Cell, Ratio, Result, Table, ratio
from bench.inside import Broker, Done, Front, Outbox, encoder, message, pack
from bench.yardsticks.scatter import RouterFanout
from zflow import Document, DocumentArray, Executor, Flow, requests

WARM_UP = 20  # requests


class Shard(Executor):
    """Takes what it is sent and finds nothing."""

    @requests
    def take(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        """Answer with no Documents."""
        return DocumentArray()


class Clock:
    """Counts processor time in memory that is shared with processes forked later."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")

    @property
    def seconds(self) -> float:
        """What was counted so far."""
        return self._shared[0]

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return `method`, counted."""
        shared = self._shared

        def counted(*arguments: Any) -> Any:
            begin = time.thread_time()
            try:
                return method(*arguments)
            finally:
                shared[0] += time.thread_time() - begin

        return counted


@contextmanager
def counting(*methods: tuple[type, str]) -> Iterator[Clock]:
    """Count the time that brokers spend in these methods, if they are forked meanwhile."""
    clock = Clock()
    before = [getattr(owner, name) for owner, name in methods]
    for (owner, name), method in zip(methods, before, strict=True):
        setattr(owner, name, clock.around(method))
    try:
        yield clock
    finally:
        for (owner, name), method in zip(methods, before, strict=True):
            setattr(owner, name, method)


@dataclass
class Measured:
    """What was measured round by round, in seconds per request;
    the latency is the round's median.
    """

    latency: list[float] = field(default_factory=list)
    request: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)

    def add(
        self, pid: int, count: int, call: Callable[[], object], clock: Clock | None = None
    ) -> None:
        """Call `call()` so many times, each a request to the process `pid`."""
        samples = []
        request, (loop, process) = clock.seconds if clock else 0.0, cpu_seconds(pid)
        for _ in range(count):
            begin = time.perf_counter()
            call()
            samples.append(time.perf_counter() - begin)
        loop_after, process_after = cpu_seconds(pid)
        self.latency.append(percentile(samples, 50))
        self.request.append(((clock.seconds if clock else 0.0) - request) / count)
        self.loop.append((loop_after - loop) / count)
        self.process.append((process_after - process) / count)


def large_documents() -> DocumentArray:
    """Return one Document of 1 MiB."""
    return DocumentArray(Document(blob=os.urandom(1 << 20)))


def answer_sizes() -> list[int]:
    """Return the sizes of the frames in which a shard answers."""
    answer = Done(100_000, 100, [0], [bytes(frame) for frame in pack(DocumentArray())])
    return [len(frame) for frame in message(answer, encoder())]


class Rig:
    """A running Flow and a running ROUTER with so many shards, and what was measured of them."""

    def __init__(self, shards: int, running: ExitStack) -> None:
        others = brokers()
        flow = Flow().add(name="shard", uses=Shard, shards=shards, polling="ALL")
        self._flow = running.enter_context(flow)
        (self._pid,) = brokers() - others
        self._router = running.enter_context(RouterFanout(shards, answer_sizes()))
        self.zflow, self.router = Measured(), Measured()

    def measure(self, docs: DocumentArray, seconds: float, clock: Clock) -> None:
        """Post for about so many seconds, and as often to the ROUTER."""
        message = same_bytes(docs)
        begin = time.perf_counter()
        for _ in range(WARM_UP):
            self._router.call(message)
            self._flow.post("/", docs)
        count = max(10, int(2 * seconds * WARM_UP / (time.perf_counter() - begin)))
        self.zflow.add(self._pid, count, lambda: self._flow.post("/", docs), clock)
        self.router.add(self._router.pid, count, lambda: self._router.call(message))


def micro(samples: list[float]) -> float:
    """Return the median in microseconds."""
    return statistics.median(samples) * 1e6


def less(left: list[float], right: list[float]) -> list[float]:
    """Return the differences, round by round."""
    return [a - b for a, b in zip(left, right, strict=True)]


def tables(name: str, rigs: dict[int, Rig]) -> list[Table]:
    """Return how long requests took and what they cost."""
    latency: list[list[Cell]] = []
    cost: list[list[Cell]] = []
    for shards, rig in rigs.items():
        zflow, router = rig.zflow, rig.router
        each = ratio(zflow.latency, router.latency).value
        latency.append([shards, micro(zflow.latency), micro(router.latency), each])
        parts = [
            zflow.request,
            less(zflow.loop, zflow.request),
            less(zflow.process, zflow.loop),
            zflow.process,
        ]
        parts += [router.loop, less(router.process, router.loop), router.process]
        cost.append([shards, *map(micro, parts), ratio(zflow.process, router.process).value])
    header = [
        "shards",
        "request",
        "replies",
        "I/O",
        "broker",
        "ROUTER loop",
        "ROUTER I/O",
        "ROUTER",
        "ratio",
    ]
    return [
        Table(
            f"Latency of a request to all shards, {name}, median",
            ["shards", "zflow us", "ROUTER us", "ratio"],
            latency,
        ),
        Table(f"Processor time for a request to all shards, {name}, us", header, cost),
    ]


def ratios(name: str, rigs: dict[int, Rig]) -> dict[str, Ratio]:
    """Return how zflow compares with the ROUTER,
    and how the broker's time grows from 2 shards to the most.
    """
    most = max(rigs)
    rig = rigs[most]
    return {
        f"latency, {most} shards, {name}, zflow / ROUTER": ratio(
            rig.zflow.latency, rig.router.latency
        ),
        f"broker's processor time, {most} shards, {name}, zflow / ROUTER": ratio(
            rig.zflow.process, rig.router.process
        ),
        f"broker's time for a request without its replies, {name}, {most} shards / 2 shards": ratio(
            rig.zflow.request, rigs[2].zflow.request
        ),
    }


def measure(quick: bool) -> Result:
    """Return, for two payloads, how long requests take, what the broker spends on them,
    and how that grows.
    """
    steps, rounds, seconds = ((2, 8), 2, 0.03) if quick else ((1, 2, 4, 8, 16, 32), 9, 0.3)
    found = Result({})
    with counting(
        (Front, "_said_in"), (Front, "_heard"), (Broker, "_go_on"), (Outbox, "flush")
    ) as clock:
        for name, docs in (("small", small_documents(1)), ("1 MiB", large_documents())):
            with ExitStack() as running:
                rigs = {shards: Rig(shards, running) for shards in steps}
                for _ in range(rounds):
                    for rig in rigs.values():
                        rig.measure(docs, seconds, clock)
            found.ratios.update(ratios(name, rigs))
            found.tables.extend(tables(name, rigs))
    return found
