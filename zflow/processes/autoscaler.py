"""How many replicas an Executor wants, by what there is to do: pure logic, no clock, no processes.

The caller tells twice a second or so what it sees, and makes what comes back true. What holds here:

- Load is counted in replicas: the busy ones, and what the queue grows by. It is smoothed over two
  seconds, or over two requests where they take longer, because a look at a few requests says
  little.
- It grows when what waits takes longer than half of `wait` to drain, and still would when new
  replicas are ready: a queue that falls and is gone by then is sat out. How long they take to get
  ready is measured.
- It grows to what the load needs and what drains the queue in time, to twice as many at most, and
  by one step at a time: the next one has to wait until the last one's replicas are there.
- What a load needs is the load, a tenth, and a margin against chance: the square root of the load
  times 1.5, or less where requests are short against `wait`, since a queue may take that up. The
  first is the square-root staffing of telephone exchanges (Erlang; Halfin and Whitt 1981), the
  second the tail of the wait in an M/M/c queue, which falls by e for each work / (replicas - load)
  seconds.
- It shrinks to what the highest load of the last `idle` seconds needs, to half at most, never while
  anything waits.
- A shrink that has to be taken back soon doubles that time, up to eight times: so a load that comes
  and goes does not make it come and go.
"""

from __future__ import annotations

import math
from collections import deque

from zflow.topology.scaling import ReplicaRange

EARLY = 0.5  # of `wait`: to grow when it has been reached would be late
SMOOTH = 2.0  # seconds, and requests, over which the load is smoothed
SPARE = 0.1  # of the load: replicas that are there besides
MARGIN = 1.5  # times the square root of the load: nearly nobody waits
TAIL = 3.0  # e to this: one in twenty of those who wait does so for longer than `wait`
STEP = 1.0  # seconds between two growths, at least
GAP = 5.0  # seconds without a look after which what was seen before does not count
REST = 0.25  # of `idle`: between two shrinks
REGRET = 2.0  # times `idle`: a growth so soon after a shrink says that this was wrong
MOST_PATIENT = 8
AGAIN = 5.0  # seconds after replicas that did not get ready, doubled each time
AGAIN_AT_MOST = 300.0


