"""The broker: two ROUTER sockets, one thread, one loop around the pure logic.

It reads headers, asks the router where a request goes and the balancer which replica gets it, and passes payload
frames on as they came. It never decodes a Document and never runs code of a user's, so it is always quick to
answer. It keeps a request's frames until they are answered: whatever is lost behind it can be sent again.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
import zmq

from . import answers, protocol
from .balancer import Action, Fail, Recall, Replica, Send
from .fanout import BEACON_EVERY, Publish
from .pool import Actions, Broken, Finished, Outcome, Pool, request_of
from .router import Answer, Inputs, Node, Router, Visit, Walk

log = logging.getLogger("zflow.broker")

LAST_WORDS = 0.2  # seconds that what a replica said before its end may take to be read, at most
MAX_SLOTS = 1024  # tasks a single replica may say it works on at once


class Control(Protocol):
    """The process manager's end of the line, as `multiprocessing.Connection` offers it."""

    def fileno(self) -> int: ...
    def poll(self, timeout: float = 0.0) -> bool: ...
    def recv_bytes(self) -> bytes: ...
    def send_bytes(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What a broker is started with.

    Args:
        nodes: the graph, each node after those it needs.
        retries: per node, how many crashed replicas a request survives.
        timeouts: per node, the seconds a request may take there, or None.
        front: the addresses to listen on for clients; `tcp://host:*` takes any free port.
        back: the address to listen on for replicas.
        fan: where fan-outs are published to replicas of Executors with shards.
        collector: where their answers are collected.
        max_message_bytes: the largest payload taken from a client or a replica.
        version: zflow's version, told to clients that ask.
    """

    nodes: Sequence[Node]
    retries: Sequence[int]
    timeouts: Sequence[float | None]
    front: Sequence[str]
    back: str
    fan: str
    collector: str
    max_message_bytes: int
    version: str = ""


class Broker:
    """Sockets and state; `run` serves until told to stop.

    Raises:
        zmq.ZMQError: an address cannot be listened on (EADDRINUSE and the like).
    """

    def __init__(self, settings: Settings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._context = zmq.Context()
        front, self.addresses = self._listen(settings.front, settings.max_message_bytes)
        back, _ = self._listen([settings.back])
        back.set(zmq.ROUTER_MANDATORY, 1)
        self._front = protocol.Port(front, 3)
        self._back = protocol.Port(back, 3)
        fan, _ = self._listen([settings.fan], kind=zmq.XPUB)
        fan.set(zmq.XPUB_VERBOSE, 1)
        self._fan = protocol.Port(fan, 3)
        collector, _ = self._listen([settings.collector], kind=zmq.PULL)
        self._collector = protocol.Port(collector, 3)
        self._router = Router(settings.nodes)
        self._pools = [
            Pool(index, node, retries, timeout)
            for index, (node, retries, timeout) in enumerate(
                zip(self._router.nodes, settings.retries, settings.timeouts, strict=True)
            )
        ]
        self._by_name = {pool.node.name: pool for pool in self._pools if pool.node.process}
        self._pool_of: dict[bytes, Pool] = {}
        self._lost: dict[bytes, float] = {}  # replicas that are gone; until when their last words may still come
        self._subscribed: set[bytes] = set()  # replicas whose subscriptions have arrived
        self._joining: dict[bytes, tuple[Pool, Replica, int]] = {}  # replicas that are ready but for that
        self._fanned = [(pool, pool.fanout) for pool in self._pools if pool.fanout is not None]
        self._next_beacon = 0.0
        # What a turn of the loop has to send. It is sent at the turn's end, all in one go: sent one by one, between
        # two steps of Python each, every message would wake libzmq's thread anew.
        self._to_clients: list[Sequence[Any]] = []
        self._to_replicas: deque[tuple[Pool, Action | Publish]] = deque()
        self._walks: set[Walk] = set()
        self._task_id = 0
        self._encode = protocol.encoder()
        self._recall = protocol.VERSION, protocol.RECALL
        self._instance = os.urandom(8).hex()  # tells this broker from another one at the same address
        self._draining = False
        self._stopped = False
        self.counts: Counter[str] = Counter()
        self._unbound: set[str] = set()

    def _listen(
        self, addresses: Iterable[str], max_bytes: int | None = None, kind: int = zmq.ROUTER
    ) -> tuple[zmq.Socket[bytes], list[str]]:
        socket = self._context.socket(kind)
        socket.set(zmq.IPV6, 1)
        socket.set(zmq.SNDHWM, 0)  # what is in flight is bounded by windows; a full pipe would drop replies
        socket.set(zmq.LINGER, 1000)  # ms; the last replies still go out
        socket.set(zmq.HEARTBEAT_IVL, 2000)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 6000)
        if max_bytes is not None:
            # A frame above this breaks the connection. Honest clients check first, so the slack is for the
            # wrong count that deserves an answer, not a cut.
            socket.set(zmq.MAXMSGSIZE, max_bytes + protocol.MAX_HEADER)
        bound = []
        for address in addresses:
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                raise zmq.ZMQError(error.errno, f"{error.strerror}: {address}") from None
            bound.append(socket.get_string(zmq.LAST_ENDPOINT))  # with the port that was taken for a wildcard
        return socket, bound

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the control line says stop or closes."""
        control = self._control.fileno()
        # Answers first: they make replicas idle.
        handlers: dict[Any, Callable[[], Any]] = {
            self._collector.socket: lambda: self._read(self._collector, self._from_replica),
            self._back.socket: lambda: self._read(self._back, self._from_replica),
            self._front.socket: lambda: self._read(self._front, self._from_client),
            self._fan.socket: lambda: self._read(self._fan, self._subscription),
            control: self._obey,
        }
        watched: list[Any] = [
            (source, zmq.POLLIN)
            for source in handlers
            if self._fanned or source not in (self._collector.socket, self._fan.socket)
        ]
        self._tell("bound", *self.addresses)
        while not self._stopped:
            for source, _ in zmq.zmq_poll(watched, self._timeout()):
                handlers[source]()
            self._tick()
            self._flush()
        for port in (self._front, self._back, self._fan, self._collector):
            port.socket.close()
        self._context.term()

    def _timeout(self) -> int:
        """ms until something is due, at most a second."""
        if self._lost:
            return 1
        wait = 1.0
        for pool in self._pools:
            if pool.balancer.timed:
                wait = min(wait, pool.balancer.wake_after(time.monotonic()))
        if any(fanout.under_way for _, fanout in self._fanned):
            wait = min(wait, BEACON_EVERY)
        return max(1, int(wait * 1000 + 0.999))

    def _tick(self) -> None:
        if self._lost:
            self._bury_lost()
        for pool in self._pools:
            if pool.balancer.timed:
                self._do(pool, pool.tick(time.monotonic()))
        if self._fanned:
            self._send_beacons()

    def _send_beacons(self) -> None:
        now = time.monotonic()
        if now < self._next_beacon:
            return
        self._next_beacon = now + BEACON_EVERY
        for pool, fanout in self._fanned:
            for group, number in fanout.beacons():
                beacon = self._encode((protocol.VERSION, protocol.BEACON, number))
                self._publish([protocol.topic(pool.index, group), beacon])

    def _read(self, port: protocol.Port, handle: Callable[[list[Any]], None]) -> None:
        """Handle what has arrived, up to one turn's share."""
        for frames in port.receive_some(protocol.BATCH):
            try:
                handle(frames)
            except protocol.WrongVersion as error:
                self._count(str(error), frames)
                if port is self._front:
                    self._refuse_version(frames)
            except protocol.Malformed as error:
                self._count(str(error), frames)

    def _count(self, what: str, frames: Sequence[Any]) -> None:
        self.counts[what] += 1
        if self.counts[what] == 1:
            sizes = [len(frame) for frame in frames[1:9]]
            log.warning("dropped a malformed message: %s (frames of %s bytes); more are only counted", what, sizes)

    # -- the front ------------------------------------------------------------------------------------------------

    def _from_client(self, frames: list[Any]) -> None:
        client = frames[0]
        if len(frames) < 2:
            raise protocol.Malformed("no header")
        header = protocol.decode(frames[1], protocol.FROM_CLIENT)
        if header[1] == protocol.HELLO:
            self._to_clients.append(
                [client, self._encode((protocol.VERSION, protocol.WELCOME, header[2], self._info()))]
            )
            return
        id, endpoint, targets = header[2], header[3], header[4]
        if len(frames) < 3:
            raise protocol.Malformed("a request without a payload")
        walk = Walk((client, id), endpoint, None if targets is None else self._targets(targets))
        self._walks.add(walk)
        error = self._objection(walk, frames[2:])
        if error:
            self._fail(walk, answers.error(*error))
        else:
            self._take(walk, self._router.start(walk, frames[2:]))

    def _targets(self, targets: list[Any]) -> frozenset[str]:
        if not all(type(name) is str for name in targets):
            raise protocol.Malformed("targets are not text")
        return frozenset(targets)

    def _objection(self, walk: Walk, payload: Sequence[Any]) -> tuple[str, str] | None:
        if self._draining:
            return "FlowNotRunning", "the Flow is closing and takes no more requests"
        if len(walk.endpoint) > protocol.MAX_ENDPOINT:
            return "BadRequest", f"the endpoint has more than {protocol.MAX_ENDPOINT} characters"
        unknown = sorted(walk.targets - self._by_name.keys()) if walk.targets is not None else []
        if unknown:
            return "BadRequest", f"no Executor is called {unknown[0]!r:.200}; there are {sorted(self._by_name)}"
        limit = self._settings.max_message_bytes
        size = sum(map(len, payload))
        if size > limit:
            return "RequestTooLarge", f"a request of {size} bytes is over the Flow's limit of {limit} bytes"
        return None

    def _refuse_version(self, frames: Sequence[Any]) -> None:
        header = msgpack.unpackb(frames[1])
        id = header[2] if len(header) > 2 and type(header[2]) is int and abs(header[2]) < 2**63 else 0
        version = header[0] if type(header[0]) is int else "another one"  # repr() of what came might be endless
        message = f"this Flow speaks version {protocol.VERSION} of the protocol, not {version}"
        header = self._encode((protocol.VERSION, protocol.FAILED, id))
        self._to_clients.append([frames[0], header, answers.error("BadRequest", message)])

    def _info(self) -> dict[str, Any]:
        return {
            "version": self._settings.version,
            "pid": os.getpid(),
            "instance": self._instance,
            "max_message_bytes": self._settings.max_message_bytes,
            "requests": len(self._walks),
            "malformed": dict(self.counts),
            "executors": {name: pool.info() for name, pool in self._by_name.items()},
        }

    # -- the walk -------------------------------------------------------------------------------------------------

    def _take(self, walk: Walk, steps: Iterable[Visit | Answer]) -> None:
        """Carry out what the router says."""
        now = time.monotonic()
        for step in steps:
            if walk not in self._walks:
                return
            if isinstance(step, Answer):
                self._answer(walk, step.inputs)
                continue
            pool = self._pools[step.node]
            id = self._task_id + 1
            self._task_id += pool.ids_for(walk)
            walk.open.add((step.node, id))
            self._do(pool, pool.submit(walk, step.inputs, id, now))

    def _answer(self, walk: Walk, inputs: Inputs) -> None:
        self._end(walk)
        client, id = walk.origin
        parts, frames = answers.flat(inputs)
        self._to_clients.append(
            [client, self._encode((protocol.VERSION, protocol.REPLY, id, parts, walk.notes)), *frames]
        )
        if not walk.visits and self._by_name and walk.endpoint not in self._unbound and len(self._unbound) < 1000:
            self._unbound.add(walk.endpoint)
            log.warning("no Executor asked for binds %r: its requests come back as they went in", walk.endpoint)

    def _fail(self, walk: Walk, error: bytes) -> None:
        """Answer with an error, as `_error` makes them or as a replica has sent it."""
        client, id = walk.origin
        self._end(walk)
        self._to_clients.append([client, self._encode((protocol.VERSION, protocol.FAILED, id)), error])

    def _end(self, walk: Walk) -> None:
        """The walk is over; what is still under way for it in other branches is of no use."""
        self._walks.discard(walk)
        if walk.open:
            now = time.monotonic()
            for node, id in list(walk.open):
                self._do(self._pools[node], self._pools[node].cancel(id, now))
            walk.open.clear()
        if self._draining and not self._walks:
            self._tell("drained")

    def _go_on(self, pool: Pool, outcome: Outcome) -> None:
        """A visit has ended: take the walk to where it goes next."""
        walk = outcome.walk
        if isinstance(outcome, Broken):
            self._fail(walk, outcome.error)
            return
        walk.open.discard((pool.index, outcome.id))
        if isinstance(outcome, Finished):
            self._take(walk, self._router.done(walk, pool.index, outcome.payload))
            return
        if outcome.errors:
            walk.notes = {**(walk.notes or {}), pool.node.name: answers.shards_note(pool, outcome.errors)}
        self._take(walk, self._router.gathered(walk, pool.index, outcome.results))

    # -- the back -------------------------------------------------------------------------------------------------

    def _from_replica(self, frames: list[Any]) -> None:
        identity = frames[0]
        if len(frames) < 2:
            raise protocol.Malformed("no header")
        header = protocol.decode(frames[1], protocol.FROM_REPLICA)
        kind = header[1]
        if kind == protocol.READY:
            self._ready(identity, *header[2:])
            return
        pool = self._pool_of.get(identity)
        if pool is None:
            raise protocol.Malformed("an answer from an unknown replica")
        now = time.monotonic()
        if kind == protocol.LEAVE:
            del self._pool_of[identity]
            self._do(pool, pool.leave(identity, now))
        elif kind == protocol.MISSED:
            self._do(pool, pool.missed(identity, header[2], header[3]))
        elif len(frames) < 3:
            raise protocol.Malformed("an answer without a payload")
        else:
            failed = kind == protocol.ERROR
            payload = frames[2] if failed else frames[2:]
            outcome, actions = pool.answered(identity, header[2], header[3] * 1e-6, payload, failed, now)
            self._do(pool, actions)
            if outcome is not None:
                self._go_on(pool, outcome)

    def _ready(
        self, identity: bytes, executor: str, endpoints: list[Any] | None, slots: int, shard: int, group: int
    ) -> None:
        """A replica wants to be taken in: at once, or when its subscription has arrived too."""
        pool = self._by_name.get(executor)
        if pool is None:
            raise protocol.Malformed("a replica of an unknown Executor")
        if self._pool_of.get(identity, pool) is not pool:
            raise protocol.Malformed("a replica of another Executor")
        node = pool.node
        if not (1 <= slots <= MAX_SLOTS and shard in range(node.shards) and group in range(node.groups)):
            raise protocol.Malformed("wrong fields in header")
        if endpoints is not None:
            if not all(type(name) is str for name in endpoints):
                raise protocol.Malformed("wrong fields in header")
            node.endpoints = frozenset(endpoints)
        self._joining[identity] = (pool, Replica(identity, slots, shard), group)
        self._accept(identity)

    def _subscription(self, frames: list[Any]) -> None:
        """A replica has subscribed to its own topic, so whatever it subscribed to before has arrived too."""
        if frames[0][:2] == b"\x01@":
            self._subscribed.add(frames[0][2:])
            self._accept(frames[0][2:])
        elif frames[0][:2] == b"\x00@":
            self._subscribed.discard(frames[0][2:])

    def _accept(self, identity: bytes) -> None:
        if identity not in self._joining:
            return
        pool, replica, group = self._joining[identity]
        if pool.fanout is not None and identity not in self._subscribed:
            return
        del self._joining[identity]
        self._pool_of[identity] = pool
        pool.names[identity] = answers.name_of(identity)
        number, actions = pool.join(replica, group, time.monotonic())
        self._send_back(identity, [self._encode((protocol.VERSION, protocol.ACCEPTED, number))])
        self._do(pool, actions)

    def _send_back(self, identity: bytes, frames: Sequence[Any]) -> bool:
        try:
            self._back.send([identity, *frames])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _publish(self, frames: Sequence[Any]) -> None:
        self._fan.send(frames)

    def _do(self, pool: Pool, actions: Actions) -> None:
        """Carry out what the pool says: a task that was given up at once, what is to be sent at the turn's end."""
        for action in actions:
            if type(action) is Fail:
                outcome = pool.failed(action, answers.why(pool, action))
                if outcome is not None:
                    self._go_on(pool, outcome)
            else:
                self._to_replicas.append((pool, action))

    def _flush(self) -> None:
        """Send what the turn has brought about, and what follows from that."""
        while self._to_replicas:
            pool, action = self._to_replicas.popleft()
            if type(action) is Send:
                walk, inputs = request_of(action.task)
                parts, frames = answers.flat(inputs)
                header = self._encode((protocol.VERSION, protocol.TASK, action.task.id, walk.endpoint, parts))
                if not self._send_back(action.replica.name, [header, *frames]):
                    now = time.monotonic()
                    self._lost[action.replica.name] = now
                    self._do(pool, pool.lose(action.replica.name, now, unsent=action.task.id))
            elif type(action) is Publish:
                walk, inputs = action.scatter.payload
                parts, frames = answers.flat(inputs)
                kind = (protocol.VERSION, protocol.FANOUT, action.number, action.scatter.base)
                header = self._encode((*kind, walk.endpoint, parts, action.skip))
                self._publish([protocol.topic(pool.index, action.group), header, *frames])
            elif type(action) is Recall:
                self._send_back(action.replica.name, [self._encode((*self._recall, action.task.id))])
        for message in self._to_clients:
            self._front.send(message)  # a client that is gone is not an error: ROUTER drops what is for it
        self._to_clients.clear()

    # -- the process manager --------------------------------------------------------------------------------------

    def _tell(self, *message: str) -> None:
        try:
            self._control.send_bytes(msgpack.packb(message))
        except OSError:
            self._stopped = True  # the manager is gone: so is the Flow

    def _obey(self) -> None:
        try:
            while self._control.poll():
                command, *arguments = msgpack.unpackb(self._control.recv_bytes())
                if command == "dead":
                    self._lose(arguments[0])
                elif command == "drain":
                    self._draining = True
                    if not self._walks:
                        self._tell("drained")
                elif command == "stop":
                    self._stopped = True
        except (EOFError, OSError):
            self._stopped = True

    def _lose(self, identity: bytes) -> None:
        """A replica's process has ended. What it still said before counts."""
        self._joining.pop(identity, None)
        self._subscribed.discard(identity)
        pool = self._pool_of.get(identity)
        if pool is not None:
            now = time.monotonic()
            self._lost[identity] = now + LAST_WORDS
            self._do(pool, pool.lose(identity, now))

    def _bury_lost(self) -> None:
        """Bury those from whom nothing can be on its way any more: libzmq has read their connections to the end."""
        now = time.monotonic()
        nothing = [self._encode((*self._recall, 0))]
        over = [name for name, end in self._lost.items() if now >= end or not self._send_back(name, nothing)]
        for port in (self._back, self._collector) if over else ():
            while port.readable():
                self._read(port, self._from_replica)
        for identity in over:
            del self._lost[identity]
            pool = self._pool_of.pop(identity, None)
            if pool is not None:
                self._do(pool, pool.crash(identity, time.monotonic()))
