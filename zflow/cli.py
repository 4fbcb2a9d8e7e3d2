"""`zflow-run`: serve a Flow from YAML until it is interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from zflow import Flow, __version__
from zflow.errors import ZflowError

_DESCRIPTION = "Serve the Flow that a YAML file describes, until Ctrl-C or SIGTERM."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zflow-run",
        description=_DESCRIPTION,
        usage="zflow-run [flow] [--uses] FLOW.yaml [options]",
    )
    parser.add_argument("words", nargs="*", metavar="FLOW.yaml", help="the Flow's YAML file")
    parser.add_argument("--uses", metavar="FLOW.yaml", help="the same, as an option")
    parser.add_argument("--port", type=int, help="the TCP port to listen on; over what the YAML says")
    parser.add_argument("--host", help="the address to listen on; over what the YAML says (default: 127.0.0.1)")
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a value for ${{ CONTEXT.NAME }} in the YAML; may be repeated",
    )
    parser.add_argument("--version", action="version", version=f"zflow {__version__}")
    return parser


def _source(parser: argparse.ArgumentParser, words: list[str], uses: str | None) -> str:
    """The one YAML file that the command line names."""
    files = words[1:] if words[:1] == ["flow"] else words
    if uses is not None:
        files = [*files, uses]
    if len(files) != 1:
        parser.error("name one YAML file, such as: zflow-run flow.yaml" if not files else f"one YAML file, not {files}")
    return files[0]


def _context(parser: argparse.ArgumentParser, pairs: Sequence[str]) -> dict[str, str]:
    context = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            parser.error(f"--context takes NAME=VALUE, not {pair!r}")
        context[name] = value
    return context


def serve(source: str, context: dict[str, str], overrides: dict[str, Any]) -> None:
    """Start the Flow, say where it listens, and serve until interrupted."""
    with Flow.load_config(source, context=context, **overrides) as flow:
        for spec in flow.executors:
            if not spec.pure_join:
                print(f"{spec.name}: {spec.replicas} replica{'s' if spec.replicas > 1 else ''}")
        print(f"serving at {flow.host}:{flow.port}, until Ctrl-C", flush=True)
        flow.block()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 after an interrupt, 1 if the Flow cannot run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    source = _source(parser, given.words, given.uses)
    context = _context(parser, given.context)
    overrides = {key: getattr(given, key) for key in ("port", "host") if getattr(given, key) is not None}
    try:
        serve(source, context, overrides)
    except KeyboardInterrupt:
        pass
    except ZflowError as error:
        print(f"zflow-run: {error}", file=sys.stderr)
        return 1
    return 0
