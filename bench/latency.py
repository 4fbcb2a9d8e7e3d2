"""How long one small request takes when nothing else is going on: one replica, one post after the other.

python bench/latency.py [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable

from common import Echo, median_ratio, percentile, print_table, quick, same_bytes, small_documents
from proxy import ProxyEcho

from zflow import Flow

WARM_UP = 300  # requests


def sample(call: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of `count` calls."""
    clock = time.perf_counter
    samples = []
    for _ in range(count):
        begin = clock()
        call()
        samples.append(clock() - begin)
    return samples


def main() -> None:
    """Measure in turns and print percentiles over all rounds, and the ratio of the medians round by round."""
    rounds, count = (5, 300) if quick("Latency of sequential posts of one small Document") else (20, 1000)
    message = same_bytes()
    docs = small_documents(1)
    zflow: list[list[float]] = []
    proxy: list[list[float]] = []
    with Flow().add(name="echo", uses=Echo) as flow, ProxyEcho(workers=1) as echo:
        sample(lambda: flow.post("/", docs), WARM_UP)
        sample(lambda: echo.call(message), WARM_UP)
        for _ in range(rounds):
            zflow.append(sample(lambda: flow.post("/", docs), count))
            proxy.append(sample(lambda: echo.call(message), count))
    rows = []
    for name, measured in (("zflow", zflow), ("C zmq.proxy", proxy)):
        every = [seconds for samples in measured for seconds in samples]
        rows.append([name, *(f"{percentile(every, percent) * 1e6:.0f}" for percent in (50, 90, 99))])
    print_table(f"Sequential posts, one replica, {rounds * count} requests", ["", "p50 us", "p90 us", "p99 us"], rows)
    for percent in (50, 99):
        left, right = ([percentile(samples, percent) for samples in measured] for measured in (zflow, proxy))
        each = [a / b for a, b in zip(left, right, strict=True)]
        print(
            f"ratio of p{percent}, zflow / C proxy, median of rounds: {median_ratio(left, right):.2f} "
            f"(rounds from {min(each):.2f} to {max(each):.2f})"
        )


if __name__ == "__main__":
    main()
