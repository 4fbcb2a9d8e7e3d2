"""How long requests wait in clusters of 10, 100 and 1,000 replicas, next to one central queue:
for docs/scaling.md.

python -m tests.simulation.scaling
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from zflow.devices.balancing.balancer import Balancer

from .pool import Report, Simulation, list_schedule

WAY = 400e-6  # seconds to a replica and back
REPLICAS = (10, 100, 1000)
LOADS = (0.7, 0.95)
EACH = 40  # requests for each replica, at least 10,000 in all


def exponential(count: int, mean: float, seed: int) -> list[float]:
    """Times to serve requests, one like the other in the mean."""
    draw = random.Random(seed)
    return [draw.expovariate(1 / mean) for _ in range(count)]


def arrivals(count: int, every: float, seed: int) -> list[float]:
    """Times at which requests come, independent of each other."""
    draw = random.Random(seed)
    now = 0.0
    return [now := now + draw.expovariate(1 / every) for _ in range(count)]


def slowdown(replicas: int, mean: float, load: float) -> tuple[float, float, float, float]:
    """Return mean and 99th percentile of the latency, ours and the ideal's,
    in units of the mean work.

    The ideal is one central queue from which each request gets to a replica the moment that one is
    free; only its latency counts the way. Nothing real can do that.
    """
    count = max(10_000, EACH * replicas)
    works = [exponential(count, mean, seed=replicas).__getitem__] * replicas
    come = arrivals(count, mean / replicas / load, seed=1)
    ours = Simulation(works, Balancer(), way=WAY).run_open(come)
    ideal = list_schedule(works, come, way=0.0)
    return (
        ours.mean / mean,
        _tail(ours) / mean,
        (ideal.mean + WAY) / mean,
        (_tail(ideal) + WAY) / mean,
    )


def burst(replicas: int, mean: float) -> float:
    """Return how much longer a heap of requests that are all there at
    once takes than without any way.
    """
    count = EACH * replicas
    works = [exponential(count, mean, seed=replicas).__getitem__] * replicas
    ours = Simulation(works, Balancer(), way=WAY).run(count)
    return ours.makespan / list_schedule(works, [0.0] * count, way=0.0).makespan


def _tail(report: Report) -> float:
    latencies: Sequence[float] = sorted(report.latencies.values())
    return latencies[int(0.99 * len(latencies))]


def main() -> None:
    """Print both as rows of a Markdown table."""
    print(
        "| replicas | work | load | mean: ours, ideal | p99: ours, ideal |\n| --- | --- | --- | "
        "--- | --- |"
    )
    for replicas in REPLICAS:
        for mean in (0.001, 0.02):
            for load in LOADS:
                mine, tail, best, best_tail = slowdown(replicas, mean, load)
                row = (
                    f"{mean * 1e3:.0f} ms | {load} | {mine:.2f}, {best:.2f} | {tail:.2f}, "
                    f"{best_tail:.2f}"
                )
                print(f"| {replicas:,} | {row} |")
    for mean in (0.001, 0.02):
        bursts = [f"{replicas:,}: {burst(replicas, mean):.3f}" for replicas in REPLICAS]
        print(f"all at once, {mean * 1e3:.0f} ms:", ", ".join(bursts))


if __name__ == "__main__":
    main()
