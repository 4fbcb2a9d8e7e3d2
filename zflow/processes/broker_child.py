"""The broker as the process manager sees it: started, heard, told, and started anew when it dies.

A broker that takes the place of another one listens where that did and knows what that has learned
of Executors: so replicas register again and clients send again what was not answered. What the
words between the two mean is the manager's business.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from zflow.processes import broker_process
from zflow.processes.children import at_the_other_end, backoff
from zflow.system import process
from zflow.system.line import Failure, failure, hear, say

if TYPE_CHECKING:
    import selectors
    from multiprocessing.connection import Connection

    from zflow.devices.broker.settings import Settings
    from zflow.processes.plan import Plan

log = logging.getLogger("zflow.manager")

DEATHS = 10  # in a row, after which the Flow is taken down
BACKOFF = 2.0  # seconds at most until it is started again: clients wait for it
STEADY = 0.3  # seconds; a broker that lived so long has no deaths to count


class BrokerChild:
    """The broker of this process manager, or none if the plan has no settings for one.

    Args:
        plan: the Flow's.
        selector: what the manager waits with.
        fork: forks a process that holds nothing of the manager's, and returns its process id.
        others: returns the manager's ends of other processes' lines, which it is not to hold.
        heard: is told what it says: a word, and what belongs to it.

    Attributes:
        pid: 0 while there is none.
        line: the manager's end, which no other process is to hold.
        restart_at: when `start` is to be called.
    """

    def __init__(
        self,
        plan: Plan,
        selector: selectors.BaseSelector,
        fork: Callable[[Callable[[], int]], int],
        others: Callable[[], list[Connection]],
        heard: Callable[..., None],
    ) -> None:
        self._plan = plan
        self._selector = selector
        self._fork_process = fork
        self._others = others
        self._heard = heard
        self._settings = plan.settings  # of the next one
        self._started = 0.0
        self._deaths = 0
        self._tries = 0  # in a row, to start it
        self._error: Failure | None = None  # why it could not start
        self.pid = 0
        self.line: Connection | None = None
        self.restart_at = math.inf

    def start(self, starting: bool) -> Failure | None:
        """Start it; if the Flow is not starting itself and a limit was reached, it is tried again.

        Returns:
            Why the Flow cannot go on, or None.
        """
        if self._settings is None:
            return None
        try:
            self._fork(self._settings)
        except OSError as error:  # a limit was reached; it may be over later
            message = f"the broker could not be started: {process.cannot_start(error)}"
            if starting:
                return failure(message)
            self._tries += 1
            wait = min(BACKOFF, backoff(self._tries))
            self.restart_at = time.monotonic() + wait
            log.warning("%s; trying again in %.1f s", message, wait)
        return None

    def _fork(self, settings: Settings) -> None:
        from multiprocessing.connection import Pipe

        ours, theirs = Pipe()
        manager = os.getpid()
        others = self._others()

        def run() -> int:
            for line in (ours, *others):
                line.close()
            return broker_process.run(settings, self._plan, theirs, manager)

        with at_the_other_end(self._selector, ours, theirs, self._hear):
            self.pid = self._fork_process(run)
        self._settings = replace(settings, epoch=settings.epoch + 1)
        self.line = ours
        self.restart_at = math.inf
        self._started = time.monotonic()
        self._tries = 0

    # -- what is said ------------------------------------------------------------------------------

    def tell(self, command: str, *arguments: object) -> None:
        """Tell it something, if it is there."""
        if self.line is not None:
            with contextlib.suppress(OSError):
                say(self.line, command, *arguments)

    def _hear(self) -> None:
        if self.line is None:
            return
        try:
            kind, *arguments = hear(self.line)
        except (EOFError, OSError):
            self._selector.unregister(self.line)
            self.line.close()
            self.line = None
            return  # its end is seen by waiting for the process
        if kind == "bound":
            self._error = None
        elif kind == "failed":
            self._error = arguments[0]
        elif kind == "endpoints":
            self._learned(*arguments)
        self._heard(kind, *arguments)

    def keep_ports(self, front: list[str], back: list[str]) -> None:
        """It listens at these addresses; a successor is to listen at the same ports."""
        if self._settings is not None:
            self._settings = replace(
                self._settings, public=front[-1], replicas_from=back[0] if back else None
            )

    def _learned(self, executor: str, endpoints: list[str] | None) -> None:
        """A broker that is started anew must not take a request for one of an Executor that passes
        it by.
        """
        if self._settings is not None:
            bound = None if endpoints is None else frozenset(endpoints)
            nodes = [
                replace(node, endpoints=bound) if node.name == executor else node
                for node in self._settings.nodes
            ]
            self._settings = replace(self._settings, nodes=nodes)

    # -- its end -----------------------------------------------------------------------------------

    def ended(self) -> None:
        """Its process has ended: hear its last words, which may say why."""
        self.pid = 0
        while self.line is not None and self.line.poll():
            self._hear()  # and the end of the line is not to be read later

    def died(self, status: int, starting: bool) -> Failure | None:
        """Its end was not meant: have it started anew at its addresses, unless the Flow is starting
        itself or it has died too often.

        Returns:
            Why the Flow cannot go on, or None.
        """
        message = f"the broker died ({process.ended(status)})"
        now = time.monotonic()
        self._deaths = 1 if now - self._started > STEADY else self._deaths + 1
        if starting or self._deaths > DEATHS:
            message = message if starting else f"{message} {self._deaths} times in a row"
            level = logging.DEBUG if starting else logging.ERROR
            log.log(level, "%s; the Flow is taken down", message)
            return self._error or failure(message)
        self.restart_at = now + min(BACKOFF, backoff(self._deaths - 1))
        log.warning("%s; starting it anew", message)
        return None
