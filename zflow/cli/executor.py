"""`zflow-run executor`: serve one Executor alone.
It has an option for every keyword of `Executor.serve`.
"""

from __future__ import annotations

import argparse
from typing import Final

from zflow.cli import options
from zflow.cli.command import Command, serve
from zflow.serve import KEYWORDS, flow_of

#: The options that come first in `--help`.
_FIRST: Final = ("uses", "port", "host", "name")

#: What options do that have other words here than in a Flow.
_ABOUT: Final = {
    "port": "the TCP port to listen on; any free one when left out, which is printed",
    "name": "its name; when left out, that of the class where --uses tells it",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    keys = (*_FIRST, *(key for key in KEYWORDS if key not in _FIRST))
    options.add(parser, keys, required=["uses"], about=_ABOUT)


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    said = options.read(parser, given, KEYWORDS)
    return serve(flow_of(said.pop("uses"), said))


COMMAND = Command(
    "Serve one Executor alone, until Ctrl-C or SIGTERM; Clients and other Flows can use it.",
    "zflow-run executor --uses EXECUTOR --port PORT [options]",
    _add_arguments,
    _run,
)
