"""What the benchmarks share: the small request, percentiles, tables and the command line.

Each benchmark runs zflow and the yardstick of `proxy.py` in turns, round by round, in one process on one machine, and
its ratio compares neighbouring rounds: what else the machine does then weighs on both.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

import zflow
from zflow import Document, DocumentArray, Executor, requests
from zflow.devices import protocol
from zflow.wire import pack

TEXT = "the quick brown fox jumps over the lazy dog"


class Echo(Executor):
    """Answers with what it was sent."""

    @requests
    def echo(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Leave the Documents as they are."""


def small_documents(count: int) -> DocumentArray:
    """Return `count` Documents of one short text each."""
    return DocumentArray(Document(text=TEXT) for _ in range(count))


def same_bytes(docs: DocumentArray | None = None) -> list[bytes]:
    """Return header and payload of the request that zflow makes of these Documents, by default one small one."""
    header = protocol.encoder()((protocol.VERSION, protocol.REQUEST, 1000, "/", None, None, 0, 1))
    return [header, *(bytes(frame) for frame in pack(docs or small_documents(1)))]


def seconds_of(action: Callable[[], object]) -> float:
    """Return how many seconds `action()` takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    at = -(-len(ordered) * percent // 100) - 1
    return ordered[max(0, int(at))]


def median_ratio(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the median over the rounds of `left / right`."""
    return statistics.median(a / b for a, b in zip(left, right, strict=True))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print `rows` under `header`, the first column to the left and the others to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *others]))
        if number == 0:
            print("  ".join("-" * width for width in widths))


def quick(description: str) -> bool:
    """Read the command line, say on what this runs, and return whether a short run was asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: seconds instead of minutes")
    arguments = parser.parse_args()
    print(
        f"zflow {zflow.__version__}, Python {platform.python_version()}, pyzmq {zmq.__version__}, "
        f"libzmq {zmq.zmq_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    return bool(arguments.quick)
