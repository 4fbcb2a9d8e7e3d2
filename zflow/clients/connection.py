"""One connection of a client to a Flow's broker: used by one thread at a time, which itself sends and receives."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq

from zflow import errors
from zflow.clients.exchange import Exchange
from zflow.clients.response import Response
from zflow.devices.local.arena import Arena
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.references import is_fixed
from zflow.devices.sockets import factory, zap
from zflow.devices.sockets.clock import monotonic
from zflow.devices.sockets.flusher import Flusher
from zflow.devices.sockets.port import BATCH, Port, buffers
from zflow.network.keys import Keys

PING_AFTER = 1000  # ms of silence after which a waiting client makes sure that the Flow is still there
GATHERING = 200e-6  # seconds that a request may wait for those sent with it
STREAM = 16  # requests, from which on those of a generator may wait for the next one
PROMPT = 100e-6  # seconds that it may have taken for one that does
LONGEST_HOLD = 0.002  # seconds that such a request waits if the next one takes long
FINAL_READ = 100  # ms that what a Flow sent before its end may take to be read
CONNECTING = 5.0  # seconds to wait for a Flow's first word
SILENCE = 10.0  # seconds without a word from a broker that was asked for one, until it counts as gone


def open_socket(
    context: zmq.Context[Any], address: str, keys: Keys | None = None, kind: bytes = messages.STRANGER
) -> zmq.Socket[bytes]:
    """A DEALER connected to a Flow's front, with these keys if it asks for any."""
    socket = factory.dealer(context, kind)
    socket.set(zmq.RCVTIMEO, PING_AFTER)
    socket.set(zmq.SNDTIMEO, 0)  # where the Flow has refused the connection, there will never be anybody to send to
    if keys is not None:
        zap.secure(socket, *keys)
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


def nobody(address: str, keys: Keys | None) -> str:
    """Why there may be no answer; a Flow that does not like a client's keys says nothing."""
    about_keys = "are the keys (curve=) those it knows?" if keys else "does it ask for keys (curve=)?"
    return f"no Flow answers at {address}: is it running, is the port right, and {about_keys}"


def refusal(address: str, keys: Keys | None) -> errors.AccessDenied:
    """What to raise where a connection is refused; whoever does that says no more."""
    about_keys = "are the keys (curve=) those it knows" if keys else "does it ask for keys (curve=)"
    return errors.AccessDenied(
        f"{address} refuses the connection: {about_keys}, has it room for more (max_connections), and is it a Flow?"
        " Its log says why"
    )


