"""Which replica of one Executor gets which request: pure logic, no sockets, no clock.

The caller says what happened and when (`now`, in seconds of any monotonic clock) and carries out the actions
that come back. What holds here:

- A task goes to the replica that holds fewest; among equals to the one that has been waiting longest.
- No replica holds more than its window. The window is 1 while the work takes clearly longer than the way to
  the replica and back, so that nothing is parked behind slow work. Where the way dominates, the window grows
  just enough to hide it. A replica tells how long it worked; the rest of the turnaround is the way.
- No task waits in the queue while a replica has room.
- Parked tasks (held but not begun) are taken back from a replica that is stuck: one for each idle replica after
  2 ms, all of them after 100 ms. From then on it gets no more than it can begin, until it answers again.
- When a replica is lost, its tasks go to others. The one it was working on is blamed; all of them travel alone
  from then on, so that the next crash, if there is one, has exactly one suspect. More than `retries` crashes
  end a task. With `retries=0` a task is begun once and never again, so a replica holds one at a time.
- Every task submitted is finished, failed or cancelled, exactly once.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from itertools import islice
from typing import Any, NamedTuple

MAX_WINDOW = 32  # requests; beyond this a larger window hides nothing more
CLEARLY_LONGER = 0.25  # way / work below which the window is as small as can be
SMOOTHING = 0.2  # weight of a new sample of the work
SAMPLES = 7  # of the way; their median is believed: one hiccup of the machine must not open the window
REMEASURE = 0.2  # seconds; a replica that is always busy is let run dry this often, to measure its way again
PATIENCE = 0.002  # seconds, or four ways; a parked task waits this long before an idle replica may have it
STUCK = 0.1  # seconds, or ten ways; it waits this long before it is taken back in any case


class Task:
    """One request's visit to one Executor, or its part for one shard. The payload is the caller's business.

    Args:
        id: larger than those of all tasks before it.
        payload: anything.
        deadline: when it expires, by the caller's clock.
        shard: the only shard whose replicas may have it; None for any.
    """

    __slots__ = ("assigned", "crashes", "deadline", "holder", "id", "payload", "shard", "suspect", "waited")

    def __init__(self, id: int, payload: Any = None, deadline: float = math.inf, shard: int | None = None) -> None:
        self.id = id
        self.shard = shard
        self.payload = payload
        self.deadline = deadline
        self.holder: Replica | None = None
        self.assigned = 0.0
        self.waited = False  # for others at its replica, before it was begun
        self.crashes = 0
        self.suspect = False

    def __repr__(self) -> str:
        return f"Task({self.id})"


class Replica:
    """One worker process as the balancer sees it: what it holds, and how fast it is.

    Args:
        name: what the caller calls it.
        slots: how many tasks it works on at the same time. It begins them in the order in which they were sent.
        shard: which shard it is a replica of.
    """

    __slots__ = (
        "alone",
        "held",
        "last_done",
        "level",
        "measured",
        "name",
        "parked",
        "shard",
        "slots",
        "way",
        "ways",
        "widest",
        "window",
        "work",
    )

    def __init__(self, name: Any, slots: int = 1, shard: int = 0) -> None:
        self.name = name
        self.shard = shard
        self.slots = slots
        self.window = slots
        self.widest = max(slots, MAX_WINDOW)
        self.held: dict[int, Task | None] = {}  # in the order sent; None: given up, but still being worked on
        self.parked = 0
        self.level = -1  # where it stands in the balancer's levels; -1: has no room
        self.alone = False  # gets nothing more until it holds nothing
        self.last_done = -math.inf
        self.work = 0.0  # seconds, smoothed
        self.ways: deque[float] = deque(maxlen=SAMPLES)  # seconds
        self.way = math.inf  # their median; infinity until there are enough
        self.measured = -math.inf  # when a sample of the way was last taken

    def __repr__(self) -> str:
        return f"Replica({self.name!r})"

    def measure(self, task: Task, service: float, now: float) -> None:
        """Learn from one answer, given `now`: the task was worked on for `service` seconds."""
        work = self.work = self.work + SMOOTHING * (service - self.work) if self.work else service
        if not task.waited:
            self.ways.append(max(0.0, now - task.assigned - service))
            self.measured = now
            if len(self.ways) == SAMPLES:
                self.way = sorted(self.ways)[SAMPLES // 2]
        way = self.way
        if way < CLEARLY_LONGER * work or way == math.inf or now - self.measured > REMEASURE:
            self.window = self.slots
        elif self.slots * way < MAX_WINDOW * work:
            self.window = min(self.widest, self.slots + math.ceil(self.slots * way / work))
        else:
            self.window = self.widest


class Send(NamedTuple):
    """Send the task to the replica."""

    replica: Replica
    task: Task


class Recall(NamedTuple):
    """Tell the replica to skip the task if it has not begun it."""

    replica: Replica
    task: Task


class Fail(NamedTuple):
    """The task has ended without a result: `reason` is `'crashed'` or `'expired'`."""

    task: Task
    reason: str
    held_by: Any = None  # the name of the replica that had it, if one had


Action = Send | Recall | Fail


class Balancer:
    """The replicas of one Executor, and what waits for them.

    Args:
        retries: how many crashes of replicas a task survives, 0 or more.

    Example:
        >>> balancer = Balancer()
        >>> balancer.join(Replica("a"), now=0.0)
        []
        >>> balancer.submit(Task(1), now=0.0)
        [Send(replica=Replica('a'), task=Task(1))]
        >>> balancer.submit(Task(2), now=0.1)
        []
        >>> balancer.finish("a", 1, service=0.5, now=0.6)
        (Task(1), [Send(replica=Replica('a'), task=Task(2))])
    """

    def __init__(self, retries: int = 3) -> None:
        self.retries = retries
        self.replicas: dict[Any, Replica] = {}
        self.tasks: dict[int, Task] = {}  # all that have not ended
        # What waits, by id. Not deques: a task may end while it waits, and must not keep its frames then.
        self._queue: OrderedDict[int, Task] = OrderedDict()
        self._suspects: OrderedDict[int, Task] = OrderedDict()
        self._parts: OrderedDict[int, Task] = OrderedDict()  # for one shard only
        # _levels[n]: replicas with room that hold n tasks, the one that got there first in front. All levels below
        # _lowest are empty.
        self._levels: list[dict[Replica, None]] = [{}]
        self._lowest = 0
        self._parked = 0
        self._look_at = -math.inf  # when it is worth looking for stuck replicas again
        self._reserved: Replica | None = None  # is kept from new work because a suspect waits for an empty one
        self._deadlines: list[tuple[float, int]] = []

    @property
    def queued(self) -> int:
        """How many tasks no replica holds."""
        return len(self._queue) + len(self._suspects) + len(self._parts)

    @property
    def oldest_queued(self) -> int | None:
        """The id of the task that has waited longest for any replica, or None."""
        return next(iter(self._queue), None)

    # -- replicas -------------------------------------------------------------------------------------------------

    def join(self, replica: Replica, now: float) -> list[Action]:
        """Take a replica into the pool. If one of that name is in it, the two are the same process begun afresh."""
        # Nobody knows what it had begun: an at-most-once task ends here, any other is none the worse.
        actions = self.leave(replica.name, now) if self.retries else self.crash(replica.name, now)
        if self.retries == 0:
            replica.slots = replica.window = replica.widest = 1
        while len(self._levels) < replica.widest:
            self._levels.append({})
        self.replicas[replica.name] = replica
        self._place(replica)
        actions.extend(self._dispatch(now))
        return actions

    def crash(self, name: Any, now: float) -> list[Action]:
        """The replica is gone, whatever it was doing."""
        replica = self._drop(name)
        if replica is None:
            return []
        actions: list[Action] = []
        orphans = []
        for at, task in enumerate(replica.held.values()):
            if task is None:
                continue
            # Parts of fan-outs stand behind others also where tasks are sent once at most: any may have begun.
            task.crashes += at < replica.slots or not self.retries
            if task.crashes > self.retries:
                del self.tasks[task.id]
                actions.append(Fail(task, "crashed", name))
            else:
                task.suspect = True
                orphans.append(task)
        self._requeue(orphans)
        actions.extend(self._dispatch(now))
        return actions

    def leave(self, name: Any, now: float) -> list[Action]:
        """The replica goes in good order: what it still holds it has not begun and will not begin."""
        replica = self._drop(name)
        if replica is None:
            return []
        self._requeue([task for task in replica.held.values() if task is not None])
        return self._dispatch(now)

    def _drop(self, name: Any) -> Replica | None:
        replica = self.replicas.pop(name, None)
        if replica is not None:
            if replica.level >= 0:
                del self._levels[replica.level][replica]
            self._parked -= replica.parked
            if replica is self._reserved:
                self._reserved = None
        return replica

    def _requeue(self, tasks: list[Task]) -> None:
        """Put tasks that were sent before in front of all that wait, in their order."""
        for task in reversed(tasks):
            task.holder = None
            queue = self._queue_of(task)
            queue[task.id] = task
            queue.move_to_end(task.id, last=False)

    def _queue_of(self, task: Task) -> OrderedDict[int, Task]:
        if task.suspect:
            return self._suspects
        return self._queue if task.shard is None else self._parts

    # -- tasks ----------------------------------------------------------------------------------------------------

    def submit(self, task: Task, now: float) -> list[Action]:
        """Take a task; it is sent at once if a replica has room."""
        self.expect(task)
        if not self._queue:
            replica = self._least_held()
            if replica is not None:
                return [self._assign(replica, task, now)]
        self._queue[task.id] = task
        return []

    def expect(self, task: Task) -> None:
        """Take a task that the caller will `place` or `queue` later; its deadline and `cancel` count already."""
        self.tasks[task.id] = task
        if task.deadline != math.inf:
            if len(self._deadlines) > 2 * len(self.tasks) + 64:  # most of them are of tasks that have ended
                self._deadlines = sorted(entry for entry in self._deadlines if entry[1] in self.tasks)
            heapq.heappush(self._deadlines, (task.deadline, task.id))

    def place(self, task: Task, replica: Replica, now: float) -> None:
        """The caller sends an expected task to this replica by itself, whether or not it has room."""
        self._assign(replica, task, now)

    def queue(self, task: Task, now: float) -> list[Action]:
        """Give an expected task to a replica of its shard; it is sent at once if one has room."""
        self._queue_of(task)[task.id] = task
        return self._dispatch(now)

    def finish(self, name: Any, id: int, service: float, now: float) -> tuple[Task | None, list[Action]]:
        """The replica answered; `service` is how long it worked, in seconds.

        Returns the task if this is its first answer, None if it is of no use any more, and what follows.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return None, []
        if id in replica.held:
            held = replica.held.pop(id)
            if held is not None:
                replica.measure(held, service, now)
            if replica.alone and not replica.held:
                replica.alone = False
                if replica is self._reserved:
                    self._reserved = None
            self._place(replica)
        replica.last_done = now
        task = self.tasks.pop(id, None)
        actions: list[Action] = []
        if task is not None and task.holder is not replica:  # taken back too late: the first answer counts
            actions.extend(self._withdraw(task))
        if self._queue or self._suspects or self._parts or self._reserved is not None:
            actions.extend(self._dispatch(now))
        return task, actions

    def cancel(self, id: int, now: float) -> list[Action]:
        """End a task whose result nobody wants. A replica that has begun it stays busy until it answers."""
        task = self.tasks.pop(id, None)
        if task is None:
            return []
        return [*self._withdraw(task), *self._dispatch(now)]

    def _withdraw(self, task: Task) -> list[Action]:
        """Remove a task that has ended from where it is; a replica that may have begun it stays occupied."""
        replica = task.holder
        if replica is None:
            self._queue_of(task).pop(task.id, None)  # or it was only expected
            return []
        if task.id in islice(replica.held, replica.slots):
            replica.held[task.id] = None
            return []
        del replica.held[task.id]
        self._place(replica)
        return [Recall(replica, task)]

    # -- time -----------------------------------------------------------------------------------------------------

    @property
    def timed(self) -> bool:
        """Whether time alone may change anything: if not, `tick` need not be called."""
        return bool(self._parked or self._deadlines)

    def wake_after(self, now: float) -> float:
        """In how many seconds `tick` wants to be called at the latest; infinity if only events matter."""
        wait = math.inf
        if self._parked:
            wait = PATIENCE if self._levels[0] else STUCK
        if self._deadlines:
            wait = min(wait, max(0.0, self._deadlines[0][0] - now))
        return wait

    def tick(self, now: float) -> list[Action]:
        """Expire what is late, and take parked tasks back from stuck replicas."""
        actions: list[Action] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            task = self.tasks.pop(heapq.heappop(self._deadlines)[1], None)
            if task is not None:
                actions.append(Fail(task, "expired", None if task.holder is None else task.holder.name))
                actions.extend(self._withdraw(task))
        if actions:
            actions.extend(self._dispatch(now))
        if self._parked and self.retries and now >= self._look_at:
            self._look_at = now + PATIENCE / 2
            for replica in self.replicas.values():
                if replica.parked:
                    actions.extend(self._take_back(replica, now))
        return actions

    def _take_back(self, replica: Replica, now: float) -> list[Action]:
        parked = [task for task in islice(replica.held.values(), replica.slots, None) if task is not None]
        waited = now - max(parked[0].assigned, replica.last_done)
        if waited >= max(STUCK, 10 * replica.way):
            replica.window = replica.slots  # until it answers
        elif waited >= max(PATIENCE, 4 * replica.way):
            parked = parked[max(0, len(parked) - len(self._levels[0])) :]  # the last ones it would begin
        else:
            return []
        parked = [task for task in parked if task.shard is None or self._has_room(task.shard)]
        for task in parked:
            del replica.held[task.id]
        self._place(replica)
        self._requeue(parked)
        return [*(Recall(replica, task) for task in parked), *self._dispatch(now)]

    # -- dispatch -------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> list[Action]:
        """Give out what can be given out; call it after everything that may have made room, or a suspect."""
        actions: list[Action] = []
        if self._suspects:
            actions.extend(self._dispatch_suspects(now))
        self._reserve()
        for part in list(self._parts.values()):
            replica = self._has_room(part.shard)
            if replica is not None:
                del self._parts[part.id]
                actions.append(self._assign(replica, part, now))
        while self._queue:
            free = self._least_held()
            if free is None:
                break
            actions.append(self._assign(free, self._queue.popitem(last=False)[1], now))
        return actions

    def _dispatch_suspects(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for task in list(self._suspects.values()):
            empty = (replica for replica in self._levels[0] if task.shard in (None, replica.shard))
            replica = next(empty, None)
            if replica is not None:
                del self._suspects[task.id]
                replica.alone = True
                actions.append(self._assign(replica, task, now))
        return actions

    def _has_room(self, shard: int | None) -> Replica | None:
        """The replica of the shard that holds fewest of those with room, if there is one."""
        free = [replica for replica in self.replicas.values() if replica.shard == shard and replica.level >= 0]
        return min(free, key=lambda replica: len(replica.held), default=None)

    def _reserve(self) -> None:
        """Keep one replica from new work until it is empty as long as a suspect waits, and no longer."""
        replica = self._reserved
        if self._suspects and replica is None:
            # The one that answered last is the least likely to be stuck.
            shards = {task.shard for task in self._suspects.values()}
            others = (other for other in self.replicas.values() if None in shards or other.shard in shards)
            busy = [other for other in others if not other.alone]
            if busy:
                self._reserved = replica = max(busy, key=lambda other: other.last_done)
                replica.alone = True
                self._place(replica)
        elif replica is not None and not self._suspects:
            self._reserved = None
            replica.alone = False
            self._place(replica)

    def _least_held(self) -> Replica | None:
        levels = self._levels
        while self._lowest < len(levels):
            level = levels[self._lowest]
            if level:
                return next(iter(level))
            self._lowest += 1
        return None

    def _assign(self, replica: Replica, task: Task, now: float) -> Send:
        task.holder = replica
        task.assigned = now
        replica.held[task.id] = task
        self._place(replica)
        task.waited = replica.parked > 0
        return Send(replica, task)

    def _place(self, replica: Replica) -> None:
        """Put the replica where its load belongs; call it after every change to what it holds or may hold."""
        if replica.level >= 0:
            del self._levels[replica.level][replica]
        held = len(replica.held)
        parked = held - replica.slots if held > replica.slots else 0
        if parked != replica.parked:
            self._parked += parked - replica.parked
            replica.parked = parked
        if held < (1 if replica.alone else replica.window):
            self._levels[held][replica] = None
            replica.level = held
            if held < self._lowest:
                self._lowest = held
        else:
            replica.level = -1
