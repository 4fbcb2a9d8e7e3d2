"""One connection of a client to a Flow's broker: used by one thread at a time,
which itself sends and receives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import zmq

from zflow import errors
from zflow.clients import wire
from zflow.clients.exchange import Exchange
from zflow.clients.response import Response
from zflow.clients.wire import Said, Wire
from zflow.devices.local.arena import Arena
from zflow.devices.protocol.messages import Controlled, Failed, Info, Reply, Request
from zflow.devices.protocol.references import is_fixed
from zflow.devices.protocol.session import Welcomed
from zflow.devices.sockets.clock import monotonic
from zflow.devices.sockets.factory import Context
from zflow.devices.sockets.flusher import Flusher
from zflow.devices.sockets.port import BATCH
from zflow.network.keys import Keys

GATHERING = 200e-6  # seconds that a request may wait for those sent with it
STREAM = 16  # requests, from which on those of a generator may wait for the next one
PROMPT = 100e-6  # seconds that it may have taken for one that does
LONGEST_HOLD = 0.002  # seconds that such a request waits if the next one takes long


class Connection:
    """One socket to the broker, used by one thread at a time."""

    def __init__(
        self,
        context: Context,
        address: str,
        check: Callable[[], None],
        keys: Keys | None = None,
        timeout: float | None = None,
        memory: Arena | None = None,
    ) -> None:
        self._check = check
        self._address = address
        self._keys = keys
        self._wire = Wire(context, address, keys, memory)
        self.ids = self._wire.ids
        self.memory = memory
        self._together: list[Request] = []  # requests that wait to be sent
        self.used = monotonic()
        try:
            self.hello(timeout)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> Info:
        """What the Flow said about itself the last time."""
        return self._wire.session.info

    @property
    def refused(self) -> bool:
        """Whether the Flow has refused it; then it is of no use any more."""
        return self._wire.refused

    def refresh(self, timeout: float | None) -> None:
        """Ask anew who the broker is if there is news or the last use was long ago:
        it may be another Flow's by now.
        """
        if self._wire.port.readable() or monotonic() - self.used > wire.PING_AFTER / 1000:
            self.hello(timeout)

    def hello(self, timeout: float | None = None) -> Info:
        """Ask the broker who it is; wait for its answer at most `timeout` seconds,
        `CONNECTING` when left out.
        """
        token = self._wire.ask()
        deadline = monotonic() + (wire.CONNECTING if timeout is None else timeout)
        while (left := deadline - monotonic()) > 0:
            if not self._wire.port.wait(min(wire.PING_AFTER / 1000, left)):
                self._make_sure()
                # A broker that has died meanwhile may have taken the question with it.
                self._wire.ask()
                continue
            for event in self._receive_some():
                if type(event) is Welcomed and event.token <= token:
                    return event.info
        raise self._wire.nobody()

    def _receive_some(self) -> list[Said]:
        """What has arrived; nothing after `PING_AFTER` ms of silence."""
        try:
            return self._wire.heard(self._wire.port.receive_some(BATCH))
        except zmq.Again:
            self._make_sure()
            return []

    def _make_sure(self) -> None:
        """Raise if the Flow has refused the connection, or ended,
        unless its last answers are still on their way.
        """
        try:
            self._check()
        except errors.ZflowError:
            if not self._wire.socket.poll(wire.FINAL_READ):
                raise
        if self._wire.refused:
            raise self._wire.refusal()

    def _receive(self, expire: Callable[[], bool], pause: float | None = None) -> list[Said]:
        """What has arrived; while there is nothing, make sure that the broker is still there.

        After `pause` seconds there may be nothing.
        """
        if pause is not None and not self._wire.socket.poll(
            min(wire.PING_AFTER, int(pause * 1000) + 1)
        ):
            expire()
            self._wire.tick()
            return []
        while True:
            arrived = self._receive_some()
            if arrived or expire():
                return arrived
            self._wire.tick()

    def run(self, exchange: Exchange, at_hand: bool) -> Iterator[Response]:
        """Send and receive until the exchange is finished;
        yield responses in the order of the inputs.

        `at_hand`: the inputs are there already, so that a request may wait for the next ones to be
        packed. A generator might take its time, and even wait for what the first request brings
        about: then a thread sends that one.
        """
        flusher = None if at_hand else Flusher(self._flush, LONGEST_HOLD)
        try:
            yield from self._run(exchange, flusher)
        finally:
            if flusher is not None:
                flusher.close()

    def _run(self, exchange: Exchange, flusher: Flusher | None) -> Iterator[Response]:
        while True:
            while exchange.has_room:
                self._send_some(exchange, flusher)
            if exchange.finished:
                return
            for event in self._receive(lambda: exchange.expire(self._address), exchange.pause):
                if type(event) is Reply or type(event) is Failed:
                    exchange.take(event)
                elif type(event) is Welcomed and self._is_anew(event):
                    self._wire.say(list(exchange.again()))
            self._wire.say(list(exchange.due()))
            yield from exchange.ready()

    def _is_anew(self, welcome: Welcomed) -> bool:
        """Whether the broker may have missed what it was sent;
        what it knows it does not do twice.
        """
        if not welcome.same_flow:
            raise self._wire.replaced()
        return welcome.anew

    def _send_some(self, exchange: Exchange, flusher: Flusher | None) -> None:
        """Send the next requests: as many in one go as are there in no time,
        for each go wakes libzmq's thread.
        """
        clock = time.perf_counter
        begun = now = clock()
        while exchange.has_room:
            asked = now
            request = exchange.next() if flusher is None else self._next(exchange, flusher)
            if request is None:
                break
            self._together.append(request)
            now = clock()
            # Memory that is not copied is sent at once: the caller's generator may write to it
            # again.
            if now - begun > GATHERING or not is_fixed(request.payload):
                break
            if flusher is not None and (now - asked > PROMPT or exchange.made < STREAM):
                break
        for tracker in self._flush():
            self._await(tracker)

    def _await(self, tracker: zmq.MessageTracker) -> None:
        """Wait until memory is sent, however long that takes, as long as the Flow is there."""
        begun = monotonic()
        while not tracker.done:
            try:
                tracker.wait(wire.PING_AFTER / 1000)
            except zmq.NotDone:
                self._make_sure()
                if monotonic() - begun > wire.SILENCE:
                    # Over another connection: this one may be busy sending.
                    ask(self._address, self._keys)
                    begun = monotonic()

    def _next(self, exchange: Exchange, flusher: Flusher) -> Request | None:
        """Let a generator make the next request, while what waits can be sent without this
        thread.
        """
        if self._together:
            flusher.hold()
        flusher.turn.release()
        try:
            return exchange.next()
        finally:
            flusher.turn.acquire()

    def _flush(self) -> list[zmq.MessageTracker]:
        """Send the requests that wait."""
        together, self._together = self._together, []
        return self._wire.say(together)

    def command(self, command: str, arguments: Info) -> Info:
        """Have something about the Flow changed, and wait until it is; returns what came of it."""
        order = self._wire.order(command, arguments)
        self._wire.say([order])
        while True:
            for event in self._receive(lambda: False):
                if type(event) is Controlled and event.id == order.id:
                    return event.result
                if type(event) is Welcomed and self._is_anew(event):
                    self._wire.say([order])

    def abandon(self, exchange: Exchange) -> None:
        """Tell the broker not to bother with what was not answered."""
        self._together.clear()
        self._wire.say(list(exchange.cancelled()))

    def close(self) -> None:
        """Close the socket when what it has to say is out, but soon."""
        self._wire.close()


@contextlib.contextmanager
def connected(
    address: str, keys: Keys | None = None, timeout: float | None = None
) -> Iterator[Connection]:
    """A connection on its own; raises as `ask`."""
    context = wire.begin()
    try:
        connection = Connection(context, address, lambda: None, keys, timeout)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        wire.end(context)


def ask(address: str, keys: Keys | None = None, timeout: float | None = None) -> Info:
    """Ask a broker about its Flow, and wait for its answer at most `timeout` seconds,
    `CONNECTING` when left out.

    Raises:
        AccessDenied: the Flow refuses the connection.
        FlowUnreachable: nobody answers.
    """
    with connected(address, keys, timeout) as connection:
        return connection.info
