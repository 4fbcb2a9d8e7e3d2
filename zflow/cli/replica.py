"""`zflow-run replica`: run replicas of a running Flow's Executor on this machine."""

from __future__ import annotations

import argparse

from zflow import remote
from zflow.cli import options
from zflow.cli.command import Command, counted, until_interrupted


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--broker", required=True, metavar="HOST:PORT", help="where the Flow takes replicas"
    )
    parser.add_argument(
        "--executor", required=True, metavar="NAME", help="whose replicas these are"
    )
    parser.add_argument(
        "--shard", type=int, default=0, help="which shard they are replicas of (default: 0)"
    )
    parser.add_argument("--curve", metavar="DIR", help="the key folder that lets them in")
    options.add(parser, remote.TAKES, required=["uses"])


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    def started(count: int) -> None:
        print(
            f"{given.executor} of the Flow at {given.broker}: {counted(count, 'replica')} here, "
            "until Ctrl-C",
            flush=True,
        )

    said = options.read(parser, given, remote.TAKES)
    where = {"shard": given.shard, "curve": given.curve}
    with until_interrupted():
        remote.join(
            given.broker, given.executor, said.pop("uses"), started=started, **where, **said
        )
    return 0


COMMAND = Command(
    "Run replicas of an Executor of a Flow that runs elsewhere, until Ctrl-C or SIGTERM.",
    "zflow-run replica --broker HOST:PORT --executor NAME --uses EXECUTOR [options]",
    _add_arguments,
    _run,
)
