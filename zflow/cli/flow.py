"""`zflow-run flow`: serve a Flow from YAML until it is interrupted."""

from __future__ import annotations

import argparse

from zflow.cli.command import Command, serve
from zflow.cli.options import pairs
from zflow.flow import Flow


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FLOW.yaml", help="the Flow's YAML file")
    parser.add_argument("--uses", metavar="FLOW.yaml", help="the same, as an option")
    parser.add_argument("--port", type=int, help="the TCP port to listen on; over what the YAML says")
    parser.add_argument("--host", help="the address to listen on; over what the YAML says (default: 127.0.0.1)")
    parser.add_argument("--curve", metavar="DIR", help="the key folder: who connects over TCP has to have a key")
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
        parser.error("name one YAML file, such as: zflow-run flow.yaml" if not files else f"one YAML file, not {files}")
    return files[0]


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    source = _source(parser, given.files, given.uses)
    context = pairs(parser, "--context", given.context)
    overrides = {key: getattr(given, key) for key in ("port", "host", "curve") if getattr(given, key) is not None}
    return serve(Flow.load_config(source, context=context, **overrides))


COMMAND = Command(
    "Serve the Flow that a YAML file describes, until Ctrl-C or SIGTERM.",
    "zflow-run [flow] [--uses] FLOW.yaml [options]",
    _add_arguments,
    _run,
)
