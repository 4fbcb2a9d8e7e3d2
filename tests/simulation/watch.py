"""A pool that is watched: what it holds is kept a second time, from its actions alone,
and must agree.

The balancer decides, and this says whether it may. What it looks at is what a pool is told and what
it answers; looks into its insides are in `checks`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from zflow.devices.balancing.actions import Fail, Kill, Recall, Send, SendAhead, SendBatch
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import BatchKey, Cut, Replica
from zflow.devices.balancing.states import TRANSITIONS, State
from zflow.devices.protocol.parts import Inputs
from zflow.devices.routing.fanout import Fanout, Publish
from zflow.devices.routing.pool import Actions, Gathered, Limits, Outcome, Pool
from zflow.devices.routing.walk import Node, Walk

from .ledger import Ledger, Request, Violation
from .turns import Turns

TICK = 0.003  # seconds that a deadline may be late: the broker waits whole milliseconds


class Part:
    """A task: one request at one Executor, or its part for one shard."""

    __slots__ = (
        "base",
        "batching",
        "crashes",
        "deadline",
        "direct",
        "docs",
        "holder",
        "id",
        "queued",
        "released",
        "request",
        "sent",
        "shard",
        "shared",
        "since",
        "size",
        "state",
        "suspect",
    )

    def __init__(
        self, id: int, base: int, request: Request, deadline: float, shard: int | None, size: int
    ) -> None:
        self.id = id
        self.base = base
        self.request = request
        self.deadline = deadline
        self.shard = shard
        self.size = size  # of its request, in bytes
        self.state = State.NEW
        self.holder: Holding | None = None
        self.sent: float | None = None  # when it was sent last
        self.queued = False  # counts in `turns`
        self.released = shard is None  # a part of a fan-out waits for its group first
        self.crashes = 0
        self.shared = 0  # of these, how many were another request's fault
        self.suspect = False
        self.direct = False  # sent to its holder, not only published
        self.batching: BatchKey | None = None  # with which others it can be put together
        self.docs = 1
        self.since = 0.0  # when it was sent last, or else came


class Holding:
    """What a replica holds, as the broker must see it."""

    __slots__ = (
        "answered",
        "given_up",
        "group",
        "held",
        "killed",
        "lost",
        "name",
        "replica",
        "slots",
        "together",
    )

    def __init__(self, replica: Replica, group: int, slots: int) -> None:
        self.name = replica.name
        self.replica = replica
        self.group = group
        self.slots = slots
        self.held: dict[int, Part] = {}  # sent, not recalled, not answered; in the order sent
        self.given_up: set[int] = set()  # of these: ended otherwise, but may have been begun
        self.together: set[int] = set()  # of these: given in one go, and not answered
        self.lost = False
        self.killed = False  # or about to be
        self.answered = -math.inf  # when it did so last

    @property
    def working(self) -> int:
        """How many of the tasks that it holds it may have begun: a batch takes one of its slots."""
        return self.slots + max(0, len(self.together) - 1)

    def release(self, id: int) -> Part | None:
        """It does not hold this any more."""
        self.given_up.discard(id)
        self.together.discard(id)
        return self.held.pop(id, None)

    def at_it_for(self, part: Part, now: float) -> float:
        """How many seconds it can have been at this request, at most."""
        assert part.sent is not None
        return now - part.sent

    def surely_at_it_for(self, part: Part, now: float) -> float:
        """For how many seconds the broker can be sure of that."""
        assert part.sent is not None
        return now - max(part.sent, self.answered)


class WatchedPool(Pool):
    """A pool that minds what it does.

    Args:
        index, node, retries, limits, cut: as a pool's.
        ledger: where requests are kept.
        balancer: makes the balancer, given `retries`.
        slack: seconds that a deadline may be late.
    """

    def __init__(
        self,
        index: int,
        node: Node,
        retries: int,
        limits: Limits,
        cut: Cut | None = None,
        *,
        ledger: Ledger,
        balancer: Callable[[int, Cut | None], Balancer] = Balancer,
        slack: float = TICK,
    ) -> None:
        super().__init__(index, node, retries, limits, cut)
        if balancer is not Balancer:
            self.balancer = balancer(retries, cut)
            self.fanout = (
                Fanout(node.shards, node.groups, self.balancer) if node.shards > 1 else None
            )
        self.retries = retries
        self.slack = slack
        self.open: dict[int, Part] = {}  # tasks that have not ended
        self.most = 0  # tasks at a time
        self.holdings: dict[bytes, Holding] = {}
        self.members: dict[tuple[int, int], Holding] = {}  # by group and shard
        self.standing: dict[int, int] = {}  # parts under way of each published fan-out, by base
        self.published: dict[int, tuple[int, int]] = {}  # group and number of each of these
        self.begun: dict[int, int] = {}  # how often each task was begun
        self.culprits: dict[bytes, int] = {}  # what killed a replica: the id of its task
        self.turns = Turns()
        self.ahead = 0  # tasks that were sent ahead
        self.reclaimed = 0  # of these, how many were taken back
        self._ahead: set[tuple[bytes, int]] = set()  # which replica was sent which task ahead
        # And of these, what was taken back, or withdrawn.
        self._taken: set[tuple[bytes, int]] = set()
        # Which replica has begun which task since it was sent there last.
        self._begun: set[tuple[bytes, int]] = set()
        self.bulks = 0  # requests that came in bulks
        # From which state to which, by what.
        self.moves: Counter[tuple[State, State, str]] = Counter()
        self._ledger = ledger

    # -- replicas ----------------------------------------------------------------------------------

    def join(self, replica: Replica, group: int, now: float) -> tuple[int, Actions]:
        """A replica comes; or one that is there begins afresh."""
        before = self._without(replica.name)
        if before is not None and not self.retries:
            self._blame(before)
        if before is not None:
            self._again(before, "join")
        slots = 1 if self.retries == 0 else replica.slots
        holding = self.holdings[replica.name] = Holding(replica, group, slots)
        if self.node.shards > 1:
            self.members[group, replica.shard] = holding
        number, actions = super().join(replica, group, now)
        return number, self._note(actions, now)

    def crash(self, name: Any, now: float, how: str = "") -> Actions:
        """A replica is gone."""
        holding = self._without(name)
        if holding is not None:
            self._blame(holding)
            self._again(holding, "crash")
        return self._note(super().crash(name, now, how), now)

    def leave(self, name: Any, now: float) -> Actions:
        """A replica goes."""
        holding = self._without(name)
        if holding is not None:
            self._again(holding, "leave")
        return self._note(super().leave(name, now), now)

    def lose(self, name: Any, now: float, unsent: int | None = None) -> Actions:
        """A replica cannot be reached."""
        holding = self.holdings.get(name)
        if holding is not None:
            holding.lost = True
            part = holding.release(unsent) if unsent is not None else None
            if part is not None:
                part.holder = None
                self._back(part, "lose")
        return self._note(super().lose(name, now, unsent), now)

    def _without(self, name: bytes) -> Holding | None:
        holding = self.holdings.pop(name, None)
        if holding is not None:
            if self.members.get((holding.group, holding.replica.shard)) is holding:
                del self.members[holding.group, holding.replica.shard]
            for part in holding.held.values():
                if part.holder is holding:
                    part.holder = None
        return holding

    def _again(self, holding: Holding, by: str) -> None:
        """What it held waits for another replica, those in front that have been waiting longest."""
        for part in holding.held.values():
            self._back(part, by)

    def _back(self, part: Part, by: str) -> None:
        """A task that was given to a replica waits again, unless it has ended or is about to."""
        if part.id in self.open and part.holder is None and part.crashes <= self.retries:
            self._goes(part, State.SUSPECT if part.suspect else State.QUEUED, by)
        self._wait(part)

    def _goes(self, part: Part, state: State, by: str) -> None:
        """A task goes from one state to another."""
        if by not in TRANSITIONS.get((part.state, state), ()):
            raise Violation(f"task {part.id} goes from {part.state.name} to {state.name} by {by}")
        self.moves[part.state, state, by] += 1
        part.state = state

    def _wait(self, part: Part) -> None:
        """A task waits in the queue, if that is where it is to be."""
        if not self._in_turn or part.suspect or part.holder is not None:
            return
        if part.id in self.open:
            part.queued = True
            self.turns.waits(part.request.client, again=part.sent is not None)

    def _blame(self, holding: Holding) -> None:
        """Count a crash for what the replica was working on;
        with `retries=0` for all that it held.
        """
        culprit = self.culprits.get(holding.name)
        working = holding.working
        for at, part in enumerate(holding.held.values()):
            if part.id in holding.given_up:
                continue
            part.suspect |= not self.node.addresses  # which restart what a request kills
            part.crashes += at < working or not self.retries
            part.shared += culprit in holding.held and culprit != part.id
            if part.shared > 1 and self.retries:
                raise Violation(
                    f"task {part.id} lost two replicas to other requests; it should have travelled "
                    "alone"
                )

    # -- requests ----------------------------------------------------------------------------------

    def submit(self, walk: Walk, inputs: Inputs, id: int, now: float) -> Actions:
        """A request comes."""
        if walk.count > 1:
            return self._submit_bulk(walk, inputs, id, now)
        request = self._ledger.of(walk)
        self._ledger.visit(request, self.index, inputs)
        may_be = self._refusal(walk, request, now)
        actions = super().submit(walk, inputs, id, now)
        refused = actions[0].reason if actions and isinstance(actions[0], Fail) else None
        if refused not in may_be:
            raise Violation(
                f"request {request.number} should be refused as {may_be}, and is as {refused}"
            )
        if refused is not None:
            self.moves[State.NEW, State.REFUSED, "submit"] += 1
            return actions
        deadline = min(
            walk.deadline, math.inf if self.limits.timeout is None else now + self.limits.timeout
        )
        if self.ids_for(walk) > 1:
            self.standing[id] = self.node.shards
            for shard in range(self.node.shards):
                part = self.open[id + shard] = Part(
                    id + shard, id, request, deadline, shard, walk.size
                )
                self._goes(part, State.UNPUBLISHED, "submit")
            request.open += self.node.shards
        else:
            self.open[id] = part = Part(id, id, request, deadline, None, walk.size)
            request.open += 1
            part.since = now
            part.docs = max(1, walk.docs[0])
            part.batching = self._batching_of(walk.endpoint)
            self._goes(part, State.QUEUED, "submit")
            if not actions:
                self._wait(part)
        self.most = max(self.most, len(self.open))
        return self._note(actions, now)

    def _submit_bulk(self, walk: Walk, inputs: Inputs, id: int, now: float) -> Actions:
        deadline = min(
            walk.deadline, math.inf if self.limits.timeout is None else now + self.limits.timeout
        )
        self.bulks += walk.count
        for at, (request, own) in enumerate(self._ledger.each(walk, inputs)):
            self._ledger.visit(request, self.index, own)
            if self._refusal(walk, request, now) != {None}:
                raise Violation(
                    f"request {request.number} should be refused, and is taken with a bulk"
                )
            self.open[id + at] = part = Part(id + at, id + at, request, deadline, None, walk.size)
            request.open += 1
            part.since = now
        for at in range(walk.count):
            self._goes(self.open[id + at], State.QUEUED, "submit")
            self._wait(self.open[id + at])
        self.most = max(self.most, len(self.open))
        return self._note(super().submit(walk, inputs, id, now), now)

    def learn(self) -> None:
        """Take in what goes without actions.

        A fan-out to a group without members is not published: its parts just go to others, or wait
        for them. And what was sent ahead and is given up is free as
        soon as the broker has its ticket.
        """
        for holding in self.holdings.values():
            self._let_go(holding)
        for group in self.fanout.groups if self.fanout is not None else ():
            for number, scatter in group.open.items():
                if scatter.base in self.standing and scatter.base not in self.published:
                    self.published[scatter.base] = group.index, number
                    for id in range(scatter.base, scatter.base + self.node.shards):
                        if id in self.open:
                            self._release(self.open[id])

    def _release(self, part: Part) -> None:
        """A part of a fan-out goes to its group without being published,
        as its member is not there.
        """
        part.released = True
        if part.state is State.UNPUBLISHED:
            self._goes(part, State.QUEUED, "Publish")

    def _refusal(self, walk: Walk, request: Request, now: float) -> set[str | None]:
        """Why a request is not to be taken, or None if it is: whatever of that is right."""
        if request.again and not self.retries:
            return {"again"}
        limits = self.limits
        if limits.queue is not None:
            self.learn()
            waiting = sum(part.holder is None and part.released for part in self.open.values())
            parts = [part for part in self.open.values() if not part.released]
            waiting += len({part.base for part in parts if part.deadline > now})
            # In this turn: it may count, or not.
            late = len({part.base for part in parts if part.deadline <= now})
            if waiting + late >= limits.queue:
                return {"overloaded"} if waiting >= limits.queue else {"overloaded", None}
        if limits.queue_bytes is not None:
            sizes = {part.base: part.size for part in self.open.values()}
            if sizes and sum(sizes.values()) + walk.size > limits.queue_bytes:
                return {"overloaded"}
        return {None}

    def answered(
        self,
        name: Any,
        id: int,
        service: float,
        payload: Sequence[Any],
        failed: bool,
        now: float,
        count: int = 1,
    ) -> tuple[Outcome | None, Actions]:
        """A replica answers."""
        if count > 1:
            return self._answered_bulk(name, id, service, payload, now, count)
        holding = self.holdings[name]
        holding.answered = now
        holding.release(id)
        part = self.open.get(id)
        if part is not None:
            if part.holder is holding:
                part.holder = None
            if failed:
                part.request.raised = True
            if now > part.deadline + self.slack:
                raise Violation(
                    f"task {id} was to expire at {part.deadline:.6f}, and is answered at {now:.6f}"
                )
            self._end(part, State.ANSWERED, "answered")
        outcome, actions = super().answered(name, id, service, payload, failed, now)
        if part is None and outcome is not None:
            raise Violation(f"task {id} has ended, and ends again: {outcome}")
        if part is not None and part.shard is None and outcome is None:
            raise Violation(f"task {id} was answered, and nothing comes of it")
        if part is not None and isinstance(outcome, Gathered) and outcome.errors:
            failures = part.request.failed = part.request.failed or {}
            failures[self.index] = frozenset(outcome.errors)
        return outcome, self._note(actions, now)

    def _answered_bulk(
        self, name: Any, id: int, service: float, payload: Sequence[Any], now: float, count: int
    ) -> tuple[Outcome | None, Actions]:
        holding = self.holdings[name]
        holding.answered = now
        for each in range(id, id + count):
            holding.release(each)
            part = self.open.get(each)
            if part is None or part.holder is not holding:
                raise Violation(
                    f"{count} tasks from {id} on were answered as one, but {each} is not "
                    f"{name!r}'s any more"
                )
            part.holder = None
            if now > part.deadline + self.slack:
                raise Violation(
                    f"task {each} was to expire at {part.deadline:.6f}, and is answered at "
                    f"{now:.6f}"
                )
            self._end(part, State.ANSWERED, "answered")
        outcome, actions = super().answered(name, id, service, payload, False, now, count)
        if outcome is None or outcome.walk.count != count:
            raise Violation(f"{count} tasks from {id} on were answered, and {outcome} comes of it")
        return outcome, self._note(actions, now)

    def apart(self, name: Any, ids: Sequence[int], now: float) -> Actions:
        """A replica could not do these in one go."""
        holding = self.holdings[name]
        holding.answered = now
        for id in ids:
            part = holding.release(id)
            if part is not None and part.holder is holding:
                part.holder = None
                part.batching = None
                self._back(part, "apart")
        return self._note(super().apart(name, ids, now), now)

    def failed(self, fail: Fail, error: Any, now: float) -> tuple[Outcome | None, Actions]:
        """The balancer has given a task up."""
        outcome, actions = super().failed(fail, error, now)
        if isinstance(outcome, Gathered):
            request = self._ledger.of(outcome.walk)
            request.failed = {**(request.failed or {}), self.index: frozenset(outcome.errors)}
        return outcome, self._note(actions, now)

    def cancel(self, id: int, now: float) -> Actions:
        """Nobody wants a result any more."""
        part = self.open.get(id)
        shards = (
            self.node.shards
            if id in self.standing or (part is not None and part.shard is not None)
            else 1
        )
        for each in range(id, id + shards):
            if each in self.open:
                self._end(self.open[each], State.CANCELLED, "cancel")
        return self._note(super().cancel(id, now), now)

    def missed(self, name: Any, first: int, last: int, now: float) -> Actions:
        """A replica has not seen some fan-outs: it gets what it is to do of them,
        and lets go of what has ended.
        """
        holding = self.holdings.get(name)
        again = [] if holding is None else self._missing(holding, first, last)
        actions = super().missed(name, first, last, now)
        sent = [action.task.id for action in actions[: len(again)] if isinstance(action, Send)]
        if sent != again:
            raise Violation(
                f"{name!r} missed {first} to {last}, that is {again}, and gets {actions}"
            )
        if holding is not None:
            for id in holding.given_up - holding.replica.held.keys():
                part = holding.release(id)
                if part is not None and part.direct:
                    raise Violation(
                        f"{name!r} was sent task {id}, and is believed never to have seen it"
                    )
        self._note(actions[len(again) :], now)
        return actions

    def _missing(self, holding: Holding, first: int, last: int) -> list[int]:
        """The tasks that a member holds of the fan-outs with these numbers."""
        found = []
        for base, (group, number) in self.published.items():
            part = self.open.get(base + holding.replica.shard)
            if (
                group != holding.group
                or not first <= number <= last
                or part is None
                or part.holder is not holding
            ):
                continue
            if not part.direct:
                part.direct = True
                found.append(part.id)
        return found

    def tick(self, now: float) -> Actions:
        """Time passes."""
        return self._note(super().tick(now), now)

    def overdue(self, now: float) -> list[int]:
        """The tasks at which replicas have been for clearly longer than `limits.run`."""
        run = self.limits.run
        if run is None:
            return []
        late = run + max(0.01, run / 10) + self.slack
        begun = [
            (holding, part)
            for holding in self.holdings.values()
            if not holding.killed
            for part in islice(holding.held.values(), holding.working)
        ]
        return [part.id for holding, part in begun if holding.surely_at_it_for(part, now) > late]

    def begin(self, id: int, shard: int, name: bytes) -> None:
        """A replica begins a task."""
        self._begun.add((name, id))
        if (name, id) in self._taken:
            raise Violation(f"task {id} was taken back from {name!r}, which begins it")
        times = self.begun[id] = self.begun.get(id, 0) + 1
        if times > 1 and self.retries == 0:
            raise Violation(f"task {id} is begun {times} times in spite of at most once")
        part = self.open.get(id)
        if part is not None and part.shard not in (None, shard):
            raise Violation(f"task {id} for shard {part.shard} is begun by shard {shard}")

    def _end(self, part: Part, state: State, by: str) -> None:
        """A task has ended; a replica that holds it keeps it until it answers,
        or is told to skip it.
        """
        self._goes(part, state, by)
        del self.open[part.id]
        part.request.open -= 1
        if part.queued:
            part.queued = False
            self.turns.gone(part.request.client)
        if part.holder is not None:
            part.holder.given_up.add(part.id)
        if part.shard is not None:
            self.standing[part.base] -= 1
            if not self.standing[part.base]:
                del self.standing[part.base]
                self.published.pop(part.base, None)

    # -- actions -----------------------------------------------------------------------------------

    def _note(self, actions: Actions, now: float) -> Actions:
        """Take down what the pool says, all of it at once:
        carrying it out may bring it to say more.
        """
        for action in actions:
            if isinstance(action, Send):
                task = action.task
                self._sent(action, list(range(task.id, task.id + task.count)), now, task.count)
            elif isinstance(action, SendAhead):
                self._sent(action, [action.task.id], now)
                self._sent_ahead(action)
            elif isinstance(action, SendBatch):
                self._sent(action, [task.id for task in action.tasks], now)
            elif isinstance(action, Publish):
                self._published(action, now)
            elif isinstance(action, Recall):
                self._recalled(action)
            elif isinstance(action, Kill):
                self._killed(action, now)
            else:
                self._failed(action, now)
        return actions

    def _let_go(self, holding: Holding) -> None:
        for id in holding.given_up - holding.replica.held.keys() if holding.given_up else ():
            if (holding.name, id) in self._ahead:
                self._ahead.discard((holding.name, id))
                self._taken.add((holding.name, id))
                holding.release(id)

    def _sent(
        self, action: Send | SendAhead | SendBatch, ids: list[int], now: float, bulk: int = 1
    ) -> None:
        """The replica is sent a task, or a bulk, or a batch of them."""
        replica = action.replica
        parts = [self._hold(replica.name, id, now, leads=id == ids[0]).held[id] for id in ids]
        for part in parts:
            self._release(part)
            state = State.AHEAD if isinstance(action, SendAhead) else State.GIVEN
            self._goes(part, state, type(action).__name__)
        holding = self.holdings[replica.name]
        self._let_go(holding)
        first = parts[0]
        if holding.together:
            raise Violation(
                f"{replica.name!r} is sent {ids}, but is at the batch {holding.together}"
            )
        for part in parts:
            part.direct = True
            if part.shard not in (None, replica.shard):
                raise Violation(
                    f"task {part.id} for shard {part.shard} goes to {replica.name!r} of "
                    f"{replica.shard}"
                )
        if first.batching is not None and not first.suspect:
            self._together(holding, parts)
        elif len(parts) > bulk or len(holding.held) > (1 if first.suspect else replica.window):
            raise Violation(
                f"{replica.name!r} has no room for {ids}: it holds {list(holding.held)}, its "
                "window is"
                f" {replica.window}, and the first is {'a suspect' if first.suspect else 'none'}"
            )

    def _sent_ahead(self, action: SendAhead) -> None:
        """The replica is sent a task that it may have to leave to others."""
        holding, key = self.holdings[action.replica.name], (action.replica.name, action.task.id)
        self.ahead += 1
        self._ahead.add(key)
        if len(holding.held) <= holding.slots or not self.retries:
            raise Violation(
                f"task {action.task.id} is sent ahead to {holding.name!r}, which holds "
                f"{holding.held}"
            )

    def _together(self, holding: Holding, parts: list[Part]) -> None:
        """A replica is given a batch, be it a small one."""
        kind = parts[0].batching
        holding.together.update(part.id for part in parts)
        if list(holding.held.values()) != parts:
            raise Violation(
                f"{holding.name!r} gets a batch of {len(parts)}, but holds {list(holding.held)}"
            )
        if any(part.batching != kind or part.suspect for part in parts):
            raise Violation(
                f"{holding.name!r} gets in one go what does not go together: "
                f"{[part.id for part in parts]}"
            )
        if len(parts) > 1 and (kind is None or sum(part.docs for part in parts) > kind.size):
            raise Violation(
                f"{holding.name!r} gets a batch of {sum(part.docs for part in parts)} Documents, "
                f"for {kind}"
            )

    @property
    def _in_turn(self) -> bool:
        """Whether it is known from outside whose turn it is:
        not where some wait for others to fill their batch.
        """
        return self.node.shards == 1 and not any(said.timeout for said in self.batching.values())

    def _hold(self, name: Any, id: int, now: float, leads: bool = True) -> Holding:
        holding = self.holdings.get(name)
        part = self.open.get(id)
        if holding is None or holding.lost:
            raise Violation(f"task {id} goes to {name!r}, which is gone")
        if part is None:
            raise Violation(f"task {id} has ended, and goes to {name!r}")
        if part.holder is not None:
            raise Violation(f"task {id} goes to {name!r}, but {part.holder.name!r} has it")
        for other in holding.held.values():
            if other.suspect and other.id not in holding.given_up:
                raise Violation(
                    f"task {id} goes to {name!r}, which should be alone with suspect {other.id}"
                )
            break  # a suspect is alone, so the first is the only one
        if part.queued:
            part.queued = False
            # It was when it came: replicas that put requests together are there by now.
            if not self._in_turn:
                self.turns.forget()
            if leads:
                self.turns.served(part.request.client, again=part.sent is not None)
            else:
                self.turns.gone(part.request.client)
        self._taken.discard((name, id))
        self._ahead.discard((name, id))
        self._begun.discard((name, id))
        part.sent = part.since = now
        part.holder = holding
        part.released = True
        holding.held[id] = part
        return holding

    def _published(self, action: Publish, now: float) -> None:
        base = action.scatter.base
        self.published[base] = action.group, action.number
        for shard in range(self.node.shards):
            part = self.open.get(base + shard)
            if part is None or part.released:
                raise Violation(
                    f"fan-out {base} is published, but its part {shard} has ended or was published"
                )
            if shard in action.skip:
                self._release(part)
            else:
                member = self.members.get((action.group, shard))
                if member is None:
                    raise Violation(
                        f"fan-out {base} counts on shard {shard} of group {action.group}: nobody "
                        "is there"
                    )
                self._hold(member.name, base + shard, now)
                self._goes(part, State.GIVEN, "Publish")

    def _recalled(self, action: Recall) -> None:
        id = action.task.id
        holding = self.holdings[action.replica.name]
        if id not in holding.held:
            raise Violation(f"task {id} is recalled from {holding.name!r}, which does not have it")
        ahead = (holding.name, id) in self._ahead  # then it was made sure of that
        if (
            not ahead
            and id not in holding.given_up
            and list(holding.held).index(id) < holding.working
        ):
            raise Violation(f"task {id} is recalled from {holding.name!r}, which has begun it")
        if ahead:
            if (holding.name, id) in self._begun:
                raise Violation(
                    f"task {id} is taken back from {holding.name!r}, which has begun it"
                )
            self._ahead.discard((holding.name, id))
            self._taken.add((holding.name, id))
            self.reclaimed += 1
        part = holding.held[id]
        holding.release(id)
        if part.holder is holding:
            part.holder = None
            self._back(part, "Recall")

    def _killed(self, action: Kill, now: float) -> None:
        holding = self.holdings[action.replica.name]
        working = islice(holding.held.values(), holding.working)
        begun = [part for part in working if part.id in holding.given_up | holding.together]
        if self.limits.run is None or not any(
            holding.at_it_for(part, now) > self.limits.run for part in begun
        ):
            raise Violation(
                f"{holding.name!r} is to be killed, and has been at nothing for {self.limits.run} s"
            )
        holding.killed = True

    def _failed(self, fail: Fail, now: float) -> None:
        part = self.open.get(fail.task.id)
        if part is None:
            raise Violation(f"task {fail.task.id} has ended, and is now {fail.reason}")
        if fail.reason == "crashed":
            if part.crashes != self.retries + 1:
                raise Violation(
                    f"task {part.id} is given up after {part.crashes} crashes, with "
                    f"retries={self.retries}"
                )
        elif fail.reason == "overran":
            holding = part.holder
            if (
                holding is None
                or self.limits.run is None
                or holding.at_it_for(part, now) <= self.limits.run
            ):
                raise Violation(
                    f"task {part.id} has not been at {fail.held_by!r} for {self.limits.run} s"
                )
        elif not 0 <= now - part.deadline <= self.slack:
            raise Violation(
                f"task {part.id} was to expire at {part.deadline:.6f}, and does so at {now:.6f}"
            )
        elif fail.held_by != (part.holder and part.holder.name):
            raise Violation(f"task {part.id} expires at {fail.held_by!r}, but {part.holder} has it")
        self._end(part, State.FAILED, "Fail")
