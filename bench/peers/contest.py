"""Running zflow, the C proxy and the peers in turns: one at a time,
each with the machine to itself, round by round.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.harness.result import Cell, Ratio, Result, Table, ratio
from bench.harness.store import ROOT
from bench.peers import jobs, setup
from bench.yardsticks import ideal

MARK = "ZFLOW_BENCH_RUN"  # environment variable by which a system's processes are known
LIMIT = 600.0  # seconds for one system's jobs
GONE_WITHIN = 5.0  # seconds that what a system has started may outlive it
# Zflow's requests per second, in terms of the peer's.
AIMS = {"jina": 15.0, "ray": 10.0, "mosec": 2.0}
# A whole run and a quick one.
SIZES = {"--calls": (300, 50), "--seconds": (5.0, 1.0), "--requests": (300, 60)}

Measured = dict[str, Any]  # what an adapter prints


class Failed(Exception):
    """A system did not do its jobs; the message says why."""


def run(peers: Sequence[str], quick: bool) -> Result:
    """Run the jobs on all of them, and return figures and ratios;
    a peer that is missing or fails is skipped.
    """
    skipped = {peer: reason for peer in peers if (reason := setup.missing(peer)) is not None}
    interpreters = {"zflow": sys.executable, "proxy": sys.executable}
    interpreters |= {peer: str(setup.interpreter(peer)) for peer in peers if peer not in skipped}
    rounds: dict[str, list[Measured]] = {name: [] for name in interpreters}
    for number in range(1 if quick else 3):
        for name, interpreter in interpreters.items():
            if name in skipped:
                continue
            print(f"round {number + 1}: {name}", flush=True)
            try:
                rounds[name].append(tried(name, interpreter, quick))
            except Failed as error:
                skipped[name] = str(error)
                del rounds[name]
    if "zflow" in skipped:
        raise Failed(f"zflow: {skipped['zflow']}")
    requests = int(SIZES["--requests"][quick])
    return outcome(rounds, skipped, ideal.unlike_makespan(requests, jobs.UNLIKE))


def tried(name: str, interpreter: str, quick: bool) -> Measured:
    """Do what `one` does, a second time if it fails:
    some systems give up if a busy machine lets them start slowly.
    """
    try:
        return one(name, interpreter, quick)
    except Failed as error:
        print(f"{name} {error}; once more", flush=True)
        return one(name, interpreter, quick)


def one(name: str, interpreter: str, quick: bool) -> Measured:
    """Return what one system measures, after all its processes have ended;
    its log is in `.peers/NAME.log`.

    Raises:
        Failed: it ended with an error, did not end in time, or printed no figures.
    """
    sizes = [text for option, values in SIZES.items() for text in (option, str(values[quick]))]
    command = [interpreter, "-m", f"bench.peers.adapters.{name}", *sizes]
    mark = uuid.uuid4().hex
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, MARK: mark},
            stdout=output,
            stderr=errors,
            stdin=subprocess.DEVNULL,
        )
        try:
            status: int | None = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(mark)
            process.wait()
        output.seek(0)
        errors.seek(0)
        written = errors.read()
        if setup.FOLDER.exists():
            (setup.FOLDER / f"{name}.log").write_text(written, encoding="utf-8")
        return figures(status, output.read(), written)


def figures(status: int | None, output: str, errors: str) -> Measured:
    """Return the last line of an adapter's output, which is JSON.

    Raises:
        Failed: there is none.
    """
    if status is None:
        raise Failed(f"not done within {LIMIT:.0f} s")
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if status or not lines:
        raise Failed(
            f"ended with {status}: {(errors.strip().splitlines() or ['no message'])[-1][:200]}"
        )
    return dict(json.loads(lines[-1]))


def end(mark: str) -> None:
    """End all processes that carry this mark in their environment,
    as what a system has started does.
    """
    until = time.monotonic() + GONE_WITHIN
    while left := _marked(mark):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
        time.sleep(0.1)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if (
                alive
                and f"{MARK}={mark}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
            ):
                found.append(process)
    return found


def outcome(
    rounds: Mapping[str, list[Measured]], skipped: Mapping[str, str], least: float
) -> Result:
    """Return tables and ratios of what was measured; `least` is the ideal makespan in seconds."""
    rows: list[list[Cell]] = []
    ratios: dict[str, Ratio] = {}
    zflow = rounds["zflow"]
    for name, measured in rounds.items():
        p50, rate, makespan, busy = (_medians(measured, key) for key in KEYS)
        rows.append([_titled(name, measured), p50, rate, makespan, makespan / least, busy])
        if name != "zflow":
            rates = _column(zflow, "requests_per_s"), _column(measured, "requests_per_s")
            ratios[f"requests/s, zflow / {name}"] = ratio(
                *rates, better="higher", aim=AIMS.get(name)
            )
            ratios[f"p50, zflow / {name}"] = ratio(
                _column(zflow, "p50_ms"), _column(measured, "p50_ms")
            )
            spans = _column(zflow, "makespan_s"), _column(measured, "makespan_s")
            ratios[f"makespan, zflow / {name}"] = ratio(*spans)
    header = ["", "p50 ms", "requests/s", "makespan s", "makespan / ideal", "client's cores"]
    title = (
        f"Echo of one small Document ({jobs.REPLICAS} replicas): one at a time, and "
        f"{jobs.IN_FLIGHT} in flight; three "
        f"replicas of which one is ten times slower. Medians of {len(zflow)} rounds, one system "
        "after the other"
    )
    notes = [HOW]
    notes += [f"{name} was skipped: {reason}." for name, reason in skipped.items()]
    return Result(ratios, [Table(title, header, rows)], notes=notes)


HOW = (
    "mosec and LitServe are asked over HTTP/1.1 with JSON bodies, by keep-alive connections of "
    "plain sockets in one "
    "process (`bench/peers/httpload.py`); the others by their own clients. `client's cores` is the "
    "processor time that "
    "the asking process takes per second while many are in flight: at 1, it would be the "
    "bottleneck. With Ray, that "
    "process also chooses the replicas."
)
KEYS = ("p50_ms", "requests_per_s", "makespan_s", "client_cpu")


def _titled(name: str, measured: list[Measured]) -> str:
    versions = ", ".join(
        f"{package} {version}" for package, version in measured[0]["versions"].items()
    )
    return f"{name} ({versions})"


def _column(measured: list[Measured], key: str) -> list[float]:
    return [float(each[key]) for each in measured]


def _medians(measured: list[Measured], key: str) -> float:
    return statistics.median(_column(measured, key))
