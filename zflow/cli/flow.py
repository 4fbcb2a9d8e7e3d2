"""`zflow-run flow`: serve a Flow from YAML until it is interrupted."""

from __future__ import annotations

import argparse
from typing import Final

from zflow.cli import options
from zflow.cli.command import Command, serve
from zflow.flow import Flow
from zflow.topology.options import FLOW_FIELDS

#: The Flow's options that may be said here, over what its YAML says.
_OVER: Final = ("port", "host", "curve")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FLOW.yaml", help="the Flow's YAML file")
    parser.add_argument("--uses", metavar="FLOW.yaml", help="the same, as an option")
    about = {key: f"{FLOW_FIELDS[key].about}; over what the YAML says" for key in _OVER}
    options.add(parser, _OVER, about=about)
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a value for ${{ CONTEXT.NAME }} in the YAML; may be repeated",
    )


def _source(parser: argparse.ArgumentParser, files: list[str], uses: str | None) -> str:
    """The one YAML file that the command line names."""
    files = [*files, uses] if uses is not None else files
    if len(files) != 1:
        parser.error(
            "name one YAML file, such as: zflow-run flow.yaml"
            if not files
            else f"one YAML file, not {files}"
        )
    return files[0]


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    source = _source(parser, given.files, given.uses)
    context = options.pairs(parser, "--context", given.context)
    return serve(Flow.load_config(source, context=context, **options.read(parser, given, _OVER)))


COMMAND = Command(
    "Serve the Flow that a YAML file describes, until Ctrl-C or SIGTERM.",
    "zflow-run [flow] [--uses] FLOW.yaml [options]",
    _add_arguments,
    _run,
)
