"""One Executor at the broker: its node in the graph, its replicas, and what is under way to them.
Pure logic.

A pool decides whether a request is for one shard or for all, and turns answers into what the walk
needs to know: that a payload is there, that a set of them is, or that the request has failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec

from zflow.devices.balancing.actions import Action, Fail
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import BatchKey, Cut, Replica, Task
from zflow.devices.protocol.messages import Done, Error, Message, singles
from zflow.devices.protocol.parts import Inputs
from zflow.devices.protocol.references import Frame, Payload
from zflow.devices.routing.bindings import Bindings
from zflow.devices.routing.fanout import Fanout, Publish, Scatter
from zflow.devices.routing.kinds import Kinds
from zflow.devices.routing.walk import DEFAULT, Node, Walk

Actions = Sequence[Action | Publish]
Arguments = ParamSpec("Arguments")

NO_GROUP = -1  # of a replica on another machine: what is published does not reach it
# Seconds without any address of an external Executor until requests without a deadline fail.
NOBODY = 10.0


class Finished(NamedTuple):
    """A replica has returned this payload."""

    walk: Walk
    id: int  # the visit's task id, or the first of them
    payload: Any  # of an external Executor several


class Gathered(NamedTuple):
    """All shards have ended: these have returned payloads, those have failed."""

    walk: Walk
    id: int
    results: dict[int, Payload]
    errors: dict[int, Frame]


class Taken(NamedTuple):
    """A shard has returned a payload; others are still to."""

    walk: Walk


class Broken(NamedTuple):
    """The request has failed: `error` is what its replica, or the broker, says."""

    walk: Walk
    error: Frame


Outcome = Finished | Gathered | Taken | Broken


def request_of(task: Task) -> tuple[Walk, Inputs]:
    """The walk and the inputs that a task, or a part of a fan-out, is about."""
    return task.payload.payload if isinstance(task.payload, Scatter) else task.payload  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Limits:
    """What holds for requests at one Executor.

    Args:
        timeout: the seconds that a request may take here, or None.
        run: the seconds that a replica may be at it, or None.
        queue: how many may wait for a replica, or None.
        queue_bytes: how many bytes of requests may be here, waiting or not, or None.
    """

    timeout: float | None = None
    run: float | None = None
    queue: int | None = None
    queue_bytes: int | None = None


class Load(NamedTuple):
    """How much there is to do, in terms of whole replicas:
    a request may be one of several that a replica works on.
    """

    queued: float  # requests that no replica has begun
    busy: float  # replicas
    work: float  # seconds of a replica that a request takes; 0 if none has been begun


class Pool:
    """The replicas of one node.

    Args:
        index: the node's index.
        node: the node.
        retries: how many crashed replicas a request survives.
        limits: what a request may take here, and how many may wait.
        cut: cuts the walk and the inputs of a bulk, as the balancer asks.
    """

    def __init__(
        self, index: int, node: Node, retries: int, limits: Limits, cut: Cut | None = None
    ) -> None:
        self.index = index
        self.node = node
        self.limits = limits
        self.timeout = limits.timeout
        # Of the requests here, by the id of their visit, if their bytes are limited.
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self.balancer = Balancer(retries, cut)
        self.fanout = Fanout(node.shards, node.groups, self.balancer) if node.shards > 1 else None
        self.kinds = Kinds(self.balancer)  # one as a rule
        self._groups: dict[bytes, int] = {}  # of replicas, by name
        self._scatters: dict[int, Scatter] = {}  # by base
        self._elsewhere: set[bytes] = set()  # replicas on other machines, by name
        self.names: dict[bytes, str] = {}  # for people
        self.bindings = Bindings(node.endpoints)
        self.batching: Mapping[str, BatchKey] = {}  # by endpoint; its replicas say so
        self._nobody_since = math.inf  # when the last address was lost

    def info(self) -> dict[str, object]:
        """What a client that asks is told."""
        endpoints = self.node.endpoints
        return {
            "replicas": sorted(self.names.values()),
            "slots": sum(
                replica.slots for replica in self.balancer.replicas.values() if not replica.lost
            ),
            "shards": self.node.shards,
            "no_reduce": self.node.no_reduce,
            "addresses": list(self.node.addresses),
            "queued": self.waiting,
            "endpoints": None if endpoints is None else sorted(endpoints),
            "batching": {
                name: [said.size, round(said.timeout * 1000, 3)]
                for name, said in self.batching.items()
            },
        }

    def bind(self, endpoints: frozenset[str] | None) -> bool:
        """Its Executor binds these now, and its replicas say how they take requests together;
        whether it did not.
        """
        self.batching = self.bindings.batching
        before, self.node.endpoints = self.node.endpoints, endpoints
        return before != endpoints

    def load(self, now: float) -> Load:
        """How much there is to do here; with several shards, at the one that has most.

        Replicas on other machines are left out: there are as many as somebody starts there. What
        they take is not there to do.
        """
        balancer = self.balancer
        if self.fanout is not None:
            self.fanout.settle()  # it is asked who holds what
        waiting = balancer.queued / self.node.shards + (
            0 if self.fanout is None else len(self.fanout)
        )
        shards: list[list[Replica]] = [[] for _ in range(self.node.shards)]
        for name, replica in balancer.replicas.items():
            if name not in self._elsewhere:
                shards[replica.shard if self.fanout is not None else 0].append(replica)
        loads = [_load(replicas, now) for replicas in shards]
        most = max(loads, key=lambda load: (load.busy + load.queued, load.work))
        return most._replace(queued=most.queued + waiting)

    # -- replicas ----------------------------------------------------------------------------------

    def join(self, replica: Replica, group: int, now: float) -> tuple[int, Actions]:
        """Take a replica in. Returns the number of its group's last fan-out, and what follows."""
        self._nobody_since = math.inf
        actions: Actions = []
        if self.fanout is None and not self.node.addresses:
            actions = self.kinds.join(replica, self.bindings.of(replica.name), now)
        number = 0
        if group == NO_GROUP:
            self._elsewhere.add(replica.name)
        elif self.fanout is not None:
            self._groups[replica.name] = group
            number = self.fanout.join(replica, group)
        return number, [*actions, *self._tell(now, self.balancer.join, replica, now)]

    def crash(self, name: bytes, now: float, how: str = "") -> Actions:
        """The replica is gone. An address that is gone is not blamed on requests:
        it restarts what they kill.
        """
        self._forget(name)
        actions = self._tell(now, self.balancer.crash, name, now, not self.node.addresses, how)
        return [*actions, *self.kinds.leave(name, now)]

    def lose(self, name: bytes, now: float, unsent: int | None = None) -> Actions:
        """The replica cannot be reached any more; a crash is to follow when
        its last words must have come.
        """
        return self._tell(now, self.balancer.lose, name, now, unsent)

    def find(self, name: bytes, now: float) -> tuple[list[Task], Actions]:
        """A lost replica is back; returns what it has not answered, and what follows."""
        self._nobody_since = math.inf
        tasks = self.balancer.replicas[name].tasks
        return tasks, self._tell(now, self.balancer.find, name, now)

    def given(self, name: bytes, answer: Message) -> Sequence[Message]:
        """Return what of an answer is to tasks that the replica has: of several that it answers in
        one, some may have been taken back after it had begun them.
        """
        if not isinstance(answer, (Done, Error)):
            return (answer,)
        held = self.balancer.held(name)
        sizes = ((id, 1 if task is None else task.count) for id, task in held.items())
        ids = {each for id, count in sizes for each in range(id, id + count)}
        if isinstance(answer, Done):
            if ids.issuperset(range(answer.first, answer.first + answer.total)):
                return (answer,)
            return [one for one in singles(answer) if one.first in ids]
        # Where several are to be tried alone the balancer passes over what it has taken back.
        apart = len(answer.tasks) > 1 and self.balancer.retries > 0
        counts = not ids.isdisjoint(answer.tasks) if apart else ids.issuperset(answer.tasks)
        return (answer,) if counts else ()

    def resize(self, name: bytes, slots: int, now: float) -> Actions:
        """The replica can work on so many requests at once from now on."""
        return self._tell(now, self.balancer.resize, name, slots, now)

    def leave(self, name: bytes, now: float) -> Actions:
        """The replica goes in good order."""
        self._forget(name)
        return [*self._tell(now, self.balancer.leave, name, now), *self.kinds.leave(name, now)]

    def _forget(self, name: bytes) -> None:
        self.names.pop(name, None)
        self._groups.pop(name, None)
        self._elsewhere.discard(name)
        replica = self.balancer.replicas.get(name)
        if self.fanout is not None and replica is not None:
            self.fanout.leave(replica)

    # -- requests ----------------------------------------------------------------------------------

    def takes(self, walk: Walk) -> bool:
        """Whether this bulk may visit the node as one:
        not where something is to be known of each request.
        """
        limits = self.limits
        if (
            self.fanout is not None
            or self.node.addresses
            or self.batching
            or not self.balancer.takes_bulks
        ):
            return False
        if self.kinds.mixed:
            return False
        if limits.run is not None or limits.queue_bytes is not None:
            return False
        return limits.queue is None or self.balancer.queued + walk.count <= limits.queue

    def ids_for(self, walk: Walk) -> int:
        """How many task ids the walk's visit takes."""
        return self.node.shards if self.node.polls_all(walk.endpoint) else walk.count

    def submit(self, walk: Walk, inputs: Inputs, id: int, now: float) -> Actions:
        """The walk visits this node; `id` is its task id, or the first of them."""
        if walk.again and not self.balancer.retries:
            return [Fail(Task(id, (walk, inputs)), "again")]
        limits = self.limits
        if limits.queue_bytes is not None and self._too_large(walk):
            return [Fail(Task(id, (walk, inputs)), "overloaded")]
        if limits.queue is not None and self.waiting >= limits.queue:
            return [Fail(Task(id, (walk, inputs)), "overloaded")]
        deadline = walk.deadline if self.timeout is None else min(walk.deadline, now + self.timeout)
        if limits.queue_bytes is not None:
            self._sizes[id] = walk.size
            self._bytes += walk.size
        if self.fanout is not None and self.node.polls_all(walk.endpoint):
            scatter = self._scatters[id] = Scatter(
                id, self.node.shards, (walk, inputs), deadline, walk.client
            )
            return self.fanout.submit(scatter, now)
        task = Task(id, (walk, inputs), deadline, None, walk.client, count=walk.count)
        if self.kinds.mixed and (only := self.kinds.only(walk.endpoint)) is not None:
            task.shard = only
            self.balancer.expect(task)
            return self.balancer.queue(task, now)
        if self.batching:
            task.docs = max(1, walk.docs[0])
            task.batching = self._batching_of(walk.endpoint)
        if self.fanout is not None:
            self.fanout.settle()  # and no more: what comes makes no room
        return self.balancer.submit(task, now)

    def _batching_of(self, endpoint: str) -> BatchKey | None:
        """How requests for this endpoint are put together, by what serves them."""
        bound = self.node.endpoints
        served = endpoint if bound is None or endpoint in bound else DEFAULT
        return self.batching.get(served)

    @property
    def waiting(self) -> int:
        """How many requests wait for a replica, or for a group."""
        return self.balancer.queued + (len(self.fanout) if self.fanout is not None else 0)

    def _too_large(self, walk: Walk) -> bool:
        """Whether the bytes of the request are too many to be here; one alone always has room."""
        limit = self.limits.queue_bytes
        return limit is not None and self._bytes > 0 and self._bytes + walk.size > limit

    def ended(self, id: int) -> None:
        """The visit with this task id, or its first, is over."""
        if self._sizes:
            self._bytes -= self._sizes.pop(id, 0)

    def fit(self, name: bytes, id: int, count: int) -> int:
        """A replica has answered so many tasks from this one on;
        returns how many `answered` can take as one.
        """
        return 1 if self.fanout is not None else self.balancer.fit(name, id, count)

    def single(self, id: int) -> None:
        """Take apart the bulk whose visit has this task id."""
        self.balancer.single(id)

    def answered(
        self,
        name: bytes,
        id: int,
        service: float,
        payload: Any,
        failed: bool,
        now: float,
        count: int = 1,
    ) -> tuple[Outcome | None, Actions]:
        """A replica has answered a task, or `count` of them with a frame each.

        Returns what that means to the walk, if anything, and what follows here.
        """
        part = None if self.fanout is None else self.fanout.answered(name, id, service, now)
        if part is not None:
            scatter, shard = part
            outcome = self._part_ended(scatter, shard, payload, failed)
            return outcome, self._and_fan_out([], now) if scatter.over else []
        if self.node.addresses and id not in self.balancer.held(name):
            return None, []  # a guess at what another address has, or it was taken back meanwhile
        task, actions = self.balancer.finish(name, id, service, now, count)
        outcome = None if task is None else self._outcome(task, payload, failed)
        return outcome, actions if self.fanout is None else self._and_fan_out(actions, now)

    def apart(self, name: bytes, ids: Sequence[int], now: float) -> Actions:
        """A replica could not do these tasks of a batch in one go: each is tried alone."""
        return self._tell(now, self.balancer.apart, name, ids, now)

    def failed(self, fail: Fail, error: Frame, now: float) -> tuple[Outcome | None, Actions]:
        """The balancer has given a task up, and `error` says why; returns as `answered`."""
        return self._outcome(fail.task, error, True), self._and_fan_out([], now)

    def _outcome(self, task: Task, payload: Any, failed: bool) -> Outcome | None:
        if isinstance(task.payload, Scatter):
            assert task.shard is not None
            return self._part_ended(task.payload, task.shard, payload, failed)
        walk = task.payload[0]
        return Broken(walk, payload) if failed else Finished(walk, task.id, payload)

    def _part_ended(
        self, scatter: Scatter, shard: int, payload: Any, failed: bool
    ) -> Outcome | None:
        assert self.fanout is not None
        if scatter.over:
            return None  # it was given up because of another part
        walk = scatter.payload[0]
        if failed:
            self.fanout.error(scatter, shard, payload)
            if not self.node.partial:
                return Broken(walk, payload)  # what ends the walk cancels the other parts
        else:
            self.fanout.result(scatter, shard, payload)
        if not scatter.complete:
            return Taken(walk)
        del self._scatters[scatter.base]
        if not scatter.results:
            return Broken(walk, scatter.errors[min(scatter.errors)])
        return Gathered(walk, scatter.base, scatter.results, scatter.errors)

    def cancel(self, id: int, now: float) -> Actions:
        """Nobody wants the result of the visit with this task id."""
        scatter = self._scatters.pop(id, None)
        if scatter is None:
            return self._tell(now, self.balancer.cancel, id, now)
        assert self.fanout is not None
        self.fanout.give_up(scatter)
        return self._tell(now, self._cancel, [part.id for part in scatter.parts.values()], now)

    def _cancel(self, ids: Iterable[int], now: float) -> list[Action]:
        return [action for id in ids for action in self.balancer.cancel(id, now)]

    def missed(self, name: bytes, first: int, last: int, now: float) -> Actions:
        """A replica has not seen these fan-outs."""
        replica = self.balancer.replicas.get(name)
        if self.fanout is None or replica is None or name not in self._groups:
            return []
        group = self._groups[name]
        actions = self.fanout.missed(replica, group, first, last)
        ended = self.fanout.never_seen(replica, group, first, last)
        return (
            [*actions, *self._tell(now, self.balancer.free, name, ended, now)] if ended else actions
        )

    # -- time --------------------------------------------------------------------------------------

    @property
    def timed(self) -> bool:
        """Whether time alone may change anything: if not, `tick` need not be called."""
        if self.balancer.timed:
            return True
        if self.limits.run is not None:
            published = self.fanout is not None and self.fanout.under_way
            return bool(self.balancer.tasks or self.balancer.given_up or published)
        return bool(self.node.addresses and self.balancer.tasks)

    def wake_after(self, now: float) -> float:
        """In how many seconds `tick` wants to be called at the latest."""
        most = 1.0 if self.limits.run is None else min(1.0, max(0.01, self.limits.run / 10))
        return min(self.balancer.wake_after(now), most)

    def tick(self, now: float) -> Actions:
        """What time alone brings about."""
        actions = self._tell(now, self.balancer.tick, now)
        if self.limits.run is not None:
            actions = [*actions, *self.balancer.overrun(self.limits.run, now)]
        if self.node.addresses and self.balancer.tasks:
            actions = [*actions, *self._give_up(now)]
        return actions

    def _give_up(self, now: float) -> list[Action]:
        """Fail what may wait for ever, if no address has been there for long:
        nobody might ever come.
        """
        if any(not replica.lost for replica in self.balancer.replicas.values()):
            self._nobody_since = math.inf
            return []
        self._nobody_since = min(self._nobody_since, now)
        if now - self._nobody_since < NOBODY:
            return []
        actions: list[Action] = []
        for task in [task for task in self.balancer.tasks.values() if task.deadline == math.inf]:
            actions += [Fail(task, "unreachable"), *self.balancer.cancel(task.id, now)]
        return actions

    # -- the balancer ------------------------------------------------------------------------------

    def _tell(
        self,
        now: float,
        event: Callable[Arguments, list[Action]],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Actions:
        """Let the balancer know of an event; returns what follows.

        All that happens comes this way: first the balancer is told of the parts of fan-outs that
        are under way without its knowing, and afterwards fan-outs that wait get the room that was
        made. Only what is submitted and answered has ways of its own, which are shorter.
        """
        if self.fanout is not None:
            self.fanout.settle()
        return self._and_fan_out(event(*arguments, **options), now)

    def _and_fan_out(self, actions: Actions, now: float) -> Actions:
        """What was done may have made room for a fan-out that waits."""
        if self.fanout is None or not len(self.fanout):
            return actions
        return [*actions, *self.fanout.dispatch(now)]


def _load(replicas: Sequence[Replica], now: float) -> Load:
    busy = parked = 0.0
    works = []
    for replica in replicas:
        held = replica.load
        busy += min(held, replica.slots) / replica.slots
        parked += replica.parked
        work = replica.work
        if held and (first := next(iter(replica.held.values()))) is not None:
            # It takes as long as that, at least.
            seconds = now - max(first.assigned, replica.last_done)
            work = max(work, seconds / max(1, len(replica.batch)))
        if work:
            works.append(work / replica.slots)
    return Load(parked, busy, sum(works) / len(works) if works else 0.0)
