"""What an ALL request costs the broker, and how long it takes, by the number of shards.

    python bench/fanout.py [--quick]

One post after the other goes to all of S shards, which answer with nothing, as a search of much with few results
would. The yardstick is a plain ROUTER that sends the same bytes S times, to S workers (`scatter.py`). All of them, for
each S, are there at once and are measured in turns, round by round.

Processor time is that of the broker's process, user and system. It is made up of

- `request`: what the broker's loop spends on taking the request in, sending it to all, and answering it, once all
  shards have. Counted inside the broker, by a clock around the two methods that do this;
- `replies`: the rest of the loop's time, which is reading S answers and being woken for them;
- `I/O`: ZeroMQ's own thread, which moves the bytes of every message over the sockets, S times out and S times in.
"""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psutil
from common import median_ratio, percentile, print_table, quick, same_bytes, small_documents
from scatter import RouterFanout, cpu_seconds

from zflow import Document, DocumentArray, Executor, Flow, requests
from zflow.devices import protocol
from zflow.devices.broker import Broker
from zflow.devices.front import Front
from zflow.wire import pack

WARM_UP = 20  # requests


class Shard(Executor):
    """Takes what it is sent and finds nothing."""

    @requests
    def take(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        """Answer with no Documents."""
        return DocumentArray()


class Clock:
    """Counts the processor time that brokers spend in these methods, if they are forked after this was made."""

    def __init__(self, *methods: tuple[type, str]) -> None:
        self._shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
        for owner, name in methods:
            setattr(owner, name, self._counted(getattr(owner, name)))

    @property
    def seconds(self) -> float:
        """What was counted so far."""
        return self._shared[0]

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        shared = self._shared

        def counted(*arguments: Any) -> Any:
            begin = time.thread_time()
            try:
                return method(*arguments)
            finally:
                shared[0] += time.thread_time() - begin

        return counted


@dataclass
class Measured:
    """What was measured round by round, in seconds per request; the latency is the round's median."""

    latency: list[float] = field(default_factory=list)
    request: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)

    def add(self, pid: int, count: int, call: Callable[[], object], clock: Clock | None = None) -> None:
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
    header = protocol.encoder()((protocol.VERSION, protocol.DONE, 100_000, 100, 0))
    return [len(header), *(len(frame) for frame in pack(DocumentArray()))]


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


def brokers() -> set[int]:
    """Return the process ids of the brokers of all running Flows."""
    processes = psutil.Process().children(recursive=True)
    return {process.pid for process in processes if process.cmdline()[:1] == ["zflow: broker"]}


def micro(samples: list[float]) -> str:
    """Return the median in microseconds."""
    return f"{statistics.median(samples) * 1e6:,.0f}"


def less(left: list[float], right: list[float]) -> list[float]:
    """Return the differences, round by round."""
    return [a - b for a, b in zip(left, right, strict=True)]


def report(name: str, rigs: dict[int, Rig]) -> None:
    """Print two tables, and how the broker's time for a request grows from 2 shards to the most."""
    rows = []
    for shards, rig in rigs.items():
        ratio = median_ratio(rig.zflow.latency, rig.router.latency)
        rows.append([shards, micro(rig.zflow.latency), micro(rig.router.latency), f"{ratio:.2f}"])
    print_table(f"Latency of an ALL request, {name}, median in us", ["shards", "zflow", "ROUTER", "ratio"], rows)
    rows = []
    for shards, rig in rigs.items():
        zflow, router = rig.zflow, rig.router
        parts = [zflow.request, less(zflow.loop, zflow.request), less(zflow.process, zflow.loop), zflow.process]
        parts += [router.loop, less(router.process, router.loop), router.process]
        rows.append([shards, *map(micro, parts), f"{median_ratio(zflow.process, router.process):.2f}"])
    header = ["shards", "request", "replies", "I/O", "broker", "ROUTER loop", "ROUTER I/O", "ROUTER", "ratio"]
    print_table(f"Processor time for an ALL request, {name}, in us", header, rows)
    most = max(rigs)
    grows = median_ratio(rigs[most].zflow.request, rigs[2].zflow.request)
    print(f"broker's time for a request without its replies, {most} shards / 2 shards: {grows:.2f}")


def main() -> None:
    """Print for each payload how long requests take, what the broker spends on them, and how that grows."""
    short = quick("Latency and broker time of ALL requests, by the number of shards")
    steps, rounds, seconds = ((1, 2, 8), 3, 0.05) if short else ((1, 2, 4, 8, 16, 32), 9, 0.3)
    clock = Clock((Front, "_from_client"), (Broker, "_go_on"), (Broker, "_flush"))
    for name, docs in (("small", small_documents(1)), ("1 MiB", large_documents())):
        with ExitStack() as running:
            rigs = {shards: Rig(shards, running) for shards in steps}
            for _ in range(rounds):
                for rig in rigs.values():
                    rig.measure(docs, seconds, clock)
            report(name, rigs)


if __name__ == "__main__":
    main()
