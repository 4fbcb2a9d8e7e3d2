"""A port that strangers reach: what one message may hold is bounded, and what waits for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from zflow.devices.protocol.messages import SMALL, Frames
from zflow.devices.sockets.meter import COUNTED, Meter
from zflow.devices.sockets.port import LARGE, Port

SLICE = 2000  # frames of an overlong message that are thrown away in one turn

_RCVMORE, _SNDMORE = int(zmq.RCVMORE), int(zmq.SNDMORE)


class GuardedPort(Port):
    """A port that strangers reach.

    Args:
        socket: a ROUTER that is not bound yet.
        small: as for `Port`.
        meter: what counts its connections.
        most_unread: messages that may wait for one of them; beyond it is cut.
    """

    __slots__ = ("_meter", "_most", "_surplus")

    def __init__(self, socket: zmq.Socket[bytes], small: int, meter: Meter, most_unread: int) -> None:
        super().__init__(socket, small)
        socket.set(zmq.ROUTER_MANDATORY, 1)  # to hear of those for whom too much waits, or who are gone
        socket.set(zmq.SNDHWM, most_unread)
        socket.set(zmq.SNDTIMEO, 0)
        self._meter = meter
        self._most = meter.most_frames
        self._surplus = False  # whether the rest of an overlong message is still to be thrown away
        meter.waiting = self.readable

    def receive_some(self, limit: int, senders: list[zmq.Frame] | None = None) -> list[Frames]:
        """Receive what has arrived, `limit` messages at most; none while the rest of an overlong one is thrown away."""
        messages: list[Frames] = []
        while len(messages) < limit and (not self._surplus or self._thrown_away()) and self.readable():
            frames = self.receive()
            if frames:
                messages.append(frames)
                if senders is not None:
                    senders.append(self._first)
        self._meter.taken += len(messages)
        return messages

    def receive(self, flags: int = 0) -> Frames:
        """Receive one message as `Port` does; of one with too many frames nothing is returned, and its sender cut."""
        receive = self._receive
        small, most = self._small, self._most
        frame = self._first = receive(flags, False)
        frames: Frames = [frame.bytes]
        while frame.more:
            frame = receive(0, False)
            at = len(frames)
            if at < small:
                frames.append(frame.bytes)
            elif at <= most:
                frames.append(frame.bytes if len(frame) <= SMALL else frame)
            else:
                self._meter.overlong(frames[0], frame)
                self._surplus = frame.more
                return []
        if self._meter.curious:
            self._meter.heard(frames[0], frame)
        return frames

    def _thrown_away(self) -> bool:
        """Throw away some of an overlong message, so that others have their turn; returns whether that was all."""
        receive = self._receive
        for _ in range(SLICE):
            receive(0)
            if not self._events(_RCVMORE):
                self._surplus = False
                return True
        return False

    def send(self, frames: Sequence[Any]) -> None:
        """Send one message as `Port` does.

        Raises:
            zmq.ZMQError: EHOSTUNREACH: the peer is gone, or was cut because too much waits for it; nothing was sent.
        """
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
