"""The jobs that every system does, and the command line of every adapter.

    echo     one small text Document comes back: one at a time, and many in flight, with two
             replicas
    unlike   three replicas, one of them ten times slower, as quickly as possible

An adapter is a class that starts a system; `main` runs the jobs on it and prints one line of JSON.
This imports nothing but the standard library, because it runs in every peer's own interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

TEXT = "the quick brown fox jumps over the lazy dog"
REPLICAS = 2  # of the echo
UNLIKE = (0.050, 0.005, 0.005)  # seconds of work, of the first replica to start and of the others
IN_FLIGHT = 128
SEATS = "ZFLOW_BENCH_SEATS"  # environment variable: a folder in which replicas take their places


class System(Protocol):
    """A running system with some replicas of one service, and a client."""

    def call(self) -> None:
        """Send one Document and wait for it to come back."""

    def stream(self, source: Iterator[int], in_flight: int) -> int:
        """Send a Document for each item of `source`, so many in flight at most;
        return how many have come back.
        """


#: Starts a system: how many replicas, and whether they are unlike; a context manager that ends it.
Start = Callable[[int, bool], AbstractContextManager[System]]


def work_seconds() -> float:
    """Return how long this replica is to work on each request:
    the first one that asks is the slow one.
    """
    folder = os.environ[SEATS]
    for number, seconds in enumerate(UNLIKE):
        try:
            os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return seconds
    raise RuntimeError(f"more than {len(UNLIKE)} replicas were started")


def until(seconds: float) -> Iterator[int]:
    """Count up for so many seconds."""
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        yield number
        number += 1


def echo(start: Start, calls: int, seconds: float) -> dict[str, float]:
    """Return the median of sequential calls in ms, requests per second,
    and how busy the client was.
    """
    with start(REPLICAS, False) as system:
        for _ in range(calls // 5):
            system.call()
        samples = []
        for _ in range(calls):
            begin = time.perf_counter()
            system.call()
            samples.append(time.perf_counter() - begin)
        system.stream(until(seconds / 4), IN_FLIGHT)
        begin, used = time.perf_counter(), time.process_time()
        answered = system.stream(until(seconds), IN_FLIGHT)
        spent, used = time.perf_counter() - begin, time.process_time() - used
    return {
        "p50_ms": statistics.median(samples) * 1000,
        "requests_per_s": answered / spent,
        "client_cpu": used / spent,
    }


def unlike(start: Start, requests: int) -> dict[str, float]:
    """Return the seconds that replicas of different speed take for so many requests."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[SEATS] = folder
        with start(len(UNLIKE), True) as system:
            system.stream(iter(range(4 * len(UNLIKE))), len(UNLIKE))  # until all are awake
            begin = time.perf_counter()
            answered = system.stream(iter(range(requests)), IN_FLIGHT)
            spent = time.perf_counter() - begin
    if answered != requests:
        raise RuntimeError(f"{answered} of {requests} requests were answered")
    return {"makespan_s": spent}


def main(versions: dict[str, str], start: Start) -> None:
    """Do the jobs and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, required=True, help="sequential calls")
    parser.add_argument("--seconds", type=float, required=True, help="of many requests in flight")
    parser.add_argument(
        "--requests", type=int, required=True, help="to replicas of different speed"
    )
    options = parser.parse_args()
    measured: dict[str, Any] = {
        "versions": {"python": ".".join(map(str, sys.version_info[:3])), **versions}
    }
    measured |= echo(start, options.calls, options.seconds)
    measured |= unlike(start, options.requests)
    print(json.dumps(measured), flush=True)
