"""A replica: one process, one Executor, one DEALER socket to the broker.

The way of a request through it: `link.Link` receives it, `Service` decodes it, calls the Executor and encodes what
came of it, `Link` sends that back. Sync endpoints run in the main thread, one after the other; an Executor with
`async def` endpoints runs on an event loop, with several requests under way at once.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgpack

from zflow import cuda, errors, process, uses, wire
from zflow.call import RESULTS, Call, Miscounted, alike, join, share
from zflow.devices.arena import Arena
from zflow.document import DocumentArray
from zflow.executor import DEFAULT, Executor, handlers, instantiate
from zflow.gather import gather
from zflow.link import IDLE, Answer, Link, Seat, Stop, StopNow, Task
from zflow.logs import name_lines
from zflow.reduce import reduce

if TYPE_CHECKING:
    import asyncio


log = logging.getLogger("zflow.worker")

GATHER = 0.2e-3  # seconds for which answers are gathered, and a look at what has arrived counts as the latest news
GATHER_ON_FEW_CORES = 1e-3  # the same where processes take turns: there each message costs more than it hastens
FEW_CORES = 4
BRIEF = 5e-3  # seconds; answers wait only for requests of a kind that took no longer lately
ASYNC_SLOTS = 32  # requests that a replica with async endpoints has under way at once
LONGEST_MESSAGE = 10_000  # characters of an exception's text
LONGEST_TRACEBACK = 64_000  # characters


class Status(Protocol):
    """The replica's line to the process manager."""

    def send_bytes(self, data: bytes) -> None: ...


def run(seat: Seat, status: Status, manager: int, memory: Arena | None = None) -> int:
    """Be a replica until told to stop; return the exit status.

    Args:
        seat: who to be.
        status: told `ready`, or `failed` and why.
        manager: the process id of the process manager, whose end is this one's end.
        memory: its view of the Flow's shared memory, if there is any.
    """
    process.die_with_parent(signal.SIGKILL, manager)
    process.set_title(f"zflow: {seat.name}")
    process.reset_after_fork()
    process.read_nothing()
    process.print_whole_lines()
    process.keep_memory()
    name_lines(seat.name)
    os.environ.update(seat.spec.env)
    if seat.device is not None:
        os.environ[cuda.VARIABLE] = seat.device
    try:
        service = Service(seat, memory)
    except BaseException as error:
        spec = seat.spec
        way_out = uses.hint(error, spec.uses, spec.folder, spec.install_requirements)
        told = _as_error(error, seat.name, "could not start", way_out)
        status.send_bytes(msgpack.packb(("failed", errors.to_wire(told))))
        return 1
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.ask)  # not sooner: as long as there is nothing to close, it just ends
    link = Link(seat, stop, service.slots, memory)
    refused = link.register(service.endpoints, service.batching)
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


Job = tuple[list[Task], list[Call]]  # that one call is made for; without calls, they are still to be decoded


class Working(NamedTuple):
    """Tasks that share a call: their own calls, how many Documents each has, and the call that is made for all."""

    tasks: list[Task]
    calls: list[Call]
    counts: list[int]
    made: Call