class Connection:
    """One socket to the broker, used by one thread at a time."""

    def __init__(
        self,
        context: zmq.Context[Any],
        address: str,
        check: Callable[[], None],
        keys: Keys | None = None,
        timeout: float | None = None,
        memory: Arena | None = None,
    ) -> None:
        self.memory = memory
        self._address = address
        self._keys = keys
        self._check = check
        self.ids = itertools.count(1)
        self.encode = messages.encoder()
        self._socket = open_socket(context, address, keys, messages.STRANGER if memory is None else messages.MEMBER)
        self._port = Port(self._socket, 2)
        self._shapes = messages.TO_CLIENT if memory is None else messages.TO_MEMBER
        self._together: list[messages.Message] = []  # requests that wait to be sent
        self.info: dict[str, Any] = {}
        self._greetings = 0  # connections made
        self._anew = False  # connected anew: the broker may be another one, or have missed something
        self.used = monotonic()
        try:
            self.info = self.hello(timeout)
        except BaseException:
            self.close()
            raise

    @property
    def refused(self) -> bool:
        """Whether the Flow has refused it; then it is of no use any more."""
        return self._port.refused

    def refresh(self, timeout: float | None) -> None:
        """Ask anew who the broker is if there is news or the last use was long ago: it may be another Flow's by now."""
        if self._port.readable() or monotonic() - self.used > PING_AFTER / 1000:
            self._anew = False  # nothing is under way
            self.info = self.hello(timeout)

    def hello(self, timeout: float | None = None) -> dict[str, Any]:
        """Ask the broker who it is; wait for its answer at most `timeout` seconds, `CONNECTING` when left out."""
        token = next(self.ids)
        asking = self.encode((messages.VERSION, messages.HELLO, token))
        self._say(asking)
        deadline = monotonic() + (CONNECTING if timeout is None else timeout)
        while (left := deadline - monotonic()) > 0:
            before = max(1, self._greetings)
            arrived = self._port.wait(min(PING_AFTER / 1000, left))
            if not arrived:
                self._make_sure()
            for header, _ in self._receive_some() if arrived else ():
                if header[1] == messages.WELCOME and header[2] == token:
                    return dict(header[3])
                # Others may be late answers to requests that a broker before this one has answered, too.
                if header[1] == messages.FAILED and header[2] in (0, token):
                    raise errors.BadRequest(f"the Flow at {self._address} speaks another version of zflow's protocol")
            if self._greetings > before or not arrived:
                self._say(asking)  # a broker that has died meanwhile may have taken the question with it
        raise errors.FlowUnreachable(nobody(self._address, self._keys))

    def _receive_some(self) -> list[tuple[list[Any], Sequence[Any]]]:
        """What has arrived, as headers and payloads; nothing after `PING_AFTER` ms of silence."""
        try:
            arrived = self._port.receive_some(BATCH)
        except zmq.Again:
            self._make_sure()
            return []
        if any(not message[0] for message in arrived):
            arrived = [message for message in arrived if message[0]]
            self._greeted()
        try:
            said = [one for message in arrived for one in bundles.read(message, 0, self._shapes)]
        except messages.Malformed as error:
            raise errors.FlowUnreachable(f"what answers at {self._address} is no zflow Flow: {error}") from None
        return [(header, buffers(payload)) for header, payload in said]

    def _greeted(self) -> None:
        """There is a new connection; if it is not the first one, ask who is there now."""
        self._greetings += 1
        if self.info:
            self._anew = True
            self._say(self.encode((messages.VERSION, messages.HELLO, 0)))

    def _say(self, frame: bytes) -> None:
        """Send a header alone; if the Flow has refused the connection there is nobody to send it to."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(frame, zmq.NOBLOCK)

    def _send(self, outgoing: Sequence[messages.Message]) -> list[zmq.MessageTracker]:
        """Send; if the Flow has refused the connection, whoever waits for the answers is told so (`_make_sure`)."""
        try:
            return self._port.say(outgoing, self.encode)
        except zmq.Again:
            return []

    def _make_sure(self) -> None:
        """Raise if the Flow has refused the connection, or ended, unless its last answers are still on their way."""
        try:
            self._check()
        except errors.ZflowError:
            if not self._socket.poll(FINAL_READ):
                raise
        if self._port.refused:
            raise refusal(self._address, self._keys)

    def _receive(self, expire: Callable[[], bool], pause: float | None = None) -> list[tuple[list[Any], Sequence[Any]]]:
        """What has arrived; while there is nothing, make sure that the broker is still there.

        After `pause` seconds there may be nothing.
        """
        if pause is not None and not self._socket.poll(min(PING_AFTER, int(pause * 1000) + 1)):
            return []
        asked = 0.0
        while True:
            arrived = self._receive_some()
            if arrived or expire():
                return arrived
            now = monotonic()
            if not asked:
                asked = now
                self._say(self.encode((messages.VERSION, messages.HELLO, 0)))
            elif now - asked > SILENCE:
                raise errors.FlowUnreachable(f"the Flow at {self._address} stopped answering {SILENCE:.0f} s ago")

    def run(self, exchange: Exchange, at_hand: bool) -> Iterator[Response]:
        """Send and receive until the exchange is finished; yield responses in the order of the inputs.

        `at_hand`: the inputs are there already, so that a request may wait for the next ones to be packed. A generator
        might take its time, and even wait for what the first request brings about: then a thread sends that one.
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
            self._send(list(exchange.due()))
            for header, payload in self._receive(lambda: exchange.expire(self._address), exchange.pause):
                if header[1] == messages.WELCOME:
                    check_same_flow(self._address, self.info, header[3])
                    self._send_again(exchange)
                else:
                    exchange.take(header, payload)
            yield from exchange.ready()

    def _send_some(self, exchange: Exchange, flusher: Flusher | None) -> None:
        """Send the next requests: as many in one go as are there in no time, for each go wakes libzmq's thread."""
        clock = time.perf_counter
        begun = now = clock()
        while exchange.has_room:
            asked = now
            message = exchange.next() if flusher is None else self._next(exchange, flusher)
            if message is None:
                break
            self._together.append(message)
            now = clock()
            # Memory that is not copied is sent at once: the caller's generator may write to it again.
            if now - begun > GATHERING or not is_fixed(message[1]):
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
                tracker.wait(PING_AFTER / 1000)
            except zmq.NotDone:
                self._make_sure()
                if monotonic() - begun > SILENCE:
                    ask(self._address, self._keys)  # over another connection: this one may be busy sending
                    begun = monotonic()

    def _next(self, exchange: Exchange, flusher: Flusher) -> messages.Message | None:
        """Let a generator make the next request, while what waits can be sent without this thread."""
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
        return self._send(together)

    def _send_again(self, exchange: Exchange) -> None:
        """Send what was not answered if the broker may not have got it; what it knows it does not do twice."""
        if self._anew:
            self._anew = False
            self._send(list(exchange.again()))

    def command(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have something about the Flow changed, and wait until it is; returns what came of it."""
        id = next(self.ids)
        order = self.encode((messages.VERSION, messages.CONTROL, id, command, arguments))
        self._say(order)
        while True:
            for header, _ in self._receive(lambda: False):
                if header[1] == messages.CONTROLLED and header[2] == id:
                    return dict(header[3])
                if header[1] == messages.WELCOME:
                    check_same_flow(self._address, self.info, header[3])
                    if self._anew:
                        self._anew = False
                        self._say(order)

    def abandon(self, exchange: Exchange) -> None:
        """Tell the broker not to bother with what was not answered."""
        self._together.clear()
        self._send(list(exchange.cancelled()))

    def close(self) -> None:
        """Close the socket when what it has to say is out, but soon."""
        self._socket.close(FINAL_READ)


@contextlib.contextmanager
def connected(address: str, keys: Keys | None = None, timeout: float | None = None) -> Iterator[Connection]:
    """A connection on its own; raises as `ask`."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        connection = Connection(context, address, lambda: None, keys, timeout)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        end(context)


def ask(address: str, keys: Keys | None = None, timeout: float | None = None) -> dict[str, Any]:
    """Ask a broker about its Flow, and wait for its answer at most `timeout` seconds, `CONNECTING` when left out.

    Raises:
        AccessDenied: the Flow refuses the connection.
        FlowUnreachable: nobody answers.
    """
    with connected(address, keys, timeout) as connection:
        return connection.info


def end(context: zmq.Context[Any]) -> None:
    """End a context, with all sockets that nobody uses any more.

    Ctrl-C may have come while a socket was just being made: nobody has closed that one, and the end would wait for it.
    """
    context.destroy(FINAL_READ)
