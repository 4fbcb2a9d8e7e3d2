"""The broker: one thread, one loop around the pure logic.

It reads headers, asks the router where a request goes and the balancer which replica gets it, and
passes payload frames on as they came. It never decodes a Document and never runs code of a user's,
so it is always quick to answer. It keeps a request's frames until they are answered: whatever is
lost behind it can be sent again. The sockets are the business of `front`, `back` and `addresses`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import zmq

from zflow.devices.balancing.replica import Replica
from zflow.devices.broker import failures
from zflow.devices.broker.addresses import Externals
from zflow.devices.broker.back import Back
from zflow.devices.broker.control import Commands, Control, ManagerLine
from zflow.devices.broker.draining import Draining
from zflow.devices.broker.front import Front
from zflow.devices.broker.idle import Idle
from zflow.devices.broker.leases import Leases
from zflow.devices.broker.mishaps import Mishaps
from zflow.devices.broker.outbox import Outbox
from zflow.devices.broker.settings import Settings
from zflow.devices.local.arena import Arena
from zflow.devices.protocol import messages
from zflow.devices.protocol.parts import Inputs, flat
from zflow.devices.protocol.references import Reference
from zflow.devices.routing.pool import Actions, Broken, Finished, Outcome, Pool, Taken
from zflow.devices.routing.router import Reply, Router, Visit
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets import gate, zap
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.port import BATCH, Port

log = logging.getLogger("zflow.broker")

# Seconds between two words to the manager about the load of Executors whose replicas go by it.
TELL_EVERY = 0.5


class Broker:
    """Sockets and state; `run` serves until told to stop.

    Args:
        settings: what to be.
        control: the line to the process manager.
        memory: the view of the memory that the Flow's processes share, if they share any.

    Raises:
        zmq.ZMQError: an address cannot be listened on (EADDRINUSE and the like).
    """

    def __init__(self, settings: Settings, control: Control, memory: Arena | None = None) -> None:
        self._settings = settings
        self._idle = Idle(settings.give_back)
        self.leases = Leases(memory, settings.epoch)
        self._manager = ManagerLine(control)
        self._context = zmq.Context()
        self._router = Router(settings.nodes)
        self._pools = [
            Pool(index, node, retries, limits, self._cut)
            for index, (node, retries, limits) in enumerate(
                zip(self._router.nodes, settings.retries, settings.limits, strict=True)
            )
        ]
        visited = [pool for pool in self._pools if pool.node.process]
        self._by_name = {pool.node.name: pool for pool in visited}
        joinable = {pool.node.name: pool for pool in visited if not pool.node.addresses}
        limits = dict.fromkeys((zap.CLIENTS, zap.REPLICAS), settings.max_connections)
        self._gate = gate.Gate(self._context, settings.lists, limits, settings.max_message_bytes)
        self._front = Front(self._context, settings, self, self._guard)
        self._back = Back(self._context, settings, joinable, self, self._guard)
        self._externals = Externals(self._context, visited, self, self._secure)
        self._walks: dict[Any, Walk] = {}  # by origin
        self._mishaps = Mishaps(self._walks.values, self._fail)
        self._outbox = Outbox(self._back, self._front, self._manager, self._mishaps, self._go_on)
        self.do = self._outbox.do  # not wrapped: each request would pay for another call
        # An answer to a broker that was there before must not be taken for one of this one's tasks.
        self._task_id = int.from_bytes(os.urandom(3), "big") << 36
        self._commands = Commands(settings.epoch << 32)
        self._crashing: dict[str, list[str]] = {}  # replicas that die again and again, by Executor
        self._draining = Draining(self._by_name, self.do, self._front.controlled)
        self._autoscaled = [pool for pool in joinable.values() if pool.node.autoscaled]
        self._tell_load_at = 0.0
        self.closing = False
        self._stopped = False
        self._unbound: set[str] = set()

    def _guard(self, socket: zmq.Socket[bytes], domain: bytes) -> Meter:
        """Make a socket for other machines ask who connects;
        returns what counts its connections.
        """
        return self._gate.guard(socket, domain, self._settings.secret)

    def _secure(self, pool: Pool, socket: zmq.Socket[bytes]) -> None:
        """Let a socket show who it is to the addresses of an external Executor."""
        keys = self._settings.far_keys.get(pool.node.name)
        if keys is not None:
            zap.secure(socket, *keys)

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the control line says stop or closes."""
        # Answers first: they make replicas idle.
        handlers: dict[Any, Callable[[], Any]] = {
            **dict.fromkeys(self._gate.sockets, self._gate.serve),
            **self._back.handlers(self._read),
            **self._externals.handlers(time.monotonic),
            **self._front.handlers(),
            self._manager.fileno(): self._obey,
        }
        watched = [(source, zmq.POLLIN) for source in handlers]
        call = self._mishaps.call
        self._manager.tell("bound", self._front.addresses, self._back.addresses)
        while not (self._stopped or self._manager.broken):
            for source, _ in zmq.zmq_poll(watched, call(self._timeout) or 1):
                call(handlers[source])
            self._tick()
            call(self._outbox.flush)
            self._idle.turn(bool(self._walks))
            self._mishaps.rest()
        for part in (self._gate, self._front, self._back, self._externals):
            part.close()
        self._context.term()

    def _timeout(self) -> int:
        """ms until something is due, at most a second."""
        wait = min(self._back.wait, self._gate.wait, self._draining.wait)
        for pool in self._pools:
            if pool.timed:
                wait = min(wait, pool.wake_after(time.monotonic()))
        if self._externals:
            wait = min(wait, 0.1)
        if self._autoscaled:
            wait = min(wait, self._tell_load_at - time.monotonic())
        return max(1, int(wait * 1000 + 0.999))

    def _tick(self) -> None:
        call = self._mishaps.call
        for part in (self._back, self._gate, self._draining):
            call(part.tick)
        if self._externals:
            call(self._externals.tick, time.monotonic())
        for pool in self._pools:
            if pool.timed:
                call(self._tick_pool, pool)
        if self._autoscaled and (now := time.monotonic()) >= self._tell_load_at:
            self._tell_load_at = now + TELL_EVERY
            for pool in self._autoscaled:
                call(self._manager.tell, "load", pool.node.name, *pool.load(now))

    def _tick_pool(self, pool: Pool) -> None:
        self.do(pool, pool.tick(time.monotonic()))

    def _read(self, port: Port, handle: Callable[[list[Any]], None]) -> None:
        """Handle what has arrived, up to one turn's share."""
        for frames in port.receive_some(BATCH):
            try:
                handle(frames)
            except Exception as error:
                self.malformed(error, frames)

    def malformed(self, error: Exception, frames: Sequence[Any]) -> None:
        """A message of these frames, the first of which says whose it is, is dropped."""
        self._mishaps.message(error, frames)

    # -- for the front -----------------------------------------------------------------------------

    @property
    def names(self) -> Iterable[str]:
        """The Executors that a request may be for."""
        return self._by_name.keys()

    def under_way(self, origin: Any) -> Walk | None:
        """The request of that origin, if it has not ended; maybe within a bulk."""
        return self._walks.get(origin)

    def origins(self, port: Any, client: bytes) -> list[Any]:
        """The origins of all requests of that client that have not ended."""
        return [origin for origin in self._walks if origin[0] is port and origin[1] == client]

    def single(self, origin: Any) -> Walk:
        """The request of that origin, which has not ended, as a walk of its own."""
        walk = self._walks[origin]
        if walk.count > 1:
            for node, id in walk.open:
                self._pools[node].single(id)
        return self._walks[origin]

    def _cut(
        self, request: tuple[Walk, Inputs], count: int
    ) -> tuple[tuple[Walk, Inputs], tuple[Walk, Inputs]]:
        """Cut a bulk: return the walk of its first so many requests with their inputs,
        and that of the others.
        """
        walk, ((name, (frames,)),) = request
        head = walk.cut(count)
        self._walks.update(dict.fromkeys(head.origins, head))
        return (head, [(name, [frames[:count]])]), (walk, [(name, [frames[count:]])])

    def begin(self, walk: Walk, payloads: Sequence[Sequence[Any]]) -> None:
        """A request has come in, and its time runs from now on."""
        for origin in walk.origins:
            self._walks[origin] = walk
        walk.begun = now = time.monotonic()
        if walk.timeout is not None:
            walk.deadline = now + walk.timeout
        if walk.count > 1 and not self._router.is_chain:
            for single, inputs in self._singles(walk, [("", list(payloads))]):
                self._take(single, self._router.start(single, *inputs[0][1]), now)
        else:
            self._take(walk, self._router.start(walk, *payloads), now)

    def cancel(self, walk: Walk) -> None:
        """Nobody wants the request's answer."""
        self._end(walk)
        self._front.forget(walk)

    def unwanted(self, origin: Any) -> None:
        """Nobody wants the answer that was given already."""
        self.leases.unwanted(origin)

    def control(self, origin: Any, command: str, arguments: dict[Any, Any]) -> None:
        """Something about the Flow is to be changed: about a replica here,
        about all of them by the manager.
        """
        if command in ("drain", "undrain"):
            self._draining.begin(
                origin, command, arguments.get("replica"), arguments.get("timeout")
            )
        elif number := self._commands.begin(origin):
            self._manager.tell("control", number, command, arguments)
        else:
            self._front.controlled(
                origin, {"error": "too many commands are under way: wait until one of them is done"}
            )

    def info(self) -> dict[str, Any]:
        """What this Flow says about itself."""
        return {
            "version": self._settings.version,
            "pid": os.getpid(),
            "instance": self._settings.instance,
            "epoch": self._settings.epoch,
            "closing": self.closing,
            "max_message_bytes": self._settings.max_message_bytes,
            "requests": len(self._walks),
            "malformed": dict(self._mishaps.counts),
            "executors": {
                name: {**pool.info(), "crashing": self._crashing.get(name, [])}
                for name, pool in self._by_name.items()
            },
        }

    # -- the walk ----------------------------------------------------------------------------------

    def _take(self, walk: Walk, steps: Iterable[Visit | Reply], now: float) -> None:
        """Carry out what the router says."""
        for step in steps:
            if walk.over:
                return
            if told := failures.too_much(step.inputs):
                self._fail(walk, told)
                return
            if isinstance(step, Reply):
                self._answer(walk, step.inputs, now)
                continue
            pool = self._pools[step.node]
            if walk.count > 1 and not pool.takes(walk):
                for single, inputs in self._singles(walk, step.inputs):
                    self._take(single, [Visit(step.node, inputs)], now)
                return
            id = self._task_id + 1
            self._task_id += pool.ids_for(walk)
            walk.open.add((step.node, id))
            self.do(pool, pool.submit(walk, step.inputs, id, now))

    def _singles(self, walk: Walk, inputs: Inputs) -> Iterator[tuple[Walk, Inputs]]:
        """Take a bulk apart: yield each request's walk and its inputs."""
        rest = walk, inputs
        while walk.count > 1:
            head, rest = self._cut(rest, 1)
            yield head
        yield rest

    def _answer(self, walk: Walk, inputs: Inputs, now: float) -> None:
        parts, frames = flat(inputs)
        if walk.blocks:
            frames = self.leases.answer(walk, frames, self._front.shares_memory(walk.origin))
        self._end(walk)
        self._front.answer(walk, parts, frames, now - walk.begun)
        if (
            not walk.visits
            and self._by_name
            and walk.endpoint not in self._unbound
            and len(self._unbound) < 1000
        ):
            self._unbound.add(walk.endpoint)
            log.warning(
                "no Executor asked for binds %r: its requests come back as they went in",
                walk.endpoint,
            )

    def _fail(self, walk: Walk, error: bytes) -> None:
        """Answer with an error, as `answers.error` makes them or as a replica has sent it."""
        self._end(walk)
        self._front.fail(walk, error, time.monotonic() - walk.begun)

    def _end(self, walk: Walk) -> None:
        """The walk is over; what is still under way for it in other branches is of no use."""
        walk.over = True
        for origin in walk.origins:
            self._walks.pop(origin, None)
        if walk.blocks:
            self.leases.end(walk)
        if walk.open:
            now = time.monotonic()
            for node, id in list(walk.open):
                self._pools[node].ended(id)
                self.do(self._pools[node], self._pools[node].cancel(id, now))
            walk.open.clear()
        if self.closing and not self._walks:
            self._manager.tell("drained")

    def _go_on(self, pool: Pool, outcome: Outcome, now: float) -> None:
        """A visit has ended: take the walk to where it goes next."""
        walk = outcome.walk
        if walk.over or isinstance(outcome, Taken):
            return  # parts of one fan-out expire together, and the first of them has ended the walk
        if isinstance(outcome, Broken):
            self._fail(walk, outcome.error)
            return
        walk.open.discard((pool.index, outcome.id))
        pool.ended(outcome.id)
        if isinstance(outcome, Finished):
            payloads = outcome.payload if pool.node.addresses else (outcome.payload,)
            self._take(walk, self._router.done(walk, pool.index, *payloads), now)
            return
        if outcome.errors:
            walk.note(pool.node.name, failures.shards_note(pool, outcome.errors))
        self._take(walk, self._router.gathered(walk, pool.index, outcome.results), now)

    # -- for the back and for external Executors ---------------------------------------------------

    def bound(self, pool: Pool) -> None:
        """What the Executor binds may have changed. The manager is told,
        so that this broker's successor knows it.
        """
        if pool.bind(
            self._externals.endpoints(pool) if pool.node.addresses else pool.bindings.endpoints
        ):
            self._front.entrance.changed()
            self._manager.tell("endpoints", pool.node.name, pool.info()["endpoints"])

    def joined(self, pool: Pool, replica: Replica) -> None:
        """An address is here and may be given tasks."""
        name = pool.names[replica.name] = replica.name.decode()
        self.bound(pool)
        self._manager.tell("joined", pool.node.name, name)
        _, actions = pool.join(replica, 0, time.monotonic())
        self.do(pool, actions)

    def answered(
        self,
        pool: Pool,
        name: bytes,
        first: int,
        seconds: float,
        payload: messages.Payload,
        docs: list[int] | None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """The replica has answered tasks from this one on, each after so many seconds:
        as many as `docs` has numbers.

        The payload is that of one task, of an external Executor several; of several tasks it is a
        frame for each. External Executors don't say how many Documents it has: None.
        """
        if docs is None or len(docs) == 1:
            blocks = None
            if len(payload) > 1 and not pool.node.addresses:
                blocks = self.leases.accept(name, payload)
            self._ended(pool, name, first, seconds, payload, docs, blocks, notes)
            return
        at = 0
        while at < len(docs):
            count = pool.fit(name, first + at, len(docs) - at)
            end = at + count
            self._ended(pool, name, first + at, seconds, payload[at:end], docs[at:end])
            at = end

    def failed(
        self, pool: Pool, name: bytes, tasks: list[int], seconds: float, error: messages.Frame
    ) -> None:
        """The replica has answered a task with an error, or could not do several in one go:
        each is tried alone then.

        Where none may be begun again all of them fail.
        """
        if len(tasks) > 1 and pool.balancer.retries:
            self.do(pool, pool.apart(name, tasks, time.monotonic()))
            return
        for id in tasks:
            now = time.monotonic()
            outcome, actions = pool.answered(name, id, seconds, error, True, now)
            self._follow(pool, outcome, actions, now)

    def _ended(
        self,
        pool: Pool,
        name: bytes,
        id: int,
        seconds: float,
        payload: messages.Payload,
        docs: list[int] | None,
        blocks: list[Reference] | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """As many tasks as the balancer takes for one have ended."""
        now = time.monotonic()
        count = 1 if docs is None else len(docs)
        outcome, actions = pool.answered(name, id, seconds, payload, False, now, count)
        if blocks:
            self.leases.keep(None if outcome is None else outcome.walk, blocks)
        if outcome is not None:
            outcome.walk.docs = docs or outcome.walk.docs
            for far, note in (notes or {}).items():
                outcome.walk.note(f"{pool.node.name}/{far}", note)
        self._follow(pool, outcome, actions, now)

    def _follow(self, pool: Pool, outcome: Outcome | None, actions: Actions, now: float) -> None:
        if actions:
            self.do(pool, actions)
        if outcome is not None:
            self._go_on(pool, outcome, now)

    # -- the process manager -----------------------------------------------------------------------

    def _obey(self) -> None:
        for command, *arguments in self._manager.heard():
            if command == "crash":
                self._back.crash(*arguments)
            elif command == "crashing":
                self._crashing[arguments[0]] = arguments[1]
            elif command == "controlled":
                origin = self._commands.end(arguments[0])
                if origin is not None:
                    self._front.controlled(origin, arguments[1])
            elif command == "drain":
                self.closing = True
                if not self._walks:
                    self._manager.tell("drained")
            elif command == "stop":
                self._stopped = True
