"""A replica: one process, one Executor, one DEALER socket to the broker.

The way of a request through it: `link.Link` receives it, `Service` decodes it, calls the Executor and encodes what
came of it, `Link` sends that back. Sync endpoints run in the main thread, one after the other; an Executor with
`async def` endpoints runs on an event loop, with several requests under way at once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgpack

from zflow import cuda, errors, process, uses, wire
from zflow.document import DocumentArray
from zflow.executor import DEFAULT, Executor, Handler, handlers, instantiate
from zflow.gather import gather
from zflow.link import IDLE, Link, Seat, Stop, StopNow, Task
from zflow.logs import name_lines
from zflow.reduce import reduce

if TYPE_CHECKING:
    import asyncio


log = logging.getLogger("zflow.worker")

FRESH = 1e-3  # seconds for which a look at what has arrived counts as the latest news, and answers are gathered
ASYNC_SLOTS = 32  # requests that a replica with async endpoints has under way at once
LONGEST_MESSAGE = 10_000  # characters of an exception's text
LONGEST_TRACEBACK = 64_000  # characters


class Status(Protocol):
    """The replica's line to the process manager."""

    def send_bytes(self, data: bytes) -> None: ...


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
    try:
        service = Service(seat)
    except BaseException as error:
        spec = seat.spec
        way_out = uses.hint(error, spec.uses, spec.folder, spec.install_requirements)
        told = _as_error(error, seat.name, "could not start", way_out)
        status.send_bytes(msgpack.packb(("failed", errors.to_wire(told))))
        return 1
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.ask)  # not sooner: as long as there is nothing to close, it just ends
    link = Link(seat, stop, service.slots)
    refused = link.register(service.endpoints)
    if refused is not None:
        status.send_bytes(msgpack.packb(("failed", {"type": "StartupFailed", "message": f"{seat.name}: {refused}"})))
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

    def encode(self, call: Call, value: Any) -> tuple[Sequence[Any], int]:
        """Encode what the Executor returned; returns the frames, and how many Documents are in them."""
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
        return frames, len(docs)

    def failure(self, task: Task, error: BaseException) -> tuple[Sequence[Any], None]:
        """Encode an error as the answer to a request; there are no Documents in it."""
        return [_pack(errors.to_wire(_as_error(error, self.name, f"raised at {task.endpoint!r}")))], None

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


# -- the loops --------------------------------------------------------------------------------------------------------


def _serve(service: Service, link: Link, manager: int) -> None:
    stop = link.stop
    clock = time.perf_counter
    while not stop.asked:
        stop.waiting = True
        arrived = link.wait()
        stop.waiting = False
        if not arrived and (os.getppid() != manager or link.turned_away):
            return  # who was turned away is not asked for anew over the same connection
        drained = clock()
        while (task := link.next()) is not None:
            begun = clock()
            link.turn.release()
            frames, docs = _work(service, task)
            link.turn.acquire()
            ended = clock()
            link.answer(task.id, ended - begun, frames, docs)
            if stop.asked:
                break
            if ended - drained > FRESH:
                link.tell()
                link.drain()  # what is next may have been recalled meanwhile
                drained = ended
            else:
                link.hold()
        link.tell()


def _work(service: Service, task: Task) -> tuple[Sequence[Any], int | None]:
    try:
        call = service.prepare(task)
        return service.encode(call, call.start())
    except BaseException as error:  # also SystemExit: a request must not end the replica
        return service.failure(task, error)


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
        answer: tuple[Sequence[Any], int | None]
        try:
            call = self._service.prepare(task)
            value = call.start()
            if call.handler is not None and call.handler.is_async:
                value = await value
            answer = self._service.encode(call, value)
        except BaseException as error:
            answer = self._service.failure(task, error)
        self._link.answer(task.id, time.perf_counter() - begun, *answer)
        self._loop.call_soon(self._link.tell)  # with what others have to answer at this moment

    def _done(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._arrived()

    def _look(self) -> None:
        if os.getppid() != self._manager or self._link.turned_away:
            self._stop()
        self._loop.call_later(IDLE / 1000, self._look)

    def _stop(self) -> None:
        self._link.stop.asked = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._link.stop.asked and not self._running and not self._ended.done():
            self._ended.set_result(None)
