"""Which replica of one Executor gets which request: pure logic, no sockets, no clock.

The caller says what happened and when (`now`, in seconds of any monotonic clock) and carries out the actions
that come back. What holds here:

- A task goes to the replica that holds fewest; among equals to the one that has been waiting longest.
- No replica holds more than its window. A replica tells how long it worked; the rest of the turnaround is the way.
  The window is just large enough to hide the way, and one larger where work is short or a task can be reclaimed, as not
  all take equally long. While the work takes longer than the way, tasks are sent ahead with tickets: a replica that
  holds nothing gets what was sent ahead to others and is not begun. Where there are no tickets nothing is parked behind
  work that clearly takes longer.
- No task waits in the queue while a replica has room. Clients take turns; each one's tasks are served in order, but if
  the first of them cannot end by its deadline any more, the last one goes first.
- Tasks that can be put together are given in batches, to replicas that hold nothing; until all of a batch are answered,
  nothing else follows. So whatever has come meanwhile goes together, and at low load nothing waits for anything.
- A convoy is one task as long as it can be: it is cut where a replica has less room, or has answered a part, and taken
  apart when something is to become of one of its tasks alone.
- Parked tasks (held but not begun) are taken back from a replica that is stuck: as many as others have room for when
  patience is over, after 5 ms as a rule, and all of them after 50 ms. It gets no more to park until it answers.
- When a replica is lost, its tasks go to others. The one it was working on is blamed; all of them travel alone
  from then on, so that the next crash, if there is one, has exactly one suspect. More than `retries` crashes
  end a task. With `retries=0` a task is begun once and never again, so a replica holds one at a time.
- Every task submitted is finished, failed or cancelled, exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

from zflow.devices.batches import BatchQueue
from zflow.devices.levels import Levels
from zflow.devices.queue import FairQueue
from zflow.devices.replica import MAX_WINDOW, Action, Cut, Fail, Kill, Recall, Replica, Send, SendAhead, SendBatch, Task
from zflow.devices.suspects import Suspects
from zflow.devices.tasks import Tasks

PATIENCE = 0.005  # seconds a parked task waits, at least, before another replica may have it: longer than most hiccups
STUCK = 0.05  # seconds it waits, at least, before it is taken back even if all others are busy


class Balancer:
    """The replicas of one Executor, and what waits for them.

    Args:
        retries: how many crashes of replicas a task survives, 0 or more.
        cut: cuts the payload of a convoy: returns that of its first so many tasks, and that of the others.

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

    def __init__(self, retries: int = 3, cut: Cut | None = None) -> None:
        self.retries = retries
        self.replicas: dict[Any, Replica] = {}
        self.tasks = Tasks(cut)  # all that have not ended
        self.given_up: dict[int, tuple[float, bool]] = {}  # by id: `assigned` and `waited` of what is `held` as None
        self._queue: FairQueue[Task] | BatchQueue = FairQueue()
        self._batches: BatchQueue | None = None  # the same queue, once there are tasks that can be put together
        self._parts: dict[int, Task] = {}  # wait for a replica of their shard, by id
        self._ahead: dict[int, Task] = {}  # were sent ahead, and are not known to have been begun
        self._levels = Levels()
        self._suspects = Suspects(self._levels)
        self._quickest = 0.0  # seconds of work that the quickest replica takes, of those that are sent tasks ahead
        self._quickest_until = -math.inf  # when to look again which that is
        self._look_at = -math.inf  # when it is worth looking for stuck replicas again

    @property
    def queued(self) -> int:
        """How many tasks no replica holds."""
        return len(self._queue) + len(self._suspects) + len(self._parts)

    @property
    def idle(self) -> bool:
        """Whether no replica holds any task, and all of them may have one."""
        return len(self._levels.empty) == len(self.replicas) and self._suspects.reserved is None

    def oldest_queued(self, now: float) -> int | None:
        """The id of the task at the head of those that any replica may have, or None."""
        if isinstance(self._queue, FairQueue):
            return self._queue.head.id if self._queue else None
        task = self._queue.next(now)
        return None if task is None else task.id

    # -- replicas -------------------------------------------------------------------------------------------------

    def join(self, replica: Replica, now: float) -> list[Action]:
        """Take a replica into the pool. If one of that name is in it, the two are the same process begun afresh."""
        # Nobody knows what it had begun: an at-most-once task ends here, any other is none the worse.
        actions = self.leave(replica.name, now) if self.retries else self.crash(replica.name, now)
        if self.retries == 0:
            replica.slots = replica.window = replica.widest = 1
        self._levels.widen(replica)
        self.replicas[replica.name] = replica
        self._levels.place(replica)
        actions.extend(self._dispatch(now))
        return actions

    def crash(self, name: Any, now: float, blame: bool = True, how: str = "") -> list[Action]:
        """The replica is gone, whatever it was doing; unless `blame` is False, that may be what it was doing.

        `how` it ended is remembered by the tasks that it had begun.
        """
        if name in self.replicas:
            self._take_apart_held(self.replicas[name])
        replica = self._drop(name)
        if replica is None:
            return []
        actions: list[Action] = []
        orphans = []
        working = replica.working
        for at, task in enumerate(replica.held.values()):
            if task is None:
                continue
            # Parts of fan-outs stand behind others also where tasks are sent once at most: any may have begun.
            if at < working or not self.retries:
                task.crashes += 1
                task.deaths = (*task.deaths, (name, how))
            if task.crashes > self.retries:
                del self.tasks[task.id]
                actions.append(Fail(task, "crashed", name))
            else:
                task.suspect |= blame
                orphans.append(task)
        self._requeue(orphans)
        actions.extend(self._dispatch(now))
        return actions

    def lose(self, name: Any, now: float, unsent: int | None = None) -> list[Action]:
        """The replica cannot be reached any more: it gets nothing new, but what it said last may still arrive.

        `unsent` is a task that did not get to it, and goes to another one. A crash or a leave is to follow.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return []
        replica.lost = True
        self._suspects.forget(replica)
        task = self._release(replica, unsent) if unsent is not None and unsent in replica.held else None
        if task is not None:
            self._requeue([task])
        self._levels.place(replica)
        return self._dispatch(now)

    def find(self, name: Any, now: float) -> tuple[list[Task], list[Action]]:
        """A lost replica is back. Returns what it held, of which nobody knows how much got there, and what follows."""
        replica = self.replicas[name]
        replica.lost = False
        self._levels.place(replica)
        return [task for task in replica.held.values() if task is not None], self._dispatch(now)

    def resize(self, name: Any, slots: int, now: float) -> list[Action]:
        """The replica works on so many tasks at the same time from now on; 0 for none, for the time being."""
        replica = self.replicas.get(name)
        if replica is None or replica.slots == slots:
            return []
        replica.slots = replica.window = slots
        replica.widest = max(slots, MAX_WINDOW)
        self._levels.widen(replica)
        self._levels.place(replica)
        return self._dispatch(now)

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
            self._levels.drop(replica)
            self._begun(replica)
            self._suspects.forget(replica)
            for id in [id for id, task in replica.held.items() if task is None] if self.given_up else ():
                self.given_up.pop(id, None)
        return replica

    def _requeue(self, tasks: list[Task]) -> None:
        """Put tasks that were sent before in front of all that wait, in their order."""
        for task in reversed(tasks):
            task.holder = None
            if task.count > 1 and self._batches is not None:
                self._requeue(self.tasks.pieces(task))
                continue
            if task.suspect:
                self._suspects.appendleft(task)
            elif task.shard is None:
                self._queue.appendleft(task)
            else:
                self._parts[task.id] = task

    # -- tasks ----------------------------------------------------------------------------------------------------

    def submit(self, task: Task, now: float) -> list[Action]:
        """Take a task; it is sent at once if a replica has room.

        Where there are batches the next `tick` sends it: what comes in one turn of the broker's loop may go together.
        """
        task.assigned = now
        self.tasks.add(task)
        if task.batching is not None and self._batches is None:
            self._begin_batches()
        if task.count > 1:
            self._queue.append(task)
            return self._dispatch(now)
        if self._batches is None and not self._queue:
            replica = self._next(now)
            if replica is not None:
                return [self._assign(replica, task, now)]
        self._queue.append(task)
        return []

    def _begin_batches(self) -> None:
        queue = self._queue
        assert isinstance(queue, FairQueue)
        for task in list(self.tasks.values()):
            if task.count > 1 and task.holder is None:
                self._take_apart(task)
        self._queue = self._batches = BatchQueue(queue)

    def expect(self, task: Task) -> None:
        """Take a task that the caller will `place` or `queue` later; its deadline and `cancel` count already."""
        self.tasks.add(task)

    def place(self, task: Task, replica: Replica, now: float) -> None:
        """The caller sends an expected task to this replica by itself, whether or not it has room; or did so before."""
        task.holder = replica
        task.assigned = now
        replica.held[task.id] = task
        replica.more += task.count - 1
        task.ahead = False
        self._levels.place(replica)
        task.waited = replica.parked > 0 or replica.last_done > now

    def queue(self, task: Task, now: float) -> list[Action]:
        """Give an expected task to a replica of its shard, as soon as one has room."""
        self._parts[task.id] = task
        return self._dispatch(now)

    def finish(
        self, name: Any, id: int, service: float, now: float, count: int = 1
    ) -> tuple[Task | None, list[Action]]:
        """The replica answered; `service` is how long it worked, in seconds.

        Args:
            count: how many tasks it answered, from this one on, each after so many seconds: as many as `fit` said.

        Returns: the task if this is its first answer, None if it is of no use any more, and what follows.
        """
        replica = self.replicas.get(name)
        if replica is None:
            return None, []
        if replica.more and count == 1:
            self.fit(name, id, 1)
        if id in replica.held:
            held = self._release(replica, id)
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
            self._take_apart(task)
            task = self.tasks.pop(id)
        if task is None or task.holder is replica:
            return task, self._dispatch(now)
        return task, [*self._withdraw(task), *self._dispatch(now)]  # taken back too late: the first answer counts

    def served(self, replica: Replica, service: float, sent: float, now: float) -> None:
        """The replica answered what the caller `sent` it then, and never placed. Nothing that waits gains by it."""
        waited = replica.held or replica.last_done > sent
        replica.measure(service, None if waited else sent, now)
        replica.last_done = now
        self._levels.place(replica)

    def free(self, name: Any, ids: Iterable[int], now: float) -> list[Action]:
        """The replica will never answer these tasks, which have ended: they did not get to it."""
        replica = self.replicas[name]
        for id in ids:
            self._release(replica, id)
        self._levels.place(replica)
        return self._dispatch(now)

    def apart(self, name: Any, ids: Iterable[int], now: float) -> list[Action]:
        """The replica could not work on these tasks of a batch in one go: each is to be tried alone, by any replica."""
        replica = self.replicas.get(name)
        if replica is None:
            return []
        tasks = [self._release(replica, id) for id in ids if id in replica.held]
        again = [task for task in tasks if task is not None]
        for task in again:
            task.batching = None
        replica.last_done = now
        self._levels.place(replica)
        self._requeue(again)
        return self._dispatch(now)

    def _release(self, replica: Replica, id: int) -> Task | None:
        held = replica.held.pop(id)
        if held is not None:
            replica.more -= held.count - 1
        if self._ahead:
            self._ahead.pop(id, None)
        if replica.batch:
            replica.batch.discard(id)
        if held is None:
            self.given_up.pop(id, None)
        if replica.alone and not replica.held:
            replica.alone = False
            self._suspects.forget(replica)
        return held

    def cancel(self, id: int, now: float) -> list[Action]:
        """End a task whose result nobody wants. A replica that has begun it stays busy until it answers."""
        task = self.tasks.get(id)
        if task is None:
            return []
        actions: list[Action] = []
        for one in [task] if task.count == 1 else self._take_apart(task):
            del self.tasks[one.id]
            actions += self._withdraw(one)
        return actions + self._dispatch(now)

    def _withdraw(self, task: Task) -> list[Action]:
        """Remove a task that has ended from where it is; a replica that may have begun it stays occupied."""
        replica = task.holder
        if replica is None:
            # Whatever ends here is near the head as a rule: requests that came together end together.
            if task.suspect:
                self._suspects.remove(task)
            elif task.shard is None:
                self._queue.remove(task)
            else:
                self._parts.pop(task.id, None)  # else it was only expected
            return []
        self._take_apart_held(replica)
        if task.id in self._ahead:
            taken = self._reclaim(replica, task)
            begun = task not in taken
            self._requeue([other for other in taken if other is not task])
            actions: list[Action] = [Recall(replica, other) for other in taken]
        else:
            begun = task.ahead or task.id in islice(replica.held, replica.working)
            actions = [] if begun else [Recall(replica, task)]
        if begun:
            replica.held[task.id] = None
            self.given_up[task.id] = task.assigned, task.waited
        else:
            replica.held.pop(task.id, None)
            self._levels.place(replica)
        return actions

    # -- what is sent ahead ---------------------------------------------------------------------------------------

    def _reclaim(self, replica: Replica, last: Task | None = None) -> list[Task]:
        """Take back what was sent ahead to the replica and is not begun: the first such task, or all up to `last`.

        The first may be one whose turn it is already, but which has not got there.
        """
        taken: list[Task] = []
        assert replica.tickets is not None
        while not taken or last not in (None, taken[-1]):
            id = replica.tickets.reclaim()
            if id is None:
                self._begun(replica)
                break
            if id in replica.held and (task := self._release(replica, id)) is not None:
                taken.append(task)
        self._levels.place(replica)
        return taken

    def _begun(self, replica: Replica) -> None:
        """Nothing of what was sent ahead to the replica can be reclaimed."""
        for id in replica.held if self._ahead else ():
            self._ahead.pop(id, None)

    def _dispatch_ahead(self, now: float, actions: list[Action]) -> None:
        """Give replicas that hold nothing what was sent ahead to others, that which has waited longest first.

        Those that have other room get it where its holder takes long: else what comes later would be begun before.
        """
        while self._ahead and (holder := next(iter(self._ahead.values())).holder) is not None:
            if self._levels.empty:
                for taken in self._reclaim(holder):
                    actions += [Recall(holder, taken), self._assign(next(iter(self._levels.empty)), taken, now)]
                continue
            actions += self._take_back(holder, now)
            break

    # -- convoys --------------------------------------------------------------------------------------------------

    @property
    def takes_convoys(self) -> bool:
        """Whether convoys may be submitted: not where each task is to be begun once at most, or in a batch."""
        return self.tasks.can_be_cut and self.retries > 0 and self._batches is None

    def single(self, id: int) -> None:
        """Make each task of the convoy that begins with this one a task of its own."""
        task = self.tasks[id]
        if task.count > 1:
            self._take_apart(task)

    def fit(self, name: Any, id: int, count: int) -> int:
        """The replica has answered so many tasks from this one on; returns how many are to be finished as one."""
        replica = self.replicas.get(name)
        if replica is None or not replica.more:
            return 1
        task = replica.held.get(id)
        if task is None:
            if id not in replica.held:
                self._take_apart_held(replica)  # it may be somewhere in a convoy
            return 1
        if task.count > count:
            replica.put(id, [self.tasks.cut(task, count), task])
            return count
        return task.count

    def _take_apart(self, task: Task) -> list[Task]:
        """Put its tasks in the place of a convoy, and return them."""
        id, pieces = task.id, self.tasks.pieces(task)
        if task.holder is not None:
            task.holder.put(id, pieces)
        else:
            assert isinstance(self._queue, FairQueue)
            self._queue.replace(task, pieces)
        return pieces

    def _take_apart_held(self, replica: Replica) -> None:
        """Take apart what the replica holds."""
        for task in list(replica.held.values()) if replica.more else ():
            if task is not None and task.count > 1:
                self._take_apart(task)

    # -- time -----------------------------------------------------------------------------------------------------

    @property
    def timed(self) -> bool:
        """Whether time alone may change anything: if not, `tick` need not be called."""
        return bool(self._levels.parked or self.tasks.deadlines or self._batches)

    def wake_after(self, now: float) -> float:
        """In how many seconds `tick` wants to be called at the latest; infinity if only events matter."""
        wait = math.inf
        if self._levels.parked:
            wait = STUCK if self._levels.least() is None else PATIENCE
        if self.tasks.deadlines:
            wait = min(wait, max(0.0, self.tasks.deadlines[0][0] - now))
        if self._batches and self._levels.empty:
            wait = min(wait, self._batches.wake_after(now))
        return wait

    def tick(self, now: float) -> list[Action]:
        """Expire what is late, take parked tasks back from stuck replicas, and give out batches."""
        actions: list[Action] = []
        while (task := self.tasks.due(now)) is not None:
            if task.count > 1:
                task = self._take_apart(task)[0]
            del self.tasks[task.id]
            holder = task.holder
            if holder is not None:
                self._take_apart_held(holder)
            begun = holder is not None and task.id in islice(holder.held, holder.working)
            held_by = None if holder is None else holder.name
            actions.append(Fail(task, "expired", held_by, now - task.assigned, begun))
            actions.extend(self._withdraw(task))
        if self._levels.parked and self.retries and now >= self._look_at:
            self._look_at = now + PATIENCE / 4
            for replica in self.replicas.values():
                if replica.parked:
                    actions.extend(self._take_back(replica, now))
        if actions or self._batches:
            actions.extend(self._dispatch(now))
        return actions

    def overrun(self, limit: float, now: float) -> list[Action]:
        """Fail the tasks that replicas have been at for more than `limit` seconds, and have those replicas killed.

        A replica that does not get done with what was given up is killed, too: nothing else would ever free it. What
        it has of a batch does not fail at once: when it is dead each task is tried again alone, and shows whose fault
        it is.
        """
        actions: list[Action] = []
        for replica in self.replicas.values():
            late = []
            for id, task in islice(replica.held.items(), replica.working):
                given_up = self.given_up.get(id, (math.inf, False))  # infinity: it is to be killed already
                begun, waited = given_up if task is None else (task.assigned, task.waited)
                seconds = now - (max(begun, replica.last_done) if waited else begun)
                if seconds > limit:
                    late.append((id, task, seconds))
            shared = len(replica.batch) > 1 and self.retries
            for id, task, seconds in late:
                self.given_up.pop(id, None)
                if task is not None and not (shared and id in replica.batch and seconds < 2 * limit):
                    del self.tasks[id]
                    replica.held[id] = None
                    actions.append(Fail(task, "overran", replica.name, seconds))
            if late and not replica.killed:
                replica.killed = True
                actions.append(Kill(replica))
        return actions

    def _take_back(self, replica: Replica, now: float) -> list[Action]:
        """Take parked tasks back if the replica has been longer at what it does than it usually is."""
        first = replica.first_parked
        waited = 0.0 if first is None else now - max(first.assigned, replica.last_done)
        patience = max(PATIENCE, 4 * replica.way, 2 * replica.work)
        if waited < patience:
            return []
        self._take_apart_held(replica)
        parked = [task for task in islice(replica.held.values(), replica.working, None) if task is not None]
        parked = [task for task in parked if not task.ahead or task.id in self._ahead]  # others are begun
        others = [other for other in self.replicas.values() if other.level >= 0 and other is not replica]
        if waited < max(STUCK, 3 * patience):
            room = sum(other.window - other.level for other in others)
            parked = parked[max(0, len(parked) - room) :]  # the last ones it would begin
        shards = {None, *(other.shard for other in others)}
        parked = [task for task in parked if task.shard in shards]
        ahead = [task for task in parked if task.id in self._ahead]
        taken = self._reclaim(replica, ahead[-1]) if ahead else []
        plain = [task for task in parked if task not in ahead]
        for task in plain:
            del replica.held[task.id]
        parked = [*taken, *plain]
        if parked:
            replica.window = replica.slots  # until it answers
            self._levels.place(replica)
            self._requeue(parked)
        return [Recall(replica, task) for task in parked]

    # -- dispatch -------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> list[Action]:
        """Give out what can be given out; call it after everything that may have made room, or a suspect."""
        actions: list[Action] = []
        if self._suspects or self._suspects.reserved is not None:
            actions += [self._assign(replica, task, now) for replica, task in self._suspects.take()]
            self._suspects.reserve(self.replicas.values())
        for part in list(self._parts.values()) if self._parts else ():
            replica = self._of_shard(part.shard)
            if replica is not None:
                del self._parts[part.id]
                actions.append(self._assign(replica, part, now))
        queue = self._queue
        if self._ahead and self._levels.room:
            self._dispatch_ahead(now, actions)
        if isinstance(queue, BatchQueue):
            self._dispatch_batches(queue, now, actions)
            return actions
        while queue:
            free = self._next(now)
            if free is None:
                break
            head = queue.head
            # What cannot end in time any more lets the youngest go first: else, under overload, all would be late.
            if head.deadline <= now + free.work * (1 + free.level // free.slots):
                if queue.tail.count > 1:
                    self._take_apart(queue.tail)
                task = queue.pop()
            elif head.count == 1:
                task = queue.popleft()
            elif free.had_better_wait(head.count):
                break
            else:
                task = queue.popleft()
                share = free.share(task.count, self._levels.peers(free))
                if share < task.count:
                    rest, task = task, self.tasks.cut(task, share)
                    queue.put_back(rest)
            actions.append(self._assign(free, task, now))
        return actions

    def _next(self, now: float) -> Replica | None:
        """The replica that gets the next task: the one that holds fewest of those with room.

        Nothing is sent ahead to one that will be busy for long: one of the others would have begun it before.
        """
        free = self._levels.least()
        if free is None or not free.ahead or not free.level:
            return free
        if now >= self._quickest_until:
            self._quickest_until = now + PATIENCE
            self._quickest = min(replica.work for replica in self.replicas.values() if replica.ahead)
        soon = 2 * self._quickest  # then the quickest is done with what it has and what was sent ahead to it
        found = (replica for level in self._levels.by_load[free.level :] for replica in level)
        return next((each for each in found if not each.ahead or each.busy_for(now) <= soon), None)

    def _dispatch_batches(self, queue: BatchQueue, now: float, actions: list[Action]) -> None:
        while queue and (free := self._next(now)) is not None:
            tasks = queue.take(now, not free.held, free.work)
            if not tasks:
                break
            if len(tasks) == 1 and tasks[0].batching is None:
                actions.append(self._assign(free, tasks[0], now))
            else:
                actions.append(self._assign_batch(free, tasks, now))

    def _of_shard(self, shard: int | None) -> Replica | None:
        """The replica of the shard that holds fewest of those with room, if there is one."""
        free = [replica for replica in self.replicas.values() if replica.shard == shard and replica.level >= 0]
        return min(free, key=lambda replica: replica.level, default=None)

    def _assign(self, replica: Replica, task: Task, now: float) -> Action:
        self.place(task, replica, now)
        if replica.ahead and replica.parked and replica.tickets is not None:
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
            task.waited |= len(tasks) > 1  # for the others: how long it took says nothing about the way
        return SendBatch(replica, tasks) if len(tasks) > 1 else Send(replica, tasks[0])
