"""The benchmarks: their arithmetic, their yardstick, and a short run of each, so that they keep running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(autouse=True)
def bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_ideal_makespan_is_the_least_in_which_unlike_servers_do_the_work() -> None:
    from proxy import ideal_makespan

    assert ideal_makespan(300, [0.050, 0.005, 0.005]) == pytest.approx(0.715)
    assert ideal_makespan(3, [1.0, 1.0]) == 2.0
    assert ideal_makespan(1, [5.0, 1.0]) == 1.0


def test_simulated_queue_gives_each_request_to_the_server_that_is_free_first() -> None:
    from proxy import simulate

    assert simulate([3, 1, 1, 1], servers=2) == 3
    assert simulate([1, 1, 1, 3], servers=2) == 4
    assert simulate([], servers=2) == 0


def test_percentiles_and_ratios() -> None:
    from common import median_ratio, percentile

    samples = [float(value) for value in range(100, 0, -1)]
    assert [percentile(samples, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 50) == 7
    assert median_ratio([2, 6, 10], [1, 2, 4]) == 2.5


def test_the_yardstick_answers_with_what_it_was_sent_and_shares_its_work(tmp_path: Path) -> None:
    from proxy import ProxyEcho, seconds_frame

    with ProxyEcho(workers=2, sleeps=(0.0, 0.0)) as echo:
        assert echo.call([b"header", b"payload"]) == [b"", b"header", b"payload"]
        assert echo.stream([[b"h", b"p"]] * 100, in_flight=7) == 100
        assert echo.call([b"h", seconds_frame(0.001)])[1] == b"h"
        processes = echo._processes
    assert len(processes) == 3
    assert all(process.poll() is not None for process in processes)


def test_the_yardstick_gets_what_zflow_sends() -> None:
    from common import TEXT, same_bytes

    from zflow.devices import protocol
    from zflow.wire import unpack

    header, *payload = same_bytes()
    assert protocol.decode(header, protocol.FROM_CLIENT)[1] == protocol.REQUEST
    assert unpack(payload)[0].texts == [TEXT]


def test_the_yardstick_for_fan_out_collects_the_answers_of_all_its_workers() -> None:
    from scatter import RouterFanout

    with RouterFanout(shards=3, answer=[5, 0]) as fanout:
        for message in ([b"header", b"payload"], [b"header", bytes(1 << 20)]):
            assert fanout.call(message) == [bytes(5), b""] * 3
        processes = fanout._processes
    assert all(process.poll() is not None for process in processes)


def test_processor_time_is_told_by_process_and_by_its_main_thread() -> None:
    from scatter import cpu_seconds

    loop, whole = cpu_seconds(os.getpid())
    begin = time.thread_time()
    while time.thread_time() < begin + 0.1:
        pass
    loop_after, whole_after = cpu_seconds(os.getpid())
    assert 0.05 < loop_after - loop <= whole_after - whole + 0.02
    assert whole >= loop


def test_a_timer_closes_batches_that_nobody_is_free_for_and_pull_does_not() -> None:
    from batching import SIZE, pull, timer

    def sleep(count: int) -> float:
        return 1.0 + 0.1 * count

    at = [0.0, 0.25, 0.5, 3.0]
    assert pull(at, 0.0, sleep) == pytest.approx([1.1, 2.05, 1.8, 1.1])  # one, then the two that have come meanwhile
    assert pull(at, 0.3, sleep) == pytest.approx([1.5, 1.25, 2.1, 1.4])  # two, then one that has waited, and one
    assert timer(at, 0.3, sleep) == pytest.approx([1.5, 1.25, 2.1, 1.4])  # two, one behind them, one
    full = [0.0] * SIZE
    assert timer(full, 9.0, sleep) == pull(full, 0.0, sleep) == pytest.approx([1.0 + 0.1 * SIZE] * SIZE)


def test_the_benchmark_of_batching_tells_all_ways_at_all_rates() -> None:
    command = [sys.executable, str(BENCH / "batching.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("zflow, held 20 ms") == done.stdout.count("no overhead, timer of 20 ms") == 3
    assert "pull / full batches" in done.stdout


@pytest.mark.parametrize("script", ["latency", "throughput", "heterogeneous", "fanout", "growth", "overload"])
def test_benchmark_runs_and_prints_its_ratio(script: str) -> None:
    command = [sys.executable, str(BENCH / f"{script}.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ratio|zflow/proxy", done.stdout)
    assert "----" in done.stdout
