"""The benchmarks: their arithmetic, their yardsticks, what is made of results,
and a short run of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from bench import cli, common
from bench.harness import check, plots, processes, report, store, suite, text
from bench.harness.result import Plot, Ratio, Result, Table, from_dict, ratio
from bench.harness.store import Record
from bench.peers import contest, httpload, setup
from bench.yardsticks import ideal
from bench.yardsticks.proxy import ProxyEcho, seconds_frame, seconds_in
from bench.yardsticks.scatter import RouterFanout

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "machine": "a machine",
    "cores": 2,
    "load": [0.5, 0.4, 0.3],
    **dict.fromkeys(("zflow", "python", "pyzmq", "libzmq", "msgpack", "numpy"), "1.0"),
}
CANNED = Result(
    ratios={
        "p50, zflow / C proxy": Ratio(1.2, 1.1, 1.3, aim=1.25),
        "rate": Ratio(0.5, 0.4, 0.6, "higher", 0.6),
    },
    tables=[Table("Figures", ["", "us", "requests/s"], [["zflow", 12.345, 12345]])],
    notes=["a note"],
)


def canned(**changes: Any) -> Record:
    return Record("latency", False, ENVIRONMENT, Result(**{**CANNED.__dict__, **changes}))


# -- arithmetic ------------------------------------------------------------------------------------


def test_ideal_makespan_is_the_least_in_which_unlike_servers_do_the_work() -> None:
    assert ideal.unlike_makespan(300, [0.050, 0.005, 0.005]) == pytest.approx(0.715)
    assert ideal.unlike_makespan(3, [1.0, 1.0]) == 2.0
    assert ideal.unlike_makespan(1, [5.0, 1.0]) == 1.0


def test_an_ideal_queue_gives_each_request_to_the_server_that_is_free_first() -> None:
    assert ideal.makespan([3, 1, 1, 1], servers=2) == 3
    assert ideal.makespan([1, 1, 1, 3], servers=2) == 4
    assert ideal.makespan([], servers=2) == 0


def test_nobody_waits_in_an_ideal_queue_while_a_server_is_free() -> None:
    assert ideal.waits([0, 1, 2], [1, 1, 1], servers=1) == [0, 0, 0]
    assert ideal.waits([0, 0, 0, 5], [2, 3, 1, 1], servers=2) == [0, 0, 2, 0]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_waits_end_with_the_makespan_if_all_come_at_once(
    jobs: list[tuple[int, int]], servers: int
) -> None:
    times = [float(seconds) for _, seconds in jobs]
    together = ideal.waits([0.0] * len(times), times, servers)
    assert max(
        wait + seconds for wait, seconds in zip(together, times, strict=True)
    ) == ideal.makespan(times, servers)
    apart = ideal.waits(sorted(float(at) for at, _ in jobs), times, servers)
    assert all(0 <= wait <= longest for wait, longest in zip(apart, together, strict=True))


def test_percentiles_and_ratios() -> None:
    samples = [float(value) for value in range(100, 0, -1)]
    assert [common.percentile(samples, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert common.percentile([7.0], 50) == 7
    found = ratio([2, 6, 10], [1, 2, 4], aim=2.4)
    assert (found.value, found.lowest, found.highest, found.reached) == (2.5, 2, 3, False)
    assert Ratio(0.7, 0.7, 0.7, "higher", 0.6).reached
    assert Ratio(0.7, 0.7, 0.7).reached is None


def test_processor_time_is_told_by_process_and_by_its_main_thread() -> None:
    loop, whole = processes.cpu_seconds(os.getpid())
    begin = time.thread_time()
    while time.thread_time() < begin + 0.1:
        pass
    loop_after, whole_after = processes.cpu_seconds(os.getpid())
    assert 0.05 < loop_after - loop <= whole_after - whole + 0.02
    assert whole >= loop


def test_a_timer_closes_batches_that_nobody_is_free_for_and_pull_does_not() -> None:
    from bench.batching import SIZE, pull, timer

    def sleep(count: int) -> float:
        return 1.0 + 0.1 * count

    at = [0.0, 0.25, 0.5, 3.0]
    # One, then the two that have come meanwhile.
    assert pull(at, 0.0, sleep) == pytest.approx([1.1, 2.05, 1.8, 1.1])
    # Two, then one that has waited, and one.
    assert pull(at, 0.3, sleep) == pytest.approx([1.5, 1.25, 2.1, 1.4])
    # Two, one behind them, one.
    assert timer(at, 0.3, sleep) == pytest.approx([1.5, 1.25, 2.1, 1.4])
    full = [0.0] * SIZE
    assert (
        timer(full, 9.0, sleep)
        == pull(full, 0.0, sleep)
        == pytest.approx([1.0 + 0.1 * SIZE] * SIZE)
    )


# -- yardsticks ------------------------------------------------------------------------------------


def ended(yardstick: Any) -> bool:
    return all(process.poll() is not None for process in yardstick._processes)


def test_the_yardstick_answers_with_what_it_was_sent_and_shares_its_work() -> None:
    with ProxyEcho(workers=2, sleeps=(0.0, 0.0)) as echo:
        assert echo.call([b"header", b"payload"]) == [b"", b"header", b"payload"]
        assert echo.stream([[b"h", b"p"]] * 100, in_flight=7) == 100
        _, header, slept = echo.call([b"h", seconds_frame(0.001)])
        assert header == b"h"
        assert seconds_in(slept) >= 0.001
        assert len(echo.pids) == 3
    assert ended(echo)


@pytest.mark.parametrize("kind", ["mirror", "sink"])
def test_the_yardstick_takes_large_frames(kind: Any) -> None:
    large = os.urandom(1 << 20)
    with ProxyEcho(kind=kind) as echo:
        answer = [b"", b"h", b"p", large] if kind == "mirror" else [b"", b"h", b""]
        assert echo.call([b"h", b"p", large]) == answer
        assert echo.stream([[b"h", b"p", memoryview(large)]] * 5, in_flight=2, copy=False) == 5
    assert ended(echo)


def test_the_yardstick_gets_what_zflow_sends() -> None:
    from zflow.devices.protocol.bundles import read
    from zflow.devices.protocol.messages import FROM_CLIENT, Request
    from zflow.documents.codec import unpack

    (request,) = read(common.same_bytes(), 0, FROM_CLIENT)
    assert isinstance(request, Request)
    assert unpack(request.payload)[0].texts == [common.TEXT]


def test_the_yardstick_for_fan_out_collects_the_answers_of_all_its_workers() -> None:
    with RouterFanout(shards=3, answer=[5, 0]) as fanout:
        for message in ([b"header", b"payload"], [b"header", bytes(1 << 20)]):
            assert fanout.call(message) == [bytes(5), b""] * 3
    assert ended(fanout)


# -- results ---------------------------------------------------------------------------------------


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = canned(plots=[Plot("Lines", "x", "y", {"a": [[1, 2.5]]})])
    path = store.write(record, tmp_path / "results")
    assert json.loads(path.read_text())["environment"]["commit"] == "abc1234"
    assert store.read(tmp_path / "results", "latency") == record
    assert store.read(tmp_path / "results", "throughput") is None
    assert from_dict(CANNED.as_dict()) == CANNED


def test_a_result_says_on_what_it_was_measured() -> None:
    environment = store.environment()
    assert set(environment) == set(ENVIRONMENT)
    assert environment["cores"] >= 1
    assert f"zflow {environment['zflow']}" in store.described(environment)


def test_results_are_shown_with_what_was_to_be_reached() -> None:
    shown = text.record(canned())
    assert "abc1234" in shown
    assert "a note" in shown
    lines = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert lines["p50, zflow / C proxy"][-7:] == ["1.10", "to", "1.30", "at", "most", "1.25", "yes"]
    assert lines["rate"][-4:] == ["at", "least", "0.6", "no"]
    assert lines["zflow"] == ["zflow", "12.3", "12,345"]


def test_report_makes_a_page_of_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--folder", str(tmp_path), "report"]) == 2
    assert "run `python -m bench run` first" in capsys.readouterr().err
    store.write(canned(), tmp_path / "results")
    assert cli.main(["--folder", str(tmp_path), "report"]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    assert "## latency" in page
    assert "| zflow | 12.3 | 12,345 |" in page
    assert "| p50, zflow / C proxy | 1.20 | 1.10 to 1.30 | at most 1.25 | yes |" in page


def test_plots_without_matplotlib_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    store.write(canned(plots=[Plot("Lines", "x", "y", {"a": [[1, 2]]})]), tmp_path / "results")
    assert cli.main(["--folder", str(tmp_path), "report"]) == 2
    assert "pip install -e '.[bench]'" in capsys.readouterr().err


def test_plots_are_drawn_and_shown_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = canned(plots=[Plot("Lines", "x", "y", {"a": [[1, 2], [10, 3]]})])
    store.write(record, tmp_path / "results")
    assert "![latency](plots/latency.svg)" in report.write(tmp_path).read_text()
    drawn = (tmp_path / "plots" / "latency.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    plots.draw(record, tmp_path / "plots")
    assert (tmp_path / "plots" / "latency.svg").read_bytes() == drawn


# -- regressions -----------------------------------------------------------------------------------


def one(value: float, better: Any = "lower") -> check.Ratios:
    return {"r": Ratio(value, value, value, better)}


@pytest.mark.parametrize(
    ("better", "value", "worse"),
    [
        ("lower", 1.49, False),
        ("lower", 1.51, True),
        ("higher", 0.67, False),
        ("higher", 0.66, True),
    ],
)
def test_a_ratio_may_be_worse_by_its_tolerance(better: Any, value: float, worse: bool) -> None:
    baseline = check.accepted({}, "latency", one(1.0, better))
    assert baseline["latency"]["r"] == {
        "ratio": 1.0,
        "better": better,
        "tolerance": check.TOLERANCE,
    }
    (verdict,) = check.compare("latency", baseline, one(value, better))
    assert (verdict.worse, verdict.word) == (worse, "WORSE" if worse else "ok")


def test_a_new_ratio_is_no_regression_and_one_that_is_gone_is() -> None:
    baseline = check.accepted({}, "latency", one(1.0))
    gone, new = check.compare("latency", baseline, {"other": Ratio(1, 1, 1)})
    assert (gone.word, gone.worse) == ("not measured", True)
    assert (new.word, new.worse) == ("new", False)


def test_what_is_worse_only_once_is_no_regression() -> None:
    baseline = check.accepted({}, "latency", one(1.0))
    runs = iter([9.0, 1.2, 9.0])
    assert check.measured("latency", baseline, lambda: one(next(runs)))["r"].value == 1.2
    assert next(runs) == 9.0  # it was not measured a third time
    assert check.measured("latency", baseline, lambda: one(9.0))["r"].value == 9.0


def test_an_accepted_ratio_keeps_its_tolerance() -> None:
    baseline = {"latency": {"r": {"ratio": 1.0, "better": "lower", "tolerance": 0.1}}, "other": {}}
    assert check.accepted(baseline, "latency", one(2.0)) == {
        "latency": {"r": {"ratio": 2.0, "better": "lower", "tolerance": 0.1}},
        "other": {},
    }


def test_check_fails_on_a_regression_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = 1.0
    monkeypatch.setattr(
        suite, "measure", lambda name, quick: Record(name, quick, ENVIRONMENT, Result(one(value)))
    )
    command = ["--folder", str(tmp_path), "check", "latency"]
    assert cli.main([*command, "--accept"]) == 0
    assert cli.main(command) == 0
    value = 9.0
    assert cli.main(command) == 1
    assert "WORSE" in capsys.readouterr().out
    assert cli.main([*command, "--accept"]) == 0
    assert cli.main(command) == 0


def test_the_baseline_knows_what_the_benchmarks_measure() -> None:
    baseline = check.read(ROOT / "bench" / "baseline.json")
    assert set(baseline) == set(suite.NAMES)
    assert all(entry["tolerance"] > 0 for ratios in baseline.values() for entry in ratios.values())


# -- peers -----------------------------------------------------------------------------------------


def test_zflow_and_the_proxy_do_the_jobs_that_peers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        contest, "SIZES", {"--calls": (9, 9), "--seconds": (0.2, 0.2), "--requests": (30, 30)}
    )
    monkeypatch.setattr(setup, "missing", lambda peer: "not here")
    result = contest.run(["mosec"], quick=True)
    assert list(result.ratios) == [
        "requests/s, zflow / proxy",
        "p50, zflow / proxy",
        "makespan, zflow / proxy",
    ]
    assert [str(row[0]).split()[0] for row in result.tables[0].rows] == ["zflow", "proxy"]
    assert "mosec was skipped: not here." in result.notes


@pytest.mark.parametrize(
    ("status", "output", "errors", "reason"),
    [
        (0, "noise", "", "ended with 0: no message"),
        (1, '{"p50_ms": 1}', "Traceback\nImportError: no ray", "ended with 1: ImportError: no ray"),
        (None, "", "", "not done within"),
    ],
)
def test_a_peer_that_fails_is_skipped_with_its_reason(
    status: Any, output: str, errors: str, reason: str
) -> None:
    with pytest.raises(contest.Failed, match=reason):
        contest.figures(status, output, errors)


def test_a_peer_may_print_other_things_too() -> None:
    assert contest.figures(0, 'starting\n{"p50_ms": 1}\nbye', "") == {"p50_ms": 1}


SERVER = """
import http.server, sys

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        self.send_response(200 if self.path == '/echo' else 404)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Echo).serve_forever()
"""


def test_http_servers_are_asked_over_many_connections_and_ended() -> None:
    port = httpload.free_port()
    with httpload.HttpSystem([sys.executable, "-c", SERVER, str(port)], port, "/echo") as server:
        server.call()
        assert server.stream(iter(range(50)), in_flight=4) == 50
        assert server.stream(iter(range(2)), in_flight=4) == 2
        wrong = httpload.Connection(port, "/other")
        wrong.send()
        with pytest.raises(ConnectionError, match="404"):
            wrong.receive()
        wrong.socket.close()
    assert server._process.poll() is not None


def test_peers_that_are_not_installed_say_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "FOLDER", tmp_path)
    assert "peers setup ray" in str(setup.missing("ray"))
    (tmp_path / "ray.failed").write_text("no such version\n")
    assert setup.missing("ray") == "cannot be installed: no such version"


# -- the benchmarks themselves ---------------------------------------------------------------------


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


def test_list_tells_what_each_benchmark_measures() -> None:
    lines = bench("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(suite.NAMES)
    assert all(len(line.split()) > 5 for line in lines)


def test_an_unknown_benchmark_is_refused_with_the_names_of_all() -> None:
    done = bench("run", "latency", "speed")
    assert done.returncode == 2
    assert "no benchmark 'speed'" in done.stderr
    assert "latency" in done.stderr
    assert done.stdout == ""  # before any was run


@pytest.mark.parametrize("name", suite.NAMES)
def test_a_quick_run_measures_all_ratios_of_the_baseline(name: str, tmp_path: Path) -> None:
    done = bench("--folder", str(tmp_path), "run", name, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    record = store.read(tmp_path / "results" / "quick", name)
    assert record is not None
    assert record.quick
    assert record.result.tables
    assert all(
        ratio.lowest <= ratio.value <= ratio.highest for ratio in record.result.ratios.values()
    )
    baseline = check.read(ROOT / "bench" / "baseline.json")
    assert set(record.result.ratios) == set(baseline[name])


def test_an_unknown_peer_is_refused_with_the_names_of_all() -> None:
    done = bench("peers", "run", "nobody")
    assert done.returncode == 2
    assert "no peer 'nobody'; there are jina, ray, mosec, litserve" in done.stderr


def test_a_benchmark_is_a_module_that_says_what_it_measures() -> None:
    for name in suite.NAMES:
        module: ModuleType = suite.load(name)
        assert callable(module.measure)
        assert suite.about(name)
