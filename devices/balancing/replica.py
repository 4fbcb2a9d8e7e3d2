"""Tasks and replicas as the balancer sees them: pure data.

A replica learns from its answers how long it works and how long the round trip to it takes besides,
and from that how many tasks it may hold at a time: its window. That is just large enough to hide
the round trip, and one larger where work is short or a task can be reclaimed, as not all take
equally long. While the work takes longer than the round trip, the next task is sent ahead with a
ticket; where there are no tickets, nothing is parked behind work that clearly takes longer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

MAX_WINDOW = 64  # requests; beyond this a larger window hides nothing more
CLEARLY_LONGER = (
    # Round trip / work below which the window is as small as can be: that costs less than 1 part in
    # 10.
    0.1
)
SMOOTHING = 0.2  # weight of a new sample of the work
# Times the usual work: a longer sample counts as so long where what the machine does is to be
# ignored.
HICCUP = 4
# Of the round trip; their median is believed: one hiccup of the machine must not open the window.
SAMPLES = 7
# Seconds of work that one replica is given though others have room: divided, it takes more
# messages.
WORTH = 500e-6
NO_TIME = 1e-9  # seconds; nothing is quicker
# Seconds of work from which a ticket is worth what it costs: the next task is sent ahead with one.
LONG = 2e-3
# Seconds; a replica that is always busy is let run dry this often, to measure its round trip again.
REMEASURE = 0.2


# Cuts a payload: returns that of the first so many, and of the others.
Cut = Callable[[Any, int], tuple[Any, Any]]


class BatchKey(NamedTuple):
    """How requests are put together: those with equal ones of these can be worked on in one go.

    Args:
        endpoint: what sets them apart from others.
        size: how many Documents a batch has at most; a request with more of them is a batch of its
            own.
        timeout: the seconds that a request may wait for others,
            while there are too few for a full batch.
    """

    endpoint: str
    size: int
    timeout: float = 0.0


class Task:
    """One request's visit to one Executor, or its part for one shard.
    The payload is the caller's business.

    Args:
        id: larger than those of all tasks before it.
        payload: anything.
        deadline: when it expires, by the caller's clock.
        shard: the only shard whose replicas may have it; None for any.
        client: whose it is; clients take turns in the queue.
        docs: how many Documents it has, 1 or more.
        batching: which others it can be put together with; None for none.
        count: how many tasks it is: those of a bulk are one as long as the same becomes of all.
            Their ids follow one another, and they are worked on in this order.
    """

    __slots__ = (
        "ahead",
        "assigned",
        "batching",
        "client",
        "count",
        "crashes",
        "deadline",
        "deaths",
        "docs",
        "holder",
        "id",
        "payload",
        "shard",
        "suspect",
        "waited",
    )

    def __init__(
        self,
        id: int,
        payload: Any = None,
        deadline: float = math.inf,
        shard: int | None = None,
        client: Hashable = None,
        docs: int = 1,
        batching: BatchKey | None = None,
        count: int = 1,
    ) -> None:
        self.id = id
        self.count = count
        self.client = client
        self.docs = docs
        self.batching = batching
        self.shard = shard
        self.payload = payload
        self.deadline = deadline
        self.holder: Replica | None = None
        self.assigned = 0.0  # when it was given to its holder, or else submitted
        self.waited = False  # for others at its replica, before it was begun
        self.ahead = False  # it was sent ahead to its holder
        self.crashes = 0
        # Which replicas had begun it when they ended, and how they did.
        self.deaths: tuple[tuple[bytes, str], ...] = ()
        self.suspect = False

    def __repr__(self) -> str:
        return f"Task({self.id})"

    def cut(self, count: int, cut: Cut) -> Task:
        """Return a task for the first `count` of a bulk; this one is for the others from now on."""
        head = Task(self.id, None, self.deadline, None, self.client, count=count)
        head.payload, self.payload = cut(self.payload, count)
        head.holder, head.assigned, head.waited = self.holder, self.assigned, self.waited
        self.waited = self.holder is not None
        self.id += count
        self.count -= count
        return head


class TicketIssuer(Protocol):
    """Tickets of the tasks that were sent ahead to a replica,
    which takes them when it begins those.
    """

    def give(self, task: int) -> int:
        """Make a ticket for this task, and return its number; 0: there can be no more of them."""

    def reclaim(self) -> int | None:
        """Take the oldest ticket, and return its task, which the replica will not begin; None:
        it has taken all.
        """


class Replica:
    """One worker process as the balancer sees it: what it holds, and how fast it is.

    Args:
        name: what the caller calls it.
        slots: how many tasks it works on at the same time. It begins them in the order in which
            they were sent.
        shard: which shard it is a replica of.
        tickets: say whose a task is that was sent ahead; None: nothing can be sent ahead.

    Attributes:
        line: how the caller reaches it.
    """

    __slots__ = (
        "ahead",
        "alone",
        "batch",
        "held",
        "killed",
        "last_done",
        "level",
        "line",
        "lost",
        "measured",
        "more",
        "name",
        "parked",
        "round_trip",
        "round_trips",
        "shard",
        "slots",
        "tickets",
        "usual",
        "widest",
        "window",
        "work",
    )

    def __init__(
        self, name: bytes, slots: int = 1, shard: int = 0, tickets: TicketIssuer | None = None
    ) -> None:
        self.name = name
        self.line: Any = None
        self.tickets = tickets
        self.ahead = False  # the last task that its window has room for is sent ahead
        self.shard = shard
        self.slots = slots
        self.window = slots
        self.widest = max(slots, MAX_WINDOW)
        # In the order sent; None: given up, but still being worked on.
        self.held: dict[int, Task | None] = {}
        self.more = 0  # how many tasks that is more than it seems, for bulks are one
        # Of these, what it was given in one go; it takes one of the slots.
        self.batch: set[int] = set()
        self.parked = 0
        self.level = -1  # where it stands in the balancer's levels; -1: has no room
        self.alone = False  # gets nothing more until it holds nothing
        self.lost = False  # gets nothing more
        self.killed = False  # or about to be
        self.last_done = -math.inf
        self.work = 0.0  # seconds, smoothed
        self.usual = 0.0  # the same, without hiccups
        self.round_trips: deque[float] = deque(maxlen=SAMPLES)  # seconds
        self.round_trip = math.inf  # their median; infinity until there are enough
        self.measured = -math.inf  # when a sample of the round trip was last taken

    def __repr__(self) -> str:
        return f"Replica({self.name!r})"

    @property
    def tasks(self) -> list[Task]:
        """The tasks that it holds and that have not ended, bulks as they are."""
        return [task for task in self.held.values() if task is not None]

    @property
    def load(self) -> int:
        """How many tasks it holds."""
        return len(self.held) + self.more

    @property
    def working(self) -> int:
        """How many of the tasks that it holds, from the first one on, it may have begun."""
        return self.slots + len(self.batch) - 1 if self.batch else self.slots

    @property
    def first_parked(self) -> Task | None:
        """The first task that it holds and cannot have begun, or the bulk with it."""
        ends = accumulate(1 if task is None else task.count for task in self.held.values())
        parked = (
            task for task, end in zip(self.held.values(), ends, strict=True) if end > self.working
        )
        return next((task for task in parked if task is not None), None)

    def put(self, id: int, pieces: Sequence[Task]) -> None:
        """Put these tasks in the place of the bulk that they are cut from, whose id was that."""
        entries = list(self.held.items())
        self.held.clear()
        for key, task in entries:
            if key == id:
                self.held.update((piece.id, piece) for piece in pieces)
            else:
                self.held[key] = task
        self.more -= len(pieces) - 1

    def busy_for(self, now: float) -> float:
        """In how many seconds it should be done with all that it holds, a task at least; below 0:
        it is late.
        """
        first = next(iter(self.held.values()))
        begun = self.last_done if first is None else max(first.assigned, self.last_done)
        return self.work * (self.load / self.slots) - (now - begun)

    def share(self, count: int, peers: int) -> int:
        """How many tasks of a bulk it is given, as one of so many equals:
        what is soon done is not divided.
        """
        if self.ahead:
            return 1
        fair = -(-count // peers)
        soon = int(WORTH / max(self.usual, NO_TIME)) if self.usual else 0
        return min(self.window - self.load, max(fair, soon))

    def had_better_wait(self, count: int) -> bool:
        """Whether a bulk of so many is to wait until it need not be cut:
        work so short is sooner done whole.
        """
        if count <= self.window - self.load or self.window < self.widest:
            return False
        return self.load >= max(self.slots, self.window // 2)

    def measure(self, service: float, sent: float | None, now: float) -> None:
        """Learn from one answer, given `now`: `service` seconds of work,
        on what was `sent` then and did not wait.
        """
        usual = self.usual
        self.usual = (
            usual + SMOOTHING * (min(service, HICCUP * usual) - usual) if usual else service
        )
        work = self.work = self.work + SMOOTHING * (service - self.work) if self.work else service
        if sent is not None:
            self.round_trips.append(max(0.0, now - sent - service))
            self.measured = now
            if len(self.round_trips) == SAMPLES:
                self.round_trip = sorted(self.round_trips)[SAMPLES // 2]
        round_trip = self.round_trip
        brief = round_trip < CLEARLY_LONGER * work
        self.ahead = self.tickets is not None and round_trip < work and work >= LONG
        if (
            round_trip == math.inf
            or (now - self.measured > REMEASURE and not brief)
            or (brief and not self.ahead)
        ):
            self.window = self.slots
        elif self.slots * round_trip < MAX_WINDOW * work:
            enough = math.ceil(self.slots * round_trip / work)  # if all took equally long
            # One more is not held up by it where it can be reclaimed, or all of it is short.
            more = not brief and (self.ahead or work < LONG)
            self.window = min(self.widest, self.slots + enough + more)
        else:
            self.window = self.widest
