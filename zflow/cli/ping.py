"""`zflow-run ping`: ask a running Flow, or an Executor that is served alone,
whether it is there and how it is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from zflow.cli.command import Command, counted
from zflow.clients.client import Client
from zflow.clients.inputs import seconds
from zflow.errors import BadRequest, ZflowError
from zflow.network import address
from zflow.suggest import LINES, printable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="HOST:PORT", help="where it listens; a port alone is one of 127.0.0.1"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=5000,
        metavar="MS",
        help="ms that its answer may take (default: 5000)",
    )
    parser.add_argument("--count", type=int, default=5, help="round trips to measure (default: 5)")
    parser.add_argument("--curve", metavar="DIR", help="the key folder that lets a client in")
    parser.add_argument(
        "--quiet", "-q", action="store_true", help="print nothing; the exit status tells"
    )


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    try:
        seconds(given.timeout)
    except BadRequest as error:
        parser.error(f"--{error.message}")
    if given.count < 1:
        parser.error(f"--count must be 1 or more, not {given.count}")
    try:
        host, port = address.parse(given.address, default_host="127.0.0.1")
    except BadRequest as error:
        parser.error(error.message)
    try:
        with Client(host, port, curve=given.curve) as client:
            client.info(given.timeout)  # connects, which is no round trip
            trips = [_round_trip(client, given.timeout) for _ in range(given.count)]
    except ZflowError as error:
        if not given.quiet:
            print(f"zflow-run: {printable(str(error), keep=LINES)}", file=sys.stderr)
        return 1
    if not given.quiet:
        lines = _lines(address.spell(host, port), trips[-1][1], [seconds for seconds, _ in trips])
        print("\n".join(map(printable, lines)))  # what is told there comes from elsewhere
    return 0


def _round_trip(client: Client, timeout: float) -> tuple[float, dict[str, Any]]:
    begun = time.perf_counter()
    info = client.info(timeout)
    return time.perf_counter() - begun, info


def _lines(where: str, info: dict[str, Any], trips: list[float]) -> list[str]:
    middle, least = statistics.median(trips) * 1000, min(trips) * 1000
    return [
        f"zflow {info.get('version')} at {where}",
        f"round trip: {middle:.2f} ms (median of {len(trips)}), {least:.2f} ms at least",
        f"requests in progress: {info.get('requests')}",
        *(_line(name, executor) for name, executor in info.get("executors", {}).items()),
    ]


def _line(name: str, executor: dict[str, Any]) -> str:
    replicas, addresses = executor.get("replicas", []), executor.get("addresses", [])
    copies = (
        f"{len(replicas)} of {counted(len(addresses), 'address')}"
        if addresses
        else counted(len(replicas), "replica")
    )
    names = f" ({', '.join(replicas)})" if replicas else ""
    return f"{name}: {copies}{names}, {executor.get('queued', 0)} queued"


COMMAND = Command(
    "Ask whether a Flow is there: version, latency, Executors; exit status 0 if it answers, 1 if "
    "not.",
    "zflow-run ping HOST:PORT [options]",
    _add_arguments,
    _run,
)
