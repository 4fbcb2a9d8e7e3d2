"""The broker's side towards clients: what they ask is read and checked here, and answered here.

A client on this machine connects to a socket in a private folder, others over TCP, where limits
hold. How a request goes through the graph is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import msgpack
import zmq

from zflow.devices.broker import failures, greeting
from zflow.devices.broker.leases import Leases
from zflow.devices.broker.settings import Settings
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    Cancel,
    Control,
    Controlled,
    Failed,
    Hello,
    Message,
    Parts,
    Reply,
    Request,
    Welcome,
)
from zflow.devices.protocol.parts import MEETS, split
from zflow.devices.protocol.references import Frame, Payload
from zflow.devices.routing.entrance import Entrance
from zflow.devices.routing.walk import Origin, Sender, Walk
from zflow.devices.sockets import factory
from zflow.devices.sockets.guarded import GuardedPort
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.port import BATCH, Handlers, Port
from zflow.devices.sockets.zap import ADMINS, CLIENTS, user_of

MOST_TARGETS = 1000  # names of Executors in one request
MOST_ARGUMENTS = 8  # of a command
LONGEST_ERROR = 10_000  # characters of what came of a command, in a header
MOST_CHARACTERS = 1000  # of a command, of the name of an argument and of its value
# Messages that may wait for a client, besides an answer to each request that it may have in flight.
MORE_UNREAD = 1000
NO_ADMIN = (
    "this key may not change the Flow: only those on its list admins/ may (`zflow-run keys "
    "add DIR NAME --admin`)"
)
NO_CONTROL = (
    "only its own process may change this Flow: allow_control=True lets whoever reaches it,"
    " and keys (curve=) those on the list admins/"
)
_PLAIN = frozenset({int, float, bool, type(None)})


class FrontOwner(Protocol):
    """What the front tells the broker, and asks it."""

    @property
    def closing(self) -> bool:
        """Whether no more requests are taken."""

    @property
    def names(self) -> Iterable[str]:
        """The Executors that a request may be for."""

    def begin(self, walk: Walk, payloads: Sequence[Payload]) -> None:
        """A request has come in."""

    def under_way(self, origin: Origin) -> Walk | None:
        """The request of that origin, if it has not ended; maybe within a bulk."""

    def origins(self, port: Sender, client: bytes) -> list[Origin]:
        """The origins of all requests of that client that have not ended."""

    def single(self, origin: Origin) -> Walk:
        """The request of that origin, which has not ended, as a walk of its own."""

    def cancel(self, walk: Walk) -> None:
        """Nobody wants the request's answer."""

    def unwanted(self, origin: Origin) -> None:
        """Nobody wants the answer that was given already."""

    def control(self, origin: Origin, command: str, arguments: dict[str, object]) -> None:
        """Something about the Flow is to be changed."""

    @property
    def leases(self) -> Leases:
        """Which blocks of shared memory are held by which request."""

    def info(self) -> dict[str, object]:
        """What this Flow says about itself."""

    def malformed(self, error: Exception, frames: Payload) -> None:
        """A message, of these frames but for its header, is dropped,
        for this reason or for one of the broker's own.
        """


