"""`zflow-run`: the command line. The first word names a command;
without one it is the YAML file of a Flow to serve.

What a command takes and does is in the module of its name; here is only how one is found.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from zflow.cli import control, executor, flow, keys, ping, replica
from zflow.cli.command import Command
from zflow.errors import ZflowError
from zflow.suggest import LINES, did_you_mean, printable
from zflow.version import __version__

COMMANDS: dict[str, Command] = {
    "flow": flow.COMMAND,
    "executor": executor.COMMAND,
    "replica": replica.COMMAND,
    "keys": keys.COMMAND,
    "ping": ping.COMMAND,
    "scale": control.SCALE,
    "restart": control.RESTART,
    "drain": control.DRAIN,
    "undrain": control.UNDRAIN,
}

INTERRUPTED = 130  # the exit status of what Ctrl-C has cut short, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 if all went well, 1 if not, 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else ""
    if first in ("-h", "--help", "--version"):
        _overview().parse_args([first])
    name = words.pop(0) if first in COMMANDS else "flow"
    if first not in COMMANDS:
        _check_not_mistyped(first)
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"zflow-run {name}", description=command.about, usage=command.usage
    )
    command.add_arguments(parser)
    try:
        return command.run(parser, parser.parse_args(words))
    except KeyboardInterrupt:
        return INTERRUPTED
    except ZflowError as error:
        print(f"zflow-run: {printable(str(error), keep=LINES)}", file=sys.stderr)
        return 1


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="zflow-run",
        usage="zflow-run FLOW.yaml [options]\n       zflow-run COMMAND ...",
        description="\n".join(
            [
                "Without a command: serve the Flow that a YAML file describes.",
                "",
                "commands:",
                *lines,
            ]
        ),
        epilog="`zflow-run COMMAND --help` tells more. A file that is called like a command is "
        "./COMMAND.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"zflow {__version__}")
    return parser


def _check_not_mistyped(word: str) -> None:
    """Exit if the first word looks like a command rather than a file."""
    if re.fullmatch(r"[a-z]+", word) and not os.path.exists(word):
        hint = did_you_mean(word, COMMANDS)
        if hint:
            _overview().error(f"{word!r} is neither a command nor a file{hint}")
