"""A port that strangers reach: what one message may hold is bounded,
and what waits for one of them.

A message of many frames is received in slices, one in a turn,
so that others have their turns meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from zflow.devices.protocol.messages import SMALL
from zflow.devices.sockets.factory import Socket
from zflow.devices.sockets.meter import COUNTED, Meter
from zflow.devices.sockets.port import LARGE, Port

# Frames received, or thrown away, in one turn; of a message with more, all costs that many Python
# steps.
SLICE = 2000
# Bytes of a frame, on average, in a message of more frames: ours put small ones together.
LEAST_MEAN = 1024

_RCVMORE, _SNDMORE = int(zmq.RCVMORE), int(zmq.SNDMORE)


class GuardedPort(Port):
    """A port that strangers reach.

    Args:
        socket: a ROUTER that is not bound yet.
        small: as for `Port`.
        meter: what counts its connections.
        most_unread: messages that may wait for one of them; beyond it is cut.
    """

    __slots__ = ("_begun", "_meter", "_surplus")

    def __init__(self, socket: Socket, small: int, meter: Meter, most_unread: int) -> None:
        super().__init__(socket, small)
        # To hear of those for whom too much waits, or who are gone.
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.SNDHWM, most_unread)
        socket.set(zmq.SNDTIMEO, 0)
        self._meter = meter
        self._begun: list[Any] = []  # of a message, the rest of which is received in later turns
        self._surplus = False  # whether the rest of a message is thrown away
        meter.waiting = self.readable

    def receive_some(self, limit: int, senders: list[zmq.Frame] | None = None) -> list[list[Any]]:
        """Receive what has arrived, `limit` messages at most;
        none if only a part of one was received.
        """
        messages: list[list[Any]] = []
        while (
            len(messages) < limit and not (self._surplus and self._throw_away()) and self.readable()
        ):
            frames = self.receive()
            if frames:
                messages.append(frames)
                if senders is not None:
                    senders.append(self._first)
            else:
                break
        self._meter.taken += len(messages)
        return messages

    def receive(self, flags: int = 0) -> list[Any]:
        """Receive one message as `Port` does; nothing is returned if there is more to come,
        or too much.
        """
        if self._begun:
            return self._receive_more()
        receive = self._receive
        small = self._small
        frame = self._first = receive(flags, False)
        frames: list[Any] = [frame.bytes]
        while frame.more:
            frame = receive(0, False)
            frames.append(frame.bytes if len(frames) < small or len(frame) <= SMALL else frame)
            if len(frames) > SLICE:
                return self._rest(frames, frame)
        if self._meter.curious:
            self._meter.heard(frames[0], frame)
        return frames

    def _receive_more(self) -> list[Any]:
        frames = self._begun
        for _ in range(SLICE):
            frame = self._receive(0, False)
            frames.append(frame.bytes if len(frame) <= SMALL else frame)
            if not frame.more:
                break
        return self._rest(frames, frame)

    def _rest(self, frames: list[Any], frame: zmq.Frame) -> list[Any]:
        """Return a message of many frames, if it is whole and not too many;
        the last one that was received is this.
        """
        most = self._meter.most_frames
        if len(frames) > SLICE and sum(map(len, frames)) < len(frames) * LEAST_MEAN:
            most = SLICE
        if len(frames) > most:
            self._begun, self._surplus = [], frame.more
            self._meter.overlong(frames[0], frame, most)
            return []
        if frame.more:
            self._begun = frames
            return []
        self._begun = []
        if self._meter.curious:
            self._meter.heard(frames[0], frame)
        return frames

    def _throw_away(self) -> bool:
        """Receive some of what is thrown away, and return whether there is more of it."""
        receive = self._receive
        for _ in range(SLICE):
            receive(0)
            if not self._events(_RCVMORE):
                self._surplus = False
                break
        return self._surplus

    def send(self, frames: Sequence[Any]) -> None:
        """Send one message as `Port` does.

        Raises:
            zmq.ZMQError: EHOSTUNREACH: the peer is gone,
                or was cut because too much waits for it; nothing was sent.
        """
        if self._meter.curious and self._meter.is_silent(frames[0]):
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        send = self._send
        more = len(frames)
        try:
            for frame in frames:
                more -= 1
                flags = _SNDMORE if more else 0
                if len(frame) < COUNTED and type(frame) is bytes:
                    send(frame, flags)
                    continue
                self._meter.owe(frames[0], len(frame))
                if type(frame) is bytes and len(frame) < LARGE:
                    send(frame, flags)
                else:
                    self.socket.send(frame, flags, copy=False)
        except zmq.Again:
            self._meter.clogged(frames[0])
            raise zmq.ZMQError(zmq.EHOSTUNREACH) from None
