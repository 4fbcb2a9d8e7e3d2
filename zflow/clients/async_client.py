"""`AsyncClient`: posts to a running Flow from asyncio, many posts at once over one socket per event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any

import zmq

from zflow import errors
from zflow.clients.connection import (
    CONNECTING,
    FINAL_READ,
    PING_AFTER,
    SILENCE,
    check_same_flow,
    end,
    nobody,
    open_socket,
    refusal,
)
from zflow.clients.exchange import Exchange
from zflow.clients.inputs import (
    PREFETCH,
    REQUEST_SIZE,
    batches,
    check_document,
    check_options,
    choose_targets,
    seconds,
    told,
)
from zflow.clients.response import Callback, Callbacks, Response, ready, together
from zflow.clients.shortcuts import Shortcuts
from zflow.devices.protocol import bundles, messages
from zflow.devices.sockets.clock import monotonic
from zflow.devices.sockets.port import Port, buffers
from zflow.documents.document import DocumentArray
from zflow.network.address import address_of
from zflow.network.keys import Folder, Keys, keys_of


class _Stream:
    """An exchange on an event loop: woken when an answer for it has arrived."""

    def __init__(self, link: _Link, exchange: Exchange) -> None:
        self._link = link
        self.exchange = exchange
        self.arrived = asyncio.Event()
        self.error: BaseException | None = None


class _Link:
    """One event loop's socket to the broker."""

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop, keys: Keys | None) -> None:
        self._address = address
        self._keys = keys
        self._loop = loop
        self.pid = os.getpid()
        self.ids = itertools.count(1)
        self.encode = messages.encoder()
        self._context = zmq.Context()
        self._socket = open_socket(self._context, address, keys)
        self._port = Port(self._socket, 2)
        self._streams: dict[int, _Stream] = {}
        self._waiting: list[messages.Message] = []  # requests that are sent together with others of this moment
        self._welcome: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._heard = self._used = monotonic()
        self.info: dict[str, Any] = {}
        self._anew = False  # connected anew: the broker may be another one, or have missed something
        loop.add_reader(self._socket.fileno(), self._drain)
        self._timer = loop.call_later(PING_AFTER / 1000, self._look)
        # Were a context collected as garbage together with its socket, it might wait for that for ever.
        self._shut = weakref.finalize(self, _shut, self._context, self._socket)
        self._shut.atexit = False

    async def hello(self, timeout: float | None = None) -> dict[str, Any]:
        """Ask the broker who it is; wait for its answer at most `timeout` seconds, `CONNECTING` when left out."""
        if self._welcome.done():
            self._welcome = self._loop.create_future()
        welcome = self._welcome
        deadline = monotonic() + (CONNECTING if timeout is None else timeout)
        while (left := deadline - monotonic()) > 0 and not self.refused:
            self._say_hello()  # once more after a while: a broker that has died may have taken the question with it
            with contextlib.suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(asyncio.shield(welcome), min(PING_AFTER / 1000, left))
        if self.refused:
            raise refusal(self._address, self._keys)
        raise errors.FlowUnreachable(nobody(self._address, self._keys))

    @property
    def refused(self) -> bool:
        """Whether the Flow has refused the connection; then it is of no use any more."""
        return not self._socket.closed and self._port.refused

    def _say(self, outgoing: Sequence[messages.Message]) -> list[zmq.MessageTracker]:
        """Send; if the Flow has refused the connection, `_look` tells those who wait for the answers."""
        try:
            return self._port.say(outgoing, self.encode)
        except zmq.Again:
            return []

    def _say_hello(self) -> None:
        self._say([((messages.VERSION, messages.HELLO, 0), ())])
        self._drain()

    def send(self, message: messages.Message, stream: _Stream, id: int) -> list[zmq.MessageTracker]:
        """Send a request whose answer goes to the stream, together with others of this moment."""
        self._streams[id] = stream
        self._waiting.append(message)
        if len(message[1]) > 1:  # memory that is not copied: whoever waits for the trackers may write to it again
            return self.flush()
        if len(self._waiting) == 1:
            self._loop.call_soon(self.flush)
        return []

    def flush(self) -> list[zmq.MessageTracker]:
        """Send the requests that wait for that."""
        if not self._waiting or self._socket.closed:
            return []
        trackers = self._say_waiting()
        self._drain()  # the descriptor signals changes only, and sending may have used one up
        return trackers

    def _say_waiting(self) -> list[zmq.MessageTracker]:
        waiting, self._waiting = self._waiting, []
        return self._say(waiting)

    def send_again(self, outgoing: list[messages.Message]) -> None:
        """Send requests that were sent before."""
        if outgoing:
            self._say(outgoing)
            self._drain()

    def forget(self, stream: _Stream) -> None:
        """Drop whatever is still to come for the stream, and tell the broker not to bother."""
        self._streams = {id: other for id, other in self._streams.items() if other is not stream}
        if not self._socket.closed:
            self._cancel(stream)
            self._drain()

    def _cancel(self, stream: _Stream) -> None:
        self._waiting.extend(stream.exchange.cancelled())
        self._say_waiting()

    def _drain(self) -> None:
        while not self._socket.closed and self._port.readable():
            frames = self._port.receive()
            self._heard = monotonic()
            if not frames[0]:
                self._greeted()
                continue
            try:
                said = bundles.read(frames, 0, messages.TO_CLIENT)
            except messages.Malformed as error:
                self._break(errors.FlowUnreachable(f"what answers at {self._address} is no zflow Flow: {error}"))
                return
            for header, payload in said:
                self._take(header, buffers(payload))
        if not self.info and not self._welcome.done() and self.refused:
            self._welcome.set_exception(refusal(self._address, self._keys))

    def _greeted(self) -> None:
        """There is a new connection; if it is not the first one, ask who is there now."""
        if self.info:
            self._anew = True
            self._say([((messages.VERSION, messages.HELLO, 0), ())])

    def _take(self, header: list[Any], payload: Sequence[Any]) -> None:
        if header[1] == messages.WELCOME:
            self._welcomed(header[3])
            return
        if header[1] == messages.FAILED and header[2] == 0 and not self._welcome.done():
            message = f"the Flow at {self._address} speaks another version of zflow's protocol"
            self._welcome.set_exception(errors.BadRequest(message))
            return
        stream = self._streams.get(header[2])
        if stream is not None:
            if stream.exchange.take(header, payload):
                del self._streams[header[2]]
            stream.arrived.set()

    def _welcomed(self, info: dict[str, Any]) -> None:
        if self.info and self._streams:
            try:
                check_same_flow(self._address, self.info, info)
            except errors.FlowUnreachable as error:
                self._break(error)
        self.info = info
        if self._anew:
            self._anew = False
            # Those that wait were not sent yet: the broker is to know them as new before it is told of all once more.
            self._say_waiting()
            for stream in set(self._streams.values()):
                self._say(list(stream.exchange.again()))
        if not self._welcome.done():
            self._welcome.set_result(info)

    async def refresh(self) -> None:
        """Ask who the broker is, at first and when the last use was long ago: another Flow may listen there by now."""
        now = monotonic()
        if not self.info or (not self._streams and now - self._used > PING_AFTER / 1000):
            await self.hello()
        self._used = now

    def _look(self) -> None:
        """Make sure, while somebody waits, that the broker is still there."""
        silent = monotonic() - self._heard
        if not self._streams:
            self._heard = monotonic()
            self._timer = self._loop.call_later(PING_AFTER / 1000, self._look)
            return
        for stream in set(self._streams.values()):
            if stream.exchange.expire(self._address):
                stream.arrived.set()
        if self.refused:
            self.deny()
        elif silent > SILENCE:
            self._break(errors.FlowUnreachable(f"the Flow at {self._address} stopped answering {silent:.0f} s ago"))
        elif silent > PING_AFTER / 1000:
            self._say_hello()
        self._timer = self._loop.call_later(PING_AFTER / 1000, self._look)

    def deny(self) -> None:
        """Tell those who wait that the Flow has refused the connection."""
        self._break(refusal(self._address, self._keys))

    def _break(self, error: errors.ZflowError) -> None:
        streams, self._streams = set(self._streams.values()), {}
        for stream in streams:
            stream.error = error
            stream.arrived.set()

    def close(self) -> None:
        """Close the socket when what it has to say is out, but soon; what still waits fails."""
        self._timer.cancel()
        for stream in set(self._streams.values()):
            self._cancel(stream)
        if not self._loop.is_closed():
            self._break(errors.FlowUnreachable("the AsyncClient was closed"))
            self._loop.remove_reader(self._socket.fileno())
        self._shut()


