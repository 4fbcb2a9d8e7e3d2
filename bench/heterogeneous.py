"""Replicas or requests that differ in their service times: the makespan,
against an ideal one and the C proxy.

Service times are slept, so the figures say how requests are dealt out and not how fast the machine
is. `ideal` is one central queue without any overhead: the least makespan where replicas differ, a
schedule of the very same times where requests do. Where all are equal, ideal includes the overhead
per request. `zmq.proxy` deals round-robin whatever the replicas hold.
"""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.common import Echo, seconds_of, small_documents
from bench.harness.result import Cell, Ratio, Result, Table, ratio
from bench.yardsticks import ideal
from bench.yardsticks.proxy import ProxyEcho, seconds_frame
from zflow import Document, DocumentArray, Executor, Flow, requests

IN_FLIGHT = 128


class Unlike(Executor):
    """Takes as long as the replica it is."""

    def __init__(self, milliseconds: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = milliseconds[self.runtime_args.replica_id] / 1000

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep for this replica's service time."""
        time.sleep(self.seconds)


class Told(Executor):
    """Takes as long as each Document says."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep for the service time of each Document."""
        for doc in docs:
            time.sleep(doc.tags["seconds"])


def real_sleep(seconds: float) -> float:
    """Return how long `time.sleep(seconds)` really takes here: it always oversleeps a little."""
    return statistics.median(seconds_of(lambda: time.sleep(seconds)) for _ in range(20))


@functools.cache
def overhead(replicas: int, count: int) -> float:
    """Return the seconds that one request costs beyond its service time, with the replicas busy."""
    with Flow().add(name="echo", uses=Echo, replicas=replicas) as flow:
        flow.post("/", small_documents(count), request_size=1, prefetch=IN_FLIGHT)
        docs = small_documents(count)
        return seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=IN_FLIGHT)) / count


class Case:
    """One row: what differs, and the ratios of zflow and the yardstick, round by round."""

    def __init__(
        self, what: str, replicas: int, count: int, rounds: int, aim: float | None = None
    ) -> None:
        self.what, self.replicas, self.count, self.rounds, self.aim = (
            what,
            replicas,
            count,
            rounds,
            aim,
        )
        self._ideal: list[float] = []
        self._zflow: list[float] = []
        self._proxy: list[float] = []

    def measure(
        self, zflow: Callable[[], float], proxy: Callable[[], float], ideal: Callable[[], float]
    ) -> None:
        """Call each in turns: they return seconds."""
        for _ in range(self.rounds):
            self._ideal.append(ideal())
            self._zflow.append(zflow())
            self._proxy.append(proxy())

    @property
    def ratio(self) -> Ratio:
        """What zflow takes, in terms of ideal."""
        return ratio(self._zflow, self._ideal, aim=self.aim)

    def row(self) -> list[Cell]:
        """Return a line of the table."""
        medians = [
            statistics.median(seconds) for seconds in (self._ideal, self._zflow, self._proxy)
        ]
        proxy = ratio(self._proxy, self._ideal).value
        return [self.what, self.replicas, self.count, *medians, self.ratio.value, proxy]


def unlike_replicas(milliseconds: list[float], count: int, rounds: int, aim: float | None) -> Case:
    """Replicas of these service times."""
    seconds, replicas = [each / 1000 for each in milliseconds], len(milliseconds)
    case = Case(
        f"{', '.join(f'{each:g}' for each in milliseconds)} ms", replicas, count, rounds, aim
    )
    docs, messages = small_documents(count), [[b"", b""]] * count
    with ExitStack() as running:
        flow = Flow().add(
            name="unlike", uses=Unlike, uses_with={"milliseconds": milliseconds}, replicas=replicas
        )
        running.enter_context(flow)
        echo = running.enter_context(ProxyEcho(replicas, sleeps=seconds))
        case.measure(
            lambda: seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=IN_FLIGHT)),
            lambda: seconds_of(lambda: echo.stream(messages, IN_FLIGHT)),
            lambda: ideal.unlike_makespan(count, [real_sleep(each) for each in seconds]),
        )
    return case


def told_requests(case: Case, times: list[float], best: Callable[[], float]) -> Case:
    """Requests of these service times, in seconds, against the seconds that `best` returns."""
    docs = DocumentArray(Document(tags={"seconds": seconds}) for seconds in times)
    messages = [[b"", seconds_frame(seconds)] for seconds in times]
    with (
        Flow().add(name="told", uses=Told, replicas=case.replicas) as flow,
        ProxyEcho(case.replicas) as echo,
    ):
        case.measure(
            lambda: seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=IN_FLIGHT)),
            lambda: seconds_of(lambda: echo.stream(messages, IN_FLIGHT)),
            best,
        )
    return case


def like_requests(seconds: float, replicas: int, count: int, rounds: int) -> Case:
    """Requests of one service time: ideal is that time for each, and the overhead,
    which zflow may add.
    """
    case = Case(f"{seconds * 1000:g} ms each", replicas, count, rounds)
    extra = count * overhead(replicas, 20 * count)
    return told_requests(
        case,
        [seconds] * count,
        lambda: ideal.makespan([real_sleep(seconds)] * count, replicas) + extra,
    )


def lognormal_requests(replicas: int, count: int, rounds: int) -> Case:
    """Requests of a median of 4 ms and a long tail; the times are the same at every run."""
    draw = random.Random(replicas)
    times = [draw.lognormvariate(-5.5, 1.0) for _ in range(count)]
    more = real_sleep(0.004) - 0.004
    case = Case("lognormal, median 4 ms", replicas, count, rounds)
    return told_requests(
        case, times, lambda: ideal.makespan((each + more for each in times), replicas)
    )


def measure(quick: bool) -> Result:
    """Return the makespan of each kind of difference."""
    rounds = 1 if quick else 3
    cases = [
        unlike_replicas([20, 2], 100 if quick else 300, rounds, aim=1.05),
        unlike_replicas([50, 5, 5], 60 if quick else 300, rounds, aim=None),
    ]
    for seconds, count in ((0.005, 60),) if quick else ((0.001, 1000), (0.005, 400), (0.050, 100)):
        for replicas in (2,) if quick else (2, 4):
            cases.append(like_requests(seconds, replicas, count, rounds))
    for replicas in (2,) if quick else (2, 4):
        cases.append(lognormal_requests(replicas, 80 if quick else 600, rounds))
    ratios = {
        f"makespan, {case.what}, {case.replicas} replicas, zflow / ideal": case.ratio
        for case in cases
    }
    header = [
        "service time",
        "replicas",
        "requests",
        "ideal s",
        "zflow s",
        "C proxy s",
        "zflow / ideal",
    ]
    table = Table("Makespan", [*header, "C proxy / ideal"], [case.row() for case in cases])
    return Result(ratios, [table])