class Front:
    """The sockets for clients.

    Args:
        guard: makes a socket for other machines ask for keys, before it listens;
            returns what counts its connections.

    Attributes:
        addresses: where it listens, the private address first.
        entrance: which endpoints are taken.

    Raises:
        zmq.ZMQError: an address cannot be listened on.
    """

    def __init__(
        self,
        context: factory.Context,
        settings: Settings,
        owner: FrontOwner,
        guard: Callable[[factory.Socket, bytes], Meter],
    ) -> None:
        self._owner = owner
        self.entrance = Entrance(settings.nodes, settings.refuse_unknown)
        self._limit = settings.max_message_bytes
        self._most = settings.max_requests_per_client
        self._encode = messages.encoder()
        local, self.addresses = factory.listen(
            context, zmq.ROUTER, [settings.front], settings.max_message_bytes
        )
        public, _ = factory.listen(context, zmq.ROUTER, [], settings.max_message_bytes)
        meter = guard(public, CLIENTS)
        self._public = GuardedPort(public, 3, meter, settings.max_requests_per_client + MORE_UNREAD)
        meter.gone = self._cut
        self.addresses += factory.bind(public, [settings.public])
        self._ports: list[Port] = [Port(local, 3), self._public]
        self._is_heir = settings.epoch > 0  # there was a broker before this one
        self._allow_control = settings.allow_control
        self._lists = None if settings.secret is None else settings.lists
        self._in_flight: dict[bytes, int] = {}  # over public connections, by client
        # What a turn of the loop has to send is sent at its end, all in one go: sent one by one,
        # between two steps of Python each, every message would wake libzmq's thread anew.
        self._to_send: dict[tuple[Sender, bytes], list[Message]] = {}
        # The tokens of those among them who have asked who this is.
        self._to_greet: dict[tuple[Sender, bytes], int] = {}

    def handlers(self) -> Handlers:
        """The sockets to watch, and what to call when there is something to read."""
        return {port.socket: partial(self._read, port) for port in self._ports}

    def close(self) -> None:
        """Close the sockets."""
        for port in self._ports:
            port.socket.close()

    # -- what clients say --------------------------------------------------------------------------

    def _read(self, port: Port) -> None:
        """Take in what has arrived: what a client has sent message by
        message can be a bulk all the same.
        """
        arrived: dict[bytes, list[Message]] = {}
        senders: list[zmq.Frame] | None = (
            [] if port is self._public and self._lists is not None else None
        )
        for at, frames in enumerate(port.receive_some(BATCH, senders)):
            try:
                said = self._said_in(port, frames)
                if senders:
                    said = self._allowed(port, frames[0], said, senders[at])
                arrived.setdefault(frames[0], []).extend(said)
            except Exception as error:
                self._owner.malformed(error, frames)
        for client, said in arrived.items():
            for message in bundles.fold(said) if len(said) > 1 else said:
                try:
                    self._heard(port, client, message)
                except Exception as error:
                    self._owner.malformed(
                        error, [client, *(message.payload if isinstance(message, Request) else ())]
                    )

    def _said_in(self, port: Port, frames: list[Any]) -> list[Message]:
        if len(frames) < 2:
            raise messages.Malformed("no header")
        try:
            member = port is not self._public and frames[0][:1] == messages.MEMBER
            return bundles.read(frames, 1, messages.FROM_MEMBER if member else messages.FROM_CLIENT)
        except messages.WrongVersion:
            self._refuse_version(port, frames)
            raise

    def _heard(self, port: Port, client: bytes, message: Message) -> None:
        if isinstance(message, Request):
            self._request(port, client, message)
        elif isinstance(message, Hello):
            self._greet(port, client, message.token)
        elif isinstance(message, Control):
            self._control((port, client, message.id), message.command, message.arguments)
        elif isinstance(message, Cancel):
            origin = (port, client, message.id)
            if self._owner.under_way(origin) is not None:
                self._owner.cancel(self._owner.single(origin))
            else:
                self._owner.unwanted(origin)

    def _greet(self, port: Port, client: bytes, token: int) -> None:
        """Answer Hello at the end of the turn: of several the last,
        as a greeting is many times as long.
        """
        self._to_greet[port, client] = token
        self._to_send.setdefault((port, client), [])

    def _say(self, port: Sender, client: bytes, message: Message) -> None:
        self._to_send.setdefault((port, client), []).append(message)

    def _allowed(
        self, port: Port, client: bytes, said: list[Message], sender: zmq.Frame
    ) -> list[Message]:
        """Return what may be said over this connection: of commands only those of an admin,
        as the list is now.
        """
        commands = [message for message in said if isinstance(message, Control)]
        if not commands or self._lists is None or user_of(sender) in self._lists().get(ADMINS, ()):
            return said
        for command in commands:
            self.controlled((port, client, command.id), {"error": NO_ADMIN})
        return [message for message in said if not isinstance(message, Control)]

    def _control(self, origin: Origin, command: str, arguments: dict[str, object]) -> None:
        if origin[0] is self._public and not self._allow_control:
            self.controlled(origin, {"error": NO_CONTROL})
        elif not _is_plain(command, arguments):
            self.controlled(
                origin,
                {
                    "error": "a command is a word, and its arguments are a few names with plain "
                    "values"
                },
            )
        else:
            self._owner.control(origin, command, arguments)

    def controlled(self, origin: Origin, result: dict[str, object]) -> None:
        """Tell what came of a command."""
        port, client, id = origin
        if "error" in result:
            result = {**result, "error": str(result["error"])[:LONGEST_ERROR]}
        self._say(port, client, Controlled(id, result))

    def _request(self, port: Port, client: bytes, request: Request) -> None:
        """Take in requests; each alone if anything is to be said about one of them."""
        first, endpoint, targets, parts, timeout, again, docs, frames = request
        count = len(docs)
        chosen = None if targets is None else _targets(targets)
        if count == 1 and len(frames) > 1:
            self._owner.leases.check(frames)
        pieces = [("", [frames])] if parts is None else split(parts, frames)
        payloads = [payload for _, some in pieces for payload in some]
        if not (payloads and payloads[0]):
            raise messages.Malformed("a request without a payload")
        walk = Walk(
            (port, client, first), endpoint, chosen, timeout / 1000 if timeout > 0 else None, count
        )
        under_way = self._owner.under_way
        known = any(
            under_way(origin) is not None
            for origin in (walk.origins if count > 1 else (walk.origin,))
        )
        if known and count == 1:
            return  # sent again over a new connection; its answer goes there
        walk.client = client
        walk.docs = docs
        walk.again = again
        walk.meets = pieces[-1][0] == MEETS
        walk.size = sum(map(len, frames))
        if port is self._public:
            self._in_flight[client] = self._in_flight.get(client, 0) + count
        error = self._objection(walk)
        if count > 1 and (known or error):
            self.forget(walk)
            for single in messages.singles(request):
                self._request(port, client, single)
        elif error:
            self.fail(walk, failures.error(*error))
        else:
            self._owner.begin(walk, payloads)

    def shares_memory(self, origin: Origin) -> bool:
        """Whether the client with this origin shares the Flow's memory."""
        return origin[0] is not self._public and origin[1][:1] == messages.MEMBER

    def _objection(self, walk: Walk) -> tuple[str, str] | None:
        # What that one had taken is to be answered.
        if self._owner.closing and not (walk.again and self._is_heir):
            return "FlowNotRunning", "the Flow is closing and takes no more requests"
        if walk.endpoint not in self.entrance.taken and (why := self._refused(walk)):
            return "BadRequest", why
        unknown = sorted(walk.targets - set(self._owner.names)) if walk.targets is not None else []
        if unknown:
            return (
                "BadRequest",
                f"no Executor is called {unknown[0]!r:.200}; there are {sorted(self._owner.names)}",
            )
        if walk.size > self._limit:
            return (
                "RequestTooLarge",
                f"a request of {walk.size} bytes is over the Flow's limit of {self._limit} bytes",
            )
        if walk.origin[0] is self._public and self._in_flight[walk.origin[1]] > self._most:
            return (
                "Overloaded",
                f"over one connection a client may have {self._most} requests in flight, not more",
            )
        return None

    def _refused(self, walk: Walk) -> str | None:
        """Why nobody may ask for this endpoint, or not this client: asked for unknown ones only."""
        if len(walk.endpoint) > messages.MAX_ENDPOINT:
            return f"the endpoint has more than {messages.MAX_ENDPOINT} characters"
        if walk.origin[1][:1] == messages.FLOW:
            return None  # its requests go on there, whatever becomes of them here
        return self.entrance.objection(walk.endpoint)

    def _refuse_version(self, port: Port, frames: list[Any]) -> None:
        header = msgpack.unpackb(frames[1])
        id = (
            header[2]
            if len(header) > 2 and type(header[2]) is int and abs(header[2]) < 2**63
            else 0
        )
        # repr() of what came might be endless.
        version = header[0] if type(header[0]) is int else "another one"
        message = f"this Flow speaks version {messages.VERSION} of the protocol, not {version}"
        self._say(port, frames[0], Failed(id, 0, [failures.error("BadRequest", message)]))

    # -- what they are told ------------------------------------------------------------------------

    def answer(self, walk: Walk, parts: Parts | None, frames: Payload, seconds: float) -> None:
        """The request has a result."""
        port, client, id = walk.origin
        notes = walk.notes and failures.fitting(walk.notes)
        self._say(port, client, Reply(id, walk.count, parts, notes, int(seconds * 1e6), frames))
        if port is self._public:
            self.forget(walk)

    def fail(self, walk: Walk, error: Frame, seconds: float = 0.0) -> None:
        """The request has failed."""
        for port, client, id in walk.origins:
            self._say(port, client, Failed(id, int(seconds * 1e6), [error]))
        if port is self._public:
            self.forget(walk)

    def forget(self, walk: Walk) -> None:
        """The request has ended."""
        port, client, _ = walk.origin
        if port is not self._public:
            return
        count = self._in_flight.pop(client, 0) - walk.count
        if count > 0:
            self._in_flight[client] = count

    @property
    def waiting(self) -> bool:
        """Whether there is anything to say."""
        return bool(self._to_send)

    def flush(self) -> None:
        """Send what there is to say."""
        if self._to_greet:
            info = greeting.fitting(self._owner.info())
            for whom, token in self._to_greet.items():
                self._to_send[whom].append(Welcome(token, info))
            self._to_greet.clear()
        to_send, self._to_send = self._to_send, {}
        for (port, client), outgoing in to_send.items():
            try:
                for frames in bundles.frames_of(outgoing, self._encode):
                    port.send([client, *frames])
            except Exception as error:
                # A client that is gone is not an error, and the private ROUTER just drops what is
                # for it.
                if not isinstance(error, zmq.ZMQError) or error.errno != zmq.EHOSTUNREACH:
                    self._owner.malformed(error, [client])

    def _cut(self, client: bytes) -> None:
        """A client's public connection was cut: nobody will have the answers to its requests."""
        for origin in self._owner.origins(self._public, client):
            if self._owner.under_way(origin) is not None:
                self._owner.cancel(self._owner.single(origin))


def _is_plain(command: str, arguments: dict[str, object]) -> bool:
    """Whether a command is small, and nothing in it is nested:
    whoever carries it out may show it as it is.
    """
    if len(command) > MOST_CHARACTERS or len(arguments) > MOST_ARGUMENTS:
        return False
    return all(
        type(name) is str
        and len(name) <= MOST_CHARACTERS
        and (type(value) in _PLAIN or (type(value) is str and len(value) <= MOST_CHARACTERS))
        for name, value in arguments.items()
    )


def _targets(targets: list[str]) -> frozenset[str]:
    if len(targets) > MOST_TARGETS:
        raise messages.Malformed("too many targets")
    return frozenset(targets)
