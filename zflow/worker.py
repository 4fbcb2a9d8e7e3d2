"""A replica: one process, one Executor, one DEALER socket to the broker.

The way of a request through it: `Link` receives it, `Service` decodes it, calls the Executor and encodes what
came of it, `Link` sends that back. Sync endpoints run in the main thread, one after the other; an Executor with
`async def` endpoints runs on an event loop, with several requests under way at once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgpack
import zmq

from zflow import cuda, errors, process, uses, wire
from zflow.devices import protocol
from zflow.devices.fanout import Listener
from zflow.document import DocumentArray
from zflow.executor import DEFAULT, Executor, Handler, handlers, instantiate
from zflow.gather import gather
from zflow.logs import name_lines
from zflow.reduce import reduce

if TYPE_CHECKING:
    import asyncio

    from zflow.topology import ExecutorSpec

log = logging.getLogger("zflow.worker")

ASYNC_SLOTS = 32  # requests that a replica with async endpoints has under way at once
IDLE = 1000  # ms between two looks at whether the parent is still there
REGISTERING = 10_000  # ms to wait for the broker's word
LONGEST_MESSAGE = 10_000  # characters of an exception's text
LONGEST_TRACEBACK = 64_000  # characters


class Status(Protocol):
    """The replica's line to the process manager."""

    def send_bytes(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class Seat:
    """Which replica of which Executor a process is, and how it reaches the broker.

    Args:
        spec: the Executor.
        node: its index in the graph.
        shard_id: from 0.
        replica_id: from 0, within its shard; also the group that it belongs to.
        back: the broker's address for replicas.
        fan: where the broker publishes fan-outs.
        collector: where it collects the answers of shards.
        max_message_bytes: the largest result that may be sent.
        device: the CUDA_VISIBLE_DEVICES that was dealt to it; None where nothing was to be dealt out.
    """

    spec: ExecutorSpec
    node: int
    shard_id: int
    replica_id: int
    back: str
    fan: str
    collector: str
    max_message_bytes: int
    device: str | None = None

    @property
    def name(self) -> str:
        """`'encoder/rep-0'`, and `'indexer/shard-1/rep-0'` where there are several shards."""
        if self.spec.shards > 1:
            return f"{self.spec.name}/shard-{self.shard_id}/rep-{self.replica_id}"
        return f"{self.spec.name}/rep-{self.replica_id}"


class Task(NamedTuple):
    """One request as it came from the broker."""

    id: int
    endpoint: str
    parts: Any
    frames: Sequence[Any]


def run(seat: Seat, status: Status, manager: int) -> int:
    """Be a replica until told to stop; return the exit status.

    Args:
        seat: who to be.
        status: told `ready`, or `failed` and why.
        manager: the process id of the process manager, whose end is this one's end.
    """
    process.die_with_parent(signal.SIGKILL, manager)
    process.set_title(f"zflow: {seat.name}")
    process.reset_after_fork()
    process.read_nothing()
    process.print_whole_lines()
    name_lines(seat.name)
    os.environ.update(seat.spec.env)
    if seat.device is not None:
        os.environ[cuda.VARIABLE] = seat.device
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.ask)
    try:
        service = Service(seat)
    except BaseException as error:
        spec = seat.spec
        way_out = uses.hint(error, spec.uses, spec.folder, spec.install_requirements)
        told = _as_error(error, seat.name, "could not start", way_out)
        status.send_bytes(msgpack.packb(("failed", errors.to_wire(told))))
        return 1
    link = Link(seat, stop, service.slots)
    if not link.register(service.endpoints):
        status.send_bytes(msgpack.packb(("failed", {"type": "StartupFailed", "message": "the broker gave no answer"})))
        return 1
    status.send_bytes(msgpack.packb(("ready", None)))
    try:
        if service.is_async:
            _serve_async(service, link, manager)
        else:
            _serve(service, link, manager)
    except StopNow:
        pass
    link.leave()
    service.close()
    return 0


# -- calling the Executor ---------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A decoded request: what to call, and what with. `handler` is None where the Executor has nothing for it."""

    handler: Handler | None
    function: Callable[..., Any] | None
    docs: DocumentArray
    parameters: dict[str, Any]
    docs_matrix: list[DocumentArray] | None
    docs_map: dict[str, DocumentArray] | None

    def start(self) -> Any:
        """Call the Executor; what an async endpoint returns is still to be awaited."""
        if self.function is None:
            return None
        return self.function(
            docs=self.docs, parameters=self.parameters, docs_matrix=self.docs_matrix, docs_map=self.docs_map
        )


