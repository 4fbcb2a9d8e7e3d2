"""How many small requests a second get through, by requests in flight and replicas.

python bench/throughput.py [--quick]
"""

from __future__ import annotations

import statistics

from common import Echo, median_ratio, print_table, quick, same_bytes, seconds_of, small_documents
from proxy import ProxyEcho

from zflow import DocumentArray, Flow

REPLICAS = (1, 2, 4)
SECONDS = 0.5  # about how long one round of the yardstick takes


def fitting(echo: ProxyEcho, in_flight: int, seconds: float) -> int:
    """Return how many requests take the yardstick about so many seconds, 500 at least."""
    probe = [same_bytes()] * 500
    return max(500, int(500 / seconds_of(lambda: echo.stream(probe, in_flight)) * seconds))


def measure(
    flow: Flow, echo: ProxyEcho, docs: DocumentArray, in_flight: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return requests per second of zflow and of the yardstick, round by round."""
    messages = [same_bytes()] * len(docs)
    zflow, proxy = [], []
    for _ in range(rounds):
        spent = seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=in_flight))
        zflow.append(len(docs) / spent)
        proxy.append(len(messages) / seconds_of(lambda: echo.stream(messages, in_flight)))
    return zflow, proxy


def main() -> None:
    """Measure in turns and print the medians, and the median of the rounds' ratios."""
    short = quick("Throughput of small Documents, one per request")
    rounds, steps = (3, (1, 128)) if short else (7, (1, 2, 4, 8, 16, 32, 64, 128, 256))
    rows = []
    at_128: dict[int, float] = {}
    for replicas in REPLICAS:
        with Flow().add(name="echo", uses=Echo, replicas=replicas) as flow, ProxyEcho(workers=replicas) as echo:
            flow.post("/", small_documents(2000), request_size=1)  # until the windows have opened
            for in_flight in steps:
                docs = small_documents(fitting(echo, in_flight, SECONDS * (0.2 if short else 1)))
                zflow, proxy = measure(flow, echo, docs, in_flight, rounds)
                if in_flight == 128:
                    at_128[replicas] = statistics.median(zflow)
                medians = [f"{statistics.median(rates):,.0f}" for rates in (zflow, proxy)]
                rows.append([replicas, in_flight, len(docs), *medians, f"{median_ratio(zflow, proxy):.2f}"])
    header = ["replicas", "in flight", "requests", "zflow /s", "C proxy /s", "ratio"]
    print_table(f"Requests per second, median of {rounds} rounds", header, rows)
    print(f"two replicas against one, 128 in flight, zflow: {at_128[2] / at_128[1]:.2f}")


if __name__ == "__main__":
    main()
