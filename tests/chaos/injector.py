"""Makes the events of a schedule happen to a running Flow,
and writes each into a log that can be injected again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, TextIO

import psutil
from cable import Cable
from helpers import in_background

from zflow import Flow, errors

from . import executors, schedule, strangers
from .disk import Disk
from .load import Load
from .usage import USER, processes

FILLING = 0.01  # seconds between two looks whether the full disk has room again
MOST_REPLICAS = 4
RECONNECTING = 1.0  # seconds that clients may need after a silence
Undo = Callable[[], None]


class Missed(Exception):
    """What the event is for is not there at the moment; `args[0]` says what."""


class Injector:
    """Injects events in a thread of its own.

    Args:
        flow: started.
        folder: where its Executors look whether they are slow.
        log: where each event is written, when it has happened.
    """

    def __init__(
        self,
        events: list[schedule.Event],
        flow: Flow,
        cable: Cable,
        load: Load,
        disk: Disk,
        folder: Path,
        log: TextIO,
    ) -> None:
        self._flow = flow
        self._cable = cable
        self._load = load
        self._disk = disk
        self._slow = folder / "slow"
        self._log = log
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._order = itertools.count()
        # What is to be done and undone, by time; the count keeps functions from being compared.
        self._due: list[tuple[float, int, schedule.Event | Undo]] = []
        for event in events:
            self._at(event.at, event)
        self._changes: list[tuple[str, futures.Future[Any]]] = []
        self._filling = False
        self._silence = (-10.0, -10.0)  # from when to when clients may hear nothing
        self.counts: Counter[str] = Counter()  # what was done, by kind
        self.wrong: list[str] = []
        self._running = in_background(self._run)

    def _at(self, when: float, what: schedule.Event | Undo) -> None:
        heapq.heappush(self._due, (when, next(self._order), what))

    def _run(self) -> None:
        while not self._ended.is_set():
            now = self._handle_due()
            if self._filling:
                self._disk.fill()
            wait = self._due[0][0] - now if self._due else 1.0
            self._ended.wait(FILLING if self._filling else max(0.0, min(1.0, wait)))
        # On a busy machine the last ones are late, and a log is to have all of them.
        self._handle_due()

    def _handle_due(self) -> float:
        """Do what it is time for; returns the time, in seconds from the beginning."""
        now = time.monotonic() - self._begun
        while self._due and self._due[0][0] <= now:
            self._handle(heapq.heappop(self._due)[2])
        return now

    def _handle(self, what: schedule.Event | Undo) -> None:
        if not isinstance(what, schedule.Event):
            what()
            return
        try:
            self._keep_silence_short(what)
            target, undo = self._inject(what)
            outcome = "done"
        except Missed as missed:
            target, undo, outcome = what.target, None, f"missed: {missed.args[0]}"
        now = time.monotonic() - self._begun
        if undo is not None:
            self._at(now + what.seconds, undo)
        self.counts[what.kind if outcome == "done" else f"{what.kind}, missed"] += 1
        happened = schedule.Event(what.at, what.kind, target, what.seconds, what.draw)
        self._log.write(schedule.line(happened, outcome) + "\n")
        self._log.flush()

    def _keep_silence_short(self, event: schedule.Event) -> None:
        """Raise Missed if this would make a silence so long that clients rightly give up."""
        if event.kind not in schedule.SILENCING:
            return
        now = time.monotonic() - self._begun
        begun, until = self._silence
        if now > until + RECONNECTING:
            begun = now
        until = max(until, now + event.seconds)
        if until - begun > schedule.LONGEST_SILENCE:
            raise Missed("clients would hear nothing for too long")
        self._silence = (begun, until)

    # -- the kinds of events -----------------------------------------------------------------------

    def _inject(self, event: schedule.Event) -> tuple[str, Undo | None]:
        """Do it; returns to whom, and how to undo it."""
        verb = event.kind.partition("-")[0]
        if event.target == schedule.STRANGERS:
            return event.target, self._come_as(verb, event.draw)
        if event.target == schedule.ALL:
            self._end_all()
            return event.target, None
        if verb in ("kill", "end", "stop"):
            return self._signal(verb, event)
        if verb in ("freeze", "cut"):
            getattr(self._cable, verb)()
            return event.target, self._cable.heal
        if verb == "skew":
            return event.target, self._skew()
        if verb == "fill":
            return event.target, self._fill()
        if verb == "slow":
            name = event.target or self._replica(event.draw)[0]
            path = self._slow / name.replace("/", ".")
            path.touch()
            return name, lambda: path.unlink(missing_ok=True)
        return self._change(verb, event)

    def _replica(self, draw: float, name: str = "") -> tuple[str, psutil.Process]:
        """A replica by name, or any."""
        strangers = (USER, schedule.BROKER, schedule.MANAGER, schedule.WATCHDOG)
        found = [
            (title, pid)
            for title, pid in processes()
            if (title == name if name else title not in strangers)
        ]
        if not found:
            raise Missed(f"there is no {name or 'replica'}")
        title, pid = sorted(found)[int(draw * len(found)) % len(found)]
        try:
            return title, psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise Missed(f"{title} has just ended") from None

    def _signal(self, verb: str, event: schedule.Event) -> tuple[str, Undo | None]:
        name, process = self._replica(event.draw, event.target)
        try:
            {"kill": process.kill, "end": process.terminate, "stop": process.suspend}[verb]()
        except psutil.NoSuchProcess:
            raise Missed(f"{name} has just ended") from None

        def go_on() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

        return name, go_on if verb == "stop" else None

    def _end_all(self) -> None:
        """SIGTERM to everyone but the user's process, which alone may decide to close the Flow:
        nothing ends.
        """
        for name, pid in processes():
            with contextlib.suppress(ProcessLookupError):
                if name != USER:
                    os.kill(pid, signal.SIGTERM)

    def _come_as(self, verb: str, draw: float) -> Undo | None:
        """Somebody comes over TCP: a hostile client, or a replica that binds something else,
        which is not taken in.
        """
        assert self._flow.port is not None
        assert self._flow.replica_port is not None
        if verb == "hostile":
            hostile = strangers.be_hostile(self._flow.port, int(draw * 10_000))

            def leave() -> None:
                hostile.kill()
                hostile.wait()

            return leave
        taken = strangers.join(self._flow.replica_port, "plain", ["/another"])
        if taken is None:
            raise Missed("the broker does not answer just now")
        if taken:
            self.wrong.append("a replica that binds something else was taken in")
        return None

    def _skew(self) -> Undo:
        self._load.skewed = True

        def stop() -> None:
            self._load.skewed = False

        return stop

    def _fill(self) -> Undo:
        self._filling = True
        self._disk.fill()

        def clear() -> None:
            self._filling = False
            self._disk.clear()

        return clear

    def _change(self, verb: str, event: schedule.Event) -> tuple[str, Undo | None]:
        """A change of the Flow. It takes its time, and may be refused when
        what it needs is killed meanwhile.
        """
        if verb == "drain":
            name = event.target or self._replica(event.draw)[0]
            self._begin(f"drain {name}", self._flow.drain, name)
            return name, lambda: self._begin(f"undrain {name}", self._flow.undrain, name)
        names = sorted(executors.REPLICAS)
        name = event.target or names[int(event.draw * len(names)) % len(names)]
        if verb == "restart":
            self._begin(f"restart {name}", self._flow.restart, name)
        else:
            replicas = 1 + int(event.draw * 1000) % MOST_REPLICAS
            self._begin(f"scale {name} to {replicas}", self._flow.scale, name, replicas)
        return name, None

    def _begin(self, what: str, change: Callable[..., Any], *arguments: Any) -> None:
        self._changes.append((what, in_background(change, *arguments)))

    # -- the end -----------------------------------------------------------------------------------

    def end(self, patience: float) -> None:
        """Inject nothing more, undo what was done, and wait for the changes that are under way."""
        self._ended.set()
        self._running.result()
        for _, _, what in sorted(self._due, key=lambda entry: entry[:2]):
            if not isinstance(what, schedule.Event):
                what()
        waiting = futures.wait([change for _, change in self._changes], patience).not_done
        for what, change in self._changes:
            if change in waiting:
                self.wrong.append(f"{what} still waits {patience:.0f} s after the end")
                continue
            error = change.exception()
            self.counts[f"{what.split()[0]}, {'done' if error is None else 'refused'}"] += 1
            if error is not None and not isinstance(error, errors.ChangeRefused):
                self.wrong.append(f"{what}: {type(error).__name__}: {error}")


def header(options: dict[str, Any]) -> str:
    """The first line of a log."""
    return json.dumps({"options": options})
