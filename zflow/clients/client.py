"""`Client`: posts to a running Flow from threads and processes, and waits for the answers.

Each post has a connection of its own while it lasts, from a pool, so threads never share a socket
and the calling thread itself sends and receives. After a fork the new process makes its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Generator, Iterator
from typing import Any

from zflow import errors
from zflow.clients import wire
from zflow.clients.connection import Connection, ask, connected
from zflow.clients.exchange import Exchange
from zflow.clients.inputs import (
    PREFETCH,
    REQUEST_SIZE,
    batches,
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
from zflow.devices.protocol.messages import Info
from zflow.devices.sockets.clock import monotonic
from zflow.documents.values import Parameters
from zflow.network.address import address_of, check_protocol
from zflow.network.keys import Folder, keys_of


class _Pool:
    """A client's context, and the connections in it that no thread uses at the moment."""

    def __init__(self, owner: Client) -> None:
        self.context = wire.begin()
        self.idle: list[Connection] = []
        self.lent = 0  # connections in use
        # Were a context collected as garbage together with its sockets, it might wait for them for
        # ever.
        self._finalizer = weakref.finalize(owner, self.shut)
        self._finalizer.atexit = False

    def shut(self) -> None:
        """Close all sockets; none must be in use."""
        self._finalizer.detach()
        for connection in self.idle:
            connection.close()
        wire.end(self.context)


