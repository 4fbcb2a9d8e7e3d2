"""Start-up: importing, and until four replicas are ready, each in a fresh interpreter,
against plain pyzmq.

The yardstick of importing is `import zmq, msgpack`, which zflow cannot do without. That of starting
is a C proxy and four workers, each an interpreter of its own that imports zmq only,
until each has answered once.
"""

from __future__ import annotations

import statistics

from bench.common import seconds_of
from bench.harness.fresh import fresh
from bench.harness.result import Cell, Result, Table, ratio
from bench.yardsticks.proxy import ProxyEcho

REPLICAS = 4


def start_proxy(workers: int) -> float:
    """Return the seconds until the proxy and all workers have answered."""
    begun: list[ProxyEcho] = []
    seconds = seconds_of(lambda: begun.append(ProxyEcho(workers)))
    begun[0].close()
    return seconds


def measure(quick: bool) -> Result:
    """Return the seconds of importing, starting, the first post and closing."""
    rounds = 2 if quick else 15
    imports: dict[str, list[float]] = {"import_zflow": [], "import_plain": []}
    flows: list[list[float]] = []
    proxies: list[float] = []
    for _ in range(rounds):
        for name, seconds in imports.items():
            seconds.append(fresh("bench.starts", name))
        flows.append(fresh("bench.starts", "start_flow", REPLICAS))
        proxies.append(start_proxy(REPLICAS))
    ready, posted, closed = ([each[at] for each in flows] for at in range(3))
    figures = {
        "import zflow": imports["import_zflow"],
        "import zmq, msgpack": imports["import_plain"],
        f"{REPLICAS} replicas ready": ready,
        "the first post after that": posted,
        "closing": closed,
        f"C proxy and {REPLICAS} workers ready": proxies,
    }
    rows: list[list[Cell]] = [
        [what, *(each * 1000 for each in spread(seconds))] for what, seconds in figures.items()
    ]
    ratios = {
        "import zflow / import zmq, msgpack": ratio(
            imports["import_zflow"], imports["import_plain"]
        ),
        f"{REPLICAS} ready, zflow / C proxy": ratio(ready, proxies),
    }
    return Result(
        ratios,
        [Table(f"Start-up, {rounds} rounds", ["", "median ms", "least ms", "most ms"], rows)],
    )


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """Return the median, the least and the most."""
    return statistics.median(seconds), min(seconds), max(seconds)