class Service:
    """An Executor with its endpoints, between decoded and encoded requests.

    Raises whatever loading or constructing the Executor raises.
    """

    def __init__(self, seat: Seat) -> None:
        spec = seat.spec
        self.name = seat.name
        self._no_reduce = spec.no_reduce
        self._limit = seat.max_message_bytes
        loaded = uses.load(
            spec.uses,
            uses_with=spec.uses_with,
            uses_metas=spec.uses_metas,
            uses_requests=spec.uses_requests,
            py_modules=spec.py_modules,
            folder=spec.folder,
            install_requirements=spec.install_requirements,
            owner=f"executor {spec.name!r}",
        )
        self.executor: Executor = instantiate(
            loaded.cls,
            uses_with=loaded.uses_with,
            metas=loaded.metas,
            requests=loaded.requests,
            runtime_args={
                "name": seat.name,
                "shard_id": seat.shard_id,
                "shards": spec.shards,
                "replica_id": seat.replica_id,
                "replicas": spec.replicas,
                "workspace": spec.workspace,
            },
        )
        found = handlers(self.executor, loaded.requests)
        self._bound = {endpoint: (handler, handler.bind(self.executor)) for endpoint, handler in found.items()}
        self.endpoints = list(found)
        self.is_async = any(handler.is_async for handler in found.values())
        self.loop: asyncio.AbstractEventLoop | None = None
        self.slots = ASYNC_SLOTS if self.is_async else 1

    def prepare(self, task: Task) -> Call:
        """Decode a request, and put its parts together where several branches met."""
        handler, function = self._bound.get(task.endpoint) or self._bound.get(DEFAULT) or (None, None)
        if task.parts is None:
            docs, parameters = wire.unpack(task.frames)
            return Call(handler, function, docs, parameters, None, None)
        docs_map, parameters = gather(task.parts, task.frames)
        matrix = list(docs_map.values())
        if not self._no_reduce:
            return Call(handler, function, reduce(matrix), parameters, None, None)
        together = DocumentArray(doc for docs in matrix for doc in docs)
        return Call(handler, function, together, parameters, matrix, docs_map)

    def encode(self, call: Call, value: Any) -> list[Any]:
        """Encode what the Executor returned."""
        docs = call.docs
        if isinstance(value, DocumentArray):
            docs = value
        elif isinstance(value, dict):
            call.parameters.setdefault("__results__", {})[self.name] = value
        elif value is not None:
            method = call.handler.method if call.handler else "?"
            raise TypeError(
                f"{type(self.executor).__name__}.{method} returned {type(value).__name__}; "
                "a handler returns a DocumentArray, a dict, or None to keep the docs as it changed them"
            )
        frames = wire.pack(docs, call.parameters)
        size = sum(map(len, frames))
        if size > self._limit:
            raise errors.RequestTooLarge(
                f"the result of {self.name} has {size} bytes, over the limit of {self._limit} (max_message_bytes);"
                f" the largest is {wire.largest(docs)}"
            )
        return frames

    def failure(self, task: Task, error: BaseException) -> bytes:
        """Encode an error as the answer to a request."""
        return _pack(errors.to_wire(_as_error(error, self.name, f"raised at {task.endpoint!r}")))

    def close(self) -> None:
        """Call the Executor's `close`; what it raises is logged."""
        try:
            closing: Any = self.executor.close()  # type: ignore[func-returns-value]
            if hasattr(closing, "__await__"):
                import asyncio

                (self.loop or asyncio.new_event_loop()).run_until_complete(closing)
        except BaseException:
            log.exception("%s.close() failed", type(self.executor).__name__)


def _pack(error: dict[str, Any]) -> bytes:
    return msgpack.packb(error, unicode_errors="surrogateescape")  # type: ignore[no-any-return]


def _as_error(error: BaseException, name: str, what: str, way_out: str = "") -> errors.ZflowError:
    """Turn what user code raised into an error that can be sent; zflow's own go as they are."""
    import traceback

    if isinstance(error, (errors.SerializationError, errors.RequestTooLarge, errors.BadRequest)):
        return type(error)(f"{name}: {error.message}")
    if isinstance(error, (errors.InvalidExecutor, errors.NotSupported, errors.InvalidFlow)):
        return type(error)(error.message)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in _OURS and trace.tb_next is not None:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    kind = type(error).__name__
    try:
        text = str(error)[:LONGEST_MESSAGE]
    except Exception:
        text = "<its str() fails>"
    message = f"{name} {what}: {kind}: {text}" if text else f"{name} {what}: {kind}"
    shown = "".join(lines)[-LONGEST_TRACEBACK:]
    return errors.ExecutorError(message + way_out, executor=name, exception=kind, traceback=shown)


