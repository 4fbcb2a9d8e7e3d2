"""External Executors: each address is one replica of its pool, and is spoken to as its client would speak to it.

An address is *here* when its front has said who it is; then it is in the pool, with as many slots as it says that it
can work on at once. When its connection is cut it gets nothing new; if the same Flow is back soon, what was not
answered is sent again (the far side knows by the id what it has got already), else other addresses get it.
Addresses are tried again for ever.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgpack
import zmq

from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker import failures
from zflow.devices.broker.leases import Leases
from zflow.devices.broker.ready import MAX_SLOTS, MOST_ENDPOINTS
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import MAX_ENDPOINT
from zflow.devices.protocol.parts import split
from zflow.devices.protocol.session import (
    Event,
    Failed,
    Greeted,
    NotUnderstood,
    Reply,
    Session,
    Silent,
    Welcome,
)
from zflow.devices.routing.pool import Pool
from zflow.devices.sockets import factory
from zflow.devices.sockets.port import BATCH, Port

log = logging.getLogger("zflow.broker")

ASK_EVERY = 1.0  # seconds between two questions to an address how it is
SILENT_FOR = 4.0  # seconds without a word, although it was asked for one, until an address counts as gone
CONNECT_EVERY = 1.0  # seconds between two attempts at an address that refuses the connection
GRACE = 0.5  # seconds that a cut connection may take to be back before others get what it had
MOST_REASONS = 20  # why one cannot be used, that are logged
NEVER_MIND = 10_000  # requests remembered that an address need not answer any more


class AddressOwner(Protocol):
    """What an address tells the broker."""

    def joined(self, pool: Pool, replica: Replica) -> None:
        """A replica is here and may be given tasks."""

    def lost(self, pool: Pool, name: Any, unsent: int | None = None) -> None:
        """It gets nothing new, but may still answer or be back; it has not begun `unsent`, and will not."""

    def gone(self, pool: Pool, name: Any, how: str) -> None:
        """It will not answer; whatever it had is to be given to others."""

    def resized(self, pool: Pool, name: Any, slots: int) -> None:
        """It can work on so many tasks at once from now on."""

    def found(self, pool: Pool, name: Any) -> list[Task]:
        """It is back; returns what it had not answered."""

    def answered(
        self,
        pool: Pool,
        name: Any,
        id: int,
        seconds: float,
        payload: Any,
        failed: bool,
        docs: int | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """It has answered with payloads, or with an error."""

    @property
    def leases(self) -> Leases:
        """Which blocks of shared memory are held by which request."""

    def malformed(self, error: Exception, frames: Sequence[Any]) -> None:
        """A message of these frames cannot be handled."""


class Address:
    """One address of an external Executor.

    Args:
        pool: the Executor's.
        url: `'tcp://host:port'`.
        socket: a DEALER, not connected yet.
        owner: whom to tell.
    """

    def __init__(self, pool: Pool, url: str, socket: zmq.Socket[bytes], owner: AddressOwner) -> None:
        self.pool = pool
        self.url = url
        self.name = f"{pool.node.name}@{url.removeprefix('tcp://')}".encode()
        self._owner = owner
        self._encode = messages.encoder()
        self._waiting: list[messages.Message] = []
        self._port = Port(socket, 2)
        self.monitor: Any = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket = socket
        socket.set(zmq.SNDTIMEO, 0)
        self._session = Session(ASK_EVERY, SILENT_FOR, always=True)
        self.here = False
        self._lost_at: float | None = None  # when the connection was cut, if it is to be back soon
        self._forgotten: set[int] = set()  # what it was given and others have now
        self._refused: set[str] = set()  # the reasons that were logged since it was here
        self._connect_at = 0.0
        socket.connect(url)

    # -- as a line to a replica -----------------------------------------------------------------------------------

    @property
    def identity(self) -> bytes:
        """What the broker calls it."""
        return self.name

    @property
    def info(self) -> dict[str, Any]:
        """What it said last about itself."""
        return self._session.info

    def give(self, task: Task, kind: int = messages.REQUEST) -> None:
        """Send a task, when `flush` is called."""
        walk, parts, frames = failures.task_frames(task)
        header = (messages.VERSION, kind, task.id, walk.endpoint, None, parts, 0, walk.docs)
        self._waiting.append((header, self._owner.leases.plain(frames)))

    def recall(self, id: int) -> None:
        """Take a task back, when `flush` is called."""
        self._waiting.append(((messages.VERSION, messages.CANCEL, id), ()))

    def flush(self) -> bool:
        """Send what there is to send. Where there is nobody to send to, `watch` is told of it, and this is True too."""
        waiting, self._waiting = self._waiting, []
        # Never waits: where a connection was refused there is nobody to send to.
        with contextlib.suppress(zmq.Again):
            for frames in bundles.frames_of(waiting, self._encode):
                self._port.send(frames)
        return True

    # -- what is heard --------------------------------------------------------------------------------------------

    def read(self, now: float) -> None:
        """Take in what has arrived."""
        for frames in self._port.receive_some(BATCH) if self._port.readable() else ():
            try:
                for event in self._session.take(frames, now):
                    self._take(event, now)
            except NotUnderstood as error:
                self._refuse(_message(error.frames))
            except messages.Malformed as error:
                self._refuse(f"what answers is no zflow Flow of this version ({error})")
            except Exception as error:
                self._owner.malformed(error, frames)

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Reply):
            self._replied(event)
        elif isinstance(event, Failed):
            self._failed(event)
        elif isinstance(event, Welcome):
            self._welcomed(event)
        elif isinstance(event, Greeted):
            self._cut(now)
            if event.question is not None:
                self._say(event.question)
        else:
            raise messages.Malformed("no answer")

    def watch(self, now: float) -> None:
        """Take in what has become of the connection."""
        while self.monitor.poll(0):
            self.monitor.recv_multipart()
            self._cut(now)

    def tick(self, now: float) -> None:
        """Ask how it is, and give it up when it has been away too long."""
        if self._lost_at is not None and now - self._lost_at > GRACE:
            self._gone()
        if not self.here and now >= self._connect_at and self._port.refused:
            self._connect_at = now + CONNECT_EVERY
            self._refuse("it refuses the connection: it does not know these keys (curve=), or has no room")
            self.socket.disconnect(self.url)  # libzmq does not try again by itself
            self.socket.connect(self.url)
        if self.here and self._lost_at is None:
            found = self._session.tick(now)
            if isinstance(found, Silent):
                self._cut(now)
            elif found is not None:
                self._say(found)

    def _say(self, question: messages.Message) -> None:
        self._waiting.append(question)
        self.flush()

    def _cut(self, now: float) -> None:
        if self.here and self._lost_at is None:
            # What may have begun must not begin again: then there is nothing to wait for.
            self._lost_at = now if self.pool.balancer.retries else now - 2 * GRACE
            self._owner.lost(self.pool, self.name)

    def _gone(self) -> None:
        """Nobody waits for it any more."""
        log.warning("external Executor %r: %s does not answer; still trying", self.pool.node.name, self.url)
        replica = self.pool.balancer.replicas.get(self.name)
        if replica is not None and len(self._forgotten) < NEVER_MIND:
            self._forgotten.update(replica.held)
        self.here, self._lost_at = False, None
        self._owner.gone(self.pool, self.name, "it does not answer")

    def _welcomed(self, welcome: Welcome) -> None:
        if self.here and not welcome.same_broker:
            self._gone()  # it was started anew and knows nothing of what it was given
        slots = min(MAX_SLOTS, capacity(welcome.info))
        if welcome.info.get("closing"):
            if self.here:
                self._owner.lost(self.pool, self.name)
        elif not self.here:
            self._join(slots, forgotten=self._forgotten if welcome.same_broker else set())
        elif self._lost_at is not None:
            self._lost_at = None
            for task in self._owner.found(self.pool, self.name):
                self.give(task, messages.AGAIN)
            self.flush()
            self._owner.resized(self.pool, self.name, slots)
        else:
            self._owner.resized(self.pool, self.name, slots)

    def _join(self, slots: int, forgotten: set[int]) -> None:
        for id in forgotten:
            self.recall(id)
        self.flush()
        self._forgotten = set()
        self._refused.clear()
        self.here = True
        replica = Replica(self.name, slots)
        replica.line = self
        log.info("external Executor %r: %s is here, %d at once", self.pool.node.name, self.url, slots)
        self._owner.joined(self.pool, replica)

    def _failed(self, answer: Failed) -> None:
        if not answer.frames:
            self._unreadable(answer.id, messages.Malformed("an error without a payload"))
        elif _error(answer.frames[0]).get("type") == "FlowNotRunning":
            self._owner.lost(self.pool, self.name, unsent=answer.id)
        else:
            error = bytes(answer.frames[0])
            self._owner.answered(self.pool, self.name, answer.id, answer.took_us * 1e-6, error, True)

    def _replied(self, answer: Reply) -> None:
        frames, parts = answer.frames, answer.parts
        try:
            payloads = [frames] if parts is None else [p for _, some in split(parts, frames) for p in some]
            if not (payloads and payloads[0]):
                raise messages.Malformed("an answer without a payload")
            notes = None if answer.notes is None else _notes(answer.notes)
        except messages.Malformed as error:
            self._unreadable(answer.id, error)
            return
        seconds = answer.took_us * 1e-6
        self._owner.answered(self.pool, self.name, answer.id, seconds, payloads, False, notes=notes)

    def _unreadable(self, id: int, error: messages.Malformed) -> None:
        self._refuse(f"it sent an answer that cannot be read: {error}")
        told = failures.error("BadRequest", f"the answer of {self.url} cannot be read: {error}")
        self._owner.answered(self.pool, self.name, id, 0.0, told, True)

    def _refuse(self, why: str) -> None:
        why = failures.shown(why)
        if why not in self._refused and len(self._refused) < MOST_REASONS:
            self._refused.add(why)
            log.warning("external Executor %r: %s cannot be used: %s", self.pool.node.name, self.url, why)

    def close(self) -> None:
        """Let go of the sockets."""
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


class Externals:
    """All addresses of all external Executors of a Flow."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        pools: Sequence[Pool],
        owner: AddressOwner,
        secure: Callable[[Pool, zmq.Socket[bytes]], None],
    ) -> None:
        self._addresses = []
        for pool in pools:
            for url in pool.node.addresses:
                socket = factory.dealer(context)
                secure(pool, socket)
                self._addresses.append(Address(pool, url, socket, owner))

    def __bool__(self) -> bool:
        return bool(self._addresses)

    def handlers(self, clock: Callable[[], float]) -> dict[Any, Callable[[], None]]:
        """The sockets to watch, and what to call when there is something to read; what tells of cuts comes first."""
        found: dict[Any, Callable[[], None]] = {}
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
        """What the addresses of a pool that are known bind, all together; None if any of them may bind everything.

        What the Flow itself says of that counts over what they say.
        """
        if pool.node.declared is not None:
            return pool.node.declared
        known = [address.info for address in self._addresses if address.pool is pool and address.info]
        bound: set[str] = set()
        for info in known:
            for executor in _executors(info):
                endpoints = executor.get("endpoints")
                if not isinstance(endpoints, list) or len(endpoints) > MOST_ENDPOINTS:
                    return None
                bound.update(name for name in endpoints if isinstance(name, str) and len(name) <= MAX_ENDPOINT)
        return frozenset(bound) if known else None

    def close(self) -> None:
        """Let go of the sockets."""
        for address in self._addresses:
            address.close()


