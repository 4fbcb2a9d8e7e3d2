"""A socket with the few calls that are made for each message looked up once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import zmq

from zflow.devices.protocol.bundles import frames_of
from zflow.devices.protocol.messages import SMALL, Encode, Message
from zflow.devices.protocol.references import Frame
from zflow.devices.sockets.clock import monotonic
from zflow.devices.sockets.factory import Socket

BATCH = 64  # messages taken from one socket before anything else is looked at
LARGE = 64 * 1024  # bytes from which copying a frame costs more than not copying it

# As plain numbers: each use of an enum would cost a conversion.
_EVENTS, _POLLIN, _POLLOUT, _SNDMORE = (
    int(zmq.EVENTS),
    int(zmq.POLLIN),
    int(zmq.POLLOUT),
    int(zmq.SNDMORE),
)


Handlers: TypeAlias = "dict[Socket | int, Callable[[], object]]"


class Port:
    """A socket with the few calls that are made for each message looked up once.

    Args:
        socket: a ROUTER or DEALER.
        small: how many frames in front are received as bytes, whatever their size. Identity, header
            and the first payload frame are small as a rule, and for small ones bytes are cheaper;
            arrays are not copied.
    """

    __slots__ = ("_events", "_first", "_receive", "_send", "_small", "socket")

    def __init__(self, socket: Socket, small: int) -> None:
        self.socket = socket
        self._small = small
        # The bound methods of the class below pyzmq's convenience layer; a plain attribute look-up
        # on a socket goes through a Python __getattr__ hook.
        self._receive = zmq.backend.Socket.recv.__get__(socket)
        self._send = zmq.backend.Socket.send.__get__(socket)
        self._events = zmq.backend.Socket.get.__get__(socket)

    def readable(self) -> bool:
        """Whether a message can be received without waiting;
        cheaper than the exception that says there is none.
        """
        return bool(self._events(_EVENTS) & _POLLIN)

    @property
    def refused(self) -> bool:
        """Whether the other end has refused this connection in the handshake;
        only a new one is tried again.

        Of a socket that connects, and whose messages have no high-water mark:
        nothing else makes it unfit for sending.
        """
        return not self._events(_EVENTS) & _POLLOUT

    def wait(self, seconds: float) -> bool:
        """Wait until a message can be received, so many seconds at most,
        or until the connection is refused.
        """
        end = monotonic() + seconds
        while not (events := self._events(_EVENTS)) & _POLLIN:
            left = end - monotonic()
            if left <= 0 or not events & _POLLOUT:
                return False
            # The descriptor signals all that happens to the socket; polling the socket itself, only
            # one kind of it.
            zmq.zmq_poll([(self.socket.fileno(), _POLLIN)], int(left * 1000) + 1)
        return True

    def receive(self, flags: int = 0) -> list[Any]:
        """Receive one message; large frames after the small ones are `zmq.Frame`, uncopied.

        Raises:
            zmq.Again: nothing came within the socket's RCVTIMEO; with NOBLOCK in `flags`,
                nothing is there.
        """
        receive = self._receive
        small = self._small
        frame = self._first = receive(flags, False)
        frames: list[Any] = [frame.bytes]
        while frame.more:
            frame = receive(0, False)
            frames.append(frame.bytes if len(frames) < small or len(frame) <= SMALL else frame)
        return frames

    def receive_some(self, limit: int, senders: list[zmq.Frame] | None = None) -> list[list[Any]]:
        """Receive what has arrived, `limit` messages at most, and at least one;
        raises as `receive`.

        Args:
            senders: gets a frame of each message, which knows over whose connection it has come.
        """
        messages = [self.receive()]
        if senders is not None:
            senders.append(self._first)
        # Cheaper than the exception that says there is none.
        while len(messages) < limit and self.readable():
            messages.append(self.receive())
            if senders is not None:
                senders.append(self._first)
        return messages

    def send(self, frames: Sequence[Frame]) -> None:
        """Send one message; large frames, and those that are not bytes, go without being copied.

        Raises:
            zmq.ZMQError: EHOSTUNREACH, from a ROUTER whose peer is gone (nothing was sent then).
        """
        send = self._send
        more = len(frames)
        for frame in frames:
            more -= 1
            if type(frame) is bytes and len(frame) < LARGE:
                send(frame, _SNDMORE if more else 0)
            else:
                self.socket.send(frame, _SNDMORE if more else 0, copy=False)

    def say(self, messages: Sequence[Message], encode: Encode) -> list[zmq.MessageTracker]:
        """Send these messages, with `encode` for the headers, in as few as possible;
        returns as `send_tracked`.
        """
        trackers: list[zmq.MessageTracker] = []
        for frames in frames_of(messages, encode):
            trackers += self.send_tracked(frames)
        return trackers

    def send_tracked(self, frames: Sequence[Frame]) -> list[zmq.MessageTracker]:
        """Like `send`; the trackers returned tell when libzmq has let go of
        each frame that was not copied.

        Whoever hands out the memory of user code waits for them before that code runs again:
        it may write there.
        """
        send = self._send
        trackers = []
        more = len(frames)
        for frame in frames:
            more -= 1
            flags = _SNDMORE if more else 0
            if type(frame) is not bytes:
                tracker = self.socket.send(frame, flags, copy=False, track=True)
                if tracker is not None:
                    trackers.append(tracker)
            elif len(frame) < LARGE:
                send(frame, flags)
            else:
                self.socket.send(frame, flags, copy=False)  # nobody can write to it
        return trackers


def buffers(frames: Sequence[Any]) -> Sequence[Any]:
    """Payload frames as bytes and memoryviews, for whoever decodes them."""
    if len(frames) == 1 and type(frames[0]) is bytes:
        return frames
    return [frame.buffer if isinstance(frame, zmq.Frame) else frame for frame in frames]
