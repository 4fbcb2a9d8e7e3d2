"""Arrivals that wait for nobody (Poisson, at 80% load): waiting times,
against an ideal central queue and the C proxy.

When each request comes is drawn beforehand, and its latency counts from then, not from when it was
really sent: a stall of zflow, or of this process, is not hidden. Workers sleep for drawn times and
answer how long it really was, so the ideal queue is computed for the very same arrivals and the
very same service times, in the same order. What is beyond it is overhead and imperfect dealing. A
request's wait is its latency less its service time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from bench.common import percentile
from bench.harness.result import Cell, Result, Table, ratio
from bench.yardsticks import ideal
from bench.yardsticks.proxy import ProxyEcho, seconds_frame, seconds_in
from zflow import AsyncClient, Document, DocumentArray, Executor, Flow, requests

LOAD = 0.8  # of what the replicas can do
LEAD = 0.05  # seconds from the beginning of a round to its first arrival, to have all ready
WARM_UP = 50  # requests


class Timed(Executor):
    """Takes as long as each Document says, and says how long it really was."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep for the service time of each Document."""
        for doc in docs:
            begin = time.perf_counter()
            time.sleep(doc.tags["seconds"])
            doc.tags["seconds"] = time.perf_counter() - begin


@dataclass(frozen=True)
class Arrivals:
    """When requests come and how long they take, in seconds from the beginning;
    how late they were sent is added.
    """

    at: list[float]
    work: list[float]


def poisson(draw: random.Random, count: int, servers: int, work: Sequence[float]) -> Arrivals:
    """Return so many arrivals that keep the servers busy for LOAD of their time."""
    mean = sum(work) / count / servers / LOAD
    at, now = [], LEAD
    for _ in range(count):
        now += draw.expovariate(1 / mean)
        at.append(now)
    return Arrivals(at, list(work))


@dataclass
class Measured:
    """What became of the requests of one round, in seconds."""

    latency: list[float]
    work: list[float]
    late: list[float]  # how much later than it should have been each was sent

    def waits(self) -> list[float]:
        """Return how long each request was not worked on."""
        return [latency - work for latency, work in zip(self.latency, self.work, strict=True)]


async def through_flow(client: AsyncClient, arrivals: Arrivals) -> Measured:
    """Post each request when its time has come, in a task of its own.

    A thread says when that is: an event loop by itself waits for whole milliseconds.
    """
    count = len(arrivals.at)
    measured = Measured([0.0] * count, [0.0] * count, [0.0] * count)
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []

    async def one(number: int) -> None:
        measured.late[number] = time.perf_counter() - begin - arrivals.at[number]
        docs = await client.post("/", Document(tags={"seconds": arrivals.work[number]}))
        measured.latency[number] = time.perf_counter() - begin - arrivals.at[number]
        measured.work[number] = docs[0].tags["seconds"]

    def start(number: int) -> None:
        tasks.append(loop.create_task(one(number)))

    def ring() -> None:
        for number, at in enumerate(arrivals.at):
            time.sleep(max(0.0, begin + at - time.perf_counter()))
            loop.call_soon_threadsafe(start, number)

    await asyncio.to_thread(ring)
    await asyncio.sleep(0)  # for the last task to be there
    await asyncio.gather(*tasks)
    return measured


def through_proxy(echo: ProxyEcho, arrivals: Arrivals) -> Measured:
    """Send each request when its time has come, and take answers in between."""
    count = len(arrivals.at)
    measured = Measured([0.0] * count, [0.0] * count, [0.0] * count)
    begin = time.perf_counter()
    sent = answered = 0
    while answered < count:
        now = time.perf_counter() - begin
        if sent < count and arrivals.at[sent] <= now:
            echo.client.send_multipart(
                [b"", str(sent).encode(), seconds_frame(arrivals.work[sent])]
            )
            measured.late[sent] = now - arrivals.at[sent]
            sent += 1
        elif echo.client.poll(
            _milliseconds(arrivals.at[sent] - now if sent < count else 1.0), zmq.POLLIN
        ):
            _, number, worked = echo.client.recv_multipart()
            measured.latency[int(number)] = time.perf_counter() - begin - arrivals.at[int(number)]
            measured.work[int(number)] = seconds_in(worked)
            answered += 1
    return measured


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))


