"""A replica: one process, one Executor, one DEALER socket to the broker.

The way of a request through it: `link.Link` receives it, `Service` decodes it, calls the Executor
and encodes what came of it, `Link` sends that back. Sync endpoints run in the main thread, one
after the other; an Executor with `async def` endpoints runs on an event loop,
with several requests under way at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

import zmq

from zflow import errors
from zflow.devices.local.arena import Arena
from zflow.devices.sockets import descriptors
from zflow.executors import uses
from zflow.replicas.call import Call
from zflow.replicas.link import IDLE, Answer, Assignment, Link, Stop, StopNow
from zflow.replicas.seat import Seat
from zflow.replicas.service import Job, Service, as_error
from zflow.system import cuda, exiting, process, signals
from zflow.system.line import failure, say
from zflow.system.logs import name_lines

if TYPE_CHECKING:
    import asyncio
    from multiprocessing.connection import Connection

log = logging.getLogger("zflow.worker")

# Seconds for which answers are gathered, and a look at what has arrived counts as the latest news.
GATHER = 0.2e-3
# The same where processes take turns: there each message costs more than it hastens.
GATHER_ON_FEW_CORES = 1e-3
FEW_CORES = 4
CANCELLED = 1.0  # seconds that an Executor's own tasks may take to end when they are cancelled


def run(seat: Seat, status: Connection, manager: int, memory: Arena | None = None) -> int:
    """Be a replica until told to stop; return the exit status.

    Args:
        seat: who to be.
        status: the line to the process manager, told `ready`, or `failed` and why.
        manager: the process id of the process manager, whose end is this one's end.
        memory: its view of the Flow's shared memory, if there is any.
    """
    process.die_with_parent(signal.SIGKILL, manager)
    process.set_title(f"zflow: {seat.name}")
    exiting.begin()
    process.read_nothing()
    process.print_whole_lines()
    process.keep_memory()
    name_lines(seat.name)
    os.environ.update(seat.spec.env)
    if seat.device is not None:
        os.environ[cuda.VARIABLE] = seat.device
    try:
        return _sit(seat, status, manager, memory)
    finally:
        exiting.end()


def _sit(seat: Seat, status: Connection, manager: int, memory: Arena | None) -> int:
    """Load the Executor and serve; when it returns nothing here refers to the Executor any more."""
    stop = Stop()
    sigterm = _Sigterm(status)
    signals.handle(signal.SIGTERM, sigterm.came)
    os.register_at_fork(after_in_child=stop.note_fork)
    try:
        service = Service(seat, memory)
    except BaseException as error:
        if stop.forked:
            process.leave(error)
        spec = seat.spec
        way_out = uses.hint(error, spec.uses, spec.folder, spec.install_requirements)
        if isinstance(error, OSError) and error.errno in descriptors.FEW:
            way_out = f"; {process.cannot_start(error)}"
        told = as_error(error, seat.name, "could not start", way_out)
        say(status, "failed", errors.to_wire(told))
        return 1
    if stop.forked:
        process.leave()
    # Not sooner: as long as there is nothing to close, it just ends.
    signals.handle(signals.END, stop.ask)
    try:
        link = Link(seat, stop, service.slots, memory)
    except (OSError, zmq.ZMQError) as error:
        why = process.cannot_start(OSError(error.errno, error.strerror))
        say(status, "failed", failure(f"{seat.name} could not start: {why}"))
        return 1
    refused = link.register(service.endpoints, service.batching)
    if refused is not None:
        # As garbage its context might go before its sockets, and wait for them for ever.
        link.close()
        _say_refused(status, seat, refused)
        return 1
    say(status, "ready", None)
    sigterm.pass_on()
    try:
        if service.is_async:
            _serve_async(service, link, manager)
        else:
            _serve(service, link, manager)
    except StopNow:
        pass
    link.leave()
    service.close()
    if stop.forked:
        process.leave()
    sigterm.hold_back()
    if service.loop is not None:
        _end_loop(service.loop)
    if link.refused is not None:
        _say_refused(status, seat, link.refused)
        return 1
    return 0


def _say_refused(status: Connection, seat: Seat, why: str) -> None:
    say(status, "failed", failure(f"{seat.name} is not taken in by the Flow at {seat.back}: {why}"))


class _Sigterm:
    """Passes SIGTERM on to the process manager, which knows whether this
    replica is meant or the whole Flow.
    """

    def __init__(self, status: Connection) -> None:
        self._status = status
        self._ready = self._came = False

    def came(self, *_: object) -> None:
        """Handle the signal."""
        self._came = True
        if self._ready:
            with contextlib.suppress(OSError):
                say(self._status, "asked", None)

    def pass_on(self) -> None:
        """Nothing else is said over the line until `hold_back`,
        so that nothing can come into the midst of it.
        """
        self._ready = True
        if self._came:
            self.came()

    def hold_back(self) -> None:
        """This replica ends anyway."""
        self._ready = False


# -- the loops -------------------------------------------------------------------------------------


def _serve(service: Service, link: Link, manager: int) -> None:
    stop = link.stop
    clock = time.perf_counter
    gather = GATHER if process.cores() >= FEW_CORES else GATHER_ON_FEW_CORES
    while not stop.asked:
        stop.waiting = True
        arrived = link.wait()
        stop.waiting = False
        if not arrived:
            link.give_back_memory()
        if not arrived and (os.getppid() != manager or link.turned_away):
            return  # who was turned away is not asked for anew over the same connection
        drained = clock()
        while not stop.asked and (tasks := link.next()):
            for some, calls in service.jobs(tasks):
                endpoint = some[0].endpoint
                if not service.is_brief(endpoint):
                    # Else the broker might think that one of those answered takes so long.
                    link.flush()
                begun = clock()
                link.turn.release()
                answers = _work(service, some, calls, stop)
                if stop.forked:
                    process.leave()
                link.turn.acquire()
                ended = clock()
                service.took(endpoint, ended - begun)
                link.answer(answers, (ended - begun) / len(some))
                if stop.asked:
                    break
                if ended - drained > gather:
                    link.flush()
                    link.drain()  # what is next may have been recalled meanwhile
                    drained = ended
                elif link.has_more:
                    link.hold()
        link.flush()


def _work(service: Service, tasks: list[Assignment], calls: list[Call], stop: Stop) -> list[Answer]:
    try:
        call = calls[0] if calls else service.prepare(tasks[0])
        if call.handler is None or call.handler.batching is None:
            return [Answer(tasks, *service.encode(call, call.start()))]
        working = service.begin(tasks, calls or [call])
        return service.end(working, working.made.start())
    except BaseException as error:  # also SystemExit: a request must not end the replica
        if stop.forked:
            process.leave(error)
        return [service.failure(tasks, error)]


def _serve_async(service: Service, link: Link, manager: int) -> None:
    import asyncio

    service.loop = asyncio.new_event_loop()
    asyncio.set_event_loop(service.loop)
    service.loop.run_until_complete(_AsyncLoop(service, link, manager, service.loop).serve())


def _end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """End what the Executor still has on its event loop, and let go of it,
    as `asyncio.run` does.
    """
    import asyncio

    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=CANCELLED))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()


class _AsyncLoop:
    """The event loop's side: starts what has arrived as long as there are slots,
    one asyncio task for each.
    """

    def __init__(
        self, service: Service, link: Link, manager: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._service = service
        self._link = link
        self._manager = manager
        self._loop = loop
        self._running: set[asyncio.Task[None]] = set()
        self._jobs: deque[Job] = deque()  # of a batch, what has not begun
        self._ended = loop.create_future()

    async def serve(self) -> None:
        self._link.stop.wake = lambda: self._loop.call_soon_threadsafe(self._end_if_idle)
        for descriptor in self._link.descriptors:
            self._loop.add_reader(descriptor, self._arrived)
        self._loop.call_later(IDLE / 1000, self._look)
        self._arrived()
        await self._ended
        for descriptor in self._link.descriptors:
            self._loop.remove_reader(descriptor)
        self._link.stop.wake = None

    def _arrived(self) -> None:
        # A socket's descriptor signals changes only, so everything is taken in whenever it was
        # used.
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

    async def _work(self, tasks: list[Assignment], calls: list[Call]) -> None:
        begun = time.perf_counter()
        service = self._service
        try:
            call = calls[0] if calls else service.prepare(tasks[0])
            if call.handler is None or call.handler.batching is None:
                answers = [Answer(tasks, *service.encode(call, await self._called(call)))]
            else:
                working = service.begin(tasks, calls or [call])
                answers = service.end(working, await self._called(working.made))
            if self._link.stop.forked:
                process.leave()
        except BaseException as error:
            if self._link.stop.forked:
                process.leave(error)
            answers = [service.failure(tasks, error)]
        self._link.answer(answers, (time.perf_counter() - begun) / len(tasks))
        self._loop.call_soon(self._link.flush)  # with what others have to answer at this moment

    async def _called(self, call: Call) -> object:
        value = call.start()
        return await value if call.handler is not None and call.handler.is_async else value

    def _done(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._arrived()

    def _look(self) -> None:
        if os.getppid() != self._manager or self._link.turned_away:
            self._stop()
        if not self._running:
            self._link.give_back_memory()
        self._loop.call_later(IDLE / 1000, self._look)

    def _stop(self) -> None:
        self._link.stop.asked = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._link.stop.asked and not self._running and not self._ended.done():
            self._ended.set_result(None)
