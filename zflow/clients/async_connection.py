"""One connection of an AsyncClient to a Flow's broker: one for each event loop,
for all posts there at once.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from typing import Any

import zmq

from zflow import errors
from zflow.clients import wire
from zflow.clients.exchange import Exchange
from zflow.clients.member import Membership
from zflow.clients.wire import Said, Wire
from zflow.devices.protocol.messages import Control, Controlled, Failed, Message, Reply, Request
from zflow.devices.protocol.references import is_fixed
from zflow.devices.protocol.session import Welcomed
from zflow.devices.sockets.clock import monotonic
from zflow.devices.sockets.port import BATCH
from zflow.network.keys import Keys


class Stream:
    """An exchange on an event loop: woken when an answer for it has arrived,
    or there will be none.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.trackers: deque[zmq.MessageTracker] = deque()  # of memory that is being sent
        self.arrived = asyncio.Event()
        self.error: errors.ZflowError | None = None

    def check(self) -> None:
        """Raise if there will be no answers any more."""
        if self.error is not None:
            raise self.error

    def fail(self, error: errors.ZflowError) -> None:
        """There will be no answers any more."""
        self.error = error
        self.arrived.set()


class AsyncConnection:
    """One socket to the broker on one event loop. It closes itself when something is wrong with it.

    Args:
        membership: what is known of the Flow.
        keys: what lets it in, if the Flow asks for keys.

    Raises:
        FlowUnreachable: its address is none.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, membership: Membership, keys: Keys | None = None
    ) -> None:
        self._loop = loop
        self._check = membership.check
        self._pid = os.getpid()
        self._context = wire.begin()
        self._wire = Wire(self._context, membership.address, keys, membership.memory)
        self.ids = self._wire.ids
        self.memory = self._wire.memory
        self._open: set[Stream] = set()
        self._streams: dict[int, Stream] = {}  # by request that was sent and not answered
        self._orders: dict[int, tuple[Control, asyncio.Future[dict[str, Any]]]] = {}  # commands
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}  # who is there, by token
        # Requests that are sent together with others of this moment.
        self._waiting: list[Message] = []
        self._used = monotonic()
        loop.add_reader(self._wire.socket.fileno(), self._drain)
        self._timer = loop.call_later(wire.PING_AFTER / 1000, self._look)
        # Were a context collected as garbage together with its socket, it might wait for that for
        # ever.
        self._shut = weakref.finalize(self, _shut, self._context, self._wire)
        self._shut.atexit = False

    def __enter__(self) -> AsyncConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def info(self) -> dict[str, Any]:
        """What the Flow said about itself the last time."""
        return self._wire.session.info

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return bool(self._wire.socket.closed)

    def is_usable(self) -> bool:
        """Whether the Flow has not refused it, nothing else is wrong with it,
        and this process has made it.

        After a fork, the sockets are the other process's.
        """
        if not self._is_own:
            return False
        self._drain()
        if self._wire.refused:
            self.close(self._wire.refusal())
        return not self.closed

    @property
    def _is_own(self) -> bool:
        return self._pid == os.getpid()

    # -- who is there ------------------------------------------------------------------------------

    async def refresh(self, timeout: float | None = None) -> None:
        """Ask anew who the broker is if there is news or the last use was long ago:
        it may be another Flow's by now.
        """
        unused = not self._open and monotonic() - self._used > wire.PING_AFTER / 1000
        if unused or not self.info or self._wire.session.unsure:
            try:
                await self.hello(timeout)
            except errors.ZflowError as error:
                if not (self._open or self._orders or self._questions):
                    self.close(error)
                raise
        self._used = monotonic()

    async def hello(self, timeout: float | None = None) -> dict[str, Any]:
        """Ask the broker who it is; wait for its answer at most `timeout` seconds,
        `CONNECTING` when left out.
        """
        self._check()
        token = self._wire.ask()
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._questions[token] = answer
        deadline = monotonic() + (wire.CONNECTING if timeout is None else timeout)
        try:
            while (left := deadline - monotonic()) > 0:
                # The descriptor signals changes only, and sending may have used one up.
                self._drain()
                done, _ = await asyncio.wait([answer], timeout=min(wire.PING_AFTER / 1000, left))
                if done:
                    return answer.result()
                self._check()
                # A broker that has died meanwhile may have taken the question with it.
                self._wire.ask()
        finally:
            self._questions.pop(token, None)
        raise self._wire.nobody()

    # -- sending -----------------------------------------------------------------------------------

    def begin(self, stream: Stream) -> None:
        """Requests of the stream will be sent, until it is forgotten."""
        self._open.add(stream)

    def send(self, request: Request, stream: Stream) -> list[zmq.MessageTracker]:
        """Send the stream's next request, together with others of this moment."""
        stream.check()
        self._streams[request.first] = stream
        self._waiting.append(request)
        # Whoever waits for the trackers may write to it again.
        if len(request.payload) > 1 and not is_fixed(request.payload):
            return self._flush()
        if len(self._waiting) == 1:
            self._loop.call_soon(self._flush)
        return []

    def _flush(self) -> list[zmq.MessageTracker]:
        """Send the requests that wait for that."""
        if not self._waiting or self.closed:
            return []
        trackers = self._say_waiting()
        self._drain()
        return trackers

    def _say_waiting(self) -> list[zmq.MessageTracker]:
        waiting, self._waiting = self._waiting, []
        return self._wire.say(waiting)

    def send_again(self, outgoing: list[Message]) -> None:
        """Send requests that were sent before."""
        if outgoing and not self.closed:
            self._wire.say(outgoing)
            self._drain()

    def forget(self, stream: Stream) -> None:
        """Drop whatever is still to come for the stream, and tell the broker not to bother."""
        self._open.discard(stream)
        self._streams = {id: other for id, other in self._streams.items() if other is not stream}
        self._used = monotonic()
        if self._is_own:
            self._cancel(stream)
            self._drain()

    def _cancel(self, stream: Stream) -> None:
        self._waiting.extend(stream.exchange.cancelled())
        if not self.closed:
            self._say_waiting()

    async def command(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have something about the Flow changed, and wait until it is; returns what came of it."""
        order = self._wire.order(command, arguments)
        result: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._orders[order.id] = order, result
        try:
            self.send_again([order])
            return await result
        finally:
            self._orders.pop(order.id, None)

    # -- receiving ---------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take in what has arrived."""
        try:
            while not self.closed and self._wire.port.readable():
                for event in self._wire.heard(self._wire.port.receive_some(BATCH)):
                    self._take(event)
        except errors.ZflowError as error:
            self.close(error)
        if self._questions and self._wire.refused:
            self.close(self._wire.refusal())

    def _take(self, event: Said) -> None:
        if type(event) is Welcomed:
            self._welcomed(event)
        elif type(event) is Controlled:
            if event.id in self._orders:
                _settle(self._orders[event.id][1], event.result)
        elif type(event) is Reply or type(event) is Failed:
            stream = self._streams.get(event.first)
            if stream is not None:
                if stream.exchange.take(event):
                    del self._streams[event.first]
                stream.arrived.set()

    def _welcomed(self, welcome: Welcomed) -> None:
        if not welcome.same_flow:
            self._fail(self._wire.replaced())
        elif welcome.anew:
            # Those that wait were not sent yet: the broker is to know them as new before it is told
            # of all once more.
            self._say_waiting()
            for stream in set(self._streams.values()):
                self._wire.say(list(stream.exchange.again()))
            self._wire.say([order for order, _ in self._orders.values()])
        for token, answer in self._questions.items():
            if welcome.token <= token:
                _settle(answer, welcome.info)

    def _look(self) -> None:
        """Make sure, while somebody waits, that the broker is still there."""
        self._timer = self._loop.call_later(wire.PING_AFTER / 1000, self._look)
        if not self._streams and not self._orders:
            self._wire.session.rest(monotonic())
            return
        for stream in set(self._streams.values()):
            if stream.exchange.expire(self._wire.address):
                stream.arrived.set()
        try:
            self._check()
        except errors.ZflowError as error:  # its last answers may still be on their way
            self._loop.call_later(
                wire.FINAL_READ / 1000, self._end, error, self._wire.session.heard
            )
            return
        try:
            if self._wire.refused:
                raise self._wire.refusal()
            self._wire.tick()
            self._drain()
        except errors.ZflowError as error:
            self.close(error)

    def _end(self, error: errors.ZflowError, heard: float) -> None:
        if self._wire.session.heard == heard:
            self.close(error)

    # -- the end -----------------------------------------------------------------------------------

    def _fail(self, error: errors.ZflowError) -> None:
        """Tell those who wait for answers that there will be none."""
        self._streams.clear()
        for stream in self._open:
            stream.fail(error)
        for _, result in self._orders.values():
            _settle(result, error)

    def close(self, error: errors.ZflowError | None = None) -> None:
        """Close the socket when what it has to say is out, but soon; what still waits fails."""
        if self.closed:
            return
        self._timer.cancel()
        if self._is_own:
            for stream in self._open:
                self._cancel(stream)
        if not self._loop.is_closed():
            error = error or errors.FlowUnreachable("the AsyncClient was closed")
            self._fail(error)
            for answer in self._questions.values():
                _settle(answer, error)
            self._loop.remove_reader(self._wire.socket.fileno())
        self._shut()


def _settle(
    future: asyncio.Future[dict[str, Any]], result: dict[str, Any] | errors.ZflowError
) -> None:
    """Give a future its result, if anybody still waits for it."""
    if future.done():
        return
    if isinstance(result, errors.ZflowError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _shut(context: zmq.Context[Any], wire_: Wire) -> None:
    wire_.close()
    wire.end(context)