def _shut(context: zmq.Context[Any], socket: zmq.Socket[bytes]) -> None:
    socket.close(FINAL_READ)
    end(context)


class AsyncResults:
    """What `AsyncClient.post` returns: `async for` yields results as they come, `await` collects them all."""

    def __init__(self, responses: AsyncIterator[Response], callbacks: Callbacks, whole: bool) -> None:
        self._responses = responses
        self._callbacks = callbacks
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in self._responses:
            self._callbacks.deliver(response)
            if response.error is None:
                yield response if self._whole else response.docs

    def __await__(self) -> Generator[Any, None, Any]:
        return self._collect().__await__()

    async def _collect(self) -> Any:
        responses = []
        async for response in self._responses:
            self._callbacks.deliver(response)
            if response.error is None and not self._callbacks.take_results:
                responses.append(response)
        if self._callbacks.take_results:
            return None
        return responses if self._whole else together(responses)


class AsyncClient(Shortcuts):
    """Posts to a Flow from asyncio. One may be shared by tasks, and used on several event loops.

    Args:
        host: where the Flow listens; with its port, as in `'127.0.0.1:5555'`, if `port` is left out.
        port: its port.
        curve: the key folder that lets it in, if the Flow asks for keys.

    Raises:
        BadRequest: that is no address, or has no port.

    Example:
        client = AsyncClient(port=5555)
        docs = await client.post("/search", Document(text="hello"))
        async for docs in client.post("/index", documents):  # one DocumentArray per request, in order
            ...
    """

    __module__ = "zflow"

    def __init__(self, host: str = "127.0.0.1", port: int | str | None = None, *, curve: Folder | None = None) -> None:
        self._address = address_of(host, port, "AsyncClient")
        self._keys = keys_of(curve)
        self._links: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Link] = weakref.WeakKeyDictionary()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Close this event loop's connection. Posting again connects anew."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            link.close()

    async def info(self) -> dict[str, Any]:
        """Ask the Flow about itself; as `Client.info`."""
        link = await self._link()
        return await link.hello()

    async def is_flow_ready(self, timeout: float = 5000) -> bool:
        """Whether a Flow answers, and all its Executors have a replica; as `Client.is_flow_ready`."""
        limit = seconds(timeout)
        try:
            link = _Link(self._address, asyncio.get_running_loop(), self._keys)
        except errors.ZflowError:
            return False
        try:
            return ready(await link.hello(limit))
        except errors.ZflowError:
            return False
        finally:
            link.close()

    async def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is not None and link.pid == os.getpid() and link.refused:  # another one may be let in
            link.deny()
            await self.close()
            link = None
        if link is None or link.pid != os.getpid():
            self._close_those_of_closed_loops()
            link = self._links[loop] = _Link(self._address, loop, self._keys)
        try:
            await link.refresh()
        except errors.ZflowError:
            if self._links.get(loop) is link:
                await self.close()
            raise
        return link

    def _close_those_of_closed_loops(self) -> None:
        for loop in [loop for loop in self._links if loop.is_closed()]:
            link = self._links.pop(loop, None)
            if link is not None:
                link.close()

    def post(
        self,
        on: str,
        inputs: Any = None,
        parameters: dict[str, Any] | None = None,
        *,
        request_size: int = REQUEST_SIZE,
        on_done: Callback | None = None,
        on_error: Callback | None = None,
        on_always: Callback | None = None,
        return_responses: bool = False,
        target_executor: str | None = None,
        show_progress: bool = False,
        prefetch: int = PREFETCH,
        timeout: int | None = None,
        on_overload: str = "fail",
    ) -> AsyncResults:
        """As `Client.post`, from asyncio; inputs may be an async iterable too.

        Returns:
            Something to await, for all results in one DocumentArray (or the list of responses, or None if there is
            an `on_done` or `on_always`); or to iterate over with `async for`, for one DocumentArray (or response)
            per request, in the order of the inputs, in constant memory.

        Raises: as `Client.post`, when it is awaited or iterated.
        """
        check_options(on, parameters, request_size, prefetch, timeout, on_overload)
        limits = prefetch, timeout, on_overload == "wait"
        responses = self._responses(on, inputs, parameters, request_size, target_executor, limits)
        if show_progress:
            responses = _shown(responses, inputs)
        return AsyncResults(responses, Callbacks(on_done, on_error, on_always), return_responses)

    async def _responses(
        self,
        on: str,
        inputs: Any,
        parameters: dict[str, Any] | None,
        request_size: int,
        target_executor: str | None,
        limits: tuple[int, int | None, bool],
    ) -> AsyncIterator[Response]:
        link = await self._link()
        names, limit = told(link.info)
        targets = choose_targets(target_executor, names)
        source = _cut(inputs, request_size) if hasattr(inputs, "__aiter__") else None
        requests = batches(None if source is not None else inputs, request_size)
        exchange = Exchange(on, requests, parameters, targets, limits, limit, link.ids)
        stream = _Stream(link, exchange)
        trackers: deque[zmq.MessageTracker] = deque()
        try:
            while True:
                while exchange.has_room:
                    while trackers:
                        if stream.error is not None:
                            raise stream.error
                        if not trackers[0].done:
                            await asyncio.sleep(0)
                            continue
                        trackers.popleft()
                    message = exchange.next() if source is None else await _next(source, exchange)
                    if message is None:
                        break
                    trackers.extend(link.send(message, stream, exchange.last_id))
                if exchange.finished:
                    return
                await _arrival(link, stream)
                if stream.error is not None:
                    raise stream.error
                for response in exchange.ready():
                    yield response
        finally:
            link.forget(stream)


async def _arrival(link: _Link, stream: _Stream) -> None:
    """Wait until something has arrived for the stream, or what was held back may be sent again."""
    pause = stream.exchange.pause
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stream.arrived.wait(), pause)
    stream.arrived.clear()
    link.send_again(list(stream.exchange.due()))


async def _cut(documents: Any, size: int) -> AsyncIterator[DocumentArray]:
    some: list[Any] = []
    place = 0
    async for document in documents:
        check_document(document, place)
        place += 1
        some.append(document)
        if len(some) == size:
            yield DocumentArray(some)
            some = []
    if some:
        yield DocumentArray(some)


async def _next(source: AsyncIterator[DocumentArray], exchange: Exchange) -> messages.Message | None:
    try:
        docs = await source.__anext__()
    except StopAsyncIteration:
        exchange.exhaust()
        return None
    return exchange.request(docs)


async def _shown(responses: AsyncIterator[Response], inputs: Any) -> AsyncIterator[Response]:
    from zflow.clients.progress import bar

    with bar(inputs) as progress:
        async for response in responses:
            progress.update(len(response.docs))
            yield response
