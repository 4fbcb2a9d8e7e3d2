"""`AsyncClient`: posts to a running Flow from asyncio,
many posts at once over one socket per event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Generator
from typing import Any

from zflow import errors
from zflow.clients import wire
from zflow.clients.async_connection import AsyncConnection, Stream
from zflow.clients.exchange import Exchange
from zflow.clients.inputs import (
    PREFETCH,
    REQUEST_SIZE,
    batches,
    check_document,
    check_options,
    choose_targets,
    command_arguments,
    resolved,
    seconds,
    told,
)
from zflow.clients.member import Membership
from zflow.clients.response import Callback, Callbacks, Response, changed, ready, together
from zflow.clients.retrying import (
    ATTEMPTS,
    BACKOFF_MULTIPLIER,
    INITIAL_BACKOFF,
    MAX_BACKOFF,
    Retrying,
    retrying_of,
)
from zflow.clients.shortcuts import Shortcuts
from zflow.devices.protocol.messages import Info, Request
from zflow.devices.sockets.clock import monotonic
from zflow.documents.document import Document, DocumentArray
from zflow.documents.values import Parameters
from zflow.network.address import address_of, check_protocol
from zflow.network.keys import Folder, Keys, keys_of


class AsyncResults:
    """What `AsyncClient.post` returns: `async for` yields results as they come,
    `await` collects them all.
    """

    def __init__(self, responses: AsyncIterator[Response], callbacks: Callbacks) -> None:
        self._responses = responses
        self._callbacks = callbacks

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in self._responses:
            self._callbacks.deliver(response)
            if self._callbacks.keeps(response):
                yield response if self._callbacks.whole else response.docs

    def __await__(self) -> Generator[Any, None, Any]:
        return self._collect().__await__()

    async def _collect(self) -> Any:
        responses = []
        async for response in self._responses:
            self._callbacks.deliver(response)
            if not self._callbacks.take_results and self._callbacks.keeps(response):
                responses.append(response)
        if self._callbacks.take_results:
            return None
        return responses if self._callbacks.whole else together(responses)


class AsyncClient(Shortcuts):
    """Posts to a Flow from asyncio. One may be shared by tasks, and used on several event loops.

    Args:
        host: where the Flow listens; with its port, as in `'127.0.0.1:5555'`, if `port` is left
            out.
        port: its port.
        curve: the key folder that lets it in, if the Flow asks for keys.
        protocol: as in `Client`.

    Raises:
        BadRequest: that is no address, or has no port.

    Example:
        client = AsyncClient(port=5555)
        docs = await client.post("/search", Document(text="hello"))
        async for docs in client.post("/index", documents):
            ...  # one DocumentArray per request, in order
    """

    __module__ = "zflow"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | str | None = None,
        *,
        curve: Folder | None = None,
        protocol: str | None = None,
    ) -> None:
        check_protocol(protocol)
        self._setup(Membership(address_of(host, port, "AsyncClient")), curve)

    @classmethod
    def _of(cls, membership: Membership) -> AsyncClient:
        """An AsyncClient of a Flow in this process."""
        client = cls.__new__(cls)
        client._setup(membership)
        return client

    def _setup(self, membership: Membership, curve: Folder | None = None) -> None:
        self._membership = membership
        self._keys = keys_of(curve)
        self._admin_keys = keys_of(curve, "admin")
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncConnection]
        self._connections = weakref.WeakKeyDictionary()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close this event loop's connection. Posting again connects anew."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            connection.close()

    async def info(self, timeout: float = 1000 * wire.CONNECTING) -> dict[str, Any]:
        """Ask the Flow about itself; as `Client.info`."""
        limit = seconds(timeout)
        deadline = monotonic() + limit
        connection = await self._connection(limit)
        return await connection.hello(max(0.001, deadline - monotonic()))

    async def is_flow_ready(self, timeout: float = 5000) -> bool:
        """Whether a Flow answers, and all its Executors have a replica;
        as `Client.is_flow_ready`.
        """
        limit = seconds(timeout)
        try:
            with self._new(self._keys) as connection:
                return ready(await connection.hello(limit))
        except errors.OutOfDescriptors:
            raise
        except errors.ZflowError:
            return False

    async def scale(
        self, executor: str, replicas: int, *, timeout: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Give an Executor so many replicas (of each shard); as `Client.scale`."""
        return await self._command("scale", timeout, force, executor=executor, replicas=replicas)

    async def restart(
        self, executor: str, *, timeout: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Put a new process in the place of each replica, one after the other;
        as `Client.restart`.
        """
        return await self._command("restart", timeout, force, executor=executor)

    async def drain(self, replica: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Give a replica, such as `'encoder/rep-0'`, nothing more; as `Client.drain`."""
        return await self._command("drain", timeout, replica=replica)

    async def undrain(self, replica: str) -> dict[str, Any]:
        """Let a replica compete again that was drained; as `Client.undrain`."""
        return await self._command("undrain", replica=replica)

    async def _command(
        self, command: str, timeout: float | None = None, force: bool = False, **arguments: object
    ) -> Info:
        given, limit = command_arguments(timeout, force, arguments), wire.connecting(timeout)
        if self._admin_keys == self._keys:
            connection = await self._connection(limit)
            return changed(await connection.command(command, given))
        with self._new(self._admin_keys) as own:
            await own.hello(limit)
            return changed(await own.command(command, given))

    def _new(self, keys: Keys | None) -> AsyncConnection:
        """A connection on this event loop."""
        return AsyncConnection(asyncio.get_running_loop(), self._membership, keys)

    async def _connection(self, timeout: float | None = None) -> AsyncConnection:
        """This event loop's connection, to a Flow that is there."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None or not connection.is_usable():
            self._close_those_of_closed_loops()
            connection = self._connections[loop] = self._new(self._keys)
        await connection.refresh(timeout)
        return connection

    def _close_those_of_closed_loops(self) -> None:
        for loop in [loop for loop in self._connections if loop.is_closed()]:
            connection = self._connections.pop(loop, None)
            if connection is not None:
                connection.close()

    def post(
        self,
        on: str,
        inputs: object = None,
        parameters: Parameters | None = None,
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
        continue_on_error: bool = False,
        max_attempts: int = ATTEMPTS,
        initial_backoff: float = INITIAL_BACKOFF,
        max_backoff: float = MAX_BACKOFF,
        backoff_multiplier: float = BACKOFF_MULTIPLIER,
    ) -> AsyncResults:
        """As `Client.post`, from asyncio; inputs may be an async iterable too, or a function,
        asynchronous or not, that gives any of these.

        Returns:
            Something to await, for all results in one DocumentArray (or the list of responses, or
            None if there is an `on_done` or `on_always`); or to iterate over with `async for`, for
            one DocumentArray (or response) per request, in the order of the inputs,
            in constant memory.

        Raises: as `Client.post`, when it is awaited or iterated.
        """
        on = check_options(on, parameters, request_size, prefetch, timeout, on_overload)
        retrying = retrying_of(
            on_overload, max_attempts, initial_backoff, max_backoff, backoff_multiplier
        )
        limits = prefetch, timeout, retrying
        responses = self._responses(on, inputs, parameters, request_size, target_executor, limits)
        if show_progress:
            responses = _shown(responses, inputs)
        callbacks = Callbacks(on_done, on_error, on_always, continue_on_error, return_responses)
        return AsyncResults(responses, callbacks)

    async def _responses(
        self,
        on: str,
        inputs: object,
        parameters: Parameters | None,
        request_size: int,
        target_executor: str | None,
        limits: tuple[int, int | None, Retrying],
    ) -> AsyncIterator[Response]:
        with contextlib.ExitStack() as stack:
            inputs = resolved(inputs)
            if hasattr(inputs, "__await__"):
                inputs = await inputs
            _, timeout, retrying = limits
            connection = await retrying.reach_async(
                lambda left: self._connection(wire.connecting(left)), timeout
            )
            self._membership.enter()
            stack.callback(self._membership.leave)
            names, limit = told(connection.info)
            targets = choose_targets(target_executor, names)
            source = _cut(inputs, request_size) if hasattr(inputs, "__aiter__") else None
            requests = batches(None if source is not None else inputs, request_size)
            exchange = Exchange(
                on, requests, parameters, targets, limits, limit, connection.ids, connection.memory
            )
            stream = Stream(exchange)
            connection.begin(stream)
            stack.callback(connection.forget, stream)
            while True:
                await _send_some(connection, stream, source)
                if exchange.finished:
                    return
                await _arrival(connection, stream)
                for response in exchange.ready():
                    yield response


async def _send_some(
    connection: AsyncConnection, stream: Stream, source: AsyncIterator[DocumentArray] | None
) -> None:
    """Send requests as long as there is room and nobody may write to what was sent before."""
    exchange, trackers = stream.exchange, stream.trackers
    while exchange.has_room:
        while trackers:
            stream.check()
            if trackers[0].done:
                trackers.popleft()
            else:
                await asyncio.sleep(0)
        request = exchange.next() if source is None else await _next(source, exchange)
        if request is None:
            return
        trackers.extend(connection.send(request, stream))


async def _arrival(connection: AsyncConnection, stream: Stream) -> None:
    """Wait until something has arrived for the stream, or what was held back may be sent again."""
    pause = stream.exchange.pause
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stream.arrived.wait(), pause)
    stream.arrived.clear()
    stream.check()
    connection.send_again(list(stream.exchange.due()))


async def _cut(documents: Any, size: int) -> AsyncIterator[DocumentArray]:
    some: list[Document] = []
    place = 0
    async for document in documents:
        check_document(document, place)
        place += 1
        some.append(document)
        if len(some) == size:
            yield DocumentArray(some)
            some = []
    if some or not place:
        yield DocumentArray(some)


async def _next(source: AsyncIterator[DocumentArray], exchange: Exchange) -> Request | None:
    try:
        docs = await source.__anext__()
    except StopAsyncIteration:
        exchange.exhaust()
        return None
    return exchange.request(docs)


async def _shown(responses: AsyncIterator[Response], inputs: object) -> AsyncIterator[Response]:
    from zflow.clients.progress import bar

    with bar(inputs) as progress:
        async for response in responses:
            progress.update(len(response.docs))
            yield response
