"""`zflow-run keys`: make a folder of keys for a Flow,
and further keys for its clients and replicas.
"""

from __future__ import annotations

import argparse

from zflow.cli.command import Command
from zflow.network import keys


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="new | add")
    new = actions.add_parser(
        "new", help="make a key folder: for the Flow, a client, an admin, a replica"
    )
    new.add_argument("folder", metavar="DIR", help="where; it must not exist, or be empty")
    add = actions.add_parser("add", help="make one more pair of keys and let it in")
    add.add_argument("folder", metavar="DIR", help="the Flow's key folder")
    add.add_argument("name", metavar="NAME", help="whose keys they are")
    kind = add.add_mutually_exclusive_group()
    kind.add_argument(
        "--admin", action="store_true", help="a client's that may scale, restart and drain"
    )
    kind.add_argument("--replica", action="store_true", help="a replica's, not a client's")


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    if given.action == "new":
        keys.new(given.folder)
        print(
            f"made {given.folder}: clients need server.key and client.key_secret of it, replicas "
            "replica.key_secret,"
            " and who may change the Flow admin.key_secret"
        )
    else:
        kind = "replicas" if given.replica else "admins" if given.admin else "clients"
        keys.add(given.folder, given.name, kind)
        print(
            f"made {given.name}.key_secret in {given.folder} and put {given.name}.key on the list "
            f"of {kind}"
        )
    return 0


COMMAND = Command(
    "Make keys for a Flow that listens on more than loopback, its clients and its replicas.",
    "zflow-run keys new DIR\n       zflow-run keys add DIR NAME [--admin | --replica]",
    _add_arguments,
    _run,
)
