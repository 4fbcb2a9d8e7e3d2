"""The gate: sockets that strangers reach, each in a domain,
and what looks after them in the broker's own loop.

It answers libzmq's questions (`zap`), counts the connections of each domain from what libzmq tells
of them, has each of them metered (`meter`), lets new ones wait while file descriptors are few
(`listener`), and logs whom it turned away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import zmq

from zflow.devices.sockets import listener, meter, zap
from zflow.devices.sockets.factory import BACKLOG, Context, Socket

log = logging.getLogger("zflow.broker")

# Seconds between two looks at how many descriptors processes of this machine take.
COUNT_EVERY: Final = 1.0
MANY: Final = 1 << 16  # descriptors, of which processes of this machine will not take too many
REST_LOGGED: Final = 10.0  # seconds between two lines that nobody can connect
_ADDRESS: Final = "inproc://zeromq.zap.01"  # where libzmq looks for a handler


class _Door(NamedTuple):
    domain: bytes
    socket: Socket
    monitor: Socket
    connections: zap.Connections
    meter: meter.Meter
    listener: listener.Listener


class Gate:
    """The sockets around handler and counts, for a loop that polls
    `sockets` and then calls `serve`.

    Its context must have one I/O thread, as contexts have by default: then events come in order.

    Args:
        context: the context of the sockets to guard.
        lists: returns the keys that may connect, by domain; called for each new connection, so what
            it returns may change. Without keys: `dict`.
        limits: the connections that each domain may have.
        max_bytes: the largest payload of a message.

    Raises:
        zmq.ZMQError: there is a gate in this context already (EADDRINUSE).
    """

    def __init__(
        self,
        context: Context,
        lists: Callable[[], zap.Lists],
        limits: Mapping[bytes, int],
        max_bytes: int = 1 << 30,
    ) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        self._look_at = self._sweep_at = self._count_at = 0.0
        self._most = listener.descriptors()
        self._local = listener.used()  # descriptors that no connection from elsewhere has taken
        self._rested_at = -60.0
        self._refusals = zap.Refusals()
        self._handler = zap.Handler(lists, limits, self.connections, self._refusals)
        self._doors: list[_Door] = []
        self._zap = context.socket(zmq.REP)
        self._zap.set(zmq.LINGER, 0)
        self._zap.bind(_ADDRESS)

    def guard(self, socket: Socket, domain: bytes, secret: bytes | None = None) -> meter.Meter:
        """Guard a socket that is not bound yet; with `secret`, the server's key as z85, by CURVE.

        Returns what counts its connections; the port of the socket has to
        tell it what is sent and received.
        """
        zap.guard(socket, domain, secret)
        socket.set(zmq.BACKLOG, min(BACKLOG, listener.reserve(self._most) // 2))
        monitor = zap.watch(socket, zap.ACCEPTED | zap.DISCONNECTED | zap.LISTENING | zap.FAILURES)

        def refused(address: str, reason: str) -> None:
            self._refusals.add(domain, address or zap.UNKNOWN_ADDRESS, reason, "", time.monotonic())

        metered, listening = meter.Meter(self._max_bytes, refused), listener.Listener()
        connections = zap.Connections(secret is not None, refused, metered, listening)
        self._doors.append(_Door(domain, socket, monitor, connections, metered, listening))
        return metered

    @property
    def sockets(self) -> list[Socket | int]:
        """What to poll for input, the monitors first:
        an address can be asked for only while it is there.
        """
        return [
            *(door.monitor for door in self._doors),
            self._zap,
            *(one for door in self._doors for one in door.meter.sockets),
        ]

    @property
    def wait(self) -> float:
        """In how many seconds `tick` is to be called at the latest."""
        return meter.LOOK if any(door.meter.active for door in self._doors) else 1.0

    def connections(self, domain: bytes) -> int:
        """How many connections a domain has, over all its sockets."""
        return sum(door.connections.count for door in self._doors if door.domain == domain)

    def serve(self) -> None:
        """Handle all that has arrived; never blocks."""
        self._count()
        for request in self._requests():
            try:
                self._count()  # what is asked about has been accepted before
                reply = self._handler.reply(request, time.monotonic())
            except Exception:  # without an answer nobody could be asked about any more
                log.exception("failed to judge a connection, which may try again")
                reply = [
                    zap.VERSION,
                    request[1] if len(request) > 1 else b"",
                    b"300",
                    b"try again",
                    b"",
                    b"",
                ]
            self._zap.send_multipart(reply)
        for door in self._doors:
            if door.meter.ring():
                self._look_at = time.monotonic() + meter.LOOK

    def tick(self) -> None:
        """Look at the connections if it is time, and log what was held back;
        to be called after each turn.
        """
        now = time.monotonic()
        self._refusals.tick(now)
        if now >= self._look_at:
            self._look_at = now + meter.LOOK
            for door in self._doors:
                if door.meter.active:
                    door.meter.look()
        if now >= self._sweep_at:
            self._sweep_at = now + meter.SWEEP_EVERY
            for door in self._doors:
                door.meter.sweep()
        if now >= self._count_at:
            self._count_at = now + COUNT_EVERY
            if self._most < MANY:
                self._local = listener.used() - sum(door.connections.count for door in self._doors)
            for door in self._doors:
                self._let_in(door)

    def close(self) -> None:
        """Stop guarding; to be called before the guarded sockets are closed."""
        for door in self._doors:
            zap.unwatch(door.socket, door.monitor)
            door.meter.close()
            door.listener.close()
        self._doors.clear()
        self._zap.close()

    def _count(self) -> None:
        for door in self._doors:
            before = door.connections.count
            door.connections.read(door.monitor)
            if door.connections.count != before:
                self._let_in(door)

    def _let_in(self, door: _Door) -> None:
        """Let a socket take new connections as long as there are enough descriptors."""
        share = (self._most - self._local - listener.reserve(self._most)) // len(self._doors)
        most = max(1, min(share, self._limits[door.domain] + listener.HALF_OPEN))
        count = door.connections.count
        if not door.listener.resting and count >= most:
            door.listener.rest(True)
            if door.listener.resting and time.monotonic() - self._rested_at > REST_LOGGED:
                self._rested_at = time.monotonic()
                log.warning(
                    "%s cannot connect before others have gone: %d connections, of the %d file "
                    "descriptors that this"
                    " process may have (ulimit -n)",
                    zap.WHO.get(door.domain, "somebody"),
                    count,
                    self._most,
                )
        elif door.listener.resting and count < most - most // 10:
            door.listener.rest(False)

    def _requests(self) -> Iterable[list[bytes]]:
        while True:
            try:
                yield self._zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
