"""The command line: `python -m bench list | run | report | check | peers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.harness import check, report, store, suite, text
from bench.harness.plots import MissingExtra
from bench.peers import ALL, NAME, contest, setup

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (suite.Unknown, MissingExtra, FileNotFoundError, contest.Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _quick_ratios(name: str) -> check.Ratios:
    return suite.measure(name, quick=True).result.ratios


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks: ratios to plain ZeroMQ."
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=HERE,
        help="where results/, plots/, RESULTS.md and baseline.json lie (default: bench)",
    )
    commands = parser.add_subparsers(required=True, metavar="list | run | report | check | peers")

    commands.add_parser("list", help="tell which benchmarks there are").set_defaults(command=_list)

    run = commands.add_parser("run", help="run benchmarks, print and write their results")
    run.set_defaults(command=_run)
    run.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is named")
    run.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes; written to results/quick/"
    )

    command = "make RESULTS.md and plots of the results that are there"
    commands.add_parser("report", help=command).set_defaults(command=_report)

    checks = commands.add_parser(
        "check", help="run quick benchmarks and compare with baseline.json; 1: regression"
    )
    checks.set_defaults(command=_check)
    checks.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is named")
    checks.add_argument(
        "--accept", action="store_true", help="make what is measured the new baseline"
    )

    peers = commands.add_parser("peers", help=f"the same jobs on {', '.join(ALL)}")
    steps = peers.add_subparsers(required=True, metavar="setup | run | report")
    for name, action, about in (
        (
            "setup",
            _peers_setup,
            "install each into a virtual environment of its own, in bench/.peers/",
        ),
        ("run", _peers_run, "run zflow and those that are installed in turns"),
    ):
        step = steps.add_parser(name, help=about)
        step.set_defaults(command=action)
        step.add_argument("names", nargs="*", metavar="PEER", help="which; all if none is named")
        if name == "run":
            step.add_argument(
                "--quick", action="store_true", help="one short round; written to results/quick/"
            )
    steps.add_parser("report", help="print what `peers run` has written").set_defaults(
        command=_peers_report
    )
    return parser


def _list(options: argparse.Namespace) -> int:
    for name in suite.NAMES:
        print(f"{name:14} {suite.about(name)}")
    return 0


def _names(options: argparse.Namespace) -> Sequence[str]:
    """Return the benchmarks that were named, or all."""
    for name in options.names:
        suite.load(name)
    return options.names or suite.NAMES


def _results(options: argparse.Namespace) -> Path:
    folder: Path = options.folder / "results"
    return folder / "quick" if options.quick else folder


def _run(options: argparse.Namespace) -> int:
    for name in _names(options):
        print(f"{name}: {suite.about(name)}", flush=True)
        _finish(suite.measure(name, options.quick), options)
    return 0


def _finish(record: store.Record, options: argparse.Namespace) -> None:
    print(text.record(record))
    print(f"\nwritten to {store.write(record, _results(options))}\n", flush=True)


def _report(options: argparse.Namespace) -> int:
    print(f"written to {report.write(options.folder)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    path = options.folder / "baseline.json"
    baseline = check.read(path)
    print(store.described(store.environment()))
    verdicts: list[check.Verdict] = []
    for name in _names(options):
        print(f"{name}...", flush=True)
        ratios = check.measured(name, baseline, partial(_quick_ratios, name))
        verdicts += check.compare(name, baseline, ratios)
        if options.accept:
            baseline = check.accepted(baseline, name, ratios)
    print(f"\n{text.plain(check.table(verdicts))}")
    if options.accept:
        check.write(path, baseline)
        print(f"\nwritten to {path}")
        return 0
    return int(any(verdict.worse for verdict in verdicts))


def _peers(options: argparse.Namespace) -> Sequence[str]:
    """Return the peers that were named, or all."""
    for name in options.names:
        if name not in ALL:
            raise suite.Unknown(f"there is no peer {name!r}; there are {', '.join(ALL)}")
    return options.names or ALL


def _peers_setup(options: argparse.Namespace) -> int:
    failed = [peer for peer in _peers(options) if not setup.install(peer)]
    return int(bool(failed))


def _peers_run(options: argparse.Namespace) -> int:
    peers = _peers(options)
    environment = store.environment()
    result = contest.run(peers, options.quick)
    _finish(store.Record(NAME, options.quick, environment, result), options)
    return 0


def _peers_report(options: argparse.Namespace) -> int:
    record = store.read(options.folder / "results", NAME)
    if record is None:
        raise FileNotFoundError(
            "no results of peers: run `python -m bench peers setup` and `python -m bench peers run`"
        )
    print(text.record(record))
    return 0
