"""`Client`: posts to a running Flow from threads and processes, and waits for the answers.

Each post has a connection of its own while it lasts, from a pool, so threads never share a socket and the calling
thread itself sends and receives. After a fork the new process makes its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import zmq

from zflow import address, errors
from zflow.devices import protocol, sockets
from zflow.document import DocumentArray
from zflow.exchange import (
    PREFETCH,
    REQUEST_SIZE,
    Callback,
    Callbacks,
    Exchange,
    Response,
    batches,
    check_options,
    choose_targets,
)
from zflow.shortcuts import Shortcuts

LOOK = 1000  # ms of silence after which a waiting client makes sure that the Flow is still there
GATHERING = 200e-6  # seconds that a request may wait for those sent with it
LAST_WORDS = 100  # ms that what a Flow sent before its end may take to be read
CONNECTING = 5.0  # seconds to wait for a Flow's first word
SILENCE = 10.0  # seconds without a word from a broker that was asked for one, until it counts as gone


def address_of(host: str, port: int | str | None, kind: str = "Client") -> str:
    """The ZeroMQ address of a Flow: `tcp://127.0.0.1:5555`; without a port the host is to name it: `'127.0.0.1:5555'`.

    Raises:
        BadRequest: there is no port, or it is no number from 1 to 65535.
    """
    if port is not None:
        return address.endpoint(host, address.port_of(port))
    if not isinstance(host, str) or ":" not in host:
        raise errors.BadRequest(f"{kind} needs the port of a Flow: {kind}(port=...); zflow-run prints it")
    return address.endpoint(*address.parse(host))


def check_timeout(timeout: float) -> None:
    """Raise BadRequest if this cannot be how many seconds to wait."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise errors.BadRequest(f"timeout must be a number of seconds above 0, not {timeout!r}")


def ready(info: dict[str, Any]) -> bool:
    """Whether a Flow that told this about itself takes requests, and has a replica of every Executor."""
    executors = info.get("executors")
    if info.get("closing") or not isinstance(executors, dict):
        return False
    return all(isinstance(executor, dict) and executor.get("replicas") for executor in executors.values())


def open_socket(context: zmq.Context[Any], address: str) -> zmq.Socket[bytes]:
    """A DEALER connected to a Flow's front."""
    socket = sockets.dealer(context)
    socket.set(zmq.RCVTIMEO, LOOK)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise errors.FlowUnreachable(f"{address} is no address that can be connected to: {error}") from None
    return socket


