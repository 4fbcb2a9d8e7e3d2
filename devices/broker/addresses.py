"""External Executors: each address is one replica of its pool,
and is spoken to as its client would speak to it.

An address is *here* when its front has said who it is; then it is in the pool, with as many slots
as it says that it can work on at once. When its connection is cut it gets nothing new; if the same
Flow is back soon, what was not answered is sent again (the far side knows by the id what it has got
already), else other addresses get it. Addresses are tried again for ever.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgpack
import zmq

from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker import failures
from zflow.devices.broker.leases import Leases
from zflow.devices.broker.ready import MAX_SLOTS, MOST_ENDPOINTS
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    MAX_ENDPOINT,
    Cancel,
    Failed,
    Info,
    Malformed,
    Message,
    Note,
    Reply,
    Request,
)
from zflow.devices.protocol.parts import split
from zflow.devices.protocol.references import Frame, Payload
from zflow.devices.protocol.session import Event, Greeted, NotUnderstood, Session, Silent, Welcomed
from zflow.devices.routing.pool import Actions, Pool
from zflow.devices.sockets import factory
from zflow.devices.sockets.port import BATCH, Handlers, Port

log = logging.getLogger("zflow.broker")

ASK_EVERY = 1.0  # seconds between two questions to an address how it is
# Seconds without a word, although it was asked for one, until an address counts as gone.
SILENT_FOR = 4.0
CONNECT_EVERY = 1.0  # seconds between two attempts at an address that refuses the connection
GRACE = 0.5  # seconds that a cut connection may take to be back before others get what it had
MOST_REASONS = 20  # why one cannot be used, that are logged
NEVER_MIND = 10_000  # requests remembered that an address need not answer any more


class AddressOwner(Protocol):
    """What an address tells the broker."""

    def joined(self, pool: Pool, replica: Replica) -> None:
        """An address is here and may be given tasks."""

    def bound(self, pool: Pool) -> None:
        """What the addresses bind may have changed."""

    def do(self, pool: Pool, actions: Actions) -> None:
        """Carry out what the pool says."""

    def answered(
        self,
        pool: Pool,
        name: bytes,
        first: int,
        seconds: float,
        payload: Sequence[Payload],
        docs: None,
        notes: dict[str, Note] | None = None,
    ) -> None:
        """It has answered a task with payloads."""

    def failed(
        self, pool: Pool, name: bytes, tasks: list[int], seconds: float, error: Frame
    ) -> None:
        """It has answered a task with an error."""

    @property
    def leases(self) -> Leases:
        """Which blocks of shared memory are held by which request."""

    def malformed(self, error: Exception, frames: Payload) -> None:
        """A message of these frames cannot be handled."""


class Address:
    """One address of an external Executor.

    Args:
        pool: the Executor's.
        url: `'tcp://host:port'`.
        socket: a DEALER, not connected yet.
        owner: whom to tell.
    """

    def __init__(self, pool: Pool, url: str, socket: factory.Socket, owner: AddressOwner) -> None:
        self.pool = pool
        self.url = url
        self.name = f"{pool.node.name}@{url.removeprefix('tcp://')}".encode()
        self._owner = owner
        self._encode = messages.encoder()
        self._waiting: list[Message] = []
        self._port = Port(socket, 2)
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket = socket
        socket.set(zmq.SNDTIMEO, 0)
        self._session = Session(ASK_EVERY, SILENT_FOR, always=True)
        self.here = False
        self._lost_at: float | None = None  # when the connection was cut, if it is to be back soon
        self._forgotten: set[int] = set()  # what it was given and others have now
        self._refused: set[str] = set()  # the reasons that were logged since it was here
        self._connect_at = 0.0
        socket.connect(url)

    # -- as a line to a replica --------------------------------------------------------------------

    @property
    def identity(self) -> bytes:
        """What the broker calls it."""
        return self.name

    @property
    def info(self) -> Info:
        """What it said last about itself."""
        return self._session.info

    def give(self, task: Task, again: bool = False) -> None:
        """Send a task, when `flush` is called; again, if it was sent before."""
        walk, parts, frames = failures.task_frames(task)
        payload = self._owner.leases.plain(frames)
        self._waiting.append(
            Request(task.id, walk.endpoint, None, parts, 0, again, walk.docs, payload)
        )

    def recall(self, id: int) -> None:
        """Take a task back, when `flush` is called."""
        self._waiting.append(Cancel(id))

    def flush(self) -> bool:
        """Send what there is to send. Where there is nobody to send to, `watch` is told of it,
        and this is True too.
        """
        waiting, self._waiting = self._waiting, []
        # Never waits: where a connection was refused there is nobody to send to.
        with contextlib.suppress(zmq.Again):
            for frames in bundles.frames_of(waiting, self._encode):
                self._port.send(frames)
        return True

    # -- what is heard -----------------------------------------------------------------------------

    def read(self, now: float) -> None:
        """Take in what has arrived."""
        for frames in self._port.receive_some(BATCH) if self._port.readable() else ():
            try:
                for event in self._session.take(frames, now):
                    self._take(event, now)
            except NotUnderstood as error:
                self._refuse(_message(error.frames))
            except Malformed as error:
                self._refuse(f"what answers is no zflow Flow of this version ({error})")
            except Exception as error:
                self._owner.malformed(error, frames)

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Reply):
            self._replied(event)
        elif isinstance(event, Failed):
            self._failed(event, now)
        elif isinstance(event, Welcomed):
            self._welcomed(event, now)
        elif isinstance(event, Greeted):
            self._cut(now)
            if event.question is not None:
                self._say(event.question)
        else:
            raise Malformed("no answer")

    def watch(self, now: float) -> None:
        """Take in what has become of the connection."""
        while self.monitor.poll(0):
            self.monitor.recv_multipart()
            self._cut(now)

    def tick(self, now: float) -> None:
        """Ask how it is, and give it up when it has been away too long."""
        if self._lost_at is not None and now - self._lost_at > GRACE:
            self._gone(now)
        if not self.here and now >= self._connect_at and self._port.refused:
            self._connect_at = now + CONNECT_EVERY
            self._refuse(
                "it refuses the connection: it does not know these keys (curve=), or has no room"
            )
            self.socket.disconnect(self.url)  # libzmq does not try again by itself
            self.socket.connect(self.url)
        if self.here and self._lost_at is None:
            found = self._session.tick(now)
            if isinstance(found, Silent):
                self._cut(now)
            elif found is not None:
                self._say(found)

    def _say(self, question: Message) -> None:
        self._waiting.append(question)
        self.flush()

    def _cut(self, now: float) -> None:
        if self.here and self._lost_at is None:
            # What may have begun must not begin again: then there is nothing to wait for.
            self._lost_at = now if self.pool.balancer.retries else now - 2 * GRACE
            self._lose(now)

    def _lose(self, now: float, unsent: int | None = None) -> None:
        self._owner.do(self.pool, self.pool.lose(self.name, now, unsent))

    def _gone(self, now: float) -> None:
        """Nobody waits for it any more."""
        log.warning(
            "external Executor %r: %s does not answer; still trying", self.pool.node.name, self.url
        )
        replica = self.pool.balancer.replicas.get(self.name)
        if replica is not None and len(self._forgotten) < NEVER_MIND:
            self._forgotten.update(replica.held)
        self.here, self._lost_at = False, None
        self._owner.do(self.pool, self.pool.crash(self.name, now, "it does not answer"))

    def _welcomed(self, welcome: Welcomed, now: float) -> None:
        pool = self.pool
        if self.here and not welcome.same_broker:
            self._gone(now)  # it was started anew and knows nothing of what it was given
        slots = min(MAX_SLOTS, capacity(welcome.info))
        if welcome.info.get("closing"):
            if self.here:
                self._lose(now)
            return
        if not self.here:
            self._join(slots, forgotten=self._forgotten if welcome.same_broker else set())
            return
        if self._lost_at is not None:
            self._lost_at = None
            tasks, actions = pool.find(self.name, now)
            self._owner.do(pool, actions)
            for task in tasks:
                self.give(task, again=True)
            self.flush()
        self._owner.bound(pool)
        self._owner.do(pool, pool.resize(self.name, slots, now))

    def _join(self, slots: int, forgotten: set[int]) -> None:
        for id in forgotten:
            self.recall(id)
        self.flush()
        self._forgotten = set()
        self._refused.clear()
        self.here = True
        replica = Replica(self.name, slots)
        replica.line = self
        log.info(
            "external Executor %r: %s is here, %d at once", self.pool.node.name, self.url, slots
        )
        self._owner.joined(self.pool, replica)

    def _failed(self, answer: Failed, now: float) -> None:
        if not answer.payload:
            self._unreadable(answer.first, Malformed("an error without a payload"))
        elif failures.told(answer.payload[0]).get("type") == "FlowNotRunning":
            self._lose(now, unsent=answer.first)
        else:
            error = bytes(answer.payload[0])
            self._owner.failed(self.pool, self.name, [answer.first], answer.took * 1e-6, error)

    def _replied(self, answer: Reply) -> None:
        id, _, parts, notes, took, frames = answer
        try:
            payloads = (
                [frames] if parts is None else [p for _, some in split(parts, frames) for p in some]
            )
            if not (payloads and payloads[0]):
                raise Malformed("an answer without a payload")
            if notes is not None:
                _check_notes(notes)
        except Malformed as error:
            self._unreadable(id, error)
            return
        self._owner.answered(self.pool, self.name, id, took * 1e-6, payloads, None, notes)

    def _unreadable(self, id: int, error: Malformed) -> None:
        self._refuse(f"it sent an answer that cannot be read: {error}")
        told = failures.error("BadRequest", f"the answer of {self.url} cannot be read: {error}")
        self._owner.failed(self.pool, self.name, [id], 0.0, told)

    def _refuse(self, why: str) -> None:
        why = failures.shown(why)
        if why not in self._refused and len(self._refused) < MOST_REASONS:
            self._refused.add(why)
            log.warning(
                "external Executor %r: %s cannot be used: %s", self.pool.node.name, self.url, why
            )

    def close(self) -> None:
        """Let go of the sockets."""
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


class Externals:
    """All addresses of all external Executors of a Flow."""

    def __init__(
        self,
        context: factory.Context,
        pools: Sequence[Pool],
        owner: AddressOwner,
        secure: Callable[[Pool, factory.Socket], None],
    ) -> None:
        self._addresses = []
        for pool in pools:
            for url in pool.node.addresses:
                socket = factory.dealer(context, messages.FLOW)
                secure(pool, socket)
                self._addresses.append(Address(pool, url, socket, owner))

    def __bool__(self) -> bool:
        return bool(self._addresses)

    def handlers(self, clock: Callable[[], float]) -> Handlers:
        """The sockets to watch, and what to call when there is something to read;
        what tells of cuts comes first.
        """
        found: Handlers = {}
        for address in self._addresses:
            found[address.monitor] = lambda address=address: address.watch(clock())  # type: ignore[misc]
        for address in self._addresses:
            found[address.socket] = lambda address=address: address.read(clock())  # type: ignore[misc]
        return found

    def tick(self, now: float) -> None:
        """What time alone brings about."""
        for address in self._addresses:
            address.tick(now)

    def endpoints(self, pool: Pool) -> frozenset[str] | None:
        """What the addresses of a pool that are known bind, all together;
        None if any of them may bind everything.

        What the Flow itself says of that counts over what they say.
        """
        if pool.node.declared is not None:
            return pool.node.declared
        known = [
            address.info for address in self._addresses if address.pool is pool and address.info
        ]
        bound: set[str] = set()
        for info in known:
            for executor in _executors(info):
                endpoints = executor.get("endpoints")
                if not isinstance(endpoints, list) or len(endpoints) > MOST_ENDPOINTS:
                    return None
                bound.update(
                    name
                    for name in endpoints
                    if isinstance(name, str) and len(name) <= MAX_ENDPOINT
                )
        return frozenset(bound) if known else None

    def close(self) -> None:
        """Let go of the sockets."""
        for address in self._addresses:
            address.close()


def capacity(info: Info) -> int:
    """How many requests a Flow can work on at once, by what it says of itself:
    all slots of all its Executors.

    >>> capacity({"executors": {"encoder": {"slots": 3}, "indexer": {"slots": 1}}})
    4
    """
    slots = [executor.get("slots") for executor in _executors(info)]
    return sum(some for some in slots if type(some) is int and some > 0) if slots else 1


def _executors(info: Info) -> list[dict[str, object]]:
    executors = info.get("executors")
    return (
        [one for one in executors.values() if type(one) is dict] if type(executors) is dict else []
    )


def _check_notes(notes: Mapping[str, object]) -> None:
    """Check what is told of shards that have failed:
    `{executor: {'shards': 2, 'succeeded': 1, 'failed': {'1': why}}}`.

    Raises:
        Malformed: it is something else, or there is too much of it.
    """
    if len(msgpack.packb(notes)) > failures.LONGEST_NOTES:
        raise Malformed("too many notes")
    for name, note in notes.items():
        if type(name) is not str or type(note) is not dict or len(note) != 3:
            raise Malformed("notes are none")
        shards, succeeded, failed = map(note.get, ("shards", "succeeded", "failed"))
        if not (type(shards) is type(succeeded) is int and type(failed) is dict and _texts(failed)):
            raise Malformed("notes are none")


def _texts(pairs: Mapping[object, object]) -> bool:
    return all(type(key) is type(value) is str for key, value in pairs.items())


def _message(frames: Sequence[Frame]) -> str:
    said = failures.told(frames[0]) if frames else {}
    return said.get("message", "it speaks another version of the protocol")
