"""Which replica of one Executor gets which request: pure logic, no sockets, no clock.

The caller says what happened and when (`now`, in seconds of any monotonic clock) and carries out the actions
that come back. What holds here:

- A task goes to the replica that holds fewest; among equals to the one that has been waiting longest.
- No replica holds more than its window. The window is 1 while the work takes clearly longer than the way to
  the replica and back, so that nothing is parked behind slow work. Where the way dominates, the window grows
  just enough to hide it. A replica tells how long it worked; the rest of the turnaround is the way.
- No task waits in the queue while a replica has room.
- Parked tasks (held but not begun) are taken back from a replica that is stuck when another stands idle.
- When a replica is lost, its tasks go to others. The one it was working on is blamed; all of them travel alone
  from then on, so that the next crash, if there is one, has exactly one suspect. More than `retries` crashes
  end a task. With `retries=0` a task is sent once and never again, so a replica holds one at a time.
- Every task submitted is finished, failed or cancelled, exactly once.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_WINDOW = 32  # requests; beyond this a larger window hides nothing more
CLEARLY_LONGER = 0.25  # way / work below which the window is 1
FIRST_WAY = 300e-6  # seconds; what the way is taken to be before it was measured
SMOOTHING = 0.2  # weight of a new sample of the work
PATIENCE = 0.002  # seconds; a parked task waits this long, or four ways, before it is taken back


class Task:
    """One request's visit to one Executor. The payload is the caller's business."""

    __slots__ = ("assigned", "crashes", "deadline", "holder", "id", "payload", "suspect")

    def __init__(self, id: int, payload: Any = None, deadline: float = math.inf) -> None:
        self.id = id
        self.payload = payload
        self.deadline = deadline
        self.holder: Replica | None = None
        self.assigned = 0.0
        self.crashes = 0
        self.suspect = False

    def __repr__(self) -> str:
        return f"Task({self.id})"


class Replica:
    """One worker process as the balancer sees it: what it holds, and how fast it is."""

    __slots__ = (
        "alone",
        "held",
        "idle_since",
        "last_done",
        "level",
        "name",
        "parked",
        "slots",
        "way",
        "window",
        "work",
    )

    def __init__(self, name: Any, slots: int = 1) -> None:
        self.name = name
        self.slots = slots  # how many tasks it works on at the same time
        self.window = slots
        self.held: dict[int, Task | None] = {}  # in the order sent; None: given up, but still being worked on
        self.level = -1  # where it stands in the balancer's levels; -1: has no room
        self.parked = 0
        self.alone = False  # works on a suspect, gets nothing else
        self.idle_since = 0.0
        self.last_done = 0.0
        self.work = 0.0  # seconds, smoothed
        self.way = FIRST_WAY  # seconds, smoothed

    def __repr__(self) -> str:
        return f"Replica({self.name!r})"

    def measure(self, assigned: float, service: float, now: float) -> None:
        """Learn from one answer: sent at `assigned`, worked on for `service` seconds, answered `now`."""
        self.work = service if self.work == 0.0 else self.work + SMOOTHING * (service - self.work)
        if assigned >= self.last_done:  # it was idle when the task was sent: no waiting behind others in this sample
            sample = max(0.0, now - assigned - service)
            # One hiccup of the machine must not open the window; a quicker way is believed at once.
            self.way += (0.25 if sample < self.way else 0.05) * (sample - self.way)
        self.last_done = now
        ratio = self.way / self.work if self.work > 0.0 else math.inf
        hiding = 1 if ratio < CLEARLY_LONGER else 1 + math.ceil(min(ratio, MAX_WINDOW - 1))
        self.window = max(self.slots, hiding)


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
        self._queue: deque[Task] = deque()
        self._suspects: deque[Task] = deque()
        # _levels[n]: replicas with room that hold n tasks, the one that got there first in front.
        self._levels: list[dict[Replica, None]] = [{} for _ in range(MAX_WINDOW + 1)]
        self._parked = 0
        self._deadlines: list[tuple[float, int]] = []
        self._queued = 0  # tasks in the two queues that have not ended

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def queued(self) -> int:
        """How many tasks no replica holds."""
        return self._queued

    # -- replicas -------------------------------------------------------------------------------------------------

    def join(self, replica: Replica, now: float) -> list[Action]:
        """Take a replica into the pool, or back into it."""
        actions = self.leave(replica.name, now)
        if self.retries == 0:
            replica.slots = replica.window = 1
        replica.idle_since = now
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
        begun = replica.slots
        orphans = []
        for at, task in enumerate(replica.held.values()):
            if task is None:
                continue
            if at < begun or self.retries == 0:
                task.crashes += 1
            if task.crashes > self.retries:
                del self.tasks[task.id]
                actions.append(Fail(task, "crashed", name))
                continue
            task.suspect = True
            orphans.append(task)
        self._requeue(orphans, self._suspects)
        actions.extend(self._dispatch(now))
        return actions

    def leave(self, name: Any, now: float) -> list[Action]:
        """The replica goes in good order: what it still holds it has not begun and will not begin."""
        replica = self._drop(name)
        if replica is None:
            return []
        tasks = [task for task in replica.held.values() if task is not None]
        self._requeue([task for task in tasks if task.suspect], self._suspects)
        self._requeue([task for task in tasks if not task.suspect], self._queue)
        return self._dispatch(now)

    def _drop(self, name: Any) -> Replica | None:
        replica = self.replicas.pop(name, None)
        if replica is not None:
            self._unplace(replica)
            self._parked -= replica.parked
            replica.parked = 0
        return replica

    def _requeue(self, tasks: list[Task], queue: deque[Task]) -> None:
        for task in tasks:
            task.holder = None
        queue.extendleft(reversed(tasks))
        self._queued += len(tasks)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def submit(self, task: Task, now: float) -> list[Action]:
        """Take a task; it is sent at once if a replica has room."""
        self.tasks[task.id] = task
        if task.deadline != math.inf:
            if len(self._deadlines) > 2 * len(self.tasks) + 64:  # most of them are of tasks that have ended
                self._deadlines = sorted(entry for entry in self._deadlines if entry[1] in self.tasks)
            heapq.heappush(self._deadlines, (task.deadline, task.id))
        self._queue.append(task)
        self._queued += 1
        return self._dispatch(now)

    def finish(self, name: Any, id: int, service: float, now: float) -> tuple[Task | None, list[Action]]:
        """The replica answered; `service` is how long it worked, in seconds.

        Returns the task if this is its first answer, None if it is of no use any more, and what follows.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return None, []
        task = self.tasks.get(id)
        actions: list[Action] = []
        if id in replica.held:
            held = replica.held.pop(id)
            if held is not None:
                replica.measure(held.assigned, service, now)
            replica.alone = False
            replica.idle_since = now
            self._place(replica)
        if task is not None:
            del self.tasks[id]
            other = task.holder
            if other is None:  # answered after all by one that was thought to have lost it
                self._queued -= 1
            elif other is not replica:  # taken back too late: the first answer counts
                actions.extend(self._release(other, task))
        actions.extend(self._dispatch(now))
        return task, actions

    def cancel(self, id: int, now: float) -> list[Action]:
        """End a task whose result nobody wants. A replica that has begun it stays busy until it answers."""
        task = self.tasks.pop(id, None)
        if task is None:
            return []
        if task.holder is None:
            self._queued -= 1
            return []
        return [*self._release(task.holder, task), *self._dispatch(now)]

    def expire(self, now: float) -> list[Action]:
        """End all tasks whose deadline has passed."""
        actions: list[Action] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            task = self.tasks.get(heapq.heappop(self._deadlines)[1])
            if task is not None:
                held_by = task.holder.name if task.holder is not None else None
                actions.append(Fail(task, "expired", held_by))
                actions.extend(self.cancel(task.id, now))
        return actions

    def _release(self, replica: Replica, task: Task) -> list[Action]:
        """Take the task from a replica that holds it; one that may have begun it stays occupied."""
        begun = task.id in _first(replica.held, replica.slots)
        if begun:
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
        if self._parked and self._levels[0]:
            wait = PATIENCE
        if self._deadlines:
            wait = min(wait, max(0.0, self._deadlines[0][0] - now))
        return wait

    def tick(self, now: float) -> list[Action]:
        """Expire what is late, and take parked tasks back from stuck replicas for idle ones."""
        actions = self.expire(now) if self._deadlines and self._deadlines[0][0] <= now else []
        while self._parked and self._levels[0] and not self._queued:
            stolen = self._steal(now)
            if not stolen:
                break
            actions.extend(stolen)
        return actions

    def _steal(self, now: float) -> list[Action]:
        victim = max((r for r in self.replicas.values() if r.parked), key=lambda r: r.parked)
        patience = max(PATIENCE, 4 * victim.way)
        parked = [task for at, task in enumerate(victim.held.values()) if at >= victim.slots and task is not None]
        ripe = [task for task in parked if now - max(task.assigned, victim.last_done) >= patience]
        if not ripe:
            return []
        task = ripe[-1]
        del victim.held[task.id]
        self._place(victim)
        thief = next(iter(self._levels[0]))
        return [Recall(victim, task), self._assign(thief, task, now)]

    # -- dispatch -------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> list[Action]:
        if not self._queued:
            return []
        actions: list[Action] = []
        while self._suspects and self._next(self._suspects):
            empty = self._levels[0]
            if not empty:
                self._reserve()
                break
            replica = next(iter(empty))
            replica.alone = True
            self._queued -= 1
            actions.append(self._assign(replica, self._suspects.popleft(), now))
        while self._next(self._queue):
            free = self._least_held()
            if free is None:
                break
            self._queued -= 1
            actions.append(self._assign(free, self._queue.popleft(), now))
        return actions

    def _next(self, queue: deque[Task]) -> bool:
        """Whether a task waits in the queue; those that ended while they waited are swept from its head."""
        while queue:
            if queue[0].id in self.tasks:
                return True
            queue.popleft()
        return False

    def _reserve(self) -> None:
        """Keep one replica from new work until it is empty: a suspect waits for it."""
        if any(replica.alone for replica in self.replicas.values()):
            return  # one will be empty soon
        replica = self._least_held()
        if replica is not None:
            replica.alone = True
            self._place(replica)

    def _least_held(self) -> Replica | None:
        for level in self._levels:
            if level:
                return next(iter(level))
        return None

    def _assign(self, replica: Replica, task: Task, now: float) -> Send:
        task.holder = replica
        task.assigned = now
        replica.held[task.id] = task
        self._place(replica)
        return Send(replica, task)

    def _place(self, replica: Replica) -> None:
        """Put the replica where its load belongs; call it after every change to what it holds."""
        held = len(replica.held)
        parked = held - replica.slots if held > replica.slots else 0
        if parked != replica.parked:
            self._parked += parked - replica.parked
            replica.parked = parked
        self._unplace(replica)
        if replica.name in self.replicas and held < (1 if replica.alone else self._window(replica)):
            while held >= len(self._levels):
                self._levels.append({})
            self._levels[held][replica] = None
            replica.level = held

    def _window(self, replica: Replica) -> int:
        return 1 if self.retries == 0 else replica.window

    def _unplace(self, replica: Replica) -> None:
        if replica.level >= 0:
            del self._levels[replica.level][replica]
            replica.level = -1


def _first(held: dict[int, Task | None], count: int) -> Iterator[int]:
    for at, id in enumerate(held):
        if at >= count:
            return
        yield id