@dataclass
class Case:
    """One kind of service times, and what was measured of it, round by round."""

    name: str
    replicas: int
    mean: float  # seconds
    sigma: float  # of the logarithm; 0.0: all are equal
    aims: bool

    def arrivals(self, seed: int, count: int) -> Arrivals:
        """Draw a round's arrivals; they are the same at every run."""
        draw = random.Random(seed)
        work = [
            self.mean * draw.lognormvariate(-(self.sigma**2) / 2, self.sigma) for _ in range(count)
        ]
        return poisson(draw, count, self.replicas, work)

    def measure(self, rounds: int, count: int) -> Outcome:
        """Run zflow and the yardstick in turns."""
        outcome = Outcome(self)
        with (
            Flow().add(name="timed", uses=Timed, replicas=self.replicas) as flow,
            ProxyEcho(self.replicas) as echo,
        ):
            assert flow.port is not None
            asyncio.run(self._in_turns(flow.port, echo, outcome, rounds, count))
        return outcome

    async def _in_turns(
        self, port: int, echo: ProxyEcho, outcome: Outcome, rounds: int, count: int
    ) -> None:
        async with AsyncClient(port=port) as client:
            await through_flow(client, self.arrivals(-1, WARM_UP))
            for number in range(rounds):
                arrivals = self.arrivals(number, count)
                outcome.add(
                    arrivals, await through_flow(client, arrivals), through_proxy(echo, arrivals)
                )


class Outcome:
    """What was measured of one case: mean and 99th percentile of the waits, each round's."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._zflow: list[list[float]] = []
        self._proxy: list[list[float]] = []
        self._ideal: list[list[float]] = []  # with the service times as they were in zflow
        self._late: list[float] = []

    def add(self, arrivals: Arrivals, zflow: Measured, proxy: Measured) -> None:
        """Add a round."""
        self._zflow.append(zflow.waits())
        self._proxy.append(proxy.waits())
        self._ideal.append(ideal.waits(arrivals.at, zflow.work, self.case.replicas))
        self._late.append(statistics.fmean(zflow.late))

    def ratios(self) -> dict[str, Any]:
        """Return mean and 99th percentile of the waits, in terms of ideal."""
        aims = (1.05, 1.1) if self.case.aims else (None, None)
        mean = [statistics.fmean(waits) for waits in self._zflow]
        tail = [percentile(waits, 99) for waits in self._zflow]
        return {
            f"mean wait, {self.case.name}, zflow / ideal": ratio(
                mean, _means(self._ideal), aim=aims[0]
            ),
            f"p99 wait, {self.case.name}, zflow / ideal": ratio(
                tail, _tails(self._ideal), aim=aims[1]
            ),
        }

    def rows(self) -> list[list[Cell]]:
        """Return a line for each of ideal, zflow and the yardstick, in ms."""
        lines: list[list[Cell]] = []
        for who, waits in (
            ("ideal", self._ideal),
            ("zflow", self._zflow),
            ("C proxy", self._proxy),
        ):
            figures = [
                statistics.median(values) * 1000 for values in (_means(waits), _tails(waits))
            ]
            late = statistics.median(self._late) * 1000 if who == "zflow" else ""
            lines.append([f"{self.case.name}, {who}", self.case.replicas, *figures, late])
        return lines


def _means(rounds: list[list[float]]) -> list[float]:
    return [statistics.fmean(waits) for waits in rounds]


def _tails(rounds: list[list[float]]) -> list[float]:
    return [percentile(waits, 99) for waits in rounds]


CASES = (
    Case("20 ms each", 4, 0.020, 0.0, aims=True),
    Case("lognormal, mean 20 ms", 4, 0.020, 1.0, aims=True),
    Case("lognormal, mean 5 ms", 2, 0.005, 1.0, aims=False),
)


def measure(quick: bool) -> Result:
    """Return mean and 99th percentile of the waits for several kinds of service times."""
    rounds, count = (1, 100) if quick else (5, 1000)
    outcomes = [case.measure(rounds, count) for case in (CASES[1:2] if quick else CASES)]
    ratios = {name: value for outcome in outcomes for name, value in outcome.ratios().items()}
    rows = [row for outcome in outcomes for row in outcome.rows()]
    header = ["service time", "replicas", "mean wait ms", "p99 wait ms", "sent late by ms, mean"]
    return Result(
        ratios,
        [Table(f"Poisson arrivals at {LOAD:.0%} load, {rounds} rounds of {count}", header, rows)],
    )
