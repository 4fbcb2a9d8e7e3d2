"""ALL requests of one Executor with shards: whom a fan-out goes to,
and when its results are complete. Pure logic.

Replica r of every shard is *group* r, which subscribes to topic r. A fan-out is published once to
one group, whatever the number of shards; each shard's answer is a *part*,
a task of its own in the balancer. What holds here:

- A fan-out goes to the group that is idlest: the one whose fullest member holds fewest. It need not
  wait for idle members: it needs every shard anyway, so it may stand behind what they are doing.
  But only so many fan-outs stand in one group at a time (its window), and the others wait here,
  where any group can still take them.
- Neither kind starves the other: a fan-out waits for older requests that are to go to any one
  shard, and such a request waits for room only, which fan-outs leave.
- PUB drops what nobody is there for. So each group numbers its fan-outs; a member that sees a gap,
  or is told by a beacon of a number that it never saw, names what it missed and gets that sent
  directly.
- A part whose member is gone, or is not to be disturbed, is sent directly to another replica of its
  shard.
- Only a complete set ends a fan-out: one result or error for each shard.
- A part costs nothing until it is answered, if all goes well. A fan-out to a group of which nobody
  is missing or suspected, and none of whose parts anybody else could take over later, is *loose*:
  the balancer does not know of it. Before anything else happens than that parts are answered and
  fan-outs are published, all that is loose is settled: tasks are made of the parts that are not
  answered, and the balancer is told who was sent them, and when.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from zflow.devices.balancing.actions import Action, Send
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.protocol.references import Frame, Payload

BEACON_EVERY = 0.1  # seconds between two beacons to a group that has fan-outs under way
# Fan-outs in the only group there is: nobody else could take the next one any sooner.
ALONE_LIMIT = 2


class Scatter:
    """One ALL request at one Executor: a part for each shard, and what has come back."""

    count = 1  # of requests

    __slots__ = (
        "base",
        "client",
        "deadline",
        "errors",
        "group",
        "number",
        "over",
        "parts",
        "payload",
        "published",
        "results",
        "shards",
        "skip",
    )

    def __init__(
        self,
        base: int,
        shards: int,
        payload: Any = None,
        deadline: float = float("inf"),
        client: Hashable = None,
    ) -> None:
        self.client = client
        self.base = base  # the task id of shard 0's part; the others follow it
        self.shards = shards
        self.payload = payload
        self.deadline = deadline
        # By shard; none as long as the balancer need not know of them.
        self.parts: dict[int, Task] = {}
        self.results: dict[int, Payload] = {}  # by shard
        self.errors: dict[int, Frame] = {}  # by shard
        self.group = -1  # where it was published
        self.number = 0  # as what
        self.published = 0.0  # when
        self.skip: list[int] = []  # shards whose members were passed by
        self.over = False  # complete, or given up

    @property
    def left(self) -> int:
        """How many shards have not ended."""
        return self.shards - len(self.results) - len(self.errors)

    @property
    def complete(self) -> bool:
        """Whether every shard has ended."""
        return self.left == 0

    def ended(self, shard: int) -> bool:
        """Whether this shard has."""
        return shard in self.results or shard in self.errors

    def __repr__(self) -> str:
        return f"Scatter({self.base})"


class Publish(NamedTuple):
    """Publish the scatter to the group, under this number;
    members of the shards in `skip` pass it by.
    """

    group: int
    number: int
    scatter: Scatter
    skip: list[int]


class Group:
    """Replica r of every shard, as far as they are there."""

    __slots__ = ("given_up", "index", "members", "number", "open", "used")

    def __init__(self, index: int) -> None:
        self.index = index
        self.members: dict[int, Replica] = {}  # by shard
        self.number = 0  # of the last fan-out
        self.open: dict[int, Scatter] = {}  # published here and not complete, by number
        # Ended, but members still hold parts: they may have missed them.
        self.given_up: dict[int, Scatter] = {}
        self.used = 0  # when it was last chosen, in fan-outs

    def occupied_by(self, scatter: Scatter) -> bool:
        """Whether a member still holds its part."""
        return any(scatter.base + shard in member.held for shard, member in self.members.items())


class Listener:
    """A member's side: the numbers of its group's fan-outs, and which of them never came.

    Args:
        number: that of the last fan-out before it became a member.

    >>> listener = Listener(4)
    >>> listener.heard(5), listener.heard(8), listener.heard(7)
    ((True, None), (True, (6, 7)), (False, None))
    >>> listener.told(9)
    (9, 9)
    """

    __slots__ = ("number",)

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def heard(self, number: int) -> tuple[bool, tuple[int, int] | None]:
        """A fan-out has come. Returns whether it is new,
        and the first and last of those that were missed before it.

        One that comes late was declared missed, and is sent directly: it is not new any more.
        """
        if number <= self.number:
            return False, None
        return True, self.told(number - 1, number)

    def told(self, last: int, number: int | None = None) -> tuple[int, int] | None:
        """All fan-outs up to `last` should have come.
        Returns the first and last of those that have not.
        """
        first = self.number + 1
        self.number = max(self.number, last if number is None else number)
        return (first, last) if last >= first else None


class Fanout:
    """The groups of one Executor, and the fan-outs that wait for one.

    Args:
        shards: how many shards there are.
        groups: how many replicas each shard has.
        balancer: that of the same Executor. It knows every replica with its shard,
            and keeps the parts.

    Example:
        >>> balancer = Balancer()
        >>> fanout = Fanout(shards=2, groups=1, balancer=balancer)
        >>> for shard in (0, 1):
        ...     replica = Replica(b"shard-%d" % shard, shard=shard)
        ...     actions = balancer.join(replica, now=0.0)
        ...     number = fanout.join(replica, group=0)
        >>> fanout.submit(Scatter(10, shards=2), now=0.0)
        [Publish(group=0, number=1, scatter=Scatter(10), skip=[])]
        >>> scatter, shard = fanout.answered(b"shard-1", 11, service=0.1, now=0.2)
        >>> fanout.result(scatter, shard, "from shard 1"), scatter.complete
        (None, False)
    """

    def __init__(self, shards: int, groups: int, balancer: Balancer) -> None:
        self.shards = shards
        self.groups = [Group(index) for index in range(groups)]
        self._balancer = balancer
        self._waiting: FairQueue[Scatter] = FairQueue()
        self._loose: dict[int, Scatter] = {}  # by base, in the order in which they were published
        self._chosen = 0

    def __len__(self) -> int:
        return len(self._waiting)

    # -- members -----------------------------------------------------------------------------------

    def join(self, replica: Replica, group: int) -> int:
        """Its subscription is confirmed: it is a member from now on.
        Returns the number of the group's last fan-out.
        """
        self.settle()
        while len(self.groups) <= group:
            self.groups.append(Group(len(self.groups)))
        self.groups[group].members[replica.shard] = replica
        return self.groups[group].number

    def leave(self, replica: Replica) -> None:
        """It is gone, or about to go. The balancer looks after the parts that it held."""
        self.settle()
        for group in self.groups:
            if group.members.get(replica.shard) is replica:
                del group.members[replica.shard]

    # -- fan-outs ----------------------------------------------------------------------------------

    def submit(self, scatter: Scatter, now: float) -> list[Action | Publish]:
        """Take an ALL request; it is published at once if a group has room."""
        self._waiting.append(scatter)
        scatter.published = now  # or to be; until then it says since when it waits
        if scatter.deadline < float("inf"):
            self._make_parts(scatter)
        return self.dispatch(now)

    def dispatch(self, now: float) -> list[Action | Publish]:
        """Publish what can be published; to be called after whatever made room."""
        actions: list[Action | Publish] = []
        while self._waiting:
            scatter = self._waiting.head
            if scatter.deadline <= now:
                self._waiting.popleft()
                continue
            oldest = self._balancer.oldest_queued(now)
            if oldest is not None and oldest < scatter.base:
                break
            group = self._idlest()
            if group is None:
                break
            self._waiting.popleft()
            actions.extend(self._publish(group, scatter, now))
        return actions

    def result(self, scatter: Scatter, shard: int, payload: Payload) -> None:
        """A shard has answered with this payload."""
        scatter.results[shard] = payload
        self._close_if_complete(scatter)

    def error(self, scatter: Scatter, shard: int, error: Frame) -> None:
        """A shard has failed with this error."""
        scatter.errors[shard] = error
        self._close_if_complete(scatter)

    def give_up(self, scatter: Scatter) -> None:
        """Nobody wants the scatter's result any more;
        its parts are to be cancelled in the balancer.
        """
        self.settle()
        self._close(scatter)

    def _close_if_complete(self, scatter: Scatter) -> None:
        if scatter.complete:
            self._close(scatter)

    def _close(self, scatter: Scatter) -> None:
        scatter.over = True
        self._loose.pop(scatter.base, None)
        if scatter.group < 0:
            self._waiting.discard(scatter)
        else:
            group = self.groups[scatter.group]
            group.open.pop(scatter.number, None)
            if len(scatter.results) < self.shards:
                group.given_up[scatter.number] = scatter

    def _idlest(self) -> Group | None:
        groups = [group for group in self.groups if self._has_room(group)]
        return min(groups, key=self._load) if len(groups) > 1 else groups[0] if groups else None

    def _has_room(self, group: Group) -> bool:
        """Whether fewer fan-outs stand in the group than its window lets."""
        standing = len(group.open)
        if standing < (ALONE_LIMIT if len(self.groups) == 1 else 1):
            return True
        return standing < min((member.window for member in group.members.values()), default=1)

    def _load(self, group: Group) -> tuple[int, int, int, int]:
        """How many members it lacks, what the fullest one holds, what all hold,
        and when it was last chosen.
        """
        loose = [scatter.left for scatter in group.open.values() if scatter.base in self._loose]
        if self._balancer.idle:
            return self.shards - len(group.members), len(loose), sum(loose), group.used
        held = [len(member.held) for member in group.members.values() if _takes_part(member)]
        return (
            self.shards - len(held),
            max(held, default=0) + len(loose),
            sum(held) + sum(loose),
            group.used,
        )

    def _publish(self, group: Group, scatter: Scatter, now: float) -> Iterator[Action | Publish]:
        loose = not scatter.parts and self._can_be_loose(group)
        self._chosen += 1
        group.used = self._chosen
        group.number += 1
        group.open[group.number] = scatter
        scatter.group, scatter.number, scatter.published = group.index, group.number, now
        if loose:
            self._loose[scatter.base] = scatter
            yield Publish(group.index, group.number, scatter, [])
            return
        self.settle()
        if not scatter.parts:
            self._make_parts(scatter)
        skip = scatter.skip
        for shard, part in scatter.parts.items():
            member = group.members.get(shard)
            if member is None or not _takes_part(member):
                skip.append(shard)
            else:
                self._balancer.place(part, member, now)
        if len(skip) < self.shards:
            yield Publish(group.index, group.number, scatter, skip)
        for shard in skip:
            yield from self._balancer.queue(scatter.parts[shard], now)

    # -- loose fan-outs ----------------------------------------------------------------------------

    def _can_be_loose(self, group: Group) -> bool:
        """Whether all members take part, and none might have to be relieved
        of a part that it has not begun.
        """
        alone = len(self.groups) == 1  # then nobody else could do it
        if len(group.members) < self.shards or (group.open and not alone):
            return False
        members = () if self._balancer.idle else group.members.values()
        return all(_takes_part(member) and (alone or not member.held) for member in members)

    def answered(
        self, name: bytes, id: int, service: float, now: float
    ) -> tuple[Scatter, int] | None:
        """A replica has answered. Returns what it has ended a part of, and its shard; None:
        tell the balancer.
        """
        replica = self._balancer.replicas.get(name)
        if replica is None:
            return None
        shard = replica.shard
        scatter = self._loose.get(id - shard)
        if scatter is not None and not scatter.ended(shard):
            if self.groups[scatter.group].members[shard] is replica:
                self._balancer.served(replica, service, scatter.published, now)
                return scatter, shard
            self.settle()
        elif self._balancer.queued:  # it will look for room
            self.settle()
        return None

    def settle(self) -> None:
        """Tell the balancer of all parts under way; before it is asked for anything
        that depends on who holds what.
        """
        for scatter in self._loose.values():
            self._make_parts(scatter)
            members = self.groups[scatter.group].members
            for shard, part in scatter.parts.items():
                self._balancer.place(part, members[shard], scatter.published)
        self._loose.clear()

    def _make_parts(self, scatter: Scatter) -> None:
        for shard in range(self.shards):
            if not scatter.ended(shard):
                part = scatter.parts[shard] = Task(
                    scatter.base + shard, scatter, scatter.deadline, shard
                )
                part.assigned = scatter.published
                self._balancer.expect(part)

    # -- gaps --------------------------------------------------------------------------------------

    def missed(self, replica: Replica, group: int, first: int, last: int) -> list[Send]:
        """A member never saw the fan-outs numbered `first` to `last`:
        send it directly what it is to do of them.
        """
        self.settle()
        sends = []
        for number, scatter in self.groups[group].open.items():
            if first <= number <= last and _only_published(scatter, replica):
                part = scatter.parts.get(replica.shard)
                if part is not None and part.holder is replica and part.id in self._balancer.tasks:
                    sends.append(Send(replica, part))
        return sends

    def never_seen(self, replica: Replica, group: int, first: int, last: int) -> list[int]:
        """Of these fan-outs, the tasks that ended before the member missed them,
        and for which it still stands.
        """
        given_up = [
            scatter
            for number, scatter in self.groups[group].given_up.items()
            if first <= number <= last
        ]
        ids = [
            scatter.base + replica.shard
            for scatter in given_up
            if _only_published(scatter, replica)
        ]
        return [id for id in ids if id in replica.held]

    @property
    def under_way(self) -> bool:
        """Whether there are fan-outs that were published and that members may
        still have to answer or to miss.
        """
        return any(group.open or group.given_up for group in self.groups)

    def beacons(self) -> list[tuple[int, int]]:
        """The groups that have fan-outs under way, each with the number of its last one."""
        for group in self.groups:
            for number in [
                number
                for number, scatter in group.given_up.items()
                if not group.occupied_by(scatter)
            ]:
                del group.given_up[number]
        return [
            (group.index, group.number) for group in self.groups if group.open or group.given_up
        ]


def _only_published(scatter: Scatter, member: Replica) -> bool:
    """Whether nothing but the publication can have told the member of its part:
    it was never sent directly.
    """
    part = scatter.parts.get(member.shard)
    return (
        part is not None and member.shard not in scatter.skip and part.assigned == scatter.published
    )


def _takes_part(member: Replica) -> bool:
    """Whether a member can be published to: it is there,
    and does not have to be left alone with a suspect.
    """
    return not (member.alone or member.lost)
