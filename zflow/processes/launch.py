"""The user's side of the process manager: start it, wait until everything is ready, watch it,
end it.

It knows pipes and process ids; what is run is in the `Plan`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

from zflow import errors
from zflow.devices.sockets.clock import monotonic
from zflow.processes import manager, plan, spawn, watchdog
from zflow.system import cuda, process, signals, termination
from zflow.system.line import Failure, hear, say

CHECK_EVERY = 0.2  # seconds between two looks at what could end a Flow that serves


class Display:
    """Shows on a terminal what a starting Flow waits for, one line per Executor:
    `encoder 2/3 ready`.

    The first line says how payloads travel. Where GPUs were dealt out, an Executor's line goes on
    with those of its replicas, in order: `CUDA_VISIBLE_DEVICES 0 1 0`.
    """

    def __init__(self, plan: plan.Plan) -> None:
        self._total = Counter(seat.spec.name for seat in plan.seats)
        for node in plan.settings.nodes if plan.settings is not None else ():
            if node.addresses:
                self._total[node.name] = len(node.addresses)
        self._ready: Counter[str] = Counter()
        self._devices = {name: _devices(plan, name) for name in self._total}
        self._head = [str(plan.sharing)] if plan.settings is not None else []
        self._shown = False
        with contextlib.suppress(Exception):
            self._shown = sys.stderr.isatty()
        self._lines = 0

    def show(self) -> None:
        """Draw all lines anew over the old ones."""
        if not self._shown:
            return
        up = f"\x1b[{self._lines}A" if self._lines else ""
        ready = [
            f"{name} {self._ready[name]}/{n} ready{self._devices[name]}"
            for name, n in self._total.items()
        ]
        lines = [*self._head, *ready]
        width = _width()  # a line that wraps would be two, and the next drawing begin too low
        sys.stderr.write(up + "".join(f"\x1b[2K{line[:width]}\n" for line in lines))
        sys.stderr.flush()
        self._lines = len(lines)

    def ready(self, replica: str) -> None:
        """Count one replica more."""
        self._ready[replica.partition("/")[0]] += 1
        self.show()


def _devices(plan: plan.Plan, executor: str) -> str:
    dealt = [
        seat.device for seat in plan.seats if seat.spec.name == executor and seat.device is not None
    ]
    return f", {cuda.VARIABLE} {cuda.summary(dealt)}" if dealt else ""


def _width() -> int:
    try:
        return max(0, os.get_terminal_size(sys.stderr.fileno()).columns - 1) or 79
    except (OSError, ValueError):
        return 79


class Launched:
    """A running Flow, seen from the process that started it.

    Args:
        plan: what to run.
        method: how the process manager comes into being: `'fork'` or `'spawn'`.

    Attributes:
        addresses: where the broker listens for clients, as bound.
        replica_addresses: where it listens for replicas on other machines.
        sharing: what its processes have of shared memory.

    Raises:
        StartupFailed: an Executor or the broker did not get ready; nothing is left running.
        PortInUse: the Flow cannot listen where it was told to.
        ZflowError: what an Executor's loading raised, such as InvalidExecutor.
    """

    def __init__(self, plan: plan.Plan, method: str) -> None:
        from multiprocessing.connection import Pipe

        self._plan, self.sharing = plan, plan.sharing
        self._user = os.getpid()
        self._lock = threading.Lock()
        self._error: errors.ZflowError | None = None
        self._closing = False
        termination.begin()
        try:
            process.take_standard_descriptors()
            self.sharing = plan.sharing.made()
            self._pipe, theirs = Pipe()
        except OSError as error:
            self._let_go()
            raise _cannot_start(error) from error
        plan = self._plan = replace(plan, sharing=self.sharing)
        self.addresses: list[str] = []
        self.replica_addresses: list[str] = []

        def run() -> int:
            self._pipe.close()
            serve = partial(manager.run, plan, theirs, self._user)
            return watchdog.run(serve, plan.folder, theirs)

        try:
            self._pid = (
                spawn.start(plan, self._pipe, theirs) if method == "spawn" else process.fork(run)
            )
        except BaseException as error:
            self._pipe.close()
            self._let_go()
            if isinstance(error, OSError):
                raise _cannot_start(error) from error
            raise
        finally:
            theirs.close()
        try:
            self._wait_until_started()
        except BaseException:
            with termination.closing():
                self._pipe.close()
                self._wait_for_end(None)
                self._let_go()
            raise

    def _wait_until_started(self) -> None:
        display = Display(self._plan)
        display.show()
        while True:
            try:
                kind, argument = hear(self._pipe)
            except (EOFError, OSError):
                raise errors.StartupFailed(
                    "the process manager died while the Flow started"
                ) from None
            if kind == "failed":
                raise _startup_error(argument)
            if kind == "bound":
                self.addresses, self.replica_addresses = (list(addresses) for addresses in argument)
            elif kind == "ready":
                display.ready(argument)
            elif kind == "started":
                return

    def check(self) -> None:
        """Raise FlowNotRunning if the Flow has come down by itself, or was closed."""
        if os.getpid() != self._user:
            return  # in a fork of the user's process: what comes through the pipe is for that one
        with self._lock:
            if self._error is None:
                self._look()
            if self._error is not None:
                raise errors.FlowNotRunning(
                    f"the Flow is not running any more: {self._error.message}"
                )

    def wait(self, stop_event: termination.Event | None = None) -> None:
        """Wait until SIGTERM comes, `stop_event` is set or the Flow comes down by itself.

        Raises:
            FlowNotRunning: it has come down.
            KeyboardInterrupt: Ctrl-C.
        """
        with termination.noting() as told_to_end:
            while not told_to_end and not (stop_event is not None and stop_event.is_set()):
                self.check()
                time.sleep(CHECK_EVERY)

    def _look(self) -> None:
        try:
            while self._error is None and self._pipe.poll():
                kind, argument = hear(self._pipe)
                if kind == "failed":
                    self._error = errors.from_wire(argument)
        except (EOFError, OSError):
            self._error = errors.ZflowError(
                "it was closed" if self._closing else "its process manager died"
            )

    def close(self, grace: float) -> None:
        """Let requests in flight be answered and Executors close, for `grace` seconds;
        then end all processes.

        Raises:
            KeyboardInterrupt: Ctrl-C cut the grace short; all processes have ended nevertheless.
        """
        if os.getpid() != self._user:
            return  # a fork of the user's process does not own the Flow
        self._closing = True
        with termination.closing():
            self._close(grace)

    def _close(self, grace: float) -> None:
        with contextlib.suppress(OSError):
            say(self._pipe, "close", grace)
        try:
            # Without the lock: who waits for one of those answers may check meanwhile.
            self._wait_for_end(grace + 5.0)
        except KeyboardInterrupt:  # a second Ctrl-C: without grace
            self._hang_up()
            self._insist()
            raise
        finally:
            self._hang_up()
            self._let_go()

    def _insist(self) -> None:
        """Wait for the end, which is near, whatever else is pressed."""
        end = monotonic() + 5.0
        while True:
            try:
                self._wait_for_end(end - monotonic())
                return
            except KeyboardInterrupt:
                continue

    def _hang_up(self) -> None:
        """Close the line to the process manager, which takes that for the end of this process."""
        with self._lock:
            self._pipe.close()

    def _let_go(self) -> None:
        """Close the shared memory, and remove the folder;
        the watchdog has done that unless it was killed.
        """
        import shutil

        self.sharing.close()
        shutil.rmtree(self._plan.folder, ignore_errors=True)
        # Where no files can be opened, it can be removed if it is empty.
        with contextlib.suppress(OSError):
            os.rmdir(self._plan.folder)
        termination.end()

    def _wait_for_end(self, limit: float | None) -> None:
        """Wait for the watchdog, which ends last; have it kill what
        has not ended in `limit` seconds.
        """
        deadline = None if limit is None else monotonic() + limit
        insisting = [signals.END, signal.SIGKILL]
        pause = 0.001
        with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
            while True:
                ended, status = os.waitpid(self._pid, os.WNOHANG)
                if ended:
                    return self._outwait_manager() if os.WIFSIGNALED(status) else None
                if deadline is not None and monotonic() > deadline and insisting:
                    os.kill(self._pid, insisting.pop(0))
                    deadline += 5.0
                time.sleep(pause)
                pause = min(0.02, pause * 1.5)

    def _outwait_manager(self) -> None:
        """The watchdog was killed: the manager takes everything down,
        and hangs up at its own end.
        """
        deadline = monotonic() + 5.0
        with contextlib.suppress(EOFError, OSError):
            while self._pipe.poll(max(0.0, deadline - monotonic())):
                self._pipe.recv_bytes()


def _cannot_start(error: OSError) -> errors.StartupFailed:
    return errors.StartupFailed(
        f"the process manager could not be started: {process.cannot_start(error)}"
    )


def _startup_error(data: Failure) -> errors.ZflowError:
    error = errors.from_wire(data)
    if isinstance(error, errors.ExecutorError):
        failed = errors.StartupFailed(str(error))
        failed.__dict__.update(vars(error))
        return failed
    return error
