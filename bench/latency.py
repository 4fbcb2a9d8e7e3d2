"""One small request at a time: a post after the other to one replica,
against an echo through the C proxy.
"""

from __future__ import annotations

from bench.common import Echo, percentile, same_bytes, sample, small_documents
from bench.harness.result import Cell, Result, Table, ratio
from bench.yardsticks.proxy import ProxyEcho
from zflow import Flow

WARM_UP = 300  # requests


def measure(quick: bool) -> Result:
    """Return percentiles over all rounds, and the ratios of each round's percentiles."""
    rounds, count = (5, 200) if quick else (20, 1000)
    message, docs = same_bytes(), small_documents(1)
    zflow: list[list[float]] = []
    proxy: list[list[float]] = []
    with Flow().add(name="echo", uses=Echo) as flow, ProxyEcho(workers=1) as echo:
        sample(lambda: flow.post("/", docs), WARM_UP)
        sample(lambda: echo.call(message), WARM_UP)
        for _ in range(rounds):
            zflow.append(sample(lambda: flow.post("/", docs), count))
            proxy.append(sample(lambda: echo.call(message), count))
    ratios = {
        f"p{percent}, zflow / C proxy": ratio(
            [percentile(samples, percent) for samples in zflow],
            [percentile(samples, percent) for samples in proxy],
            aim=aim,
        )
        for percent, aim in ((50, 1.25), (99, 1.5))
    }
    rows: list[list[Cell]] = []
    for name, measured in (("zflow", zflow), ("C proxy", proxy)):
        every = [seconds for samples in measured for seconds in samples]
        rows.append([name, *(percentile(every, percent) * 1e6 for percent in (50, 90, 99))])
    title = f"Sequential posts of one small Document, one replica, {rounds * count} requests"
    return Result(ratios, [Table(title, ["", "p50 us", "p90 us", "p99 us"], rows)])
