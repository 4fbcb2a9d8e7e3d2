"""The replicas' processes, as the process manager sees them: started, watched,
started anew when they die, retired.

It is told of what happens by the manager's loop, and tells its owner what follows.
It uses no ZeroMQ.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from zflow.devices.local.regions import Regions
from zflow.processes.leftovers import Leftovers
from zflow.replicas import worker
from zflow.replicas.seat import Seat, identity
from zflow.system import family, process, signals
from zflow.system.line import Failure, failure, hear

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from zflow.processes.memory import Sharing

log = logging.getLogger("zflow.manager")

FIRST_BACKOFF = 0.1  # seconds before a dead replica is restarted
LONGEST_BACKOFF = 30.0  # seconds; each death in a row doubles the wait up to this
# Seconds, and at least as long as it was waited for: a replica that lived so long has no deaths to
# count.
STEADY = 1.0
LOOP = 3  # deaths in a row from which it is called a crash loop
# Seconds until a replica that got SIGTERM is told to end: it may have been sent to all processes at
# once.
HEED = 0.25
# Seconds until a replica that was told to end is told again: it may just have begun to wait for
# work.
REMIND = 0.2


@dataclass(eq=False)
class Child:
    """A replica's seat and the process that sits in it now, if any."""

    seat: Seat
    pid: int = 0
    status: Connection | None = None
    ready: bool = False
    started: float = 0.0
    deaths: int = 0
    restart_at: float = math.inf
    identity: bytes = b""
    last_error: Failure | None = None
    timed_out: bool = False
    new: bool = False  # added while the Flow runs, and not ready yet: its first death is its end
    failed: Failure | None = None  # why, if it was
    retired: bool = False  # it is to end and not to be started again
    heed_at: float = math.inf  # a SIGTERM that somebody else has sent it
    told_at: float | None = None  # to end
    remind_at: float = math.inf
    kill_at: float = math.inf  # if it has not ended by then
    mark: int = 0  # of its process and all that this starts
    gone: bool = False
    region: int = 0  # of shared memory, of its process

    @property
    def overdue_at(self) -> float:
        """When it has taken too long to get ready."""
        limit = self.seat.spec.timeout_ready
        return (
            self.started + limit / 1000 if self.pid and not self.ready and limit >= 0 else math.inf
        )

    @property
    def executor(self) -> str:
        """The name of its Executor."""
        return self.seat.spec.name


class ChildrenOwner(Protocol):
    """What the process manager does for its children, and is told about them."""

    @property
    def starting(self) -> bool:
        """Whether the Flow is still starting: then a death is the end of it."""

    @property
    def ending(self) -> bool:
        """Whether the Flow is ending: then nothing is started any more."""

    @property
    def told_to_end(self) -> bool:
        """Whether the Flow ends or is about to: then a replica that got
        SIGTERM serves on until it is told.
        """

    def fork(self, run: Callable[[], int]) -> int:
        """Fork a process that holds nothing of the manager's, and return its process id."""

    def became_ready(self, child: Child) -> None:
        """It serves."""

    def could_not_start(self, reason: Failure) -> None:
        """It died while the Flow was starting."""

    def died(self, child: Child, how: str) -> None:
        """It has ended, as in `'SIGKILL'`."""


