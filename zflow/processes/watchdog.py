"""The watchdog: the process manager's parent,
which outlives it and then ends whatever is left of the Flow.

It does nothing else, imports nothing and runs no user code, so nothing but SIGKILL ends it; then
the manager takes the Flow down. It leads a session of its own, and all of the Flow is in there or
below: what is sent to the user's group or terminal reaches the user's process alone,
which closes the Flow in order.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from zflow.system import family, process, signals
from zflow.system.line import failure, say

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

AWAITED: Final = {signal.SIGCHLD, signals.END, signals.SERVING}


def run(serve: Callable[[int], int], folder: str, line: Connection, user: int | None = None) -> int:
    """Be the watchdog until the manager has ended; return its exit status.
    `signals.END` makes it kill that.

    Args:
        serve: what the manager is, called in a process of its own with the process id of this one.
        folder: of sockets, removed at the end.
        line: the manager's end of the line to the user's process.
        user: the process that has started this one, if its end is the manager's
            until `signals.SERVING` comes.
    """
    process.adopt_orphans()
    # Within an Executor of another Flow: this one ends by itself, and in order.
    family.mark(family.new_mark())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signals.END, signals.SERVING})
    me = os.getpid()
    try:
        manager = process.fork(lambda: serve(me))
    except OSError as error:
        say(
            line,
            "failed",
            failure(f"the process manager could not be started: {process.cannot_start(error)}"),
        )
        return 1
    finally:
        line.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    # By default it may be discarded, and not be waited for.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    process.set_title("zflow: watchdog")
    if user is not None:
        process.die_with_parent(signals.END, user)
    while (status := process.reaped().get(manager)) is None:
        number = signal.sigwait(AWAITED)
        if number == signals.END:
            os.kill(manager, signal.SIGKILL)
        elif number == signals.SERVING:
            process.outlive_parent()
    family.end_all()
    shutil.rmtree(folder, ignore_errors=True)
    return os.waitstatus_to_exitcode(status) & 0xFF
