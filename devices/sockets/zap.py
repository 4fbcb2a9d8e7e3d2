"""Who may connect over TCP: libzmq asks here before a connection carries its first message.

What decides (`Handler`, by ZAP 1.0, ZeroMQ RFC 27), counts (`Connections`) and logs whom it turned
away (`Refusals`) is told frames, events and times; the sockets around it are the business of
`gate`. It knows public keys by domain, never folders,
and nothing of what is said on a connection that was let in.
"""

from __future__ import annotations

import errno
import logging
import socket as sockets
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils import z85

from zflow.devices.sockets.factory import Socket

if TYPE_CHECKING:  # clients and replicas import this module, and have nothing to guard
    from zflow.devices.sockets import listener, meter

log = logging.getLogger("zflow.broker")

CLIENTS: Final = b"clients"
REPLICAS: Final = b"replicas"
ADMINS: Final = b"admins"  # no domain: a list of clients that may do more
HANDSHAKE_MS: Final = 5000  # a connection that has not said who it is by then is closed
EVERY: Final = 1.0  # seconds between two lines about the same address and reason
MAX_LINES: Final = 100  # addresses and reasons told apart at a time; the rest is only counted
UNKNOWN_ADDRESS: Final = "an address that was gone before it could be asked for"

Lists = Mapping[bytes, frozenset[bytes]]  # the public keys that may connect, as z85, by domain

VERSION: Final = b"1.0"
_ENFORCE_DOMAIN: Final = 93  # zmq.ZAP_ENFORCE_DOMAIN, a name that older pyzmq lacks
WHO: Final = {CLIENTS: "a client", REPLICAS: "a replica", ADMINS: "an admin"}

ACCEPTED, DISCONNECTED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)
LISTENING = int(zmq.EVENT_LISTENING)
_NO_DETAIL, _PROTOCOL = (
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL),
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL),
)
_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
FAILURES: Final = _NO_DETAIL | _PROTOCOL | _AUTH
# zmq.PROTOCOL_ERROR_ZMTP_..., which older pyzmq lacks.
_CRYPTOGRAPHIC, _MISMATCH = 0x11000001, 0x11000002


def secure(socket: Socket, server: bytes, public: bytes, secret: bytes) -> None:
    """Make a socket, before it connects, talk to the owner of the `server` key only,
    and say who it is.

    Args:
        server: the public key of the one to talk to, as z85 like all of them here.
        public, secret: one's own pair.
    """
    socket.set(zmq.CURVE_SERVERKEY, server)
    socket.set(zmq.CURVE_PUBLICKEY, public)
    socket.set(zmq.CURVE_SECRETKEY, secret)


def guard(socket: Socket, domain: bytes, secret: bytes | None) -> None:
    """Make a socket, before it is bound, ask the handler about each connection;
    `gate.Gate.guard` calls this.

    Without a handler in the socket's context nobody gets in at all.

    Args:
        domain: which list counts, `CLIENTS` or `REPLICAS`.
        secret: the server's secret key, as z85; None for plain connections that are only counted.
    """
    if secret is not None:
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, secret)
    socket.set(zmq.ZAP_DOMAIN, domain)
    socket.set(_ENFORCE_DOMAIN, 1)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


# -- the log ---------------------------------------------------------------------------------------


class Refusals:
    """Logs who was turned away: for each address and reason a line,
    then each second at most how many more.

    So a flood of attempts floods neither the log nor the memory.
    """

    def __init__(self) -> None:
        # Who, address, reason: how many since the last line.
        self._more: dict[tuple[str, str, str], int] = {}
        self._unnamed = 0  # refusals beyond MAX_LINES
        self._next = 0.0

    def add(self, domain: bytes, address: str, reason: str, detail: str, now: float) -> None:
        """Somebody was turned away.

        Args:
            reason: one of few; `detail`, which may be anything, is logged but tells no refusals
                apart.
            now: seconds, of any steady clock.
        """
        self.tick(now)
        key = (WHO.get(domain, "somebody"), address, reason)
        if key in self._more:
            self._more[key] += 1
        elif len(self._more) >= MAX_LINES:
            self._unnamed += 1
        else:
            if not self._more:
                self._next = now + EVERY
            self._more[key] = 0
            log.warning("refused %s from %s: %s%s", *key, f" ({detail})" if detail else "")

    def tick(self, now: float) -> None:
        """Log what was only counted, if its time has come, and forget who has given up."""
        if not self._more or now < self._next:
            return
        self._next = now + EVERY
        for (who, address, reason), count in self._more.items():
            if count:
                log.warning("refused %s from %s %d times more: %s", who, address, count, reason)
        if self._unnamed:
            log.warning(
                "refused %d connections more, from too many addresses to name", self._unnamed
            )
        self._more = {key: 0 for key, count in self._more.items() if count}
        self._unnamed = 0


