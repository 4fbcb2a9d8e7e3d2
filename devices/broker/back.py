"""The broker's side towards replicas: who is there, how each is reached,
and when one counts as gone.

Replicas of this machine connect to a socket in a private folder, and their process manager tells
when one has died. Those of other machines connect over TCP, if the Flow takes any; that their
connection is gone is found out by sending. What requests go where is not decided here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import zmq

from zflow.devices.balancing.replica import Replica
from zflow.devices.broker import failures, greeting, ready
from zflow.devices.broker.leases import Leases
from zflow.devices.broker.line import Line
from zflow.devices.broker.settings import Settings
from zflow.devices.local import tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    Accepted,
    Beacon,
    Done,
    Error,
    Hello,
    Leave,
    Message,
    Missed,
    Ready,
    Refused,
    Welcome,
)
from zflow.devices.protocol.references import Frame, Payload
from zflow.devices.routing.bindings import Binding
from zflow.devices.routing.fanout import BEACON_EVERY
from zflow.devices.routing.pool import NO_GROUP, Actions, Pool
from zflow.devices.sockets import factory
from zflow.devices.sockets.guarded import GuardedPort
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.port import Handlers, Port
from zflow.devices.sockets.zap import REPLICAS

log = logging.getLogger("zflow.broker")

LAST_WORDS = 0.2  # seconds that what a replica said before its end may take to be read, at most
MOST_REFUSALS = 100  # different reasons that are logged
MOST_UNREAD = 10_000  # messages that may wait for a replica on another machine
# Seconds between two looks whether replicas on other machines are still connected.
PROBE_EVERY = 0.25


class BackOwner(Protocol):
    """What the back tells the broker."""

    def bound(self, pool: Pool) -> None:
        """What the replicas of the Executor bind may be something else now (`Pool.bindings`)."""

    def do(self, pool: Pool, actions: Actions) -> None:
        """Something has become of a replica, as its pool knows: this follows from it."""

    def answered(
        self,
        pool: Pool,
        name: bytes,
        first: int,
        seconds: float,
        payload: Payload,
        docs: list[int],
    ) -> None:
        """It has answered tasks, each after so many seconds: a payload of so many Documents,
        or a frame for each.
        """

    def failed(
        self, pool: Pool, name: bytes, tasks: list[int], seconds: float, error: Frame
    ) -> None:
        """It has answered a task with an error; or it could not do several in one go,
        and tells why.
        """

    @property
    def leases(self) -> Leases:
        """Which blocks of shared memory are held by which request."""

    def info(self) -> dict[str, object]:
        """What this Flow says about itself."""


class Back:
    """The sockets for replicas, and the replicas that are there.

    Args:
        pools: by name of their Executor; those whose replicas come here.
        guard: makes a socket for other machines ask for keys, before it listens;
            returns what counts its connections.

    Raises:
        zmq.ZMQError: an address cannot be listened on.
    """

    def __init__(
        self,
        context: factory.Context,
        settings: Settings,
        pools: dict[str, Pool],
        owner: BackOwner,
        guard: Callable[[factory.Socket, bytes], Meter],
    ) -> None:
        self._owner = owner
        self._pools = pools
        self._encode = messages.encoder()
        self._address = settings.back
        back, _ = factory.listen(context, zmq.ROUTER, [settings.back])
        fan, _ = factory.listen(context, zmq.XPUB, [settings.fan])
        fan.set(zmq.XPUB_VERBOSE, 1)
        collector, _ = factory.listen(context, zmq.PULL, [settings.collector])
        self._ports = [Port(back, 3)]
        self._remote: Port | None = None
        self.addresses: list[str] = []  # for replicas of other machines
        if settings.replicas_from is not None:
            remote, _ = factory.listen(context, zmq.ROUTER, [], settings.max_message_bytes)
            self._remote = GuardedPort(remote, 3, guard(remote, REPLICAS), MOST_UNREAD)
            self.addresses = factory.bind(remote, [settings.replicas_from])
            self._ports.append(self._remote)
        for port in self._ports:
            port.socket.set(zmq.ROUTER_MANDATORY, 1)
        self._fan = Port(fan, 3)
        self._collector = Port(collector, 3)
        self._members: dict[Port, dict[bytes, Pool]] = {port: {} for port in self._ports}
        self._lines: dict[bytes, Line] = {}
        # Replicas that are gone; until when their last words may still come.
        self._lost: dict[bytes, float] = {}
        self._how: dict[bytes, str] = {}  # how those of them ended whose processes have
        self._refused: set[str] = set()  # the reasons that were logged
        self._subscribed: set[bytes] = set()  # replicas whose subscriptions have arrived
        # Who has asked who this is, or is refused: of several in one turn the last is answered, as
        # answers are long.
        self._replies: dict[tuple[Port, bytes], tuple[Line, int, str | None]] = {}
        # Replicas that are ready but for that.
        self._joining: dict[bytes, tuple[Pool, Replica, int, Binding]] = {}
        self._fanned = [(pool, pool.fanout) for pool in pools.values() if pool.fanout is not None]
        self._next_beacon = self._next_probe = 0.0
        self._answering: list[tuple[Port, Callable[[list[Any]], None]]] = [
            (port, partial(self._from_replica, port, members))
            for port, members in self._members.items()
        ]
        local = self._members[self._ports[0]]
        self._answering.append((self._collector, partial(self._from_replica, None, local)))

    def handlers(self, read: Callable[[Port, Callable[[list[Any]], None]], None]) -> Handlers:
        """The sockets to watch, and what to call when there is something to read."""
        self._read = read
        return {
            port.socket: partial(read, port, handle)
            for port, handle in (*self._answering, (self._fan, self._subscription))
            if self._fanned or port not in (self._fan, self._collector)
        }

    def close(self) -> None:
        """Close the sockets."""
        for line in self._lines.values():
            line.close()
        for port in (*self._ports, self._fan, self._collector):
            port.socket.close()

    # -- what is heard -----------------------------------------------------------------------------

    def _from_replica(
        self, port: Port | None, members: dict[bytes, Pool], frames: list[Any]
    ) -> None:
        """Take in a message of one of these members, or of one that wants to be;
        on the collector there is no port.
        """
        identity = frames[0]
        if len(frames) < 2:
            raise messages.Malformed("no header")
        remote = port is not None and port is self._remote
        unexpected = False
        direction = messages.FROM_REPLICA if remote else messages.FROM_LOCAL_REPLICA
        for message in bundles.read(frames, 1, direction):
            if isinstance(message, (Hello, Ready)) and port is not None:
                self._greeted(port, identity, message)
                continue
            pool = members.get(identity)
            if pool is None or isinstance(message, (Hello, Ready)):
                if not remote and isinstance(message, (Done, Error)):
                    self._owner.leases.unheard(identity, message.payload)
                raise messages.Unexpected("an answer from an unknown replica")
            given = pool.given(identity, message) if remote else (message,)
            unexpected = unexpected or given != (message,)
            for one in given:
                self._said(pool, identity, one)
        if unexpected:  # the rest counts: else what it has answered besides would stay its own
            raise messages.Unexpected("an answer to what it was not given")

    def _said(self, pool: Pool, identity: bytes, message: Message) -> None:
        if isinstance(message, (Done, Error)) and not message.payload:
            raise messages.Malformed("an answer without a payload")
        if isinstance(message, Done):
            first, took, docs, payload = message
            self._owner.answered(pool, identity, first, took * 1e-6, payload, docs)
        elif isinstance(message, Error):
            self._owner.failed(
                pool, identity, message.tasks, message.took * 1e-6, message.payload[0]
            )
        elif isinstance(message, Missed):
            self._owner.do(
                pool, pool.missed(identity, message.first, message.last, time.monotonic())
            )
        elif isinstance(message, Leave):
            self._forget(identity)
            self._owner.do(pool, pool.leave(identity, time.monotonic()))

    def _greeted(self, port: Port, identity: bytes, message: Hello | Ready) -> None:
        line = Line(
            port, identity, self._encode, self._owner.leases.plain if port is self._remote else None
        )
        if isinstance(message, Hello):
            self._replies[port, identity] = line, message.token, None
            return
        why = self._ready(line, message)
        if why:
            self._replies[port, identity] = line, 0, why

    def _refuse(self, line: Line, why: str) -> None:
        if why not in self._refused and len(self._refused) < MOST_REFUSALS:
            self._refused.add(why)
            log.warning(
                "a replica that calls itself %r is refused: %s",
                failures.name_of(line.identity),
                why,
            )
        line.say(Refused(why))

    def _ready(self, line: Line, said: Ready) -> str | None:
        """A replica wants to be taken in: at once, or when its subscription has arrived too.
        Returns why it is not.
        """
        if line.identity in self._how:
            return None  # these were its last words
        pool = self._pools.get(said.executor)
        if pool is None:
            known = sorted(self._pools)
            return (
                f"there is no Executor {said.executor!r:.200} here that replicas can join; "
                f"there are {known}"
            )
        if line.port is self._remote and not _is_from_elsewhere(line.identity):
            return "such a name is for replicas of the Flow's own machine"
        if line.identity in self._lines and self._members[line.port].get(line.identity) is not pool:
            return "another replica has that name"
        checked = ready.read(pool.node, said)
        if isinstance(checked, str):
            return checked
        number = checked.number
        if line.port is self._remote:
            number = NO_GROUP
            why = pool.bindings.objection(checked.binding)
            if why is not None:
                return why
        replica = Replica(line.identity, checked.slots, checked.shard)
        replica.line = line
        self._joining[line.identity] = (pool, replica, number, checked.binding)
        self._accept(line.identity)
        return None

    def _subscription(self, frames: list[Any]) -> None:
        """A replica has subscribed to its own topic,
        so whatever it subscribed to before has arrived too.
        """
        if frames[0][:2] == b"\x01@":
            self._subscribed.add(frames[0][2:])
            self._accept(frames[0][2:])
        elif frames[0][:2] == b"\x00@":
            self._subscribed.discard(frames[0][2:])

    def _accept(self, identity: bytes) -> None:
        if identity not in self._joining:
            return
        pool, replica, group, binding = self._joining[identity]
        if pool.fanout is not None and group != NO_GROUP and identity not in self._subscribed:
            return
        del self._joining[identity]
        self._lost.pop(identity, None)
        line = replica.line
        if identity in self._lines:
            self._lines[identity].close()
        if line.port is self._ports[0] and pool.fanout is None:
            line.tickets = replica.tickets = tickets.find(self._address, identity)
        self._members[line.port][identity] = pool
        self._lines[identity] = line
        pool.names[identity] = failures.name_of(identity)
        self._bind(pool, identity, binding, line.port is not self._remote)
        number, actions = pool.join(replica, group, time.monotonic())
        self._owner.do(pool, actions)
        line.say(Accepted(number))
        self._turn_away_strangers(pool)

    def _bind(self, pool: Pool, identity: bytes, binding: Binding, here: bool) -> None:
        before = pool.bindings.endpoints
        pool.bindings.join(identity, binding, here)
        bound, declared = pool.bindings.endpoints, pool.node.declared
        if declared is not None and bound not in (None, before, declared):
            log.warning(
                "Executor %r binds %s, not what endpoints= says, %s: its replicas decide",
                *(pool.node.name, sorted(bound), sorted(declared)),
            )
        self._owner.bound(pool)

    def _forget(self, identity: bytes) -> Pool | None:
        self._lost.pop(identity, None)
        line = self._lines.pop(identity, None)
        if line is None:
            return None
        line.close()
        pool = self._members[line.port].pop(identity)
        pool.bindings.leave(identity)
        self._owner.bound(pool)
        self._turn_away_strangers(pool)
        return pool

    def _turn_away_strangers(self, pool: Pool) -> None:
        """Replicas of this machine say something else by now than some elsewhere:
        those get nothing new, and leave.
        """
        for identity, why in pool.bindings.strangers.items() if self._remote is not None else ():
            pool.bindings.leave(identity)
            self._refuse(self._lines[identity], why)
            self._owner.do(pool, pool.lose(identity, time.monotonic()))

    # -- what is published -------------------------------------------------------------------------

    def publish(self, topic: bytes, message: Message) -> None:
        """Send to all that have subscribed to the topic."""
        self._fan.send([topic, *bundles.message(message, self._encode)])

    def _send_beacons(self, now: float) -> None:
        self._next_beacon = now + BEACON_EVERY
        for pool, fanout in self._fanned:
            for group, number in fanout.beacons():
                self.publish(messages.topic(pool.index, group), Beacon(number))

    # -- those that are gone -----------------------------------------------------------------------

    @property
    def wait(self) -> float:
        """In how many seconds `tick` is to be called at the latest."""
        if self._lost:
            return 0.001
        if any(fanout.under_way for _, fanout in self._fanned):
            return BEACON_EVERY
        return PROBE_EVERY if self._remote is not None else 1.0

    def tick(self) -> None:
        """What time alone brings about, and answers to those who have said who they are,
        to each one in a turn.
        """
        if self._replies:
            self._reply()
        if self._lost:
            self._bury_lost()
        if self._fanned and (now := time.monotonic()) >= self._next_beacon:
            self._send_beacons(now)
        if self._remote is not None and (now := time.monotonic()) >= self._next_probe:
            self._next_probe = now + PROBE_EVERY
            for identity, line in list(self._lines.items()):
                if line.port is self._remote and identity not in self._lost and not line.reached():
                    log.warning("%s on another machine is gone", failures.name_of(identity))
                    self.unreachable(identity)

    def _reply(self) -> None:
        replies, self._replies = self._replies, {}
        info = None
        for line, token, why in replies.values():
            if why is None:
                info = info or greeting.fitting({**self._owner.info(), "for_replicas": True})
                line.say(Welcome(token, info))
            else:
                self._refuse(line, why)

    def unreachable(self, identity: bytes, unsent: int | None = None) -> None:
        """A message could not be sent to this replica."""
        self._lose(identity, time.monotonic(), unsent)

    def crash(self, identity: bytes, how: str) -> None:
        """A replica's process has ended, as in `'SIGKILL'`:
        its pool is told when its last words have been read.
        """
        self._how[identity] = how
        self._joining.pop(identity, None)
        self._subscribed.discard(identity)
        # Also if it is unknown: it may have been about to join.
        self._lost[identity] = time.monotonic() + LAST_WORDS
        self._lose(identity, self._lost[identity])

    def _lose(self, identity: bytes, until: float, unsent: int | None = None) -> None:
        line = self._lines.get(identity)
        if line is not None:
            self._lost[identity] = until
            pool = self._members[line.port][identity]
            self._owner.do(pool, pool.lose(identity, time.monotonic(), unsent))

    def _bury_lost(self) -> None:
        """Bury those from whom nothing can be on its way any more:
        libzmq has read their connections to the end.
        """
        now = time.monotonic()
        lines = self._lines
        over = [
            name
            for name, end in self._lost.items()
            if now >= end or (name in lines and not lines[name].reached())
        ]
        for port, handle in self._answering if over else ():
            while port.readable():
                self._read(port, handle)
        for identity in over:
            how = self._how.pop(identity, "its connection broke")
            pool = self._forget(identity)
            if pool is not None:
                self._owner.do(pool, pool.crash(identity, time.monotonic(), how))


def _is_from_elsewhere(identity: bytes) -> bool:
    """Whether it names its machine, as `encoder/rep-0@far#7-0a`,
    so that nobody takes it for one of this machine.
    """
    name, _, process = identity.partition(b"#")
    return b"@" in name and not process.isdigit()
