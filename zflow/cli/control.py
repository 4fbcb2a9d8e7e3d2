"""`zflow-run scale`, `restart`, `drain`, `undrain`: change a running Flow."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from zflow.cli.command import Command, counted
from zflow.clients.client import Client
from zflow.errors import BadRequest
from zflow.network import address


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="HOST:PORT", help="where the Flow listens; a port alone is of 127.0.0.1"
    )
    parser.add_argument("--curve", metavar="DIR", help="the key folder that lets a client in")


def _client(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Client:
    try:
        client: Client = Client(
            *address.parse(given.address, default_host="127.0.0.1"), curve=given.curve
        )
    except BadRequest as error:
        parser.error(error.message)
    return client


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="MS",
        help="ms that each change may take; any time when left out",
    )


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="kill who does not end in timeout_close of the Flow"
    )


def _add_scale(parser: argparse.ArgumentParser) -> None:
    _add_address(parser)
    _add_timeout(parser)
    _add_force(parser)
    parser.add_argument(
        "wanted", nargs="+", metavar="EXECUTOR=REPLICAS", help="how many replicas, of each shard"
    )


def _scale(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    wanted = {}
    for text in given.wanted:
        found = re.fullmatch(r"([^=]+)=(\d{1,9})", text)
        if found is None:
            parser.error(f"say EXECUTOR=REPLICAS, such as encoder=5, not {text!r}")
        wanted[found[1]] = int(found[2])
    with _client(parser, given) as client:
        for executor, replicas in wanted.items():
            result = client.scale(executor, replicas, timeout=given.timeout, force=given.force)
            print(
                f"{executor}: {counted(result['replicas'], 'replica')} instead of "
                f"{result['before']}",
                flush=True,
            )
    return 0


def _named(
    what: str, about: str, *options: Callable[[argparse.ArgumentParser], None]
) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        _add_address(parser)
        for option in options:
            option(parser)
        parser.add_argument("names", nargs="+", metavar=what, help=about)

    return add


def _each(change: Callable[..., dict[str, Any]], said: str) -> Callable[..., int]:
    def run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
        options = {
            name: value for name, value in vars(given).items() if name in ("timeout", "force")
        }
        with _client(parser, given) as client:
            for name in given.names:
                result = change(client, name, **options)
                print(f"{name}: " + said.format(**result), flush=True)
        return 0

    return run


_REPLICA = "REPLICA", "its name, such as encoder/rep-0, as `zflow-run ping` shows it"

SCALE = Command(
    "Give Executors of a running Flow more replicas, or fewer.",
    "zflow-run scale HOST:PORT EXECUTOR=REPLICAS [EXECUTOR=REPLICAS ...]",
    _add_scale,
    _scale,
)
RESTART = Command(
    "Put a new process in the place of each replica of an Executor, one after the other.",
    "zflow-run restart HOST:PORT EXECUTOR [EXECUTOR ...]",
    _named("EXECUTOR", "the Executor's name", _add_timeout, _add_force),
    _each(Client.restart, "{restarted} restarted"),
)
DRAIN = Command(
    "Let a replica finish what it has, and give it nothing more.",
    "zflow-run drain HOST:PORT REPLICA [REPLICA ...]",
    _named(*_REPLICA, _add_timeout),
    _each(Client.drain, "rests"),
)
UNDRAIN = Command(
    "Let a replica that rests compete again.",
    "zflow-run undrain HOST:PORT REPLICA [REPLICA ...]",
    _named(*_REPLICA),
    _each(Client.undrain, "competes again"),
)