class Client(Shortcuts):
    """Posts to a Flow that runs anywhere. One may be shared by threads,
    and is still good after a fork.

    Args:
        host: where the Flow listens; with its port, as in `'127.0.0.1:5555'`, if `port` is left
            out.
        port: its port, as `zflow-run` prints it and `Flow.port` has it.
        asyncio: True makes it an `AsyncClient`.
        curve: the key folder that lets it in, if the Flow asks for keys. It posts with
            `client.key_secret`, and changes the Flow with `admin.key_secret`; where only one of the
            two is there, that is for both.
        protocol: `'grpc'`, `'http'` or `'websocket'`, as Jina's Client takes it; it means nothing
            here, which is said once.

    Raises:
        BadRequest: that is no address, or has no port.
        InvalidKeys: the key folder is none.

    Example:
        client = Client(port=5555)
        docs = client.post("/search", Document(text="hello"))
    """

    __module__ = "zflow"

    def __new__(
        cls,
        host: str = "127.0.0.1",
        port: int | str | None = None,
        *,
        asyncio: bool = False,
        curve: Folder | None = None,
        protocol: str | None = None,
    ) -> Any:
        """Make a Client, or an AsyncClient if that is asked for."""
        if asyncio:
            from zflow.clients.async_client import AsyncClient

            return AsyncClient(host, port, curve=curve, protocol=protocol)
        return super().__new__(cls)

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | str | None = None,
        *,
        asyncio: bool = False,
        curve: Folder | None = None,
        protocol: str | None = None,
    ) -> None:
        check_protocol(protocol)
        self._setup(Membership(address_of(host, port)), curve)

    @classmethod
    def _of(cls, membership: Membership) -> Client:
        """A client of a Flow in this process."""
        client: Client = super().__new__(cls)
        client._setup(membership)
        return client

    def _setup(self, membership: Membership, curve: Folder | None = None) -> None:
        self._membership = membership
        self._curve = None if curve is None else os.path.abspath(curve)
        self._keys = keys_of(self._curve)
        self._admin_keys = keys_of(self._curve, "admin")
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pool: _Pool | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """A pickled Client connects anew where it is unpickled."""
        return _client_to, (self._membership.address, self._curve)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """A connection for one thread's use; after an error it is thrown away.

        Answers to what was given up may still come, and nobody else must get them.
        """
        self._membership.enter()
        try:
            with self._lock:
                if self._pool is None:
                    self._pool = _Pool(self)
                pool = self._pool
                connection = pool.idle.pop() if pool.idle else None
                pool.lent += 1
            good = False
            try:
                if connection is not None and connection.refused:  # another one may be let in
                    connection.close()
                    connection = None
                if connection is None:
                    flow = self._membership
                    connection = Connection(
                        pool.context, flow.address, flow.check, self._keys, timeout, flow.memory
                    )
                else:
                    connection.refresh(timeout)
                yield connection
                good = True
            finally:
                self._give_back(connection, pool, good)
        finally:
            self._membership.leave()

    def _give_back(self, connection: Connection | None, pool: _Pool, good: bool) -> None:
        with self._lock:
            pool.lent -= 1
            if connection is not None and good and pool is self._pool:
                connection.used = monotonic()
                pool.idle.append(connection)
                return
            last = pool is not self._pool and not pool.lent
        if connection is not None:
            connection.close()
        if last:
            pool.shut()

    def close(self) -> None:
        """Close the connections; those in use are closed when they are done with.
        Posting again connects anew.
        """
        with self._lock:
            pool, self._pool = self._pool, None
            unused = pool is not None and not pool.lent
        if pool is not None and unused:
            pool.shut()

    def _end(self) -> None:
        """The Flow in this process is over."""
        self.close()
        self._membership.end()

    def info(self, timeout: float = 1000 * wire.CONNECTING) -> dict[str, Any]:
        """Ask the Flow about itself: `version`, `executors` with their replicas,
        `requests` in progress.

        Args:
            timeout: ms that its answer may take.

        Raises:
            FlowUnreachable: nothing answers.
            BadRequest: `timeout` is no number above 0.
        """
        limit = seconds(timeout)
        deadline = monotonic() + limit
        with self._connection(limit) as connection:
            return connection.hello(max(0.001, deadline - monotonic()))

    def is_flow_ready(self, timeout: float = 5000) -> bool:
        """Whether a Flow answers that is not about to close,
        and every Executor in it has a replica.

        Args:
            timeout: ms that its answer may take.

        Raises:
            BadRequest: `timeout` is no number above 0. A Flow that does not answer is no error:
                it is not ready.
        """
        limit = seconds(timeout)
        try:
            # On a connection of its own: one that was used before may be to a Flow that is gone.
            return ready(ask(self._membership.address, self._keys, limit))
        except errors.OutOfDescriptors:
            raise  # which says nothing about the Flow
        except errors.ZflowError:
            return False

    def scale(
        self, executor: str, replicas: int, *, timeout: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Give an Executor so many replicas (of each shard), and return when they serve,
        or the surplus has ended.

        Nothing is lost: who is to end finishes what it is at, and what it has not begun goes to
        others. Where how many there are goes by the load, that begins from here;
        the number must lie in its range.

        Args:
            timeout: the ms that it may take; any time when left out. Then nothing more is waited
                for: new replicas that are not ready yet are ended, and who was told to end does so
                    when it has finished what it is at.
            force: kill who has not ended `timeout_close` ms (of the Flow) after it was told to;
                what it was at goes to others, and so may be begun twice. Another change of this
                Executor that is under way is given up.

        Returns:
            `{'executor': name, 'replicas': now, 'before': then}`.

        Raises:
            ChangeRefused: there is no such Executor, a new replica did not get ready, it took too
                long, or this client may not do that.
            BadRequest: `timeout` is no number above 0.
            FlowUnreachable, FlowNotRunning: there is no Flow to ask.
        """
        return self._command("scale", timeout, force, executor=executor, replicas=replicas)

    def restart(
        self, executor: str, *, timeout: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Put a new process in the place of each replica, one after the other;
        code in files is read anew.

        A new one is ready before the old one finishes what it is at and ends,
        so there are never fewer than asked for.

        Args: `timeout` and `force` as in `scale`.

        Returns:
            `{'executor': name, 'restarted': how many}`.

        Raises: as `scale`; the replicas that were not replaced go on as they are.
        """
        return self._command("restart", timeout, force, executor=executor)

    def drain(self, replica: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Give a replica, such as `'encoder/rep-0'`, nothing more,
        and return when it has finished what it had.

        Args:
            timeout: the ms that it may take; any time when left out.
                Then the replica competes again.

        Raises: as `scale`; also if no other one could serve its requests.
        """
        return self._command("drain", timeout, replica=replica)

    def undrain(self, replica: str) -> dict[str, Any]:
        """Let a replica compete again that was drained. Raises: as `scale`."""
        return self._command("undrain", replica=replica)

    def _command(
        self, command: str, timeout: float | None = None, force: bool = False, **arguments: object
    ) -> Info:
        given = command_arguments(timeout, force, arguments)
        own, limit = self._admin_keys == self._keys, wire.connecting(timeout)
        with (
            self._connection(limit)
            if own
            else connected(self._membership.address, self._admin_keys, limit) as connection
        ):
            return changed(connection.command(command, given))

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
    ) -> Any:
        """Send Documents to an endpoint and wait for the results,
        which come in the order of the inputs.

        Args:
            on: the endpoint, such as `'/index'` or `'index'`; `'*'` for the methods without one.
            inputs: a Document, a DocumentArray, any iterable of Documents (a generator is read as
                it is needed, however long it is), a function that returns one of these; None or an
                empty one for one request without Documents.
            parameters: given to each Executor with each request.
            request_size: Documents in one request.
            on_done: called with the `Response` of each request that succeeded; then nothing is
                returned.
            on_error: called with the `Response` of each that failed; without it the first failure
                is raised.
            on_always: called with every `Response`, after the others; then nothing is returned.
            return_responses: return the list of `Response` objects instead of their Documents.
            target_executor: only Executors whose name matches this regular expression (from its
                start) are visited; the others pass the request on.
            show_progress: show a progress bar on a terminal; needs the extra `progress`.
            continue_on_error: a request that fails does not end the post; without `on_error` it is
                one of the responses that are returned, or logged if only Documents are. Else the
                first failure is raised.
            max_attempts: how often a request is tried in all that fails because there is no room,
                because the replica died, or because no Flow is reached; an Executor's exception
                is final.
            initial_backoff, max_backoff: the seconds until the second attempt, and the most between
                two.
            backoff_multiplier: how much longer each pause is than the one before.
            prefetch: how many requests may be in flight.
            timeout: the ms that each request may take, waiting included, and connecting, too; any
                time when left out.
            on_overload: what becomes of a request for which the Flow has no room (`max_queue`):
                `'fail'`, or `'wait'` to send it again after a pause.

        Returns:
            One DocumentArray, or the list of responses, or None if there
            is an `on_done` or `on_always`.

        Raises:
            ExecutorError: an Executor raised; with the remote traceback.
            SerializationError, RequestTooLarge, BadRequest: the inputs cannot be sent.
            DeadlineExceeded, ReplicaCrashed: an Executor gave no answer.
            Overloaded: there is no room for more requests.
            FlowNotRunning, FlowUnreachable: there is no Flow to answer.
        """
        on = check_options(on, parameters, request_size, prefetch, timeout, on_overload)
        callbacks = Callbacks(on_done, on_error, on_always, continue_on_error, return_responses)
        responses: list[Response] = []
        retrying = retrying_of(
            on_overload, max_attempts, initial_backoff, max_backoff, backoff_multiplier
        )
        limits = prefetch, timeout, retrying
        incoming = self._responses(
            on, inputs, parameters, request_size, target_executor, limits, show_progress
        )
        with contextlib.closing(incoming):
            for response in incoming:
                callbacks.deliver(response)
                if not callbacks.take_results and callbacks.keeps(response):
                    responses.append(response)
        if callbacks.take_results:
            return None
        return responses if return_responses else together(responses)

    def _responses(
        self,
        on: str,
        inputs: object,
        parameters: Parameters | None,
        request_size: int,
        target_executor: str | None,
        limits: tuple[int, int | None, Retrying],
        show_progress: bool,
    ) -> Generator[Response, None, None]:
        inputs = resolved(inputs)
        requests = batches(inputs, request_size)
        _, timeout, retrying = limits
        with contextlib.ExitStack() as stack:
            connection = retrying.reach(
                lambda left: stack.enter_context(self._connection(wire.connecting(left))), timeout
            )
            names, limit = told(connection.info)
            targets = choose_targets(target_executor, names)
            exchange = Exchange(
                on, requests, parameters, targets, limits, limit, connection.ids, connection.memory
            )
            responses = connection.run(exchange, hasattr(inputs, "__len__"))
            if show_progress:
                from zflow.clients.progress import shown

                responses = shown(responses, inputs)
            try:
                yield from responses
            except BaseException:
                connection.abandon(exchange)
                raise


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    """The sockets belong to the other process, and a thread of its may just have held the lock:
    begin anew.
    """
    for client in list(_clients):
        client._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _client_to(address: str, curve: str | None) -> Client:
    client: Client = Client.__new__(Client)
    client._setup(Membership(address), curve)
    return client
