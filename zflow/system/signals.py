"""The signals that a process handles, and why what is forked from it does not.

User code forks, too: a child with the handlers of its parent would not end by SIGTERM, and one with
its wake-up descriptor would wake the parent instead. So a child begins with what signals do by
default, and none is lost between.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Final

#: By which the process manager tells a process to end. Whoever ends a whole group sends SIGTERM to
#: all in it at once.
END: Final[int] = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2

#: By which the process manager tells the watchdog that it looks after the user's process itself
#: from now on.
SERVING: Final[int] = signal.SIGRTMAX - 2 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR1

#: What a terminal sends to all its processes: Ctrl-C, Ctrl-\\ and its end.
TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

#: What a process of zflow's handles in one way or another.
HANDLED: Final = frozenset({*TERMINAL, signal.SIGTERM, END, SERVING})

# Those of this process that its children must not have.
_handlers: dict[int, Callable[..., object]] = {}
_local = threading.local()  # several threads may fork at the same time


def handle(number: int, handler: Callable[..., object]) -> None:
    """Handle a signal in this process, which has to be in its main thread,
    and in no child that is forked from it.
    """
    signal.signal(number, handler)
    _handlers[number] = handler


def forget(number: int) -> None:
    """Let a signal do again what it does by default, unless somebody else has come to handle it."""
    handler = _handlers.pop(number, None)
    if handler is not None and signal.getsignal(number) == handler:
        signal.signal(number, signal.SIG_DFL)


def ignore() -> None:
    """Leave what a terminal sends, and SIGTERM, to the process that the user talks to:
    it ends the others in order.

    A handler that does nothing, not SIG_IGN: programs that an Executor starts would inherit that.
    """
    for number in (*TERMINAL, signal.SIGTERM):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            handle(number, _nothing)


def reset() -> None:
    """Undo what a fork of the user's process brought along and no process of ours wants."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGALRM, END, SERVING):
        signal.signal(number, signal.SIG_DFL)
    ignore()


def _nothing(*_: object) -> None:
    pass


# -- around each fork ------------------------------------------------------------------------------


def _before() -> None:
    _local.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers) if _handlers else None


def _in_parent() -> None:
    if _local.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _local.mask)


def _in_child() -> None:
    if _local.mask is None:
        return
    for number, handler in _handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )
    if END in _handlers:  # a replica's child; in the user's process, the descriptor is the user's
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
    _handlers.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _local.mask)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
