"""Small requests per second, by requests in flight and replicas, and as one long stream,
against the C proxy.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.common import TEXT, Echo, same_bytes, seconds_of, small_documents
from bench.harness.result import Cell, Plot, Result, Table, ratio
from bench.yardsticks.proxy import ProxyEcho
from zflow import Document, DocumentArray, Flow

REPLICAS = (1, 2, 4)
SECONDS = 0.3  # about how long one round of the yardstick takes
STREAM = 1024  # requests in flight of a client that streams


@dataclass
class Rates:
    """Requests per second, round by round."""

    zflow: list[float] = field(default_factory=list)
    proxy: list[float] = field(default_factory=list)

    def row(self) -> list[Cell]:
        """Return the medians, and the median of the rounds' ratios."""
        return [
            statistics.median(self.zflow),
            statistics.median(self.proxy),
            ratio(self.zflow, self.proxy).value,
        ]


@dataclass
class Rig:
    """A running Flow, the running yardstick with as many workers,
    and how long and how often to measure.
    """

    flow: Flow
    echo: ProxyEcho
    rounds: int
    seconds: float

    def warm_up(self) -> None:
        """Post until the windows have opened."""
        self.flow.post("/", small_documents(1000), request_size=1)

    def fitting(self, in_flight: int) -> int:
        """Return how many requests take the yardstick about `seconds`, 500 at least."""
        probe = [same_bytes()] * 500
        return max(
            500, int(500 / seconds_of(lambda: self.echo.stream(probe, in_flight)) * self.seconds)
        )

    def measure(self, count: int, in_flight: int, post: Callable[[], object]) -> Rates:
        """Return the rates of `post`, which posts so many requests, and of the yardstick."""
        rates, messages = Rates(), [same_bytes()] * count
        for _ in range(self.rounds):
            rates.zflow.append(count / seconds_of(post))
            rates.proxy.append(count / seconds_of(lambda: self.echo.stream(messages, in_flight)))
        return rates

    def at_hand(self, in_flight: int) -> tuple[int, Rates]:
        """Measure Documents that are all there."""
        docs = small_documents(self.fitting(in_flight))
        return len(docs), self.measure(
            len(docs),
            in_flight,
            lambda: self.flow.post("/", docs, request_size=1, prefetch=in_flight),
        )

    def streamed(self, documents: Callable[[int], object]) -> tuple[int, Rates]:
        """Measure a long stream whose results go to a callback."""
        count = max(2 * STREAM, self.fitting(STREAM))

        def post() -> None:
            self.flow.post(
                "/",
                documents(count),
                request_size=1,
                prefetch=STREAM,
                on_done=lambda response: None,
            )

        return count, self.measure(count, STREAM, post)


def generated(count: int) -> object:
    """Return Documents that are made as they are read."""
    return (Document(text=TEXT) for _ in range(count))


def array(count: int) -> DocumentArray:
    """Return Documents that are all there."""
    return small_documents(count)


def measure(quick: bool) -> Result:
    """Return rates by replicas and requests in flight, with the ratios for two replicas."""
    rounds, seconds = (3, 0.05) if quick else (5, SECONDS)
    steps = (1, 128) if quick else (1, 4, 16, 64, 128, 256)
    rows: list[list[Cell]] = []
    streams: list[list[Cell]] = []
    ratios = {}
    lines: dict[str, list[list[float]]] = {}
    for replicas in (2,) if quick else REPLICAS:
        with (
            Flow().add(name="echo", uses=Echo, replicas=replicas) as flow,
            ProxyEcho(workers=replicas) as echo,
        ):
            rig = Rig(flow, echo, rounds, seconds)
            rig.warm_up()
            for in_flight in steps:
                count, rates = rig.at_hand(in_flight)
                rows.append([replicas, in_flight, count, *rates.row()])
                for name, rate in (("zflow", rates.zflow), ("C proxy", rates.proxy)):
                    lines.setdefault(f"{name}, {replicas} replicas", []).append(
                        [in_flight, statistics.median(rate)]
                    )
                if in_flight == 128:
                    aim = 0.6 if replicas == 2 else None
                    name = f"requests/s, {replicas} replicas, 128 in flight, zflow / C proxy"
                    ratios[name] = ratio(rates.zflow, rates.proxy, "higher", aim)
            if replicas == 2:
                for name, documents in (("a DocumentArray", array), ("a generator", generated)):
                    count, rates = rig.streamed(documents)
                    streams.append([name, count, *rates.row()])
                    label = f"requests/s, stream of {name}, zflow / C proxy"
                    ratios[label] = ratio(rates.zflow, rates.proxy, "higher", 1.0)
    title = f"Requests per second, one small Document each, median of {rounds} rounds"
    header = ["requests", "zflow /s", "C proxy /s", "ratio"]
    tables = [
        Table(title, ["replicas", "in flight", *header], rows),
        Table(
            f"One stream, two replicas, {STREAM} in flight, results to a callback",
            ["of", *header],
            streams,
        ),
    ]
    return Result(
        ratios, tables, [Plot("Small requests", "requests in flight", "requests/s", lines)]
    )