class Service:
    """An Executor with its endpoints, between decoded and encoded requests.

    Raises whatever loading or constructing the Executor raises.
    """

    def __init__(self, seat: Seat, memory: Arena | None = None) -> None:
        spec = seat.spec
        self._memory = memory
        self.name = seat.name
        self._no_reduce = spec.no_reduce
        self._limit = seat.max_message_bytes
        loaded = uses.load(
            spec.uses,
            uses_with=spec.uses_with,
            uses_metas=spec.uses_metas,
            uses_requests=spec.uses_requests,
            uses_dynamic_batching=spec.uses_dynamic_batching,
            no_reduce=spec.no_reduce,
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
        found = handlers(self.executor, loaded.requests, loaded.batching)
        self._bound = {endpoint: (handler, handler.bind(self.executor)) for endpoint, handler in found.items()}
        self.endpoints = list(found)
        self.batching = {name: handler.batching for name, handler in found.items() if handler.batching is not None}
        self._warned: set[str] = set()  # methods
        self._longest: dict[str, float] = {}  # seconds, by endpoint that is bound
        self.is_async = any(handler.is_async for handler in found.values())
        self.loop: asyncio.AbstractEventLoop | None = None
        self.slots = ASYNC_SLOTS if self.is_async else 1

    def prepare(self, task: Task) -> Call:
        """Decode a request, and put its parts together where several branches met.

        Raises:
            Stale: the request has ended meanwhile, and with it what it had in shared memory.
        """
        frames = task.frames
        if self._memory is not None and len(frames) > 1:
            frames = self._memory.fetch(frames)
        handler, function = self._bound.get(task.endpoint) or self._bound.get(DEFAULT) or (None, None)
        if task.parts is None:
            docs, parameters = wire.unpack(frames)
            return Call(handler, function, docs, parameters, None, None)
        docs_map, parameters = gather(task.parts, frames)
        matrix = list(docs_map.values())
        if not self._no_reduce:
            return Call(handler, function, reduce(matrix), parameters, None, None)
        together = DocumentArray(doc for docs in matrix for doc in docs)
        return Call(handler, function, together, parameters, matrix, docs_map)

    def jobs(self, tasks: list[Task]) -> list[Job]:
        """Put together what one call can be made for. What cannot be decoded is left to fail alone."""
        if len(tasks) == 1:
            return [(tasks, [])]
        jobs: list[Job] = []
        good, calls = [], []
        for task in tasks:
            try:
                calls.append(self.prepare(task))
                good.append(task)
            except Exception:
                jobs.append(([task], []))
        return jobs + [([good[at] for at in some], [calls[at] for at in some]) for some in alike(calls)]

    def encode(self, call: Call, value: Any) -> tuple[Sequence[Any], int]:
        """Encode what the Executor returned; returns the frames, and how many Documents are in them."""
        docs = call.docs
        if value is not None:
            self._check(call, value)
            if isinstance(value, dict):
                call.parameters.setdefault(RESULTS, {})[self.name] = value
            else:
                docs = value
        return self._encode(docs, call.parameters), len(docs)

    def begin(self, tasks: list[Task], calls: list[Call]) -> Working:
        """Return the call that is to be made for all of them."""
        return Working(tasks, calls, [len(call.docs) for call in calls], join(calls))

    def end(self, working: Working, value: Any) -> list[Answer]:
        """Encode what the Executor returned, for each of the tasks that it was called for."""
        tasks, calls, counts, made = working
        if value is not None:
            self._check(made, value)
        try:
            shares = share(calls, counts, made, value, self.name)
        except Miscounted as error:
            self._warn(made, error)
            raise
        answers = []
        for task, (docs, parameters) in zip(tasks, shares, strict=True):
            try:
                answers.append(Answer([task], self._encode(docs, parameters), len(docs)))
            except BaseException as error:
                answers.append(self.failure([task], error))
        return answers

    def _check(self, call: Call, value: Any) -> None:
        if not isinstance(value, (DocumentArray, dict)):
            method = call.handler.method if call.handler else "?"
            raise TypeError(
                f"{type(self.executor).__name__}.{method} returned {type(value).__name__}; "
                "a handler returns a DocumentArray, a dict, or None to keep the docs as it changed them"
            )

    def _encode(self, docs: DocumentArray, parameters: dict[str, Any]) -> Sequence[Any]:
        frames = wire.pack(docs, parameters)
        size = sum(map(len, frames))
        if size > self._limit:
            raise errors.RequestTooLarge(
                f"the result of {self.name} has {size} bytes, over the limit of {self._limit} (max_message_bytes);"
                f" the largest is {wire.largest(docs)}"
            )
        return frames

    def _warn(self, made: Call, error: Miscounted) -> None:
        """Say once for each method why its batches do not work out."""
        method = made.handler.method if made.handler else "?"
        if method not in self._warned:
            self._warned.add(method)
            log.warning(
                "%s.%s: %s; a method that takes several requests at once must return as many Documents as it is given,"
                " in their order",
                type(self.executor).__name__,
                method,
                error,
            )

    def failure(self, tasks: Sequence[Task], error: BaseException) -> Answer:
        """Encode an error as the answer to tasks."""
        what = f"raised at {tasks[0].endpoint!r}"
        if len(tasks) > 1:
            what += f", called for {len(tasks)} requests at once,"
        return Answer(tasks, [_pack(errors.to_wire(_as_error(error, self.name, what)))], None)

    def is_brief(self, endpoint: str) -> bool:
        """Whether the last requests for this endpoint took no longer than a hiccup of the machine."""
        return self._longest.get(endpoint if endpoint in self._bound else DEFAULT, math.inf) < BRIEF

    def took(self, endpoint: str, seconds: float) -> None:
        """A request for this endpoint, or a batch, took so long; one that was long is forgotten after some dozens."""
        bound = endpoint if endpoint in self._bound else DEFAULT
        self._longest[bound] = max(seconds, 0.9 * self._longest.get(bound, 0.0))

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


_OURS = {__file__, handlers.__code__.co_filename, join.__code__.co_filename}


# -- the loops --------------------------------------------------------------------------------------------------------


def _serve(service: Service, link: Link, manager: int) -> None:
    stop = link.stop
    clock = time.perf_counter
    gather = GATHER if process.cores() >= FEW_CORES else GATHER_ON_FEW_CORES
    while not stop.asked:
        stop.waiting = True
        arrived = link.wait()
        stop.waiting = False
        if not arrived:
            link.rest()
        if not arrived and (os.getppid() != manager or link.turned_away):
            return  # who was turned away is not asked for anew over the same connection
        drained = clock()
        while not stop.asked and (tasks := link.next()):
            for some, calls in service.jobs(tasks):
                endpoint = some[0].endpoint
                if not service.is_brief(endpoint):
                    link.tell()  # else the broker might think that one of those answered takes so long
                begun = clock()
                link.turn.release()
                answers = _work(service, some, calls)
                link.turn.acquire()
                ended = clock()
                service.took(endpoint, ended - begun)
                link.answer(answers, (ended - begun) / len(some))
                if stop.asked:
                    break
                if ended - drained > gather:
                    link.tell()
                    link.drain()  # what is next may have been recalled meanwhile
                    drained = ended
                elif link.has_more:
                    link.hold()
        link.tell()


def _work(service: Service, tasks: list[Task], calls: list[Call]) -> list[Answer]:
    try:
        call = calls[0] if calls else service.prepare(tasks[0])
        if call.handler is None or call.handler.batching is None:
            return [Answer(tasks, *service.encode(call, call.start()))]
        working = service.begin(tasks, calls or [call])
        return service.end(working, working.made.start())
    except BaseException as error:  # also SystemExit: a request must not end the replica
        return [service.failure(tasks, error)]


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
        self._jobs: deque[Job] = deque()  # of a batch, what has not begun
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
            if not self._jobs:
                self._jobs.extend(self._service.jobs(self._link.next()))
            if not self._jobs:
                break
            running = self._loop.create_task(self._work(*self._jobs.popleft()))
            self._running.add(running)
            running.add_done_callback(self._done)
        self._end_if_idle()

    async def _work(self, tasks: list[Task], calls: list[Call]) -> None:
        begun = time.perf_counter()
        service = self._service
        try:
            call = calls[0] if calls else service.prepare(tasks[0])
            if call.handler is None or call.handler.batching is None:
                answers = [Answer(tasks, *service.encode(call, await self._called(call)))]
            else:
                working = service.begin(tasks, calls or [call])
                answers = service.end(working, await self._called(working.made))
        except BaseException as error:
            answers = [service.failure(tasks, error)]
        self._link.answer(answers, (time.perf_counter() - begun) / len(tasks))
        self._loop.call_soon(self._link.tell)  # with what others have to answer at this moment

    async def _called(self, call: Call) -> Any:
        value = call.start()
        return await value if call.handler is not None and call.handler.is_async else value

    def _done(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._arrived()

    def _look(self) -> None:
        if os.getppid() != self._manager or self._link.turned_away:
            self._stop()
        if not self._running:
            self._link.rest()
        self._loop.call_later(IDLE / 1000, self._look)

    def _stop(self) -> None:
        self._link.stop.asked = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._link.stop.asked and not self._running and not self._ended.done():
            self._ended.set_result(None)
