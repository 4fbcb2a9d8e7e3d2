"""What the commands of `zflow-run` share: what a command is, and how a Flow is served."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zflow.flow import Flow
from zflow.network.address import spell
from zflow.system import termination
from zflow.topology.topology import ExecutorSpec


@dataclass(frozen=True)
class Command:
    """One word of `zflow-run`.

    Attributes:
        about: what it does, in one line.
        usage: how it is written.
        add_arguments: gives its arguments to a parser.
        run: carries it out and returns the exit status; a ZflowError becomes a message and 1.
    """

    about: str
    usage: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.ArgumentParser, argparse.Namespace], int]


def serve(flow: Flow) -> int:
    """Start the Flow, say where it listens, serve until interrupted, and return the exit status."""
    with until_interrupted(), flow:
        for spec in flow.executors:
            if not spec.pure_join:
                print(f"{spec.name}: {_copies(spec)}")
        print(f"serving at {spell(flow.host, flow.port)}, until Ctrl-C", flush=True)
        flow.block()
    return 0


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """What is done inside is ended in order by Ctrl-C and by SIGTERM, also while it starts;
    neither is an error.
    """
    with contextlib.suppress(KeyboardInterrupt, termination.Terminated), termination.handled():
        yield


def _copies(spec: ExecutorSpec) -> str:
    """Tell where an Executor runs: `3 replicas`, `2 shards of 3 replicas`,
    `external, at localhost:12345`.
    """
    if spec.external:
        return f"external, at {', '.join(spec.addresses)}"
    shards = f"{spec.shards} shards of " if spec.shards > 1 else ""
    return shards + counted(spec.replicas, "replica")


def counted(number: int, noun: str) -> str:
    """Return `1 replica`, `2 replicas`, `2 addresses`."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"
