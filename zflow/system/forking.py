"""What stands in the way of a fork: it is seen before, and put right where that is possible.

A forked process has one thread, and of the others what they have left half done: pools without
their threads, locks that nobody gives back. It imports no library to find out,
and knows nothing of Flows.
"""

from __future__ import annotations

import _imp
import contextlib
import importlib.util
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import _bootstrap
from typing import Final

log = logging.getLogger("zflow")

# Seconds that an import in another thread may take; it may also wait for this one.
IMPORTING: Final = 10.0
LOOK_EVERY: Final = 0.005  # seconds
_HARD: Final = 2  # omp_pause_hard
_GOMP: Final = re.compile(r"/[^\n]*/libgomp[-.\w]*\.so[.\d]*")
_CLOCKS: Final = ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
#: Who puts greenlets in the place of threads, by the module that does so, and how it is asked.
_PATCHERS: Final = {"gevent.monkey": "is_module_patched", "eventlet.patcher": "is_monkey_patched"}
_PATCHED: Final = ("os", "select", "socket", "thread", "time")


def patched_by() -> str | None:
    """Return what has replaced parts of the standard library by its own (`'gevent.monkey'`),
    or None.
    """
    for name, asking in _PATCHERS.items():
        is_patched = getattr(sys.modules.get(name), asking, None)
        if is_patched is not None and any(map(is_patched, _PATCHED)):
            return name
    return None


def keeps_openmp() -> str | None:
    """End the threads that OpenMP keeps for this one;
    returns the library's path where that can't be done, else None.

    In a forked process GNU's would wait for them for ever.
    Those of LLVM and Intel begin anew there.
    """
    for path in _loaded(_GOMP):
        if not _pause(path) and _other_threads():
            return path
    return None


def _loaded(name: re.Pattern[str]) -> list[str]:
    with (
        contextlib.suppress(OSError),
        open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps,
    ):
        return sorted({found[0] for found in name.finditer(maps.read())})
    return []


def _pause(path: str) -> bool:
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # of before GCC 9
        return int(ctypes.CDLL(path, mode=os.RTLD_NOLOAD).omp_pause_resource_all(_HARD)) == 0
    return False


def _other_threads() -> bool:
    """Whether there are threads that neither Python nor ZeroMQ has started."""
    found = 0
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm", "rb") as comm:
            found += not comm.read().startswith(b"ZMQbg")
    return found > threading.active_count()


@contextlib.contextmanager
def no_import_under_way() -> Iterator[None]:
    """Within this no other thread imports anything:
    what it has locked would stay so in a forked process.
    """
    for _ in range(int(IMPORTING / LOOK_EVERY)):
        _imp.acquire_lock()
        name = _imported_elsewhere()
        if name is None:
            break
        _imp.release_lock()
        time.sleep(LOOK_EVERY)
    else:
        log.warning(
            "module %r is still being imported in another thread: a process of the Flow that "
            "imports it, too, would"
            " wait for ever",
            name,
        )
        _imp.acquire_lock()
    try:
        yield
    finally:
        _imp.release_lock()


def _imported_elsewhere() -> str | None:
    """The name of a module that another thread imports, or None."""
    mine = threading.get_ident()
    locks: dict[str, Callable[[], object]] = getattr(_bootstrap, "_module_locks", {})
    for name, reference in list(locks.items()):
        lock = reference()
        if getattr(lock, "owner", None) not in (None, mine):
            return name
        inner = getattr(lock, "lock", None)  # held for a moment while the owner changes
        if inner is not None:
            if not inner.acquire(False):
                return name
            inner.release()
    return None


def measure_time() -> None:
    """Have the clocks that measure go on, if they were replaced by ones that stand still,
    as tests do.
    """
    spec = importlib.util.find_spec("time")
    if spec is None or spec.loader is None:
        return
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    for name in _CLOCKS:
        if type(getattr(time, name)) is not type(getattr(fresh, name)):
            setattr(time, name, getattr(fresh, name))