def check_same_flow(address: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise FlowUnreachable if another Flow, or the same one started anew, has taken the place of a Flow."""
    if before.get("instance") != now.get("instance"):
        raise errors.FlowUnreachable(f"the Flow at {address} has ended; another one listens there now: post again")


class _Connection:
    """One socket to the broker, used by one thread at a time."""

    def __init__(
        self, context: zmq.Context[Any], address: str, check: Callable[[], None], timeout: float | None = None
    ) -> None:
        self._address = address
        self._check = check
        self.ids = itertools.count(1)
        self.encode = protocol.encoder()
        self._socket = open_socket(context, address)
        self._port = protocol.Port(self._socket, 2)
        self.info: dict[str, Any] = {}
        self._anew = False  # connected anew: the broker may be another one, or have missed something
        self.used = time.monotonic()
        try:
            self.info = self.hello(timeout)
        except BaseException:
            self.close()
            raise

    def refresh(self, timeout: float | None) -> None:
        """Ask anew who the broker is if the last use was long ago: another Flow may listen there by now."""
        if time.monotonic() - self.used > LOOK / 1000:
            self.info = self.hello(timeout)

    def hello(self, timeout: float | None = None) -> dict[str, Any]:
        """Ask the broker who it is; wait for its answer at most `timeout` seconds, `CONNECTING` when left out."""
        token = next(self.ids)
        self._socket.send(self.encode((protocol.VERSION, protocol.HELLO, token)))
        deadline = time.monotonic() + (CONNECTING if timeout is None else timeout)
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(min(LOOK, int(left * 1000) + 1)):
                self._make_sure()
                continue
            for header, _ in self._receive_some():
                if header[1] == protocol.WELCOME and header[2] == token:
                    return dict(header[3])
                if header[1] == protocol.FAILED:
                    raise errors.BadRequest(f"the Flow at {self._address} speaks another version of zflow's protocol")
        raise errors.FlowUnreachable(f"no Flow answers at {self._address}: is it running, and is the port right?")

    def _receive_some(self) -> list[tuple[list[Any], list[Any]]]:
        """What has arrived, as headers and payloads; nothing after `LOOK` ms of silence."""
        try:
            messages = self._port.receive_some(protocol.BATCH)
        except zmq.Again:
            self._make_sure()
            return []
        if any(not message[0] for message in messages):
            messages = [message for message in messages if message[0]]
            self._greeted()
        try:
            return [(protocol.decode(m[0], protocol.TO_CLIENT), list(protocol.buffers(m[1:]))) for m in messages]
        except protocol.Malformed as error:
            raise errors.FlowUnreachable(f"what answers at {self._address} is no zflow Flow: {error}") from None

    def _greeted(self) -> None:
        """There is a new connection; if it is not the first one, ask who is there now."""
        if self.info:
            self._anew = True
            self._socket.send(self.encode((protocol.VERSION, protocol.HELLO, 0)))

    def _make_sure(self) -> None:
        """Raise if the Flow has ended, unless its last answers are still on their way."""
        try:
            self._check()
        except errors.ZflowError:
            if not self._socket.poll(LAST_WORDS):
                raise

    def _receive(self, exchange: Exchange) -> list[tuple[list[Any], list[Any]]]:
        """What has arrived; while there is nothing, make sure that the broker is still there."""
        asked = 0.0
        while True:
            messages = self._receive_some()
            if messages or exchange.expire(self._address):
                return messages
            now = time.monotonic()
            if not asked:
                asked = now
                self._socket.send(self.encode((protocol.VERSION, protocol.HELLO, 0)))
            elif now - asked > SILENCE:
                raise errors.FlowUnreachable(f"the Flow at {self._address} stopped answering {SILENCE:.0f} s ago")

    def run(self, exchange: Exchange, at_hand: bool) -> Iterator[Response]:
        """Send and receive until the exchange is finished; yield responses in the order of the inputs.

        `at_hand`: the inputs are there already, so that a request may wait for the next ones to be packed. A generator
        might take its time, and even wait for what the first request brings about.
        """
        while True:
            while exchange.has_room:
                self._send_some(exchange, at_hand)
            if exchange.finished:
                return
            for header, payload in self._receive(exchange):
                if header[1] == protocol.WELCOME:
                    check_same_flow(self._address, self.info, header[3])
                    self._send_again(exchange)
                else:
                    exchange.take(header, payload)
            yield from exchange.ready()

    def _send_some(self, exchange: Exchange, at_hand: bool) -> None:
        """Send the next requests: as many in one go as are there in no time, for each go wakes libzmq's thread."""
        together: list[list[Any]] = []
        begun = time.perf_counter()
        while exchange.has_room:
            frames = exchange.next()
            if frames is None:
                break
            together.append(frames)
            # Memory that is not copied is sent at once: the caller's generator may write to it again.
            if not at_hand or len(frames) > 2 or time.perf_counter() - begun > GATHERING:
                break
        for frames in together:
            for tracker in self._port.send_tracked(frames):
                tracker.wait()

    def _send_again(self, exchange: Exchange) -> None:
        """Send what was not answered if the broker may not have got it; what it knows it does not do twice."""
        if self._anew:
            self._anew = False
            for frames in exchange.again():
                self._port.send(frames)

    def abandon(self, exchange: Exchange) -> None:
        """Tell the broker not to bother with what was not answered."""
        for frames in exchange.cancelled():
            self._port.send(frames)

    def close(self) -> None:
        """Close the socket when what it has to say is out, but soon."""
        self._socket.close(LAST_WORDS)


def ask(address: str, timeout: float | None = None) -> dict[str, Any]:
    """Ask a broker about its Flow, and wait for its answer at most `timeout` seconds, `CONNECTING` when left out.

    Raises:
        FlowUnreachable: nobody answers.
    """
    context: zmq.Context[Any] = zmq.Context()
    try:
        connection = _Connection(context, address, lambda: None, timeout)
        connection.close()
        return connection.info
    finally:
        context.term()


class _Pool:
    """A client's context, and the connections in it that no thread uses at the moment."""

    def __init__(self, owner: Client) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.idle: list[_Connection] = []
        self.lent = 0  # connections in use
        # Were a context collected as garbage together with its sockets, it might wait for them for ever.
        self._finalizer = weakref.finalize(owner, self.shut)
        self._finalizer.atexit = False

    def shut(self) -> None:
        """Close all sockets; none must be in use."""
        self._finalizer.detach()
        for connection in self.idle:
            connection.close()
        self.context.term()


class Client(Shortcuts):
    """Posts to a Flow that runs anywhere. One may be shared by threads, and is still good after a fork.

    Args:
        host: where the Flow listens; with its port, as in `'127.0.0.1:5555'`, if `port` is left out.
        port: its port, as `zflow-run` prints it and `Flow.port` has it.
        asyncio: True makes it an `AsyncClient`.

    Raises:
        BadRequest: that is no address, or has no port.

    Example:
        client = Client(port=5555)
        docs = client.post("/search", Document(text="hello"))
    """

    def __new__(cls, host: str = "127.0.0.1", port: int | str | None = None, *, asyncio: bool = False) -> Any:
        """Make a Client, or an AsyncClient if that is asked for."""
        if asyncio:
            from zflow.aclient import AsyncClient

            return AsyncClient(host, port)
        return super().__new__(cls)

    def __init__(self, host: str = "127.0.0.1", port: int | str | None = None, *, asyncio: bool = False) -> None:
        self._setup(address_of(host, port), lambda: None)

    @classmethod
    def _to(cls, address: str, check: Callable[[], None]) -> Client:
        """A client of a Flow in this process; `check` raises if it has come down."""
        client: Client = super().__new__(cls)
        client._setup(address, check)
        return client

    def _setup(self, address: str, check: Callable[[], None]) -> None:
        self._address = address
        self._check = check
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pool: _Pool | None = None

    def __reduce__(self) -> Any:
        """A pickled Client connects anew where it is unpickled."""
        return _client_to, (self._address,)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _connection(self, timeout: float | None = None) -> Iterator[_Connection]:
        """A connection for one thread's use; after an error it is thrown away.

        Answers to what was given up may still come, and nobody else must get them.
        """
        with self._lock:
            if self._pool is None:
                self._pool = _Pool(self)
            pool = self._pool
            connection = pool.idle.pop() if pool.idle else None
            pool.lent += 1
        good = False
        try:
            if connection is None:
                connection = _Connection(pool.context, self._address, self._check, timeout)
            else:
                connection.refresh(timeout)
            yield connection
            good = True
        finally:
            self._give_back(connection, pool, good)

    def _give_back(self, connection: _Connection | None, pool: _Pool, good: bool) -> None:
        with self._lock:
            pool.lent -= 1
            if connection is not None and good and pool is self._pool:
                connection.used = time.monotonic()
                pool.idle.append(connection)
                return
            last = pool is not self._pool and not pool.lent
        if connection is not None:
            connection.close()
        if last:
            pool.shut()

    def close(self) -> None:
        """Close the connections; those in use are closed when they are done with. Posting again connects anew."""
        with self._lock:
            pool, self._pool = self._pool, None
            unused = pool is not None and not pool.lent
        if pool is not None and unused:
            pool.shut()

    def info(self, timeout: float | None = None) -> dict[str, Any]:
        """Ask the Flow about itself: `version`, `executors` with their replicas, `requests` in progress.

        Args:
            timeout: seconds that its answer may take; 5 when left out.

        Raises:
            FlowUnreachable: nothing answers.
            BadRequest: `timeout` is no number above 0.
        """
        timeout = CONNECTING if timeout is None else timeout
        check_timeout(timeout)
        deadline = time.monotonic() + timeout
        with self._connection(timeout) as connection:
            return connection.hello(max(0.001, deadline - time.monotonic()))

    def is_flow_ready(self, timeout: float = 5.0) -> bool:
        """Whether a Flow answers that is not about to close, and every Executor in it has a replica.

        Args:
            timeout: seconds that its answer may take.

        Raises:
            BadRequest: `timeout` is no number above 0. A Flow that does not answer is no error: it is not ready.
        """
        check_timeout(timeout)
        try:
            # On a connection of its own: one that was used before may be to a Flow that is gone.
            return ready(ask(self._address, timeout))
        except errors.ZflowError:
            return False

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
    ) -> Any:
        """Send Documents to an endpoint and wait for the results, which come in the order of the inputs.

        Args:
            on: the endpoint, such as `'/index'`.
            inputs: a Document, a DocumentArray, any iterable of Documents (a generator is read as it is needed,
                however long it is), or None for one request without Documents.
            parameters: given to each Executor with each request.
            request_size: Documents in one request.
            on_done: called with the `Response` of each request that succeeded; then nothing is returned.
            on_error: called with the `Response` of each that failed; without it the first failure is raised.
            on_always: called with every `Response`, after the others; then nothing is returned.
            return_responses: return the list of `Response` objects instead of their Documents.
            target_executor: only Executors whose name matches this regular expression (from its start) are
                visited; the others pass the request on.
            show_progress: show a progress bar on a terminal; needs the extra `zflow[progress]`.
            prefetch: how many requests may be in flight.
            timeout: the ms that each request may take, waiting included; any time when left out.

        Returns:
            One DocumentArray, or the list of responses, or None if there is an `on_done` or `on_always`.

        Raises:
            ExecutorError: an Executor raised; with the remote traceback.
            SerializationError, RequestTooLarge, BadRequest: the inputs cannot be sent.
            DeadlineExceeded, ReplicaCrashed: an Executor gave no answer.
            FlowNotRunning, FlowUnreachable: there is no Flow to answer.
        """
        check_options(on, parameters, request_size, prefetch, timeout)
        callbacks = Callbacks(on_done, on_error, on_always)
        responses: list[Response] = []
        incoming = self._responses(
            on, inputs, parameters, request_size, target_executor, prefetch, timeout, show_progress
        )
        with contextlib.closing(incoming):
            for response in incoming:
                callbacks.deliver(response)
                if not callbacks.take_results and response.error is None:
                    responses.append(response)
        if callbacks.take_results:
            return None
        return responses if return_responses else together(responses)

    def _responses(
        self,
        on: str,
        inputs: Any,
        parameters: dict[str, Any] | None,
        request_size: int,
        target_executor: str | None,
        prefetch: int,
        timeout: int | None,
        show_progress: bool,
    ) -> Generator[Response, None, None]:
        requests = batches(inputs, request_size)
        with self._connection() as connection:
            targets = choose_targets(target_executor, connection.info.get("executors", ()))
            limit = connection.info.get("max_message_bytes", 2**63)
            to = connection
            exchange = Exchange(on, requests, parameters, targets, prefetch, limit, timeout, to.ids, to.encode)
            responses = connection.run(exchange, hasattr(inputs, "__len__"))
            if show_progress:
                from zflow.progress import shown

                responses = shown(responses, inputs)
            try:
                yield from responses
            except BaseException:
                connection.abandon(exchange)
                raise


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    """The sockets belong to the other process, and a thread of its may just have held the lock: begin anew."""
    for client in list(_clients):
        client._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def together(responses: list[Response]) -> DocumentArray:
    """The Documents of all responses in one array."""
    if len(responses) == 1:
        return responses[0].docs
    return DocumentArray(doc for response in responses for doc in response.docs)


def _client_to(address: str) -> Client:
    return Client._to(address, lambda: None)
