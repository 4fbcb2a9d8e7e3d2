"""DocumentArrays of 1 to 10,000 Documents with embeddings: packing and unpacking,
and a way through a Flow.

Each Document has an id, a text and an embedding of 512 float32. Packing and unpacking is compared
with what their raw columns cost: msgpack for the list of ids and the list of texts, and one numpy
array, which is neither copied nor stacked; and, as `one frame`, the same with the array's bytes
within the msgpack, which copies them. Posting is compared with the same frames echoed by the C
proxy, one request at a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from bench.common import TEXT, Echo, same_bytes, seconds_of
from bench.harness.result import Cell, Plot, Ratio, Result, Table, ratio
from bench.inside import pack, unpack
from bench.yardsticks.proxy import ProxyEcho
from zflow import Document, DocumentArray, Flow

COUNTS = (1, 10, 100, 1_000, 10_000)
FLOATS = 512


@dataclass
class Counted:
    """A DocumentArray of so many Documents, its raw columns and its frames, and seconds of each,
    round by round.
    """

    docs: DocumentArray
    columns: list[list[str]]
    matrix: np.ndarray[Any, np.dtype[np.float32]]
    apart: DocumentArray  # the same with each embedding in memory of its own
    codec: list[float] = field(default_factory=list)
    codec_apart: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    raw_one: list[float] = field(default_factory=list)
    posted: list[float] = field(default_factory=list)
    echoed: list[float] = field(default_factory=list)

    def figures(self) -> list[list[float]]:
        """Return all that is measured, in the order of the table."""
        return [self.codec, self.codec_apart, self.raw, self.raw_one, self.posted, self.echoed]

    def measure(self, flow: Flow, echo: ProxyEcho, repeats: int) -> None:
        """Measure one round, each so many times."""
        self.codec.append(mean_seconds(lambda: zflow_codec(self.docs), repeats))
        self.raw.append(mean_seconds(lambda: raw_codec(self.columns, self.matrix), repeats))
        self.raw_one.append(
            mean_seconds(lambda: raw_codec_in_one_frame(self.columns, self.matrix), repeats)
        )
        self.codec_apart.append(mean_seconds(lambda: zflow_codec(self.apart), repeats))
        message = [same_bytes()[0], *pack(self.docs)]
        self.posted.append(
            mean_seconds(lambda: flow.post("/", self.docs, request_size=len(self.docs)), repeats)
        )
        self.echoed.append(mean_seconds(lambda: echo.stream([message], 1, copy=False), repeats))


def mean_seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call."""
    return seconds_of(lambda: [action() for _ in range(repeats)]) / repeats


def zflow_codec(docs: DocumentArray) -> DocumentArray:
    """Pack Documents and unpack them, with no more copies than a way over sockets needs."""
    return unpack(pack(docs))[0]


def raw_codec(columns: list[list[str]], matrix: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """Pack plain lists and one array and unpack them."""
    frames = [msgpack.packb([columns, matrix.dtype.str, matrix.shape]), matrix.data]
    lists, dtype, shape = msgpack.unpackb(frames[0])
    return lists, np.frombuffer(frames[1], dtype).reshape(shape)


def raw_codec_in_one_frame(
    columns: list[list[str]], matrix: np.ndarray[Any, np.dtype[np.float32]]
) -> Any:
    """Pack plain lists and one array by msgpack alone, and unpack them."""
    frame = msgpack.packb([columns, matrix.dtype.str, matrix.shape, matrix.data.cast("B")])
    lists, dtype, shape, memory = msgpack.unpackb(frame)
    return lists, np.frombuffer(memory, dtype).reshape(shape)


def counted(count: int) -> Counted:
    """Return so many Documents; their embeddings are the rows of one matrix."""
    matrix = np.random.default_rng(count).random((count, FLOATS), dtype=np.float32)
    docs = DocumentArray(Document(text=TEXT) for _ in range(count))
    docs.embeddings = matrix
    apart = DocumentArray(Document(text=TEXT, embedding=row.copy()) for row in matrix)
    return Counted(docs, [[doc.id for doc in docs], docs.texts], matrix, apart)


def ratios(every: list[Counted]) -> dict[str, Ratio]:
    """Return what the most Documents cost, in terms of what they are compared with."""
    most = every[-1]
    count = f"{len(most.docs):,} Documents"
    aim = 3.0 if len(most.docs) == COUNTS[-1] else None
    return {
        f"pack and unpack, {count}, zflow / raw columns": ratio(most.codec, most.raw, aim=aim),
        f"pack and unpack, {count}, zflow / raw columns in one frame": ratio(
            most.codec, most.raw_one
        ),
        f"pack and unpack, {count}, embeddings apart, zflow / raw columns": ratio(
            most.codec_apart, most.raw
        ),
        f"posted, {count}, zflow / C proxy": ratio(most.posted, most.echoed),
    }


def measure(quick: bool) -> Result:
    """Return what packing, unpacking and posting cost, by the number of Documents."""
    counts, rounds = ((1, 300), 2) if quick else (COUNTS, 9)
    every = [counted(count) for count in counts]
    with ExitStack() as running:
        flow = running.enter_context(Flow().add(name="echo", uses=Echo))
        echo = running.enter_context(ProxyEcho(kind="mirror"))
        for each in every:
            each.measure(flow, echo, 1)
        for each in every:
            for seconds in each.figures():
                seconds.clear()
        for _ in range(rounds):
            for each in every:
                each.measure(flow, echo, max(1, min(1_000, max(counts)) // len(each.docs)))
    rows: list[list[Cell]] = []
    for each in every:
        rows.append(
            [len(each.docs), *(statistics.median(seconds) * 1e6 for seconds in each.figures())]
        )
    header = [
        "Documents",
        "pack + unpack",
        "embeddings apart",
        "raw columns",
        "in one frame",
        "posted",
        "C proxy echo",
    ]
    table = Table(f"DocumentArrays with embeddings of {FLOATS} float32, us", header, rows)
    lines = {
        name: [[float(row[0]), float(row[at])] for row in rows]
        for at, name in (
            (1, "pack + unpack"),
            (3, "raw columns"),
            (5, "posted"),
            (6, "C proxy echo"),
        )
    }
    return Result(ratios(every), [table], [Plot("DocumentArrays", "Documents", "us", lines)])