class Autoscaler:
    """How many replicas one Executor wants.

    Attributes:
        why: the reason for the last number that was not the one there was, for people.

    >>> scaler = Autoscaler(ReplicaRange(min=1, max=8))
    >>> scaler.observe(0.0, queued=0, busy=1, replicas=1, work_seconds=0.1)
    1
    >>> scaler.observe(0.5, queued=30, busy=1, replicas=1, work_seconds=0.1)
    2
    >>> scaler.why
    'requests would wait 3.0 s'
    """

    def __init__(self, limits: ReplicaRange) -> None:
        self.limits = limits
        self.why = ""
        self._wait = limits.wait / 1000
        self._idle = limits.idle / 1000
        # When it was last looked, and what was queued then.
        self._seen: tuple[float, float] | None = None
        self._load = 0.0  # replicas, smoothed
        # Time and load, each load lower than the one before.
        self._peaks: deque[tuple[float, float]] = deque()
        self._since = -math.inf  # from when on it was looked without a gap, and did not grow
        self._replicas = 0
        self._asked: tuple[float, int] | None = None  # when more were wanted, and how many
        self._startup = STEP  # seconds that new ones take to get ready
        self._grow_at = -math.inf
        self._failures = 0
        self._shrunk = self._shrink_at = -math.inf
        self._patience = 1

    def observe(
        self,
        now: float,
        queued: float,
        busy: float,
        replicas: int,
        work_seconds: float,
        hold: bool = False,
    ) -> int:
        """Return how many replicas are wanted.

        Args:
            now: seconds of any monotonic clock.
            queued: requests that wait.
            busy: replicas that work; one that works on several requests at once counts as far as it
                is occupied.
            replicas: how many there are, whether or not one is just being restarted.
            work_seconds: how long a replica is taken by one request; 0 if that is not known yet.
            hold: nothing can be changed now, because a change is under way;
                it is only learned from what is seen.
        """
        momentary = self._learn(now, queued, busy, work_seconds)
        if replicas > self._replicas:
            self._since = now
        self._replicas = replicas
        if hold:
            return replicas
        if self._asked is not None:
            self._settle(now, replicas)
        allowed = min(max(replicas, self.limits.min), self.limits.max)
        if allowed != replicas:
            self.why = f"there are to be {self.limits}"
            return allowed
        more = self._more(queued * work_seconds, replicas, work_seconds, momentary)
        if more > replicas and now >= self._grow_at:
            return self._grow(now, more, queued * work_seconds / replicas)
        fewer = self._fewer(now, queued, replicas, work_seconds)
        return self._shrink(now, fewer) if fewer < replicas else replicas

    # -- what is seen ------------------------------------------------------------------------------

    def _learn(self, now: float, queued: float, busy: float, work: float) -> float:
        """Take a look into account; returns the load at this moment,
        as far as replicas carry it.
        """
        if self._seen is None or now - self._seen[0] > GAP:
            self._peaks.clear()
            self._load = raw = busy
            self._since = now
        else:
            passed = max(now - self._seen[0], 1e-3)
            raw = max(0.0, busy + (queued - self._seen[1]) * work / passed)
            smooth = max(min(SMOOTH, self._idle / SMOOTH), SMOOTH * work)
            self._load += (1.0 - math.exp(-passed / smooth)) * (raw - self._load)
        self._seen = now, queued
        while self._peaks and self._peaks[-1][1] <= self._load:
            self._peaks.pop()
        self._peaks.append((now, self._load))
        while self._peaks[0][0] < now - self._idle * self._patience:
            self._peaks.popleft()
        return min(raw, busy)

    def _settle(self, now: float, replicas: int) -> None:
        """What came of the replicas that were asked for."""
        assert self._asked is not None
        (at, wanted), self._asked = self._asked, None
        if replicas >= wanted:
            self._startup = max(STEP, now - at)
            self._failures = 0
        else:
            self._failures += 1
            self._grow_at = now + min(AGAIN_AT_MOST, AGAIN * 2.0 ** (self._failures - 1))

    # -- what follows ------------------------------------------------------------------------------

    def _needed(self, load: float, work: float) -> int:
        """How many replicas a load needs so that hardly anybody waits for longer than `wait`."""
        margin = min(MARGIN * math.sqrt(load), TAIL * work / self._wait)
        return math.ceil(load * (1.0 + SPARE) + margin - 1e-6)

    def _more(self, backlog: float, replicas: int, work: float, momentary: float) -> int:
        """How many there should be because of what waits,
        which is so many seconds of one replica's work.
        """
        limit = EARLY * self._wait * replicas
        load = self._load
        if backlog > self._wait * replicas:  # too late for being sure that it is not by chance
            load = max(load, momentary)
        later = backlog + (load - replicas) * self._startup
        if backlog <= limit or later <= limit:
            return replicas
        # More than one each would be of no use.
        drained = min(later / max(self._wait, self._startup), later / work)
        wanted = max(math.ceil(load + drained), self._needed(load, work))
        return min(wanted, 2 * replicas, self.limits.max)

    def _grow(self, now: float, wanted: int, waits: float) -> int:
        self.why = f"requests would wait {waits:.1f} s"
        if now - self._shrunk < REGRET * self._idle * self._patience:
            self._patience = min(MOST_PATIENT, 2 * self._patience)
        else:
            self._patience = 1
        self._asked = now, wanted
        self._grow_at = now + STEP
        self._since = now
        return wanted

    def _fewer(self, now: float, queued: float, replicas: int, work: float) -> int:
        """How many are enough for the highest load of late."""
        if queued or now < self._shrink_at or now - self._since < self._idle * self._patience:
            return replicas
        return max(self._needed(self._peaks[0][1], work), math.ceil(replicas / 2), self.limits.min)

    def _shrink(self, now: float, wanted: int) -> int:
        seconds = self._idle * self._patience
        self.why = f"in {seconds:.0f} s no more than {self._peaks[0][1]:.1f} were busy at a time"
        self._shrunk = now
        self._shrink_at = now + REST * self._idle
        return wanted