# -- the decision ----------------------------------------------------------------------------------


class Handler:
    """Decides on each connection: frames in, frames out.

    Args:
        lists: returns the keys that may connect, by domain, as they are now. A domain that is not
            among them has no keys: plain connections are let in there, and only those.
        limits: the connections that each domain may have; there are no other domains.
        connections: returns how many a domain has, the one that is asked about included.
        refusals: where refusals are logged.
    """

    def __init__(
        self,
        lists: Callable[[], Lists],
        limits: Mapping[bytes, int],
        connections: Callable[[bytes], int],
        refusals: Refusals,
    ) -> None:
        self._lists = lists
        self._limits = limits
        self._connections = connections
        self._refusals = refusals

    def reply(self, request: Sequence[bytes], now: float) -> list[bytes]:
        """Answer a ZAP request, whatever it is: with status 200,
        or with 400 and a line in the log.
        """
        sequence = request[1] if len(request) > 1 else b""
        user, reason, detail = self._judge(request)
        if not reason:
            return [VERSION, sequence, b"200", b"", user, b""]
        domain, address = (
            (request[2], _printable(request[3])) if len(request) > 3 else (b"", UNKNOWN_ADDRESS)
        )
        self._refusals.add(domain, address, reason, detail, now)
        return [VERSION, sequence, b"400", reason.encode(), b"", b""]

    def _judge(self, request: Sequence[bytes]) -> tuple[bytes, str, str]:
        """Whose connection it is (its key as z85), or why it is refused and
        what else there is to say of that.
        """
        if len(request) < 6 or request[0] != VERSION:
            return b"", "not a ZAP 1.0 request", ""
        _, _, domain, _, _, mechanism, *credentials = request
        if domain not in self._limits:
            return b"", "there is nothing to connect to", ""
        lists = self._lists()
        if domain in lists:
            user, reason = self._key(lists, domain, mechanism, credentials)
        else:
            user, reason = (
                b"",
                "" if mechanism == b"NULL" else "it has a key, and this Flow has none",
            )
        if reason:
            return b"", reason, f"public key {user.decode()}" if user else ""
        if self._connections(domain) > self._limits[domain]:
            return b"", "too many connections", f"the limit is {self._limits[domain]}"
        return user, "", ""

    def _key(
        self, lists: Lists, domain: bytes, mechanism: bytes, credentials: Sequence[bytes]
    ) -> tuple[bytes, str]:
        if mechanism != b"CURVE":
            return b"", "it has no key"
        if len(credentials) != 1 or len(credentials[0]) != 32:
            return b"", "its key is malformed"
        key = z85.encode(credentials[0])
        if key in lists[domain] or (domain == CLIENTS and key in lists.get(ADMINS, ())):
            return key, ""
        for other, who in WHO.items():
            if key in lists.get(other, ()):
                return key, f"its key is {who}'s, which does not let it in as {WHO[domain]}"
        return key, "its key is not on the list"


def user_of(frame: zmq.Frame) -> bytes:
    """Return whose connection a frame has come over, if a `Handler` let it in: its key as z85,
    else `b""`.
    """
    try:
        return str(frame.get("User-Id")).encode()
    except zmq.ZMQError:
        return b""


def _printable(address: bytes) -> str:
    """An address as it may stand in a log line; IPv4 as such, also on a socket that takes both."""
    return address[:64].removeprefix(b"::ffff:").decode("latin-1").encode("unicode_escape").decode()


# -- the count -------------------------------------------------------------------------------------


