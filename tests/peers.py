"""Sockets that speak the protocol by hand: clients and replicas that say what they like,
and a broker that is none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgpack
import zmq
from helpers import (
    PATIENCE,
    socket_folders,
)

from zflow import Client, Document, DocumentArray, Flow
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    FROM_CLIENT,
    KINDS,
    VERSION,
    Control,
    Controlled,
    Hello,
    Message,
    Reply,
    Request,
    Welcome,
    encoder,
)
from zflow.documents import codec

Answers = Callable[[Message], list[bytes] | None]


@contextlib.contextmanager
def stranger(answer: Answers) -> Iterator[int]:
    """A ROUTER that answers what clients say with frames that the test chooses; its port."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.set(zmq.PROBE_ROUTER, 1)  # greets as a broker does
    port = router.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if router.poll(20):
                identity, *frames = router.recv_multipart()
                for message in bundles.read(frames, 0, FROM_CLIENT):
                    answered = answer(message)
                    if answered is not None:
                        router.send_multipart([identity, *answered])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)


def said(message: Message) -> list[bytes]:
    """The frames of a message."""
    return bundles.message(message, encoder())


def greeting(message: Message) -> list[bytes]:
    return welcome(
        message,
        {"executors": {"upper": {}}, "max_message_bytes": 10**6, "pid": 1, "instance": "one"},
    )


def welcome(message: Message, info: dict[str, Any]) -> list[bytes]:
    """The answer to a question who this is."""
    assert isinstance(message, Hello)
    return said(Welcome(message.token, info))


ANSWER = bytes(codec.pack(DocumentArray([Document(text="answered")]))[0])
GREETED_ANEW = [b""]  # what a broker says to a new connection


class Broker:
    """Answers a Hello as a Flow does, and keeps all messages; what it says to others,
    the test decides.
    """

    def __init__(self, answer: Answers = lambda message: None) -> None:
        self.heard: list[Message] = []
        self.instance = "one"
        self._answer = answer

    def __call__(self, message: Message) -> list[bytes] | None:
        self.heard.append(message)
        if isinstance(message, Hello):
            info = {
                "executors": {"upper": {}},
                "max_message_bytes": 10**6,
                "instance": self.instance,
            }
            return welcome(message, info)
        return self._answer(message)

    def kinds(self, *wanted: type[Message]) -> list[type[Message]]:
        """Which of these kinds of messages it has got, in order."""
        return [type(message) for message in self.heard if isinstance(message, wanted)]


Wanted = TypeVar("Wanted", bound=Message)


def only(broker: Broker, kind: type[Wanted]) -> list[Wanted]:
    """The messages of this kind that it has got."""
    return [message for message in broker.heard if isinstance(message, kind)]


def reply(message: Message) -> list[bytes]:
    """The answer to a request, or to several that came as one."""
    assert isinstance(message, Request)
    return said(Reply(message.first, message.total, None, None, 1, [ANSWER] * message.total))


def controlled(message: Message, **result: Any) -> list[bytes]:
    """The answer to a command."""
    assert isinstance(message, Control)
    return said(Controlled(message.id, result))


PAYLOAD = bytes(codec.pack(DocumentArray([Document(text="a")]))[0])


def malformed(flow: Flow) -> dict[str, int]:
    with Client(port=flow.port) as client:
        return dict(client.info()["malformed"])


@contextlib.contextmanager
def dealer(address: str, identity: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    """A connection that the broker has greeted."""
    context = zmq.Context()
    dealing = context.socket(zmq.DEALER)
    dealing.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
    if identity:
        dealing.set(zmq.ROUTING_ID, identity)
    dealing.connect(address)
    try:
        assert dealing.recv_multipart() == [b""]
        yield dealing
    finally:
        context.destroy(linger=0)


def front(flow: Flow) -> str:
    return f"tcp://127.0.0.1:{flow.port}"


def back() -> str:
    """Where the Flow that was started last takes replicas."""
    folder = max(
        socket_folders(),
        key=lambda name: os.stat(os.path.join(tempfile.gettempdir(), name)).st_ctime,
    )
    return f"ipc://{tempfile.gettempdir()}/{folder}/back"


def header(*fields: Any) -> bytes:
    """A header as it should not be, or as it should: `VERSION, KINDS[...], ...`."""
    packed: bytes = msgpack.packb(fields)
    return packed


def request(**changes: Any) -> bytes:
    """The header of a request whose payload follows, but for what is to be another thing in it."""
    fields = {
        "version": VERSION,
        "kind": KINDS[Request],
        "first": 7,
        "endpoint": "/",
        "targets": None,
        "parts": None,
        "timeout": 0,
        "again": False,
        "docs": [1],
        "payload": None,
    }
    assert changes.keys() <= fields.keys()
    return header(*{**fields, **changes}.values())


class CutError(Exception):
    """The other end has closed the connection."""


class Raw:
    """A TCP connection that speaks ZMTP 3 by hand, up to where frames may be sent;
    it reads what it is told to.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        null = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
        ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
        self.socket.sendall(null + bytes([4, len(ready)]) + ready)
        self._exactly(64)
        self._exactly(self._exactly(2)[1])

    def send(self, *frames: bytes, more: bool = False) -> None:
        """Send a message; with `more` it goes on."""
        last = len(frames) - 1
        try:
            self.socket.sendall(
                b"".join(zmtp(frame, more or at < last) for at, frame in enumerate(frames))
            )
        except ConnectionError:
            raise CutError from None

    def frame(self) -> bytes:
        """Read a frame that is no command."""
        while True:
            flags = self._exactly(1)[0]
            size = struct.unpack(">Q", self._exactly(8))[0] if flags & 2 else self._exactly(1)[0]
            body = self._exactly(size)
            if not flags & 4:
                return body

    def _exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            try:
                some = self.socket.recv(size - len(got))
            except ConnectionError:
                raise CutError from None
            if not some:
                raise CutError
            got += some
        return bytes(got)

    def was_cut(self) -> bool:
        """Whether the other end has closed the connection;
        what it has sent is read and forgotten.
        """
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 20):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        finally:
            self.socket.settimeout(PATIENCE)
        return True

    def reset(self) -> None:
        """Break the connection off, as one whose process is killed does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()


def zmtp(frame: bytes, more: bool) -> bytes:
    """A frame as it goes over the wire."""
    if len(frame) < 256:
        return bytes([int(more), len(frame)]) + frame
    return bytes([2 + int(more)]) + struct.pack(">Q", len(frame)) + frame
