"""Which benchmarks there are, and running one."""

from __future__ import annotations

import importlib
import time
from types import ModuleType

from bench.harness import store
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
    "batching",
    "overload",
    "changes",
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
