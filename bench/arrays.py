"""Arrays from 1 KiB to 64 MiB, one way and back again: bytes per second,
against the C proxy with the same frames.

zflow sends them as ZeroMQ's frames, and through shared memory, which it takes by itself for large
ones. There is one replica, and one array in a request. One way, it is read a byte per page and
answered with nothing; in an echo it comes back, and bytes are counted once. Neither side copies
large frames. Four arrays take turns, so that they are not always in the processor's cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np

from bench.common import Echo, same_bytes, seconds_of
from bench.harness.result import Cell, Plot, Ratio, Result, Table, ratio
from bench.inside import pack
from bench.yardsticks.proxy import PAGE, Kind, ProxyEcho
from zflow import Document, DocumentArray, Executor, Flow, requests

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 16 * KIB, 128 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
IN_FLIGHT_BYTES = 64 * MIB
COPY_BELOW = 64 * KIB  # bytes; smaller frames are sent quicker with a copy
ARRAYS = 4


class Sink(Executor):
    """Reads an array and finds nothing."""

    @requests
    def read(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        """Read a byte of each page and answer with no Documents."""
        for doc in docs:
            doc.tensor[::PAGE].sum()
        return DocumentArray()


@dataclass
class Sized:
    """Arrays of one size, as Documents and as the frames that zflow makes of them,
    and what was measured.
    """

    size: int
    documents: list[Document]
    messages: list[list[Any]]
    zflow: list[float] = field(default_factory=list)  # bytes per second, round by round
    proxy: list[float] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return min(16, max(2, IN_FLIGHT_BYTES // self.size))

    def measure(self, flow: Flow, echo: ProxyEcho, budget: int) -> None:
        """Send about `budget` bytes through both, in 8 to 2,000 requests,
        once what other sizes have left is gone.

        Memory that is given back between two sizes is slow to get again,
        as it is when a Flow begins to work.
        """
        count = min(2000, max(8, budget // self.size))
        self._post(flow, 2 * self.in_flight)
        self._stream(echo, 2 * self.in_flight)
        self.zflow.append(count * self.size / seconds_of(lambda: self._post(flow, count)))
        self.proxy.append(count * self.size / seconds_of(lambda: self._stream(echo, count)))

    def _post(self, flow: Flow, count: int) -> None:
        documents: Iterator[Document] = islice(cycle(self.documents), count)
        flow.post(
            "/", documents, request_size=1, prefetch=self.in_flight, on_done=lambda response: None
        )

    def _stream(self, echo: ProxyEcho, count: int) -> None:
        echo.stream(
            islice(cycle(self.messages), count), self.in_flight, copy=self.size < COPY_BELOW
        )


def sized(size: int) -> Sized:
    """Return arrays of random bytes."""
    draw = np.random.default_rng(size)
    documents = [
        Document(tensor=draw.integers(256, size=size, dtype=np.uint8)) for _ in range(ARRAYS)
    ]
    header = same_bytes()[0]
    return Sized(
        size, documents, [[header, *pack(DocumentArray([document]))] for document in documents]
    )


@dataclass(frozen=True)
class Way:
    """What is measured for all sizes.

    Args:
        name: what it is called.
        uses: the Executor.
        kind: what the yardstick's worker does.
        aim: which ratio is to be reached from 1 MiB up.
        options: of the Flow.
    """

    name: str
    uses: type[Executor]
    kind: Kind
    aim: float
    options: dict[str, Any] = field(default_factory=dict)

    def measure(self, sizes: tuple[int, ...], rounds: int, budget: int) -> list[Sized]:
        """Measure all sizes in turns."""
        every = [sized(size) for size in sizes]
        with ExitStack() as running:
            flow = running.enter_context(Flow(**self.options).add(name="arrays", uses=self.uses))
            echo = running.enter_context(ProxyEcho(kind=self.kind))
            for number in range(rounds + 1):
                for each in every:
                    each.measure(flow, echo, budget)
                    if number == 0:  # memory and windows are warm now
                        each.zflow.clear()
                        each.proxy.clear()
        return every

    def outcome(self, every: list[Sized]) -> tuple[dict[str, Ratio], Table]:
        """Return ratios and a table of what was measured."""
        ratios = {
            f"bytes/s, {self.name}, {shown(each.size)}, zflow / C proxy": ratio(
                each.zflow, each.proxy, "higher", self.aim if each.size >= MIB else None
            )
            for each in every
        }
        rows: list[list[Cell]] = []
        for each, compared in zip(every, ratios.values(), strict=True):
            rates = [statistics.median(rates) / 1e9 for rates in (each.zflow, each.proxy)]
            rows.append([shown(each.size), each.in_flight, *rates, compared.value])
        header = ["size", "in flight", "zflow GB/s", "C proxy GB/s", "ratio"]
        return ratios, Table(f"Arrays, {self.name}", header, rows)


FRAMES = {"shared_memory": 0}
WAYS = (
    Way("one way, frames", Sink, "sink", 0.95, FRAMES),
    Way("one way, shared memory", Sink, "sink", 3.0),
    Way("echo, frames", Echo, "mirror", 0.95, FRAMES),
    Way("echo, shared memory", Echo, "mirror", 3.0),
)


def shown(size: int) -> str:
    """Return a size in words."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def measure(quick: bool) -> Result:
    """Return bytes per second by size, one way and back again."""
    sizes, rounds, budget = ((128 * KIB, MIB), 2, 8 * MIB) if quick else (SIZES, 7, 256 * MIB)
    found = Result({})
    lines: dict[str, list[list[float]]] = {}
    for way in WAYS:
        every = way.measure(sizes, rounds, budget)
        ratios, table = way.outcome(every)
        found.ratios.update(ratios)
        found.tables.append(table)
        lines[f"zflow, {way.name}"] = [
            [each.size, statistics.median(each.zflow) / 1e9] for each in every
        ]
        lines[f"C proxy, {way.name}"] = [
            [each.size, statistics.median(each.proxy) / 1e9] for each in every
        ]
    found.plots.append(Plot("Arrays", "bytes", "GB/s", lines))
    return found
