"""The process manager: forks the broker and the replicas, restarts what dies,
and takes everything down.

It is a process of its own with one thread, forked when the Flow starts, so a restart never forks a
process that has grown threads; it uses no ZeroMQ itself. It talks to the user's process, the broker
and each replica over pipes. If the user's process ends, however it ends, so does everything else.
It runs no user code, and no signal ends it but SIGKILL: then its parent, the watchdog,
ends what it has left.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import select
import selectors
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from zflow.devices.sockets.guard import Guard
from zflow.processes.broker_child import BrokerChild
from zflow.processes.changes import Changes
from zflow.processes.children import LOOP, Child, Children
from zflow.processes.plan import Plan
from zflow.system import family, forking, process
from zflow.system.line import Failure, failure, hear, say
from zflow.system.logs import name_lines

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger("zflow.manager")

CLIENTS_RETURN = (
    1.5  # seconds that clients may take to find a new broker, and send again what was not answered
)
SAY_SO = 2.0  # seconds of waiting for external Executors after which the user is told
# Seconds from one process getting SIGTERM to the next, if it is sent to all of them.
SENT_TO_ALL = 1.0
ORPHANED_GRACE = 1.0  # seconds for Executors to close when the user's process is gone


def run(plan: Plan, parent: Connection, user: int, watchdog: int) -> int:
    """Be the process manager until told to close or until process `user` or `watchdog` is gone;
    return the status.
    """
    process.set_title("zflow: manager")
    process.read_nothing()
    process.adopt_orphans()
    forking.measure_time()  # also for what is forked from here: there are pauses to wait for
    name_lines("zflow")
    descriptors = process.allow_many_descriptors()
    try:
        _Manager(plan, parent, user, watchdog, descriptors).serve()
    except OSError as error:
        with contextlib.suppress(OSError):
            say(
                parent,
                "failed",
                failure(f"the process manager cannot go on: {process.cannot_start(error)}"),
            )
        raise
    finally:
        shutil.rmtree(plan.folder, ignore_errors=True)
    return 0


class _Manager:
    def __init__(
        self, plan: Plan, parent: Connection, user: int, watchdog: int, descriptors: int | None
    ) -> None:
        self._plan = plan
        self._descriptors = descriptors  # that a child may have
        self._parent = parent
        self._user = user
        self._watchdog = watchdog
        self.starting = True
        self._begun = time.monotonic()
        self._awaited = dict(plan.externals)  # those of which no address has answered yet
        self._said = False  # that they are waited for
        self._closing = False
        self.ending = False
        self._end_by = 0.0  # when what has not ended by then is killed
        self._hung_up = False
        # When SIGTERM came: it may have been sent to all processes of the Flow.
        self._terminated = -math.inf
        self._drained = False
        # From when on a broker knows whether it is: when clients have found it.
        self._drained_from = 0.0
        self._ask_drained_at = math.inf
        self._guard = Guard(log)
        self._selector = selectors.DefaultSelector()
        self._selector.register(parent, selectors.EVENT_READ, self._from_parent)
        self._children = Children(list(plan.seats), self._selector, self, plan.sharing)
        self._broker = BrokerChild(
            plan, self._selector, self.fork, lambda: self._children.lines, self._from_broker
        )
        self._changes = Changes(self._children, plan.devices, plan.grace)
        self._wake_on_signals()
        self._watch_user()

    # -- the loop ----------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start everything and look after it until the end."""
        # What exists now is shared with the children: the collector must not touch, and so copy,
        # it.
        gc.freeze()
        if self._plan.settings is not None:
            self._start_broker()
        else:
            self._drained = True
            self._bound([], [])
        while not self.ending:
            self._turn(self._next_timer())
            self._call(self._check_timers)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Do one thing that must not be the end of others; while the Flow starts,
        what fails is the end of it.
        """
        if self.starting:
            function(*arguments)
        else:
            self._guard.call(function, *arguments)

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            self._call(key.data)
            if self.ending:
                return
        self._guard.rest()

    def _wake_on_signals(self) -> None:
        self._wake, writer = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(writer, False)
        self._writer = writer
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._note_sigterm)
        self._selector.register(self._wake, selectors.EVENT_READ, self._reap)

    def _watch_user(self) -> None:
        """Notice the end of the user's process, even if another process
        holds on to its end of the pipe.
        """
        self._user_fd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._user_fd = os.pidfd_open(self._user)
                self._selector.register(self._user_fd, selectors.EVENT_READ, self._orphaned)

    def _user_is_gone(self) -> bool:
        if self._user_fd is not None:
            look = select.poll()
            look.register(self._user_fd, select.POLLIN)
            return bool(look.poll(0))
        return family.parent_of(self._watchdog) not in (self._user, None)

    def _next_timer(self) -> float:
        now = time.monotonic()
        times = [
            *self._children.timers,
            *self._changes.timers,
            self._broker.restart_at,
            self._ask_drained_at,
        ]
        times += [
            self._begun + limit for limit in self._awaited.values() if self.starting and limit >= 0
        ]
        return max(0.0, min([*times, now + 1.0]) - now)

    def _check_timers(self) -> None:
        now = time.monotonic()
        if os.getppid() != self._watchdog:
            self._fail(failure("its watchdog died"))
        if self._user_fd is None and self._user_is_gone():
            self._orphaned()
        if self.starting and self._awaited:
            self._check_externals(now - self._begun)
        if self._broker.restart_at <= now:
            self._start_broker()
        if self._ask_drained_at <= now:
            self._ask_drained_at = math.inf
            self._broker.tell("drain")
        self._children.check_timers(now)
        self._changes.step()

    def _check_externals(self, waited: float) -> None:
        """Say what is waited for, and fail when it has taken too long."""
        for name, limit in self._awaited.items():
            nodes = self._plan.settings.nodes if self._plan.settings is not None else ()
            where = ", ".join(
                address for node in nodes if node.name == name for address in node.addresses
            )
            if 0 <= limit <= waited:
                message = (
                    f"external Executor {name!r}: nobody answers at {where} within "
                    f"timeout_ready={limit:g} s"
                )
                self._fail(failure(f"{message}: is it running there?"))
                return
            if waited > SAY_SO and not self._said:
                log.warning("waiting for external Executor %r at %s", name, where)
        self._said = self._said or waited > SAY_SO

    # -- starting ----------------------------------------------------------------------------------

    def fork(self, run: Callable[[], int]) -> int:
        """Fork a child that holds none of the manager's descriptors but those it was given."""

        def child() -> int:
            # Select() knows no more than 1,024, and user code may use it.
            process.allow_descriptors(self._descriptors)
            self._selector.close()
            os.close(self._wake)
            os.close(self._writer)
            self._parent.close()
            if self._user_fd is not None:
                os.close(self._user_fd)
            if self._broker.line is not None:
                self._broker.line.close()
            return run()

        return process.fork(child)

    def _start_broker(self) -> None:
        if why := self._broker.start(self.starting):
            self._fail(why)

    # -- what is heard -----------------------------------------------------------------------------

    def _from_parent(self) -> None:
        try:
            command, grace = hear(self._parent)
        except (EOFError, OSError):
            self._orphaned()
            return
        if command == "close":
            self._close(grace)

    def _from_broker(self, kind: str, *arguments: Any) -> None:
        if kind == "bound":
            self._bound(*arguments)
        elif kind == "joined":
            self._awaited.pop(arguments[0], None)
            if self.starting:
                self._tell("ready", f"{arguments[0]}/{arguments[1]}")
            self._check_started()
        elif kind == "failed" and self.starting:
            self._fail(arguments[0])
        elif kind == "drained":
            self._drained = time.monotonic() >= self._drained_from
        elif kind == "kill":
            self._children.kill(arguments[0])
        elif kind == "control":
            token, command, told = arguments
            done = partial(self._broker.tell, "controlled", token)
            try:
                self._changes.begin(command, told, done)
            except Exception as error:
                self._guard.note(error)
                done(
                    {
                        "error": f"the process manager failed at it ({type(error).__name__}): its "
                        "log says more"
                    }
                )
        elif kind == "load" and not (self.starting or self._closing):
            self._changes.follow(*arguments)

    def _bound(self, front: list[str], back: list[str]) -> None:
        """The broker listens, or there is none: now replicas can be started."""
        if self._closing:
            self._drained_from = self._ask_drained_at = time.monotonic() + CLIENTS_RETURN
            self._broker.tell("drain")
        if not self.starting:
            return
        self._broker.keep_ports(front, back)
        self._tell("bound", [front, back])
        self._children.start_all()
        self._check_started()

    def _check_started(self) -> None:
        if self.starting and not self._awaited and self._children.all_ready:
            self.starting = False
            self._tell("started", None)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        for pid, status in process.reaped().items():
            if pid == self._broker.pid:
                self._broker.ended()
                if not self.ending and (why := self._broker.died(status, self.starting)):
                    self._fail(why)
            self._call(
                self._children.reaped, pid, status
            )  # a failure at one must not hide the end of the others

    # -- deaths ------------------------------------------------------------------------------------

    def became_ready(self, child: Child) -> None:
        """A replica serves."""
        if self.starting:
            self._tell("ready", child.seat.name)
        elif child.deaths:
            self._tell_crashing(child)
        self._check_started()
        self._changes.step()

    def could_not_start(self, reason: Failure) -> None:
        """A replica died while the Flow was starting."""
        self._fail(reason)

    def died(self, child: Child, how: str) -> None:
        """A replica has ended."""
        self._broker.tell("crash", child.identity, how)
        if child.deaths >= LOOP:
            self._tell_crashing(child)
        self._changes.step()

    def _tell_crashing(self, child: Child) -> None:
        self._broker.tell("crashing", child.executor, self._children.crashing(child.executor))

    def _fail(self, error: Failure) -> None:
        """Tell the user's process why, and take everything down."""
        if self.ending:
            return
        self._tell("failed", error)
        self._shut_down(ORPHANED_GRACE)

    # -- the end -----------------------------------------------------------------------------------

    def _note_sigterm(self, *_: object) -> None:
        self._terminated = time.monotonic()

    @property
    def told_to_end(self) -> bool:
        """Whether the Flow closes, or SIGTERM was just sent to all processes:
        then the user's is to close it.
        """
        return self._closing or self.ending or time.monotonic() - self._terminated < SENT_TO_ALL

    def _orphaned(self) -> None:
        self._shut_down(ORPHANED_GRACE)

    def _close(self, grace: float) -> None:
        """Let what is in flight be answered, then take everything down;
        all within `grace` seconds.
        """
        deadline = time.monotonic() + grace
        self._closing = True
        self._broker.tell("drain")
        while not (self._drained or self.ending) and time.monotonic() < deadline:
            self._turn(min(self._next_timer(), deadline - time.monotonic()))
            self._guard.call(self._check_timers)
        if not self.ending:
            if not self._drained:
                log.warning(
                    "requests were still unanswered after %.1f s; closing all the same", grace
                )
            self._shut_down(max(deadline - time.monotonic(), min(grace, 0.5)))

    def _shut_down(self, grace: float) -> None:
        """End all processes: asked first, killed when the grace is over."""
        if self.ending:
            return
        self.ending = True
        self._end_by = time.monotonic() + grace
        self._children.tell_all_to_end()
        while self._children.alive and time.monotonic() < self._end_by:
            if not self._wait(self._end_by):
                # One that was just about to wait for work has not noticed.
                self._children.tell_all_to_end()
        self._kill(self._children.alive)
        self._broker.tell("stop")
        deadline = time.monotonic() + ORPHANED_GRACE
        while self._broker.pid and time.monotonic() < deadline:
            self._wait(deadline)
        self._kill([self._broker.pid] if self._broker.pid else [])
        family.end_all()

    def _wait(self, deadline: float) -> bool:
        """Wait a moment for children to end; whether anything has happened."""
        waiting = select.poll()  # it takes no descriptor: there may be none left
        waiting.register(self._wake, select.POLLIN)
        if not self._hung_up:
            waiting.register(self._parent, select.POLLIN)
        ready = [
            each
            for each, _ in waiting.poll(max(0.0, min(200.0, 1000 * (deadline - time.monotonic()))))
        ]
        said = not self._hung_up and self._parent.fileno() in ready
        if not self._hung_up and (self._user_is_gone() or (said and self._is_hung_up())):
            # The user's process is gone, or has no patience any more: as little grace as for
            # orphans.
            self._hung_up = True
            self._end_by = min(self._end_by, time.monotonic() + ORPHANED_GRACE)
        self._reap()
        return bool(ready)

    def _is_hung_up(self) -> bool:
        try:
            self._parent.recv_bytes()
        except (EOFError, OSError):
            return True
        return False  # it just said once more that it wants to close

    def _kill(self, pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    # -- saying ------------------------------------------------------------------------------------

    def _tell(self, kind: str, argument: object) -> None:
        """Tell the user's process, which reads while it starts the Flow and seldom after:
        say little then.
        """
        with contextlib.suppress(OSError):
            say(self._parent, kind, argument)
