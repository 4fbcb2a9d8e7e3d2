"""SIGTERM in the user's process: what Ctrl-C is as `KeyboardInterrupt`, it is as `Terminated`,
while something runs.

So what runs is closed in order. Whoever waits for SIGTERM notes it instead, and what is being
closed already is closed in peace. A handler of the user's stays in place,
and what is forked from the process has none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from zflow.system import signals

# The exit status of what SIGTERM has cut short, as shells have it.
STATUS: Final = 128 + signal.SIGTERM


class Event(Protocol):
    """An Event of threading or multiprocessing: somebody sets it to have what runs closed."""

    def is_set(self) -> bool:
        """Whether it is set."""


class Terminated(SystemExit):
    """Raised by SIGTERM in the main thread; the process ends with the exit
    status 143 unless it is caught.
    """

    def __init__(self) -> None:
        super().__init__(STATUS)


_lock = threading.Lock()
_running = 0  # what is to be closed in order
_noting: list[list[int]] = []  # one for each that waits for SIGTERM
_closing = 0  # how often the main thread is at closing something
_heeded = False  # it came and has had its effect
_late = False  # it came first while something was being closed


def begin() -> None:
    """Something runs from now on that is to be closed in order."""
    global _running, _heeded
    with _lock:
        _heeded = _heeded and _running > 0
        _running += 1
    _install()


def end() -> None:
    """It is closed."""
    global _running
    with _lock:
        _running -= 1
    if not _running and _in_main_thread():
        signals.forget(signal.SIGTERM)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Something runs inside that is to be closed in order."""
    begin()
    try:
        yield
    finally:
        end()


@contextlib.contextmanager
def noting() -> Iterator[list[int]]:
    """While inside, SIGTERM fills the list and raises nothing, unless the user handles it."""
    # A list, not an Event: the handler runs in the midst of whatever this thread does, such as
    # waiting for the Event.
    noted: list[int] = []
    _noting.append(noted)
    _install()
    try:
        yield noted
    finally:
        _noting[:] = [each for each in _noting if each is not noted]


@contextlib.contextmanager
def closing() -> Iterator[None]:
    """While inside, SIGTERM waits until it is closed;
    it is one too many then if it was the reason for that.
    """
    global _closing, _late
    if not _in_main_thread():
        yield
        return
    _closing += 1
    try:
        yield
    finally:
        _closing -= 1
        late, _late = _late, _late and _closing > 0
        if late and not _closing and not _heeded:
            raise Terminated


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _install() -> None:
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signals.handle(signal.SIGTERM, _came)


def _came(number: int, _: object) -> None:
    global _heeded, _late
    if _noting:
        _heeded = True
        for noted in _noting:
            noted.append(number)
    elif _closing:
        _late = True
    elif _running:
        _heeded = True
        raise Terminated
    else:  # the last one was closed by another thread
        signals.forget(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def _start_anew() -> None:
    global _running, _closing, _heeded, _late
    _running = _closing = 0
    _heeded = _late = False
    _noting.clear()


os.register_at_fork(after_in_child=_start_anew)
