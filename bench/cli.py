"""The command line: `python -m bench list | run | report | check | peers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import suite

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except suite.Unknown as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks: ratios to plain ZeroMQ.")
    parser.add_argument(
        "--folder", type=Path, default=HERE, help="where results/, plots/ and RESULTS.md lie (default: bench)"
    )
    commands = parser.add_subparsers(required=True, metavar="list | run | report | check | peers")

    commands.add_parser("list", help="tell which benchmarks there are").set_defaults(command=_list)

    run = commands.add_parser("run", help="run benchmarks, print and write their results")
    run.set_defaults(command=_run)
    run.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is named")
    run.add_argument("--quick", action="store_true", help="seconds instead of minutes; written to results/quick/")
    return parser


def _list(options: argparse.Namespace) -> int:
    for name in suite.NAMES:
        print(f"{name:14} {suite.about(name)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    for name in options.names:
        suite.load(name)
    folder = options.folder / "results"
    suite.run(options.names or suite.NAMES, options.quick, folder / "quick" if options.quick else folder)
    return 0
