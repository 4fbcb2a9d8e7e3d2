"""A client's socket to a broker with the session over it. It never waits:
that is done by threads or on event loops.
"""

from __future__ import annotations

import errno
import itertools
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import zmq

from zflow import errors
from zflow.devices.local.arena import Arena
from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import Control, Controlled, Failed, Message, Reply
from zflow.devices.protocol.session import Greeted, NotUnderstood, Session, Silent, Welcomed
from zflow.devices.sockets import descriptors, factory, zap
from zflow.devices.sockets.clock import monotonic
from zflow.devices.sockets.port import Port, buffers
from zflow.network.keys import Keys

Said = Welcomed | Reply | Failed | Controlled

# ms of silence after which a waiting client makes sure that the Flow is still there.
PING_AFTER = 1000
# Of a message that are received as bytes: the header, and as a rule the only one of the payload.
SMALL_FRAMES = 2
FINAL_READ = 100  # ms that what a Flow sent before its end may take to be read
CONNECTING = 5.0  # seconds to wait for a Flow's first word
# Seconds without a word from a broker that was asked for one, until it counts as gone.
SILENCE = 10.0
MOST_SOCKETS = 10_000  # of a client: one for each thread that posts; libzmq's own limit is 1023


def connecting(timeout: float | None) -> float:
    """Return the seconds that connecting may take for what itself may take so many ms."""
    return CONNECTING if timeout is None else min(CONNECTING, timeout / 1000)


class Wire:
    """A client's socket to a broker, and what has been said over it.

    Args:
        address: the broker's.
        keys: what lets it in, if the Flow asks for keys.
        memory: the memory shared with the Flow, if there is any.

    Raises:
        FlowUnreachable: that is no address.
        OutOfDescriptors: no more sockets can be opened.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        address: str,
        keys: Keys | None = None,
        memory: Arena | None = None,
    ) -> None:
        self.address = address
        self.memory = memory
        self._keys = keys
        with _explained():
            descriptors.make_sure()
            self.socket = _open(
                context, address, keys, messages.STRANGER if memory is None else messages.MEMBER
            )
            self.port = Port(self.socket, SMALL_FRAMES)
        direction = messages.TO_CLIENT if memory is None else messages.TO_MEMBER
        self.session = Session(PING_AFTER / 1000, SILENCE, direction)
        self.ids = itertools.count(1)
        self._encode = messages.encoder()

    @property
    def refused(self) -> bool:
        """Whether the Flow has refused the connection; then it is of no use any more."""
        return not self.socket.closed and self.port.refused

    def say(self, outgoing: Sequence[Message]) -> list[zmq.MessageTracker]:
        """Send; where the Flow has refused the connection there is nobody to send it to,
        as whoever waits finds out.
        """
        try:
            return self.port.say(outgoing, self._encode)
        except zmq.Again:
            return []

    def ask(self) -> int:
        """Ask who is there; returns the question's token."""
        self.say([self.session.ask(monotonic())])
        return self.session.token

    def order(self, command: str, arguments: dict[str, Any]) -> Control:
        """The message of a command."""
        return Control(next(self.ids), command, arguments)

    def heard(self, arrived: Iterable[messages.Frames]) -> list[Said]:
        """Return what these messages mean; greetings are answered.

        Raises:
            FlowUnreachable: they are none of a Flow.
            BadRequest: they are of a Flow of another version.
        """
        now = monotonic()
        take = self.session.take
        events: list[Said] = []
        try:
            for frames in arrived:
                for event in take(frames if len(frames) <= SMALL_FRAMES else buffers(frames), now):
                    if not isinstance(event, Greeted):
                        events.append(event)
                    elif event.question is not None:
                        self.say([event.question])
        except NotUnderstood:
            raise errors.BadRequest(
                f"the Flow at {self.address} speaks another version of zflow's protocol"
            ) from None
        except messages.Malformed as error:
            raise errors.FlowUnreachable(
                f"what answers at {self.address} is no zflow Flow: {error}"
            ) from None
        return events

    def tick(self) -> None:
        """Ask for a word after a while of silence; called while somebody waits.

        Raises:
            FlowUnreachable: there was none for long.
        """
        found = self.session.tick(monotonic())
        if isinstance(found, Silent):
            raise errors.FlowUnreachable(
                f"the Flow at {self.address} stopped answering {found.seconds:.0f} s ago"
            )
        if found is not None:
            self.say([found])

    # -- what goes wrong ---------------------------------------------------------------------------

    def nobody(self) -> errors.FlowUnreachable:
        """What to raise where there is no answer; a Flow that does not
        like a client's keys says nothing.
        """
        about_keys = (
            "are the keys (curve=) those it knows?"
            if self._keys
            else "does it ask for keys (curve=)?"
        )
        return errors.FlowUnreachable(
            f"no Flow answers at {self.address}: is it running, is the port right, and {about_keys}"
        )

    def refusal(self) -> errors.AccessDenied:
        """What to raise where the connection is refused; whoever does that says no more."""
        about_keys = (
            "are the keys (curve=) those it knows"
            if self._keys
            else "does it ask for keys (curve=)"
        )
        return errors.AccessDenied(
            f"{self.address} refuses the connection: {about_keys}, has it room for more "
            "(max_connections), and is it a"
            " Flow? Its log says why"
        )

    def replaced(self) -> errors.FlowUnreachable:
        """What to raise where another Flow, or the same one started anew,
        has taken the place of a Flow.
        """
        return errors.FlowUnreachable(
            f"the Flow at {self.address} has ended; another one listens there now: post again"
        )

    def close(self) -> None:
        """Close the socket when what it has to say is out, but soon."""
        self.socket.close(FINAL_READ)


def _open(
    context: zmq.Context[Any], address: str, keys: Keys | None, kind: bytes
) -> zmq.Socket[bytes]:
    """A DEALER connected to a Flow's front, with these keys if it asks for any."""
    socket = factory.dealer(context, kind)
    socket.set(zmq.RCVTIMEO, PING_AFTER)
    # Where the Flow has refused the connection, there will never be anybody to send to.
    socket.set(zmq.SNDTIMEO, 0)
    if keys is not None:
        zap.secure(socket, *keys)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        if error.errno in descriptors.FEW:
            raise
        raise errors.FlowUnreachable(
            f"{address} is no address that can be connected to: {error}"
        ) from None
    return socket


def begin() -> zmq.Context[Any]:
    """Make a context for a client's sockets.

    Raises:
        OutOfDescriptors: it cannot be made.
    """
    with _explained():
        context: zmq.Context[Any] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, MOST_SOCKETS)
        return context


@contextmanager
def _explained() -> Iterator[None]:
    """Say what helps where nothing more can be opened; libzmq's errors are the system's."""
    try:
        yield
    except (OSError, zmq.ZMQError) as error:
        if error.errno not in descriptors.FEW:
            raise
        if error.errno == errno.ENFILE:
            why = "the machine has too many files open: close some, or raise fs.file-max"
        else:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            why = (
                f"this process may have {most} and has too few left for a connection: raise the "
                "limit (ulimit -n), close() the Clients that are done with, or share one, which "
                "any number of threads may"
            )
        raise errors.OutOfDescriptors(f"Too many open files: {why}") from None


def end(context: zmq.Context[Any]) -> None:
    """End a context, with all sockets that nobody uses any more.

    Ctrl-C may have come while a socket was just being made: nobody has closed that one,
    and the end would wait for it.
    """
    context.destroy(FINAL_READ)
