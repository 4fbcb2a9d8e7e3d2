"""Which benchmarks there are, and running them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from bench.harness import store, text
from bench.harness.store import Record

#: In the order in which they run and are reported.
NAMES = (
    "latency",
    "throughput",
    "heterogeneous",
    "openloop",
    "fanout",
    "arrays",
    "documents",
    "startup",
    "memory",
    "growth",
    "decisions",
    "overload",
)


class Unknown(Exception):
    """A name that no benchmark has."""


def load(name: str) -> ModuleType:
    """Return the module of a benchmark.

    Raises:
        Unknown: there is none of this name; the message lists those that there are.
    """
    if name not in NAMES:
        raise Unknown(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"bench.{name}")


def about(name: str) -> str:
    """Return in one line what a benchmark measures."""
    return (load(name).__doc__ or "").partition("\n")[0]


def measure(name: str, quick: bool) -> Record:
    """Run one benchmark."""
    module = load(name)
    environment = store.environment()
    begin = time.perf_counter()
    result = module.measure(quick)
    environment["seconds"] = round(time.perf_counter() - begin, 1)
    return Record(name, quick, environment, result)


def run(names: Iterable[str], quick: bool, folder: Path) -> None:
    """Run these benchmarks, print each result and write it into the folder."""
    for name in names:
        print(f"{name}: {about(name)}", flush=True)
        record = measure(name, quick)
        show(record)
        print(f"\nwritten to {store.write(record, folder)}\n", flush=True)


def show(record: Record) -> None:
    """Print a result."""
    print(store.described(record.environment))
    for table in text.tables(record.result):
        print(f"\n{text.plain(table)}")
    for note in record.result.notes:
        print(f"\n{note}")
