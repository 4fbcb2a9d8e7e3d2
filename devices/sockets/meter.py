"""What each connection from elsewhere has sent that is no whole message yet,
and has not read of what it was sent.

libzmq shows whole messages only, its limits hold for single frames and for numbers of messages, and
it does not say what it keeps for whom. The kernel counts the bytes of each connection, so that is
where a `Meter` looks: every 10 ms at those from whom more comes than libzmq reads at once, who are
within a large message, or who were sent something, and at the others now and then. Whoever is over
a bound is cut: its connection ends for libzmq as if the other end had hung up, which lets go of all
that was kept for it. Where the kernel does not tell (elsewhere than on Linux) nothing is bounded
here. What is said over a connection is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket as sockets
import struct
import termios
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import zmq

from zflow.devices.protocol.messages import MAX_HEADER
from zflow.devices.sockets import trains

T = TypeVar("T")

LOOK: Final = 0.01  # seconds between two looks
# Connections in one look, so that it takes half a millisecond, or one if all are busy.
MOST_LOOKS: Final = 100
OFTEN: Final = 10  # looks after which one of whom little waits each time is looked at closely
SWEEP_EVERY: Final = 0.1  # seconds between two sweeps, if the loop turns at all
SWEPT: Final = 100  # connections in one sweep
# Bytes of a frame from which it is counted as unread; of smaller ones the number is bounded.
COUNTED: Final = 1024
UNREAD: Final = 64 << 20  # bytes that a client may leave unread for longer than
# Seconds in which it had no room for more: behind a slow line room comes in leaps.
STUCK: Final = 5.0
NAMELESS: Final = 1.0  # seconds that a connection may say nothing, where somebody hides behind that
PROGRESS: Final = 64 << 10  # bytes that count as reading
# Bytes that may wait for one that reads, but slowly; or twice the largest message.
MOST_UNREAD: Final = 256 << 20

# Bytes; what is smaller, peers of ours put into the first frame of a payload.
LEAST_FRAME: Final = 16 << 10
# In one message: of payloads where branches meet, the first one may be small.
SMALL_FRAMES: Final = 16 << 10
_FRAME: Final = 42  # bytes around a frame on the wire, with CURVE
# What a handshake takes, and what libzmq has read without having looked at it.
_SLACK: Final = 64 << 10
_WATCHED: Final = (
    select.EPOLLIN | select.EPOLLET | select.EPOLLONESHOT if hasattr(select, "epoll") else 0
)
# Of tcp_info: bytes acknowledged, received; us limited by the reader.
_INFO: Final = struct.Struct("=QQ40xQ")
_INFO_AT, _INFO_SIZE = 120, 184
_SRCFD = int(zmq.SRCFD)


def most_frames(max_bytes: int) -> int:
    """How many frames a message with payloads of so many bytes may have."""
    return SMALL_FRAMES + max_bytes // LEAST_FRAME


class Traffic(NamedTuple):
    """What the kernel has counted of a connection."""

    acknowledged: int
    received: int
    limited: int  # us in which it could have been sent more, had it had room


class Connection:
    """One open connection.

    Attributes:
        address: of the other end; `""` if it was gone before it could be asked for.
        name: its routing id, once it has said something.
    """

    __slots__ = (
        "acknowledged",
        "address",
        "arrivals",
        "begun",
        "descriptor",
        "judged_at",
        "name",
        "opened_at",
        "received",
        "stuck",
        "train_from",
        "unread",
        "was_cut",
    )

    def __init__(self, descriptor: int, address: str) -> None:
        self.descriptor = descriptor
        self.address = address
        self.opened_at = time.monotonic()
        self.name: bytes | None = None
        # Looks at which something waited, begun so that not all are at the same number.
        self.arrivals = descriptor
        # Bytes received when it last sent a whole message, as far as that was watched.
        self.begun = 0
        self.judged_at: int | None = None  # messages taken when it was over the bound first
        self.acknowledged = 0
        self.unread = 0
        # Bytes that libzmq had read when what followed looked like a train; -1 if it does not.
        self.train_from = -1
        self.received = 0
        # Bytes acknowledged, and us of being limited, when it last read something.
        self.stuck = (0, 0)
        self.was_cut = False


class Meter:
    """The connections of one socket.

    Args:
        max_bytes: the largest payload of a message.
        refused: called with the address of a connection that is cut, and why.

    Attributes:
        curious: whether `heard` is to be called for each message: as long as an open connection has
            said nothing, also for names that are known. Who takes over another's name
            (ROUTER_HANDOVER) would else count as that one.
        active: whether `look` is to be called again after `LOOK`.
        gone: called with the routing id of a client that is cut.
        waiting: says whether a message can be received.
        taken: messages received up to now, at least.
    """

    def __init__(self, max_bytes: int, refused: Callable[[str, str], None]) -> None:
        self.most_frames = most_frames(max_bytes)
        self._limit = max_bytes + MAX_HEADER + self.most_frames * _FRAME + _SLACK
        self._most_unread = max(MOST_UNREAD, 2 * max_bytes)
        self._refused = refused
        self.curious = False
        self.active = False
        self.gone: Callable[[bytes], None] = lambda name: None
        self.waiting: Callable[[], bool] = lambda: False
        self.taken = 0
        self._open: dict[int, Connection] = {}  # by descriptor
        self._named: dict[bytes, Connection] = {}
        self._unnamed: set[int] = set()
        # Those that have sent much: have they sent a whole message?
        self._watched: dict[int, Connection] = {}
        self._to_sweep: list[int] = []
        self._owed: dict[bytes, int] = {}  # bytes sent since the last look, by routing id
        # Each connection tells once that something arrived, and is armed anew when it was looked
        # at. The first one to tell wakes the loop, once; then looks follow each other until nobody
        # has told anything.
        self._arrivals = select.epoll() if _WATCHED else None
        self._bell = select.epoll() if _WATCHED else None
        if self._arrivals is not None and self._bell is not None:
            self._bell.register(self._arrivals.fileno(), _WATCHED)

    @property
    def sockets(self) -> list[int]:
        """What to poll for input; `ring` is to be called then."""
        return [] if self._bell is None else [self._bell.fileno()]

    def close(self) -> None:
        """Look no more."""
        for epoll in (self._arrivals, self._bell):
            if epoll is not None:
                epoll.close()

    # -- what is told ------------------------------------------------------------------------------

    def opened(self, descriptor: int, address: str) -> None:
        """There is a new connection; nothing has been received from it."""
        self.closed(descriptor)
        self._open[descriptor] = Connection(descriptor, address)
        self._unnamed.add(descriptor)
        self.curious = True
        self._arm(descriptor)

    def closed(self, descriptor: int) -> None:
        """A connection has ended."""
        connection = self._open.pop(descriptor, None)
        if connection is None:
            return
        self._unnamed.discard(descriptor)
        self._watched.pop(descriptor, None)
        self.curious = bool(self._unnamed or self._watched)
        if connection.name is not None and self._named.get(connection.name) is connection:
            del self._named[connection.name]
            self._owed.pop(connection.name, None)

    def heard(self, name: bytes, frame: zmq.Frame) -> None:
        """A whole message has come from this client; one of its frames is this."""
        descriptor = frame.get(_SRCFD)
        if descriptor not in self._unnamed and descriptor not in self._watched:
            return
        connection = self._open[descriptor]
        if descriptor in self._unnamed:
            self._unnamed.discard(descriptor)
            connection.name = name
            self._named[name] = connection
        if self._watched.pop(connection.descriptor, None) is not None:
            connection.judged_at = None
            traffic = _traffic(connection.descriptor)
            if traffic is not None:
                connection.begun = traffic.received - _unread(connection.descriptor)
        self.curious = bool(self._unnamed or self._watched)

    def owe(self, name: bytes, size: int) -> None:
        """So many bytes are sent to this client."""
        self._owed[name] = self._owed.get(name, 0) + size
        self.active = True

    def is_silent(self, name: bytes) -> bool:
        """Whether much was sent to this client over a connection on which it has said nothing.

        Which one that is nobody tells, so all are cut that have been open for longer than peers
        take to say who they are. Somebody has taken over a name and reads nothing, out of sight.
        """
        if name in self._named or self._owed.get(name, 0) <= UNREAD:
            return False
        old = time.monotonic() - NAMELESS
        for descriptor in [one for one in self._unnamed if self._open[one].opened_at < old]:
            self._cut(self._open[descriptor], "it does not say who it is")
        return True

    def overlong(self, name: bytes, frame: zmq.Frame, most: int) -> None:
        """A message of this client, whose frame this is, has more frames than so many."""
        connection = self._named.get(name) or self._open.get(frame.get(_SRCFD))
        if connection is None:
            return
        traffic = _traffic(connection.descriptor)
        # A connection that has received less than that is one that has got the descriptor of the
        # one that ended.
        if traffic is not None and traffic.received >= 2 * most:
            connection.name = name
            self._cut(connection, f"it sent a message of more than {most} frames")

    def clogged(self, name: bytes) -> None:
        """So many messages wait for this client that it gets no further one."""
        connection = self._named.get(name)
        if connection is not None:
            self._cut(connection, "it does not read what it is sent")

    # -- looks -------------------------------------------------------------------------------------

    def ring(self) -> bool:
        """Whether something has arrived after there was nothing; looks are to follow then."""
        if self._bell is not None and self._bell.poll(0):
            self.active = True
            return True
        return False

    def look(self) -> None:
        """Look at those from whom something has arrived, or to whom something was sent."""
        if self._arrivals is None or self._bell is None:
            self._owed.clear()
            self.active = False
            return
        arrived = [descriptor for descriptor, _ in self._arrivals.poll(0, MOST_LOOKS)]
        owed = [
            self._named[name].descriptor
            for name in list(self._owed)[:MOST_LOOKS]
            if name in self._named
        ]
        busy = [descriptor for descriptor in arrived if self._is_busy(descriptor)]
        moving = [self._look_at(descriptor) for descriptor in {*busy, *owed, *self._watched}]
        for descriptor in busy:
            self._sample(descriptor)
        for descriptor in arrived:
            self._arm(descriptor)
        if not self._unnamed:
            for name in [name for name in self._owed if name not in self._named]:
                del self._owed[name]
        self.active = bool(any(moving) or arrived or self._owed)
        if not self.active:
            self._bell.modify(self._arrivals.fileno(), _WATCHED)

    def sweep(self) -> None:
        """Look at all, or as many as one sweep takes; the others are next."""
        if not self._to_sweep:
            self._to_sweep = list(self._open)
        for descriptor in self._to_sweep[-SWEPT:]:
            self._look_at(descriptor)
        del self._to_sweep[-SWEPT:]
        self.active = self.active or bool(self._watched)

    def _arm(self, descriptor: int) -> None:
        if self._arrivals is None or descriptor not in self._open:
            return
        try:
            self._arrivals.modify(descriptor, _WATCHED)
        except FileNotFoundError:  # the first time
            with contextlib.suppress(OSError):
                self._arrivals.register(descriptor, _WATCHED)
        except OSError:
            pass  # it has ended, which will be told

    def _is_busy(self, descriptor: int) -> bool:
        """Whether much waits of what has arrived, or something did so often:
        a closer look takes several us.
        """
        connection = self._open.get(descriptor)
        if connection is None:
            return False
        connection.arrivals += 1
        return connection.arrivals % OFTEN == 0 or _unread(descriptor) >= trains.SAMPLE

    def _look_at(self, descriptor: int) -> bool:
        """Look at a connection; returns whether it is within a large message that goes on,
        or is to be judged.
        """
        connection = self._open.get(descriptor)
        traffic = _traffic(descriptor)
        if connection is None or traffic is None or connection.was_cut:
            self._watched.pop(descriptor, None)
            return False
        self._weigh_unread(connection, traffic)
        if traffic.received - connection.begun > self._limit // 8:
            self._weigh_unfinished(connection, traffic.received - _unread(descriptor))
        before, connection.received = connection.received, traffic.received
        return descriptor in self._watched and (
            before != traffic.received or connection.judged_at is not None
        )

    def _weigh_unread(self, connection: Connection, traffic: Traffic) -> None:
        owed = self._owed.pop(connection.name or b"", 0)
        read = traffic.acknowledged - connection.acknowledged
        connection.acknowledged = traffic.acknowledged
        connection.unread = max(0, connection.unread + owed - read)
        if connection.unread < UNREAD or traffic.acknowledged - connection.stuck[0] >= PROGRESS:
            connection.stuck = traffic.acknowledged, traffic.limited
        stuck = traffic.limited - connection.stuck[1] > STUCK * 1e6
        if stuck or connection.unread > self._most_unread:
            self._cut(connection, "it does not read what it is sent")
        elif connection.unread >= UNREAD and connection.name is not None:
            self._owed.setdefault(connection.name, 0)  # look again, also if it is sent nothing more

    def _weigh_unfinished(self, connection: Connection, read: int) -> None:
        """`read`: the bytes that libzmq has read."""
        if connection.descriptor not in self._watched:
            self._watched[connection.descriptor] = connection
            connection.begun = read
            self.curious = True
        elif read - connection.begun > self._limit:
            # libzmq has more than a message. If nothing can be received any more, it is none that
            # is whole; a flood of others may prevent that, but all of them get their turn.
            if connection.judged_at is None:
                connection.judged_at = self.taken
            turns = (self.taken - connection.judged_at) / (len(self._open) + 1)
            if not self.waiting() or turns > 2:
                self._cut(connection, "it sent a message without an end")

    def _sample(self, descriptor: int) -> None:
        """Look whether what has arrived and waits is a train of tiny frames,
        and how long it is by now.
        """
        connection = self._open.get(descriptor)
        if connection is None or _unread(descriptor) < trains.SAMPLE:
            return
        pieces = trains.Pieces()
        _saw(pieces, descriptor)
        sample = _waiting(descriptor)
        known = _in_pieces(pieces, descriptor) if trains.may_be(sample) else False
        traffic = _traffic(descriptor)
        if known is False or traffic is None:
            connection.train_from = -1
            return
        read = traffic.received - _unread(descriptor)
        if connection.train_from < 0:
            connection.train_from = read
        if (
            known
            and (read - connection.train_from) * trains.frames_in(sample) / len(sample)
            > self.most_frames
        ):
            self._cut(connection, f"it sent a message of more than {self.most_frames} frames")

    def _cut(self, connection: Connection, why: str) -> None:
        if connection.was_cut:
            return
        connection.was_cut = True
        _hang_up(connection.descriptor)
        self._refused(connection.address, why)
        if connection.name is not None:
            self.gone(connection.name)


def _at(descriptor: int, use: Callable[[sockets.socket], T]) -> T | None:
    """Use a descriptor of libzmq's as a socket; None if it has ended, or cannot be used so.
    Takes no other one.
    """
    try:
        connection = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None
    try:
        return use(connection)
    except (OSError, AttributeError):  # a system whose sockets have not what is asked for
        return None
    finally:
        connection.detach()  # it stays libzmq's


def _traffic(descriptor: int) -> Traffic | None:
    """What the kernel says of a connection; None where it says nothing, or if there is none."""
    info = _at(
        descriptor, lambda one: one.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _INFO_SIZE)
    )
    return (
        None
        if info is None
        else Traffic(*_INFO.unpack_from(info.ljust(_INFO_SIZE, b"\0"), _INFO_AT))
    )


def _hang_up(descriptor: int) -> None:
    """End a connection at once."""

    def end(connection: sockets.socket) -> None:
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(sockets.SHUT_RDWR)

    _at(descriptor, end)


def _waiting(descriptor: int) -> bytes:
    """A piece of what has arrived and libzmq has not read, which stays there."""
    return (
        _at(
            descriptor, lambda one: one.recv(trains.SAMPLE, sockets.MSG_PEEK | sockets.MSG_DONTWAIT)
        )
        or b""
    )


def _saw(pieces: trains.Pieces, descriptor: int) -> bool | None:
    traffic = _traffic(descriptor)
    return False if traffic is None else pieces.saw(traffic.received, _unread(descriptor))


def _in_pieces(pieces: trains.Pieces, descriptor: int) -> bool | None:
    """Whether libzmq reads in pieces; None if it hardly reads at the moment.
    Takes a few milliseconds at most.
    """
    known, end = None, time.monotonic() + LOOK / 4
    while known is None and time.monotonic() < end:
        os.sched_yield()
        known = _saw(pieces, descriptor)
    return known


def _unread(descriptor: int) -> int:
    """The bytes that have arrived and libzmq has not read."""
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), "little")
    except OSError:
        return 0
