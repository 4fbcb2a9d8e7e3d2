"""Which replica of one Executor gets which request: pure logic, no sockets, no clock.

The caller says what happened and when (`now`, in seconds of any monotonic clock) and carries out
the actions that come back. What holds here:

- A task goes to the replica that holds fewest; among equals to the one that has been waiting
  longest.
- No replica holds more than its window, which is just large enough to hide the round trip to it
  (`replica`).
- No task waits in the queue while a replica has room. Clients take turns; each one's tasks are
  served in order, but if the first of them cannot end by its deadline any more, the last one goes
  first.
- Tasks that can be put together are given in batches, to replicas that hold nothing; until all of a
  batch are answered, nothing else follows. So whatever has come meanwhile goes together, and at low
  load nothing waits for anything.
- A bulk is one task as long as it can be: it is cut where a replica has less room, or has answered
  a part, and taken apart when something is to become of one of its tasks alone.
- What waits at a replica can be taken back from there (`stealing`, `holdings`); from one that is
  stuck it is, and that gets no more to park until it answers.
- When a replica is lost, its tasks go to others. The one it was working on is blamed; all of them
  travel alone from then on, so that the next crash, if there is one, has exactly one suspect. More
  than `retries` crashes end a task. With `retries=0` a task is begun once and never again, so a
  replica holds one at a time.
- Every task submitted is finished, failed or cancelled, exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from zflow.devices.balancing.actions import Action, Fail, Recall, Send, SendAhead, SendBatch
from zflow.devices.balancing.holdings import Holdings
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import MAX_WINDOW, Cut, Replica, Task
from zflow.devices.balancing.stealing import PATIENCE, STUCK
from zflow.devices.balancing.tasks import Tasks
from zflow.devices.balancing.waiting import Waiting


class Balancer:
    """The replicas of one Executor, and what waits for them.

    Args:
        retries: how many crashes of replicas a task survives, 0 or more.
        cut: cuts the payload of a bulk: returns that of its first so many tasks,
            and that of the others.

    Example:
        >>> balancer = Balancer()
        >>> balancer.join(Replica(b"a"), now=0.0)
        []
        >>> balancer.submit(Task(1), now=0.0)
        [Send(replica=Replica(b'a'), task=Task(1))]
        >>> balancer.submit(Task(2), now=0.1)
        []
        >>> balancer.finish(b"a", 1, service=0.5, now=0.6)
        (Task(1), [Send(replica=Replica(b'a'), task=Task(2))])
    """

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        self.retries = retries
        self.tasks = Tasks(cut)  # all that have not ended
        self._levels = Levels()
        self._waiting = Waiting(self.tasks, self._levels)
        self._holdings = Holdings(self.tasks, self._levels, self._waiting)
        self.replicas = self._holdings.replicas
        self.given_up = self._holdings.given_up  # what replicas hold as None
        self._ahead = self._holdings.ahead
        self._look_at = -math.inf  # when it is worth looking for stuck replicas again

    @property
    def queued(self) -> int:
        """How many tasks no replica holds."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no replica holds any task, and all of them may have one."""
        return (
            len(self._levels.empty) == len(self.replicas)
            and self._waiting.suspects.reserved is None
        )

    def oldest_queued(self, now: float) -> int | None:
        """The id of the task at the head of those that any replica may have, or None."""
        task = self._waiting.queue.next(now)
        return None if task is None else task.id

    # -- replicas ----------------------------------------------------------------------------------

    def join(self, replica: Replica, now: float) -> list[Action]:
        """Take a replica into the pool. If one of that name is in it,
        the two are the same process begun afresh.
        """
        # Nobody knows what it had begun: an at-most-once task ends here, any other is none the
        # worse.
        actions = self.leave(replica.name, now) if self.retries else self.crash(replica.name, now)
        if self.retries == 0:
            replica.slots = replica.window = replica.widest = 1
        self._levels.widen(replica)
        self.replicas[replica.name] = replica
        self._levels.place(replica)
        actions.extend(self._dispatch(now))
        return actions

    def crash(self, name: bytes, now: float, blame: bool = True, how: str = "") -> list[Action]:
        """The replica is gone, whatever it was doing; unless `blame` is False,
        that may be what it was doing.

        `how` it ended is remembered by the tasks that it had begun.
        """
        if name in self.replicas:
            self.tasks.take_apart_held(self.replicas[name])
        replica = self._holdings.drop(name)
        if replica is None:
            return []
        actions: list[Action] = []
        orphans = []
        for at, task in enumerate(replica.held.values()):
            if task is None:
                continue
            # Parts of fan-outs stand behind others also where tasks are sent once at most: any may
            # have begun.
            if at < replica.working or not self.retries:
                task.crashes += 1
                task.deaths = (*task.deaths, (name, how))
            if task.crashes > self.retries:
                del self.tasks[task.id]
                actions.append(Fail(task, "crashed", name))
            else:
                task.suspect |= blame
                orphans.append(task)
        self._waiting.put_back(orphans)
        actions.extend(self._dispatch(now))
        return actions

    def lose(self, name: bytes, now: float, unsent: int | None = None) -> list[Action]:
        """The replica cannot be reached any more: it gets nothing new,
        but what it said last may still arrive.

        `unsent` is a task that did not get to it, and goes to another one.
        A crash or a leave is to follow.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return []
        replica.lost = True
        self._waiting.suspects.forget(replica)
        task = (
            self._holdings.release(replica, unsent)
            if unsent is not None and unsent in replica.held
            else None
        )
        if task is not None:
            self._waiting.put_back([task])
        self._levels.place(replica)
        return self._dispatch(now)

    def find(self, name: bytes, now: float) -> list[Action]:
        """A lost replica is back. Nobody knows how much got there of what it holds."""
        replica = self.replicas[name]
        replica.lost = False
        self._levels.place(replica)
        return self._dispatch(now)

    def resize(self, name: bytes, slots: int, now: float) -> list[Action]:
        """The replica works on so many tasks at the same time from now on; 0 for none,
        for the time being.
        """
        replica = self.replicas.get(name)
        if replica is None or replica.slots == slots:
            return []
        replica.slots = replica.window = slots
        replica.widest = max(slots, MAX_WINDOW)
        self._levels.widen(replica)
        self._levels.place(replica)
        return self._dispatch(now)

    def leave(self, name: bytes, now: float) -> list[Action]:
        """The replica goes in good order: what it still holds it has not begun and will not
        begin.
        """
        replica = self._holdings.drop(name)
        if replica is None:
            return []
        self._waiting.put_back(replica.tasks)
        return self._dispatch(now)

    def held(self, name: bytes) -> Mapping[int, Task | None]:
        """What the replica holds, by id; None: given up, but still being worked on."""
        replica = self.replicas.get(name)
        return {} if replica is None else replica.held

    # -- tasks -------------------------------------------------------------------------------------

    def submit(self, task: Task, now: float) -> list[Action]:
        """Take a task; it is sent at once if a replica has room, and nothing waits.

        If it can be put together with others the next `tick` sends it: what comes in one turn of
        the broker's loop may go together.
        """
        task.assigned = now
        self.tasks.add(task)
        queue = self._waiting.queue
        if task.count > 1:
            queue.append(task)
            return self._dispatch(now)
        # As `not queue`, without a call.
        if task.batching is None and not (queue.singles.size or queue.batches):
            replica = self._next(now)
            if replica is not None:
                return [self._assign(replica, task, now)]
        queue.append(task)
        return []

    def expect(self, task: Task) -> None:
        """Take a task that the caller will `place` or `queue` later;
        its deadline and `cancel` count already.
        """
        self.tasks.add(task)

    def place(self, task: Task, replica: Replica, now: float) -> None:
        """The caller sends an expected task to this replica by itself,
        whether or not it has room; or did so before.
        """
        task.holder = replica
        task.assigned = now
        replica.held[task.id] = task
        replica.more += task.count - 1
        task.ahead = False
        self._levels.place(replica)
        task.waited = replica.parked > 0 or replica.last_done > now

    def queue(self, task: Task, now: float) -> list[Action]:
        """Give an expected task to a replica of its shard, as soon as one has room."""
        self._waiting.shards.append(task)
        return self._dispatch(now)

    def finish(
        self, name: bytes, id: int, service: float, now: float, count: int = 1
    ) -> tuple[Task | None, list[Action]]:
        """The replica answered; `service` is how long it worked, in seconds.

        Args:
            count: how many tasks it answered, from this one on, each after so many seconds:
                as many as `fit` said.

        Returns: the task if this is its first answer, None if it is of no use any more,
        and what follows.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return None, []
        if replica.more and count == 1:
            self.fit(name, id, 1)
        if id in replica.held:
            held = self._holdings.release(replica, id)
            if held is not None:
                begun = held.assigned + service * (count - 1)
                replica.measure(service, None if held.waited else begun, now)
            if self._ahead:
                self._ahead.pop(next(iter(replica.held), -1), None)  # it is this one's turn now
            self._levels.place(replica)
        replica.last_done = now
        task = self.tasks.pop(id, None)
        if task is not None and task.count > count:
            self.tasks[id] = task
            self._holdings.take_apart(task)
            task = self.tasks.pop(id)
        if task is None or task.holder is replica:
            return task, self._dispatch(now)
        return task, [
            *self._holdings.withdraw(task),
            *self._dispatch(now),
        ]  # taken back too late: the first answer counts

    def served(self, replica: Replica, service: float, sent: float, now: float) -> None:
        """The replica answered what the caller `sent` it then, and never placed.
        Nothing that waits gains by it.
        """
        waited = replica.held or replica.last_done > sent
        replica.measure(service, None if waited else sent, now)
        replica.last_done = now
        self._levels.place(replica)

    def free(self, name: bytes, ids: Iterable[int], now: float) -> list[Action]:
        """The replica will never answer these tasks, which have ended: they did not get to it."""
        replica = self.replicas[name]
        for id in ids:
            self._holdings.release(replica, id)
        self._levels.place(replica)
        return self._dispatch(now)

    def apart(self, name: bytes, ids: Iterable[int], now: float) -> list[Action]:
        """The replica could not work on these tasks of a batch in one go:
        each is to be tried alone, by any replica.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return []
        tasks = [self._holdings.release(replica, id) for id in ids if id in replica.held]
        again = [task for task in tasks if task is not None]
        for task in again:
            task.batching = None
        replica.last_done = now
        self._levels.place(replica)
        self._waiting.put_back(again)
        return self._dispatch(now)

    def cancel(self, id: int, now: float) -> list[Action]:
        """End a task whose result nobody wants. A replica that has begun
        it stays busy until it answers.
        """
        task = self.tasks.get(id)
        if task is None:
            return []
        actions: list[Action] = []
        for one in [task] if task.count == 1 else self._holdings.take_apart(task):
            del self.tasks[one.id]
            actions += self._holdings.withdraw(one)
        return actions + self._dispatch(now)

    # -- bulks -------------------------------------------------------------------------------------

    @property
    def takes_bulks(self) -> bool:
        """Whether bulks may be submitted: not where each task is to be begun once at most."""
        return self.tasks.can_be_cut and self.retries > 0

    def single(self, id: int) -> None:
        """Make each task of the bulk that begins with this one a task of its own."""
        task = self.tasks[id]
        if task.count > 1:
            self._holdings.take_apart(task)

    def fit(self, name: bytes, id: int, count: int) -> int:
        """The replica has answered so many tasks from this one on;
        returns how many are to be finished as one.
        """
        replica = self.replicas.get(name)
        return 1 if replica is None else self.tasks.fit(replica, id, count)

    # -- time --------------------------------------------------------------------------------------

    @property
    def timed(self) -> bool:
        """Whether time alone may change anything: if not, `tick` need not be called."""
        return bool(self._levels.parked or self.tasks.deadlines or self._waiting.queue.batches)

    def wake_after(self, now: float) -> float:
        """In how many seconds `tick` wants to be called at the latest;
        infinity if only events matter.
        """
        wait = math.inf
        if self._levels.parked:
            wait = STUCK if self._levels.least() is None else PATIENCE
        if self.tasks.deadlines:
            wait = min(wait, max(0.0, self.tasks.deadlines[0][0] - now))
        if self._waiting.queue.batches and self._levels.empty:
            wait = min(wait, self._waiting.queue.wake_after(now))
        return wait

    def tick(self, now: float) -> list[Action]:
        """Expire what is late, take parked tasks back from stuck replicas, and give out batches."""
        actions = self._holdings.expire(now)
        if self._levels.parked and self.retries and now >= self._look_at:
            self._look_at = now + PATIENCE / 4
            for replica in self.replicas.values():
                if replica.parked:
                    actions.extend(self._holdings.take_back(replica, now))
        if actions or self._waiting.queue.batches:
            actions.extend(self._dispatch(now))
        return actions

    def overrun(self, limit: float, now: float) -> list[Action]:
        """Fail the tasks that replicas have been at for more than `limit` seconds,
        and have those replicas killed.
        """
        actions: list[Action] = []
        for replica in self.replicas.values():
            actions += self.given_up.overrun(replica, limit, now, again=self.retries > 0)
        return actions

    # -- dispatch ----------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> list[Action]:
        """Give out what can be given out; call it after everything that may have made room,
        or a suspect.

        First suspects, each to a replica that holds nothing; then what is for a shard, to who has
        room there; then what was sent ahead to others, to who holds nothing; then the queue,
        to who holds fewest.
        """
        actions: list[Action] = []
        waiting = self._waiting
        if waiting.suspects or waiting.suspects.reserved is not None:
            actions += [
                self._assign(replica, task, now) for replica, task in waiting.suspects.take()
            ]
            waiting.suspects.reserve(self.replicas.values())
        if waiting.shards:
            actions += [self._assign(replica, task, now) for replica, task in waiting.shards.take()]
        if self._ahead and self._levels.room:
            actions += self._dispatch_ahead(now)
        queue = waiting.queue
        while (queue.singles.size or queue.batches) and (replica := self._next(now)) is not None:
            tasks = queue.take(replica, now)
            if not tasks:
                break
            if tasks[0].batching is None:
                actions.append(self._assign(replica, tasks[0], now))
            else:
                actions.append(self._assign_batch(replica, tasks, now))
        return actions

    def _dispatch_ahead(self, now: float) -> list[Action]:
        """Give replicas that hold nothing what was sent ahead to others,
        that which has waited longest first.

        Then the one that has the next of it is looked at: if it is stuck, others that have room get
        that. Else what comes later would be begun before.
        """
        actions: list[Action] = []
        while self._ahead and self._levels.empty:
            holder = self._ahead.oldest_at()
            for task in self._holdings.reclaim(holder):
                actions += [
                    Recall(holder, task),
                    self._assign(next(iter(self._levels.empty)), task, now),
                ]
        if self._ahead:
            actions += self._holdings.take_back(self._ahead.oldest_at(), now)
        return actions

    def _next(self, now: float) -> Replica | None:
        """The replica that gets the next task: the one that holds fewest of those with room."""
        free = self._levels.least()
        if free is None or not free.ahead or not free.level:
            return free
        return self._ahead.soonest(free.level, self._levels, self.replicas.values(), now)

    def _assign(self, replica: Replica, task: Task, now: float) -> Action:
        self.place(task, replica, now)
        if replica.ahead and replica.parked and replica.tickets is not None and task.shard is None:
            ticket = replica.tickets.give(task.id)
            if ticket:
                task.ahead = True
                self._ahead[task.id] = task
                return SendAhead(replica, task, ticket)
        return Send(replica, task)

    def _assign_batch(self, replica: Replica, tasks: list[Task], now: float) -> Action:
        replica.batch.update(task.id for task in tasks)
        for task in tasks:
            self.place(task, replica, now)
            # For the others: how long it took says nothing about the round trip.
            task.waited |= len(tasks) > 1
        return SendBatch(replica, tasks) if len(tasks) > 1 else Send(replica, tasks[0])
