"""A queue before replicas whose number an Autoscaler chooses, in virtual time:
M/G/c with a c that changes.

Real are only the Autoscaler's decisions. There is one queue, first come first served; a replica
that was asked for works after its start-up time, and one that is to end finishes what it is at. As
from the broker, the Autoscaler hears twice a second how many requests wait, how many replicas are
busy, and how long they say that they work on a request.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from zflow.processes.autoscaler import Autoscaler
from zflow.topology.scaling import ReplicaRange

EVERY = 0.5  # seconds between two looks
SMOOTHING = 0.2  # as the balancer smooths the work of a replica

Request = tuple[float, float]  # when it comes, and how long it takes; seconds


@dataclass
class Report:
    """What came of a load; times in seconds of virtual time."""

    # When a request came, and how long it waited.
    waits: list[tuple[float, float]] = field(default_factory=list)
    # When, from how many, to how many.
    changes: list[tuple[float, int, int]] = field(default_factory=list)
    replica_seconds: float = 0.0
    work: float = 0.0
    ended: float = 0.0
    replicas: int = 0  # at the end

    def late(self, limit: float, but: Sequence[tuple[float, float]] = ()) -> float:
        """The part of the requests that waited for longer than the limit,
        but for those that came in some times.
        """
        counted = [
            wait for at, wait in self.waits if not any(begin <= at <= end for begin, end in but)
        ]
        return sum(wait > limit for wait in counted) / max(1, len(counted))

    @property
    def growing(self) -> list[tuple[float, float]]:
        """When more replicas were asked for."""
        return [(at, at) for at, before, after in self.changes if after > before]


@dataclass(eq=False)
class Worker:
    """One replica."""

    work: float = 0.0  # smoothed
    begun: float = math.inf  # what it is working on; infinity: nothing
    retired: bool = False


class Simulation:
    """An Autoscaler and its replicas under a load.

    Args:
        limits: the Autoscaler's.
        startup: seconds from when a replica is asked for until it works.
        fails: whether a replica that is asked for at that time fails to get ready.
    """

    def __init__(
        self,
        limits: ReplicaRange,
        startup: float = 0.3,
        fails: Callable[[float], bool] = lambda now: False,
    ):
        self.scaler = Autoscaler(limits)
        self.limits = limits
        self.startup = startup
        self.fails = fails
        self.now = 0.0
        self.report = Report()
        self.idle = deque(Worker() for _ in range(limits.min))
        self.workers = list(self.idle)
        self.queue: deque[Request] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._starting = 0
        self._retiring = 0
        self._counted = 0.0  # until when replica-seconds are counted

    def run(self, load: Iterable[Request], until: float) -> Report:
        """Let the load come, and go on until that time."""
        coming = iter(load)
        self._expect(coming)
        self._at(EVERY, self._look)
        while self._events and self._events[0][0] <= until:
            at, _, happen = heapq.heappop(self._events)
            there = len(self.workers) + self._starting + self._retiring
            self.report.replica_seconds += there * (at - self._counted)
            self.now = self._counted = at
            happen()
        self.report.ended, self.report.replicas = until, len(self.workers)
        return self.report

    def crash(self, seconds: float) -> None:
        """A busy replica dies and is back after so many seconds;
        its request goes to another one.
        """
        worker = next((worker for worker in self.workers if worker.begun < math.inf), None)
        if worker is not None:
            fresh = Worker()
            self.workers[self.workers.index(worker)] = fresh
            worker.retired = True
            self._retiring += 1
            self.queue.appendleft((self.now, worker.work or 0.1))
            self._at(self.now + seconds, lambda: self._free(fresh))

    def at(self, time: float, happen: Callable[[], None]) -> None:
        """Let something happen at that time."""
        self._at(time, happen)

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, happen))

    def _expect(self, coming: Iterator[Request]) -> None:
        request = next(coming, None)
        if request is not None:
            self._at(request[0], lambda: self._come(request, coming))

    def _come(self, request: Request, coming: Iterator[Request]) -> None:
        self.queue.append(request)
        self._serve()
        self._expect(coming)

    def _serve(self) -> None:
        while self.queue and self.idle:
            at, seconds = self.queue.popleft()
            worker = self.idle.popleft()
            worker.begun = self.now
            self.report.waits.append((at, self.now - at))
            self.report.work += seconds
            self._at(
                self.now + seconds,
                lambda worker=worker, seconds=seconds: self._done(worker, seconds),
            )

    def _done(self, worker: Worker, seconds: float) -> None:
        worker.begun = math.inf
        worker.work = worker.work + SMOOTHING * (seconds - worker.work) if worker.work else seconds
        if worker.retired:
            self._retiring -= 1
        else:
            self._free(worker)

    def _free(self, worker: Worker) -> None:
        if worker in self.workers:
            self.idle.append(worker)
            self._serve()

    # -- autoscaling -------------------------------------------------------------------------------

    def _look(self) -> None:
        self._at(self.now + EVERY, self._look)
        works = [max(worker.work, self.now - worker.begun) for worker in self.workers]
        known = [work for work in works if work > 0]
        busy = sum(worker.begun < math.inf for worker in self.workers)
        replicas = len(self.workers)
        work = sum(known) / len(known) if known else 0.0
        hold = self._starting > 0
        wanted = self.scaler.observe(self.now, len(self.queue), busy, replicas, work, hold)
        assert self.limits.min <= wanted <= self.limits.max
        assert wanted <= 2 * replicas
        if hold:
            assert wanted == replicas
        elif wanted != replicas:
            self.report.changes.append((self.now, replicas, wanted))
            self._grow(wanted - replicas) if wanted > replicas else self._shrink(replicas - wanted)

    def _grow(self, count: int) -> None:
        fails = self.fails(self.now)
        self._starting = count

        def ready() -> None:
            self._starting = 0
            if not fails:
                fresh = [Worker() for _ in range(count)]
                self.workers.extend(fresh)
                self.idle.extend(fresh)
                self._serve()

        self._at(self.now + self.startup, ready)

    def _shrink(self, count: int) -> None:
        assert not self.queue
        for worker in self.workers[-count:]:
            worker.retired = True
            if worker in self.idle:
                self.idle.remove(worker)
            else:
                self._retiring += 1
        del self.workers[-count:]


# -- loads -----------------------------------------------------------------------------------------


def poisson(
    random: random.Random,
    rate: Callable[[float], float],
    highest: float,
    until: float,
    work: Callable[[], float],
) -> Iterator[Request]:
    """Requests that come by chance, so many per second as `rate` says of a time,
    `highest` at most.
    """
    now = 0.0
    while True:
        now += random.expovariate(highest)
        if now >= until:
            return
        if random.random() * highest < rate(now):
            yield now, work()


def enough(load: float, work: float, wait: float, late: float = 0.01) -> int:
    """The fewest replicas with which no more than that part of the requests
    waits longer than `wait`: M/M/c.

    It is what somebody would choose who knew the load; by Erlang's C formula.
    """
    replicas = max(1, math.floor(load) + 1)
    while True:
        blocked = 1.0  # Erlang's B, by recursion
        for count in range(1, replicas + 1):
            blocked = load * blocked / (count + load * blocked)
        waits = replicas * blocked / (replicas - load * (1 - blocked))
        if waits * math.exp(-(replicas - load) * wait / work) <= late:
            return replicas
        replicas += 1
