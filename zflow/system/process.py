"""What a process of zflow's does about itself: its name in `ps`, its memory,
its end when its parent ends.

All of it is best effort where the system offers it (Linux), and nothing elsewhere.
It knows nothing of Flows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from zflow.system import forking, signals

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Bytes; larger blocks of memory are returned to the system when they are freed.
KEPT_BLOCK = 32 * 1024 * 1024
KEPT = 64 * 1024 * 1024  # bytes that are kept of smaller ones
_PR_SET_CHILD_SUBREAPER = 36
_WAYS_OUT: dict[int | None, str] = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the machine has too many files open",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, or that of the container)",
    errno.ENOMEM: "the machine, or the container, has no memory left for it",
}


def _prctl(option: int, value: int | bytes) -> None:
    _libc("prctl", option, value, 0, 0, 0)


def _libc(function: str, *arguments: int | bytes) -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*arguments)


def die_with_parent(how: int, parent: int) -> None:
    """Get the signal when the process `parent`, which forked this one from its only thread,
    ends however it ends.
    """
    _prctl(_PR_SET_PDEATHSIG, int(how))
    if os.getppid() != parent:  # it ended before the request was made
        os.kill(os.getpid(), how)


def outlive_parent() -> None:
    """Take back what `die_with_parent` asked for."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent ends,
    so that they can be found and ended.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def cores() -> float:
    """How many processor cores this process may use, as far as it is told: by its affinity,
    and in a container.

    >>> cores() > 0
    True
    """
    found = float(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with (
        contextlib.suppress(OSError, ValueError),
        open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file,
    ):
        quota, period = file.read().split()
        found = min(found, int(quota) / int(period))  # no limit: 'max'
    return found


def keep_memory() -> None:
    """Have malloc (glibc's) keep what is freed, for the next message,
    until `give_back_memory` is called.

    By itself it returns large pieces to the system at once.
    To get their pages anew costs more than to copy a message.
    """
    _libc("mallopt", _M_MMAP_THRESHOLD, KEPT_BLOCK)
    _libc("mallopt", _M_TRIM_THRESHOLD, KEPT)


def give_back_memory() -> None:
    """Return to the system what malloc has kept."""
    _libc("malloc_trim", 0)


def set_title(title: str) -> None:
    """Show `title` in `ps` and `top` instead of the command line that was forked.

    Linux reads a command line from the process's own memory: the strings of argv and, when no zero
    ends them there, on into those of the environment. That is copied elsewhere first, so its first
    strings can be written over too.
    """
    if not sys.platform.startswith("linux"):
        return
    name = title.removeprefix("zflow: ").encode()
    _prctl(_PR_SET_NAME, title.encode() if len(title) < 16 else name[-15:])
    with contextlib.suppress(OSError, ValueError, IndexError):
        import ctypes

        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        start, arg_end, env_start, env_end = (int(fields[at]) for at in (45, 46, 47, 48))
        for key, value in os.environ.items():
            os.environ[key] = value  # makes libc keep it on the heap
        room = (env_end if env_start == arg_end else arg_end) - start
        if start and room > 1:
            text = title.encode()[: room - 1]
            text += bytes(max(1, arg_end - start - len(text)))
            ctypes.memmove(start, text, len(text))


def read_nothing() -> None:
    """Take stdin away: several processes reading one terminal would
    each get a part of what is typed.
    """
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)


def take_standard_descriptors() -> None:
    """Open what is closed of descriptors 0 to 2:
    whoever writes there must not write into a pipe of ours.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def allow_many_descriptors() -> int | None:
    """Take as many file descriptors as the system lets this process have;
    returns how many it had, if that is known.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return before
    return None


def allow_descriptors(number: int | None) -> None:
    """Take so many file descriptors at most, which is what `allow_many_descriptors` has
    returned.
    """
    if number is not None:
        import resource

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (number, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )


def cannot_start(error: OSError) -> str:
    """Say why no process can be started, and what would help.

    >>> cannot_start(OSError(errno.EMFILE, "Too many open files"))
    'Too many open files: raise the limit of open files (ulimit -n)'
    """
    why = error.strerror or str(error)
    return f"{why}: {_WAYS_OUT[error.errno]}" if error.errno in _WAYS_OUT else why


def print_whole_lines() -> None:
    """Make print() write each line at once and in one piece, also into a pipe or a file."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]


def flush() -> None:
    """Write out what is buffered on stdout and stderr, whatever they are."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def fork(run: Callable[[], int]) -> int:
    """Fork a process that calls `run` and ends with the exit status it returns;
    return its process id.

    What this process had buffered for stdout is written before, so that it does not come out twice.
    Nothing that the user registered to run at exit runs in the new process, and signals that are
    for this process do nothing there.
    """
    import warnings

    flush()
    pid = -1
    with warnings.catch_warnings(), forking.no_import_under_way():
        # Python 3.12 warns when other threads run: our children use nothing that such a thread may
        # have locked.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Until the new one has said what they do.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.HANDLED)
        try:
            pid = os.fork()
            if not pid:
                signals.reset()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask if pid else mask - signals.HANDLED)
    if pid:
        return pid
    status = 1
    try:
        status = run()
    except BaseException as error:
        leave(error)
    finally:
        flush()
        os._exit(status)


def leave(error: BaseException | None = None) -> NoReturn:
    """End this process, which was forked, as Python ends one that has raised `error`: at once,
    without its parent's.
    """
    status = 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        status = error.code or 0
    elif error is not None:
        import traceback

        status = 1
        with contextlib.suppress(Exception):
            print(error.code, file=sys.stderr) if isinstance(
                error, SystemExit
            ) else traceback.print_exception(error)
    flush()
    os._exit(status)


def reaped() -> dict[int, int]:
    """Take note of children that have ended: their statuses, as `waitpid` gives them,
    by process id.
    """
    found: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):  # there are no others
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            found[pid] = status
    return found


def ended(status: int) -> str:
    """Say how a process ended, from the status that `waitpid` gave:
    `'exit code 3'` or `'SIGKILL'`.
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"
