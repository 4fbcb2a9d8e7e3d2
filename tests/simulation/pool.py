"""One balancer under load in virtual time, without faults of the network: how well it deals out,
in exact figures.

Real are only the balancer's decisions. A message to a replica or back takes half a *way*; a replica
is a process that works on what has arrived in the order in which it came, skips what was recalled
before it began, and tells how long it worked. Nothing here depends on the machine's speed, so the
figures are exact and the same every time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zflow.devices.balancing.actions import Action, Fail, Recall, Send, SendAhead
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import Replica, Task

from .clock import Clock
from .process import Pipe

Work = Callable[[int], float]  # seconds that a request takes, by its number
DEADLY = -1.0  # what a `Work` returns for a request that kills its replica


class Server:
    """A replica: what has arrived there, and what it is working on."""

    def __init__(self, name: str, work: Work, slots: int) -> None:
        self.name = name
        self.work = work
        self.slots = slots
        self.backlog: dict[int, Task] = {}
        self.running: set[int] = set()
        self.pipe = Pipe()
        self.tickets = self.pipe.end()
        self.ahead: dict[int, int] = {}  # the numbers of tickets, by task
        self.alive = True


@dataclass
class Report:
    """What came of a run; times are in seconds of virtual time,
    requests are meant by their numbers.
    """

    makespan: float = 0.0
    latencies: dict[int, float] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    crashes: int = 0
    repeated: int = 0  # how often a request was begun that had been begun before
    widest: int = 0  # the largest window seen

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.makespan

    @property
    def mean(self) -> float:
        """The mean latency in seconds."""
        return sum(self.latencies.values()) / len(self.latencies)


class Simulation:
    """One Executor's pool under load.

    Args:
        works: for each replica, how long it takes for a request.
        balancer: whose decisions are looked at.
        way: seconds to a replica and back.
        slots: how many requests a replica works on at once.
        back_after: seconds from a crash, of which the broker hears after a millisecond, until a
            successor is there.
        replica: what the balancer knows of a replica.
    """

    def __init__(
        self,
        works: Sequence[Work],
        balancer: Balancer | None = None,
        way: float = 400e-6,
        slots: int = 1,
        back_after: float = 0.002,
        replica: type[Replica] = Replica,
    ) -> None:
        self.balancer = Balancer() if balancer is None else balancer
        self._clock = Clock()
        self.report = Report()
        self.way = way
        self._slots = slots
        self._back_after = back_after
        self._replica = replica
        self._tick_at = math.inf
        self._posted: dict[int, float] = {}
        self._begun: set[int] = set()
        self._waiting: Iterator[int] = iter(())  # requests that are posted when others have ended
        self.processes: dict[str, Server] = {}
        for number, work in enumerate(works):
            self.start(f"rep-{number}", work)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._clock.now

    # -- what a test does --------------------------------------------------------------------------

    def start(self, name: str, work: Work) -> None:
        """Start a replica; it joins the pool at once."""
        server = self.processes[name] = Server(name, work, self._slots)
        tickets = server.pipe.end() if self._slots == 1 else None
        self._do(self.balancer.join(self._replica(name, self._slots, tickets=tickets), self.now))

    def at(self, time: float, function: Callable[..., None], *arguments: Any) -> None:
        """Call the function at that time."""
        self._clock.at(time, function, *arguments)

    def crash(self, number: int) -> None:
        """Kill a replica, now."""
        names = sorted(self.processes)
        if names:
            process = self.processes.pop(names[number % len(names)])
            process.alive = False
            self.report.crashes += 1
            self.at(self.now + 0.001, lambda: self._do(self.balancer.crash(process.name, self.now)))
            self.at(self.now + self._back_after, self.start, process.name + "'", process.work)

    def run(self, requests: int, in_flight: int | None = None, timeout: float = math.inf) -> Report:
        """Post so many requests, `in_flight` at a time (all at once if None),
        until all have ended.
        """
        self._waiting = iter(range(requests))
        for _ in range(requests if in_flight is None else in_flight):
            self._post_next(timeout)
        return self._go_on(requests)

    def run_open(self, times: Sequence[float], timeout: float = math.inf) -> Report:
        """Post a request at each of these times, until all have ended."""
        for number, time in enumerate(times):
            self.at(time, self._post, number, timeout)
        return self._go_on(len(times))

    # -- the machinery -----------------------------------------------------------------------------

    def _go_on(self, requests: int) -> Report:
        report = self.report
        while len(report.latencies) + len(report.failed) < requests:
            assert min(self._clock.next, self._tick_at) < math.inf, "the load came to a stand"
            self._step()
        assert not self.balancer.tasks
        report.makespan = self.now
        return report

    def _step(self) -> None:
        if self._clock.next <= self._tick_at:
            self._clock.step()
        else:
            self._clock.now = self._tick_at
        self._tick_at = math.inf
        if self.balancer.timed:  # as the broker does, after all that happens
            self._do(self.balancer.tick(self.now))
            self._tick_at = self.now + self.balancer.wake_after(self.now)

    def _post_next(self, timeout: float) -> None:
        number = next(self._waiting, None)
        if number is not None:
            self._post(number, timeout)

    def _post(self, number: int, timeout: float) -> None:
        self._posted[number] = self.now
        self._do(self.balancer.submit(Task(number, timeout, deadline=self.now + timeout), self.now))

    def _ended(self, task: Task) -> None:
        assert task.id in self._posted, "answered twice, or never posted"
        del self._posted[task.id]
        self._post_next(task.payload)

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Fail):
                self.report.failed[action.task.id] = action.reason
                self._ended(action.task)
                continue
            process = self.processes.get(action.replica.name)
            if isinstance(action, Send | SendAhead):
                self.report.widest = max(self.report.widest, action.replica.window)
            if process is not None:
                self.at(self.now + self.way / 2, self._arrive, process, action)

    def _arrive(self, process: Server, action: Send | SendAhead | Recall) -> None:
        if isinstance(action, Recall):
            process.backlog.pop(action.task.id, None)
            process.ahead.pop(action.task.id, None)
        else:
            process.backlog[action.task.id] = action.task
            if isinstance(action, SendAhead):
                process.ahead[action.task.id] = action.ticket
            self._begin(process)

    def _begin(self, process: Server) -> None:
        while process.backlog and len(process.running) < process.slots and process.alive:
            id = next(iter(process.backlog))
            del process.backlog[id]
            if id in process.ahead and not process.tickets.take(process.ahead.pop(id)):
                continue
            self.report.repeated += id in self._begun
            self._begun.add(id)
            process.running.add(id)
            seconds = process.work(id)
            if seconds == DEADLY:
                self.crash(sorted(self.processes).index(process.name))
                return
            self.at(self.now + seconds, self._end, process, id, seconds)

    def _end(self, process: Server, id: int, seconds: float) -> None:
        if not process.alive:
            return
        process.running.discard(id)
        self.at(self.now + self.way / 2, self._answered, process.name, id, seconds)
        self._begin(process)

    def _answered(self, name: str, id: int, seconds: float) -> None:
        task, actions = self.balancer.finish(name, id, seconds, self.now)
        self._do(actions)
        if task is not None:
            self.report.served[name] = self.report.served.get(name, 0) + 1
            self.report.latencies[id] = self.now - self._posted[id]
            self._ended(task)


def list_schedule(works: Sequence[Work], times: Sequence[float], way: float = 400e-6) -> Report:
    """One central queue and no prefetching: each request goes to the replica that is free first.

    That is the best that can be done without knowing how long requests take. A replica is taken for
    the work and for the way to it and back; with `way=0` that is what nobody can reach.
    `times` are when the requests come.
    """
    report = Report()
    free = [(0.0, number) for number in range(len(works))]
    for request, time in enumerate(times):
        at, number = heapq.heappop(free)
        done = max(at, time) + way + works[number](request)
        heapq.heappush(free, (done, number))
        report.latencies[request] = done - time
    report.makespan = max(at for at, _ in free)
    return report