_OURS = {__file__, handlers.__code__.co_filename}


# -- the line to the broker -------------------------------------------------------------------------------------------


class StopNow(Exception):
    """Raised by a signal while the replica waits for work."""


class Stop:
    """Whether the replica has been asked to end, by SIGTERM."""

    def __init__(self) -> None:
        self.asked = False
        self.waiting = False

    def ask(self, *_: Any) -> None:
        """Ask it to end: at once if it waits for work, else when it has finished what it is doing."""
        self.asked = True
        if self.waiting:
            self.waiting = False
            raise StopNow


class Link:
    """The replica's sockets, and the tasks that have arrived but not begun.

    A replica of an Executor with shards has two more: it hears fan-outs on a SUB socket, and answers on a PUSH socket
    to the broker's collector.
    """

    def __init__(self, seat: Seat, stop: Stop, slots: int) -> None:
        self.stop = stop
        self._slots = slots
        self._seat = seat
        self._context = zmq.Context()
        # A successor must not be taken for the one before it, whose connection may still linger.
        self._identity = identity(seat.name, os.getpid())
        back = self._socket(zmq.DEALER)
        back.set(zmq.ROUTING_ID, self._identity)
        back.set(zmq.RCVTIMEO, IDLE)
        back.connect(seat.back)
        self._back = protocol.Port(back, 2)
        self._fan: protocol.Port | None = None
        self._collector: protocol.Port | None = None
        if seat.spec.shards > 1:
            self._join_fan_out()
        self._listener = Listener()
        self._encode = protocol.encoder()
        self._backlog: dict[int, Task] = {}
        self._trackers: list[zmq.MessageTracker] = []

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.LINGER, 2000)  # ms; the last answers still go out
        return socket

    def _join_fan_out(self) -> None:
        fan = self._socket(zmq.SUB)
        fan.subscribe(protocol.topic(self._seat.node, self._seat.replica_id))
        fan.subscribe(protocol.own_topic(self._identity))
        fan.connect(self._seat.fan)
        self._fan = protocol.Port(fan, 3)
        collector = self._socket(zmq.PUSH)
        collector.connect(self._seat.collector)
        self._collector = protocol.Port(collector, 2)

    @property
    def descriptors(self) -> list[int]:
        """What an event loop watches."""
        return [port.socket.fileno() for port in (self._back, self._fan) if port is not None]

    def register(self, endpoints: list[str]) -> bool:
        """Join the broker's pool; False if it does not answer."""
        seat = self._seat
        place = (self._slots, seat.shard_id, seat.replica_id)
        self._back.send([self._encode((protocol.VERSION, protocol.READY, seat.spec.name, endpoints, *place))])
        if not self._back.socket.poll(REGISTERING):
            return False
        while self._back.readable():  # fan-outs that came already wait until their first number is known
            self._take(self._back.receive())
        return True

    def drain(self) -> None:
        """Take in what has arrived, without waiting."""
        while self._back.readable():
            self._take(self._back.receive())
        if self._fan is not None:
            while self._fan.readable():
                self._hear(self._fan.receive())

    def wait(self) -> bool:
        """Wait at most `IDLE` ms for a message; False if there was none."""
        if self._fan is not None:
            return bool(zmq.zmq_poll([(self._back.socket, zmq.POLLIN), (self._fan.socket, zmq.POLLIN)], IDLE))
        try:
            self._take(self._back.receive())
        except zmq.Again:
            return False
        return True

    def _take(self, frames: list[Any]) -> None:
        header = protocol.decode(frames[0], protocol.TO_REPLICA)
        kind = header[1]
        if kind == protocol.TASK:
            self._backlog[header[2]] = Task(header[2], header[3], header[4], protocol.buffers(frames[1:]))
        elif kind == protocol.RECALL:
            self._backlog.pop(header[2], None)
        elif kind == protocol.ACCEPTED:
            self._listener = Listener(header[2])

    def _hear(self, frames: list[Any]) -> None:
        """Take in what was published: frames are the topic, the header and the payload."""
        header = protocol.decode(frames[1], protocol.TO_REPLICA)
        if header[1] == protocol.BEACON:
            new, missed = False, self._listener.told(header[2])
        else:
            new, missed = self._listener.heard(header[2])
        if missed is not None:
            self._answer([self._encode((protocol.VERSION, protocol.MISSED, *missed))])
        if new and self._seat.shard_id not in header[6]:
            id = header[3] + self._seat.shard_id
            self._backlog[id] = Task(id, header[4], header[5], protocol.buffers(frames[2:]))

    def next(self) -> Task | None:
        """The oldest task that has arrived and was not recalled."""
        if not self._backlog:
            return None
        return self._backlog.pop(next(iter(self._backlog)))

    def answer(self, kind: int, task: int, seconds: float, frames: Sequence[Any]) -> None:
        """Send a task's result (`DONE`) or error (`ERROR`), and how long it was worked on."""
        header = self._encode((protocol.VERSION, kind, task, int(seconds * 1e6)))
        self._trackers.extend(self._answer([header, *frames]))

    def _answer(self, frames: list[Any]) -> list[zmq.MessageTracker]:
        if self._collector is not None:
            return self._collector.send_tracked([self._identity, *frames])
        return self._back.send_tracked(frames)

    def let_go(self) -> None:
        """Wait until the memory of all results sent is free to be written to by the Executor."""
        for tracker in self._trackers:
            tracker.wait()
        self._trackers.clear()

    def leave(self) -> None:
        """Say that nothing more is begun here, and close when the last answers are out."""
        self._answer([self._encode((protocol.VERSION, protocol.LEAVE))])
        for port in (self._back, self._fan, self._collector):
            if port is not None:
                port.socket.close()
        self._context.term()


