"""How close to ideal the work is spread when replicas or requests differ in their service times.

    python bench/heterogeneous.py [--quick]

Service times are slept, so the figures say how requests are dealt out and not how fast the machine is. `ideal` is one
central queue without any overhead: the least makespan where replicas differ, a simulation with the very same times
where requests do. `zmq.proxy` deals round-robin whatever the replicas hold.
"""

from __future__ import annotations

import functools
import random
import time
from typing import Any

from common import Echo, print_table, quick, seconds_of, small_documents
from proxy import ProxyEcho, ideal_makespan, seconds_frame, simulate

from zflow import Document, DocumentArray, Executor, Flow, requests

IN_FLIGHT = 128
UNLIKE = (0.050, 0.005, 0.005)  # seconds, of replicas 0, 1 and 2


class Unlike(Executor):
    """Takes as long as the replica it is: one is ten times slower than the others."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep for this replica's service time."""
        time.sleep(UNLIKE[self.runtime_args.replica_id])


class Told(Executor):
    """Takes as long as each Document says."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep for the service time of each Document."""
        for doc in docs:
            time.sleep(doc.tags["seconds"])


def real_sleep(seconds: float) -> float:
    """Return how long `time.sleep(seconds)` really takes here: it always oversleeps a little."""
    begin = time.perf_counter()
    for _ in range(20):
        time.sleep(seconds)
    return (time.perf_counter() - begin) / 20


@functools.cache
def overhead(replicas: int) -> float:
    """Return the seconds that one request costs beyond its service time, with the replicas busy."""
    count = 3000
    with Flow().add(name="echo", uses=Echo, replicas=replicas) as flow:
        flow.post("/", small_documents(count), request_size=1, prefetch=IN_FLIGHT)
        docs = small_documents(count)
        return seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=IN_FLIGHT)) / count


def post_times(flow: Flow, times: list[float]) -> float:
    """Return the seconds that a Flow of `Told` needs for requests of these service times."""
    docs = DocumentArray(Document(tags={"seconds": seconds}) for seconds in times)
    return seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=IN_FLIGHT))


def unlike_replicas(count: int) -> list[object]:
    """Three replicas, one ten times slower."""
    ideal = ideal_makespan(count, UNLIKE)
    with Flow().add(name="unlike", uses=Unlike, replicas=3) as flow:
        docs = small_documents(count)
        zflow = seconds_of(lambda: flow.post("/", docs, request_size=1, prefetch=IN_FLIGHT))
    with ProxyEcho(workers=3, sleeps=UNLIKE) as echo:
        proxy = seconds_of(lambda: echo.stream([[b"", b""]] * count, IN_FLIGHT))
    return row("50, 5 and 5 ms", 3, count, ideal, zflow, proxy)


def like_requests(seconds: float, replicas: int, count: int) -> list[object]:
    """Requests of one service time: ideal is that time for each, and the overhead, which zflow may add."""
    ideal = simulate([real_sleep(seconds)] * count, replicas) + count * overhead(replicas)
    times = [seconds] * count
    with Flow().add(name="told", uses=Told, replicas=replicas) as flow:
        zflow = post_times(flow, times)
    return row(f"{seconds * 1000:.0f} ms each", replicas, count, ideal, zflow, through_proxy(times, replicas))


def lognormal_requests(replicas: int, count: int) -> list[object]:
    """Requests of a median of 4 ms and a long tail; the times are the same at every run."""
    draw = random.Random(replicas)
    times = [draw.lognormvariate(-5.5, 1.0) for _ in range(count)]
    with Flow().add(name="told", uses=Told, replicas=replicas) as flow:
        zflow = post_times(flow, times)
    return row("lognormal, 4 ms", replicas, count, simulate(times, replicas), zflow, through_proxy(times, replicas))


def through_proxy(times: list[float], replicas: int) -> float:
    """Return the seconds that the yardstick needs for requests of these service times."""
    messages = [[b"", seconds_frame(seconds)] for seconds in times]
    with ProxyEcho(workers=replicas) as echo:
        return seconds_of(lambda: echo.stream(messages, IN_FLIGHT))


def row(what: str, replicas: int, count: int, ideal: float, zflow: float, proxy: float) -> list[object]:
    """Return one line of the table."""
    seconds = [f"{value:.3f}" for value in (ideal, zflow, proxy)]
    return [what, replicas, count, *seconds, f"{zflow / ideal:.2f}", f"{zflow / proxy:.2f}"]


def main() -> None:
    """Print one table: each kind of difference, zflow and the yardstick, against ideal."""
    short = quick("Makespan with unlike replicas and unlike requests")
    rows = [unlike_replicas(60 if short else 300)]
    for seconds, count in ((0.001, 1000), (0.005, 400), (0.050, 100)):
        for replicas in (2, 4):
            rows.append(like_requests(seconds, replicas, count // 4 if short else count))
    for replicas in (2, 4):
        rows.append(lognormal_requests(replicas, 150 if short else 600))
    header = ["service time", "replicas", "requests", "ideal s", "zflow s", "C proxy s", "zflow/ideal", "zflow/proxy"]
    print_table("Makespan in seconds (ideal of equal times includes the overhead per request)", header, rows)


if __name__ == "__main__":
    main()