def capacity(info: dict[str, Any]) -> int:
    """How many requests a Flow can work on at once, by what it says of itself: all slots of all its Executors.

    >>> capacity({"executors": {"encoder": {"slots": 3}, "indexer": {"slots": 1}}})
    4
    """
    slots = [executor.get("slots") for executor in _executors(info)]
    return sum(some for some in slots if type(some) is int and some > 0) if slots else 1


def _executors(info: dict[str, Any]) -> list[dict[Any, Any]]:
    executors = info.get("executors")
    return [one for one in executors.values() if type(one) is dict] if type(executors) is dict else []


def _notes(notes: dict[Any, Any]) -> dict[str, Any]:
    """Check what is told of shards that have failed: `{executor: {'shards': 2, 'succeeded': 1, 'failed': {'1': why}}}`.

    Raises:
        messages.Malformed: it is something else, or there is too much of it.
    """
    if len(msgpack.packb(notes)) > failures.LONGEST_NOTES:
        raise messages.Malformed("too many notes")
    for name, note in notes.items():
        failed = note.get("failed") if type(note) is dict else None
        if type(name) is not str or type(failed) is not dict or len(note) != 3:
            raise messages.Malformed("notes are none")
        if not (type(note.get("shards")) is type(note.get("succeeded")) is int and _texts(failed)):
            raise messages.Malformed("notes are none")
    return notes


def _texts(pairs: dict[Any, Any]) -> bool:
    return all(type(key) is type(value) is str for key, value in pairs.items())


def _error(frame: Any) -> dict[Any, Any]:
    try:
        error = msgpack.unpackb(frame.buffer if isinstance(frame, zmq.Frame) else frame, unicode_errors="replace")
    except Exception:
        return {}
    return error if type(error) is dict else {}


def _message(frames: Sequence[Any]) -> str:
    message = _error(frames[0]).get("message") if frames else None
    return message if type(message) is str else "it speaks another version of the protocol"