class Connections:
    """The open connections of one socket, counted from what libzmq's monitor tells in order.

    Those still in their handshake count too: libzmq does not say which of them has ended it. What
    fails before libzmq asks the handler (no key, another server's key) is known from here only,
    and reported to `refused`.

    Args:
        keyed: whether there are keys; without, one that hangs up is no attempt to get in.
        refused: called with address and reason.
        metered, listening: told of each connection, and where libzmq listens.
    """

    def __init__(
        self,
        keyed: bool,
        refused: Callable[[str, str], None],
        metered: meter.Meter | None = None,
        listening: listener.Listener | None = None,
    ) -> None:
        self._keyed = keyed
        self._refused = refused
        self._metered = metered
        self._listening = listening
        self._open: dict[int, str] = {}  # addresses by file descriptor
        self._failure = ""  # of the connection whose end is told next

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._open)

    def happened(self, event: int, value: int, address: str = "") -> None:
        """Take note of an event: its number and value as the monitor tells them,
        and whose connection was accepted.
        """
        if event == ACCEPTED:
            self._open[value] = address
            if self._metered is not None:
                self._metered.opened(value, address)
        elif event == LISTENING and self._listening is not None:
            self._listening.bound(value)
        elif event == DISCONNECTED:
            address = self._open.pop(value, "")
            if self._metered is not None:
                self._metered.closed(value)
            if self._failure:
                self._refused(address or UNKNOWN_ADDRESS, self._failure)
        self._failure = self._why(event, value)

    def _why(self, event: int, value: int) -> str:
        if event == _PROTOCOL and value == _MISMATCH:
            return "it has no key" if self._keyed else "it has a key, and this Flow has none"
        if event == _PROTOCOL and value == _CRYPTOGRAPHIC:
            return "it expects another server's key, or has not the secret of its own"
        if event == _PROTOCOL:
            return "its handshake makes no sense"
        if event == _NO_DETAIL and value == errno.EAGAIN:
            return f"it did not say who it is within {HANDSHAKE_MS // 1000} s"
        if event == _NO_DETAIL and self._keyed:
            return "it hung up in the handshake, as one without the right keys does"
        return ""  # also for _AUTH: the handler has logged it

    def read(self, monitor: Socket) -> None:
        """Take note of all that the monitor has told."""
        batch = _events(monitor)
        while batch:
            addresses = {value: _address(value) for event, value in batch if event == ACCEPTED}
            later = _events(monitor)
            # libzmq tells of a connection's end before it closes the descriptor. So what has not
            # been told of by now was open when its address was asked for, and the address is not
            # that of a successor.
            ended = {value for event, value in (*batch, *later) if event == DISCONNECTED}
            for event, value in batch:
                self.happened(event, value, "" if value in ended else addresses.get(value, ""))
            batch = later


def _address(descriptor: int) -> str:
    """The address at the other end, or `""` if it is closed already."""
    try:
        socket = sockets.socket(fileno=descriptor)
    except OSError:
        return ""
    try:
        return str(socket.getpeername()[0]).removeprefix("::ffff:")
    except (OSError, IndexError):
        return ""
    finally:
        socket.detach()  # it stays libzmq's


def _events(monitor: Socket) -> list[tuple[int, int]]:
    """What a monitor has told since: numbers and values.
    (`zmq.utils.monitor` would import asyncio for this.)
    """
    found: list[tuple[int, int]] = []
    while True:
        try:
            frames = monitor.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return found
        found.append(struct.unpack("=Hi", frames[0]))


def watch(socket: Socket, events: int = FAILURES) -> Socket:
    """Return a monitor of a socket that is not bound or connected yet; to end it: `unwatch`."""
    address = f"inproc://zflow-monitor-{id(socket)}-{time.monotonic_ns()}"
    socket.monitor(address, events)
    monitor: Socket = socket.context.socket(zmq.PAIR)
    monitor.set(zmq.RCVHWM, 0)  # else a full pipe would hold up libzmq's thread
    monitor.set(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor


def unwatch(socket: Socket, monitor: Socket) -> None:
    """End a monitor, before its socket is closed."""
    socket.monitor(None, 0)
    monitor.close()


def turned_away(monitor: Socket) -> str:
    """Return why the other end did not take a connecting socket in, by its monitor (see `watch`),
    or `""`.

    After a refusal of the handler's libzmq does not try again on that socket;
    a new one would be asked for anew.
    """
    reason = ""
    for event, value in _events(monitor):
        if event == _AUTH:
            reason = "it does not know this key, or has too many connections"
        elif event == _PROTOCOL and value == _MISMATCH:
            reason = "one side uses keys (curve) and the other does not"
        elif event == _NO_DETAIL and not reason:
            reason = "it hung up in the handshake: the keys (curve) may not be those of that Flow"
    return reason
