"""The processes below one, whoever started them: which there are, whose they are, and their end.

A subreaper (`process.adopt_orphans`) is above everything that was started below it, in whatever
session or group, so nothing escapes. What is below a process that has died is told from the rest by
a mark that is inherited by fork and exec alike and that nobody takes off: a limit so high that it
limits nothing, another number for each. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

# Microseconds of real-time scheduling (RLIMIT_RTTIME), and above: nobody ever takes so long.
_MARKS = 1 << 62
PATIENCE = 1.0  # seconds for what ends by itself and cleans up
_LISTED = os.path.exists("/proc/thread-self/children")
_BY_ITSELF = (
    # Of multiprocessing: removes shared memory when all who have used it are gone.
    b"resource_tracker",
    # Of a Flow that an Executor runs: removes its folder when its processes are gone.
    b"zflow: watchdog",
)


def new_mark() -> int:
    """Return a mark that no other process has."""
    return _MARKS + int.from_bytes(os.urandom(7), "big")


def mark(number: int) -> None:
    """Put a mark on this process and all that it will start;
    without effect where the system limits what it is made of.

    It leads a session of its own from then on: that tells the most of its children
    even where there are no marks.
    """
    with contextlib.suppress(OSError):  # it does so already
        os.setsid()
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_RTTIME)
        if most == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_RTTIME, (number, most))


def _is_marked(pid: int, number: int) -> bool:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import resource

        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[0] == number
    return False


def below(pid: int | None = None) -> dict[int, list[int]]:
    """The children of this process, or of `pid`, and by each of them all that is below it,
    itself included.
    """
    return {
        child: _with_all_below(child) for child in _children(os.getpid() if pid is None else pid)
    }


def _with_all_below(pid: int) -> list[int]:
    found = [pid]
    for one in found:  # it grows
        found += _children(one)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    if not _LISTED:
        import psutil

        with contextlib.suppress(psutil.Error):
            found += (child.pid for child in psutil.Process(pid).children())
        return found
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def parent_of(pid: int) -> int | None:
    """The parent of a process, None where that cannot be told."""
    import psutil

    try:
        return int(psutil.Process(pid).ppid())
    except (psutil.Error, ValueError):
        return None


def left_by(leader: int, number: int, but: Iterable[int] = ()) -> list[int]:
    """What a dead child of this process, with its session and mark, has left;
    `but` those who are known to live on.

    It was adopted by this process. So was what a living child has let go of,
    which is of another session and mark.
    """
    others = set(_children(os.getpid())).difference(but)
    left = [child for child in others if _is_marked(child, number) or _session(child) == leader]
    return [one for child in left for one in _with_all_below(child)]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def kill(pids: Iterable[int], all_of_them: bool = True) -> None:
    """Kill processes; not yet, unless it is all of them,
    those that clean up and end when the others have.
    """
    for pid in pids:
        if all_of_them or not _ends_by_itself(pid):
            with contextlib.suppress(OSError):  # it has ended, or is not ours to kill
                os.kill(pid, signal.SIGKILL)


def _ends_by_itself(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read()
    except OSError:
        return False
    return any(name in line for name in _BY_ITSELF)


def end_all() -> None:
    """End everything below this process, and return when it is gone: seconds later at most."""
    begun = time.monotonic()
    while _reap_all() and time.monotonic() < begun + 2 * PATIENCE:
        for family in below().values():
            kill(family, time.monotonic() > begun + PATIENCE)
        time.sleep(0.002)


def _reap_all() -> bool:
    """Take note of children that have ended; whether there are any others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