class Children:
    """All replicas of this process manager."""

    def __init__(
        self,
        seats: list[Seat],
        selector: selectors.BaseSelector,
        owner: ChildrenOwner,
        sharing: Sharing,
    ) -> None:
        self._all = [Child(seat) for seat in seats]
        self._selector = selector
        self._owner = owner
        self._sharing = sharing
        memory = sharing.reader()
        self._leftovers = Leftovers(lambda: self.alive)
        self._regions = None if memory is None else Regions(memory)

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._all))

    def of(self, executor: str) -> list[Child]:
        """An Executor's replicas that are to stay, by shard and number."""
        found = [child for child in self._all if child.executor == executor and not child.retired]
        return sorted(found, key=lambda child: (child.seat.shard_id, child.seat.replica_id))

    def leaving(self, executor: str) -> list[Child]:
        """An Executor's replicas that were told to end for good and have not."""
        return [child for child in self._all if child.executor == executor and child.retired]

    @property
    def alive(self) -> list[int]:
        """The process ids of those that have not ended."""
        return [child.pid for child in self._all if child.pid]

    @property
    def lines(self) -> list[Connection]:
        """The manager's ends of their status lines, which no other process is to hold."""
        return [child.status for child in self._all if child.status is not None]

    @property
    def all_ready(self) -> bool:
        """Whether every one of them serves."""
        return all(child.ready for child in self._all)

    def crashing(self, executor: str) -> list[str]:
        """The names of an Executor's replicas that died again and again, and do not serve."""
        return [
            child.seat.name
            for child in self.of(executor)
            if child.deaths >= LOOP and not child.ready
        ]

    # -- starting and ending -----------------------------------------------------------------------

    def start_all(self) -> None:
        """Start every one of them."""
        for child in self:
            if not self._owner.ending:
                self._start(child)

    def add(self, seat: Seat) -> Child:
        """Start one more; if it dies before it is ready it is `failed`, and not started again."""
        child = Child(seat, new=True)
        self._all.append(child)
        self._start(child)
        return child

    def retire(self, child: Child, grace: float | None = None) -> None:
        """Let it finish what it is at and end, for good;
        it is killed so many seconds after it was first told to.
        """
        child.retired = True
        if child.pid:
            now = time.monotonic()
            child.told_at = child.told_at or now
            child.kill_at = math.inf if grace is None else max(now, child.told_at + grace)
            self._tell_to_end(child)
        else:
            self._remove(child)

    def kill(self, identity: bytes) -> None:
        """Kill one that has been at a request for too long; it is started again as others are."""
        for child in self._all:
            if child.identity == identity and child.pid:
                os.kill(child.pid, signal.SIGKILL)

    def tell_all_to_end(self) -> None:
        """Let each finish what it is at and end."""
        for child in self._all:
            if child.pid:
                self._tell_to_end(child)

    def _tell_to_end(self, child: Child) -> None:
        child.remind_at = time.monotonic() + REMIND
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signals.END)

    def _remove(self, child: Child) -> None:
        child.gone = True
        self._all.remove(child)

    def _start(self, child: Child) -> None:
        try:
            self._fork(child)
        except OSError as error:  # a limit was reached; it may be over later
            self._could_not_start(
                child,
                failure(f"{child.seat.name} could not be started: {process.cannot_start(error)}"),
            )

    def _could_not_start(self, child: Child, reason: Failure) -> None:
        if self._regions is not None:
            self._regions.ended(child.region, time.monotonic())
        if self._owner.starting:
            self._owner.could_not_start(reason)
        elif child.new:
            child.failed = reason
            self._remove(child)
        else:
            self._restart_later(child, reason)

    def _fork(self, child: Child) -> None:
        from multiprocessing.connection import Pipe

        child.region = 0 if self._regions is None else self._regions.deal()
        ours, theirs = Pipe(duplex=False)
        manager = os.getpid()
        others = self.lines
        child.mark = family.new_mark()

        def run() -> int:
            for line in (ours, *others):
                line.close()
            family.mark(child.mark)
            return worker.run(child.seat, theirs, manager, self._sharing.replica(child.region))

        with at_the_other_end(self._selector, ours, theirs, lambda: self._heard(child)):
            child.pid = self._owner.fork(run)
        child.status = ours
        child.ready = child.timed_out = False
        child.last_error = None
        child.restart_at = child.heed_at = child.remind_at = math.inf
        child.started = time.monotonic()
        child.identity = identity(child.seat.name, child.pid)

    # -- what is heard -----------------------------------------------------------------------------

    def _heard(self, child: Child) -> None:
        if child.status is None:
            return  # its end was noticed, in the same turn of the loop, before its last words
        try:
            kind, argument = hear(child.status)
        except (EOFError, OSError):
            self._forget_status(child)
            return
        if kind == "ready":
            child.ready, child.new = True, False
            child.started = time.monotonic()
            if child.deaths:
                log.warning("%s is back", child.seat.name)
            self._owner.became_ready(child)
        elif kind == "failed":
            child.last_error = argument
        elif kind == "asked":
            child.heed_at = time.monotonic() + HEED

    def _heed(self, child: Child, now: float) -> None:
        """Let a replica end that somebody has sent SIGTERM; another one takes its place."""
        child.heed_at = (
            now + HEED if self._owner.starting and not self._owner.told_to_end else math.inf
        )
        if not (self._owner.starting or self._owner.told_to_end or child.retired):
            self._tell_to_end(child)

    def _forget_status(self, child: Child) -> None:
        if child.status is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.status)
            child.status.close()
            child.status = None

    def reaped(self, pid: int, status: int) -> None:
        """A process has ended; it may be one of them."""
        for child in self:
            if child.pid == pid:
                self._died(child, status)

    def _died(self, child: Child, status: int) -> None:
        pid, child.pid = child.pid, 0
        while child.status is not None and child.status.poll():
            self._heard(child)
        self._forget_status(child)
        if not self._owner.ending:  # else all that is left is ended at the end
            self._leftovers.of(pid, child.mark)
        child.heed_at = child.remind_at = math.inf
        if self._regions is not None:
            self._regions.ended(child.region, time.monotonic())
        if self._owner.ending:
            return
        reason = self._reason(child, status)
        if self._owner.starting:
            self._owner.could_not_start(reason)
            return
        if child.retired or child.new:
            child.failed = reason if child.new else None
            self._remove(child)
        else:
            self._restart_later(child, reason)
        self._owner.died(child, process.ended(status))

    def _restart_later(self, child: Child, reason: Failure) -> None:
        now = time.monotonic()
        before = backoff(child.deaths)
        lived = child.ready and now - child.started >= max(STEADY, before)
        child.deaths = 1 if lived else child.deaths + 1
        wait = backoff(child.deaths)
        child.ready = False
        child.restart_at = now + wait
        again = f", {child.deaths} times in a row" if child.deaths >= LOOP else ""
        log.warning("%s%s; restarting it in %.1f s", _text(reason), again, wait)

    def _reason(self, child: Child, status: int) -> Failure:
        name = child.seat.name
        if child.last_error is not None:
            return child.last_error
        if child.timed_out:
            limit = child.seat.spec.timeout_ready
            return failure(f"{name} was not ready within timeout_ready={limit} ms")
        when = "" if child.ready else " while it started"
        return failure(f"{name} died{when} ({process.ended(status)})")

    # -- time --------------------------------------------------------------------------------------

    @property
    def timers(self) -> list[float]:
        """When `check_timers` is to be called."""
        times = [
            *self._leftovers.timers,
            *(self._regions.timers if self._regions is not None else ()),
        ]
        for child in self._all:
            times += (child.restart_at, child.overdue_at, child.heed_at)
            if child.pid:
                times += (child.remind_at, child.kill_at)
        return times

    def check_timers(self, now: float) -> None:
        """Do what it is time for."""
        if self._regions is not None:
            self._regions.reclaim(now)
        self._leftovers.check(now)
        for child in self:
            if self._owner.ending:
                return
            if child.restart_at <= now:
                self._start(child)
            elif child.overdue_at <= now:
                child.timed_out = True
                os.kill(child.pid, signal.SIGKILL)
                child.started = now + 3600  # asked for once
            elif child.pid and child.kill_at <= now:
                child.kill_at = math.inf
                log.warning(
                    "%s was told to end and has not ended in time; killing it", child.seat.name
                )
                os.kill(child.pid, signal.SIGKILL)
            elif child.heed_at <= now:
                self._heed(child, now)
            elif child.pid and child.remind_at <= now:
                self._tell_to_end(child)


@contextlib.contextmanager
def at_the_other_end(
    selector: selectors.BaseSelector,
    ours: Connection,
    theirs: Connection,
    heard: Callable[[], object],
) -> Iterator[None]:
    """What is forked inside has the other end of this line. If that fails,
    nothing is left of the line.
    """
    try:
        selector.register(ours, selectors.EVENT_READ, heard)
        yield
    except OSError:
        with contextlib.suppress(KeyError):
            selector.unregister(ours)
        ours.close()
        raise
    finally:
        theirs.close()


def backoff(deaths: int) -> float:
    """How many seconds to wait before a replica is started that has died so often in a row."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(deaths - 1, 16)) if deaths else 0.0


def _text(error: Failure) -> str:
    traceback = error.get("traceback")
    return f"{error['message']}\n{traceback}" if traceback else error["message"]