def identity(name: str, pid: int) -> bytes:
    """The routing id of a replica: its name and its process id."""
    return f"{name}#{pid}".encode()


# -- the loops --------------------------------------------------------------------------------------------------------


def _serve(service: Service, link: Link, manager: int) -> None:
    stop = link.stop
    clock = time.perf_counter
    while not stop.asked:
        stop.waiting = True
        arrived = link.wait()
        stop.waiting = False
        if not arrived and os.getppid() != manager:
            return
        link.drain()
        while (task := link.next()) is not None:
            begun = clock()
            kind, frames = protocol.DONE, []
            try:
                call = service.prepare(task)
                frames = service.encode(call, call.start())
            except BaseException as error:  # also SystemExit: a request must not end the replica
                kind, frames = protocol.ERROR, [service.failure(task, error)]
            link.answer(kind, task.id, clock() - begun, frames)
            link.let_go()
            if stop.asked:
                return
            link.drain()


def _serve_async(service: Service, link: Link, manager: int) -> None:
    import asyncio

    service.loop = asyncio.new_event_loop()
    asyncio.set_event_loop(service.loop)
    service.loop.run_until_complete(_AsyncLoop(service, link, manager, service.loop).serve())


class _AsyncLoop:
    """The event loop's side: starts what has arrived as long as there are slots, one asyncio task for each."""

    def __init__(self, service: Service, link: Link, manager: int, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._link = link
        self._manager = manager
        self._loop = loop
        self._running: set[asyncio.Task[None]] = set()
        self._ended = loop.create_future()

    async def serve(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        for descriptor in self._link.descriptors:
            self._loop.add_reader(descriptor, self._arrived)
        self._loop.call_later(IDLE / 1000, self._look)
        self._arrived()
        await self._ended
        for descriptor in self._link.descriptors:
            self._loop.remove_reader(descriptor)
        self._loop.remove_signal_handler(signal.SIGTERM)

    def _arrived(self) -> None:
        # A socket's descriptor signals changes only, so everything is taken in whenever it was used.
        self._link.drain()
        while not self._link.stop.asked and len(self._running) < self._service.slots:
            task = self._link.next()
            if task is None:
                break
            running = self._loop.create_task(self._work(task))
            self._running.add(running)
            running.add_done_callback(self._done)
        self._end_if_idle()

    async def _work(self, task: Task) -> None:
        begun = time.perf_counter()
        kind, frames = protocol.DONE, []
        try:
            call = self._service.prepare(task)
            value = call.start()
            if call.handler is not None and call.handler.is_async:
                value = await value
            frames = self._service.encode(call, value)
        except BaseException as error:
            kind, frames = protocol.ERROR, [self._service.failure(task, error)]
        self._link.answer(kind, task.id, time.perf_counter() - begun, frames)
        self._link.let_go()

    def _done(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._arrived()

    def _look(self) -> None:
        if os.getppid() != self._manager:
            self._stop()
        self._loop.call_later(IDLE / 1000, self._look)

    def _stop(self) -> None:
        self._link.stop.asked = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._link.stop.asked and not self._running and not self._ended.done():
            self._ended.set_result(None)
