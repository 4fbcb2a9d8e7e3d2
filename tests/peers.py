"""Sockets that speak the protocol by hand: clients and replicas that say what they like, and a broker that is none."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import zmq
from helpers import (
    PATIENCE,
    socket_folders,
)

from zflow import Client, Document, DocumentArray, Flow
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import REQUEST, VERSION
from zflow.documents import codec


@contextlib.contextmanager
def stranger(answer: Callable[[list[Any]], list[bytes] | None]) -> Iterator[int]:
    """A ROUTER that answers headers by itself; its port."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.set(zmq.PROBE_ROUTER, 1)  # greets as a broker does
    port = router.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if router.poll(20):
                identity, header, *_ = router.recv_multipart()
                frames = answer(msgpack.unpackb(header))
                if frames is not None:
                    router.send_multipart([identity, *frames])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)


def greeting(header: list[Any]) -> list[bytes]:
    info = {"executors": {"upper": {}}, "max_message_bytes": 10**6, "pid": 1, "instance": "one"}
    return welcome(header, info)


def welcome(header: list[Any], info: dict[str, Any]) -> list[bytes]:
    """The frames of the answer to a HELLO."""
    return [msgpack.packb([messages.VERSION, messages.WELCOME, header[2]]), msgpack.packb(info)]


Answers = Callable[[list[Any]], list[bytes] | None]
ANSWER = bytes(codec.pack(DocumentArray([Document(text="answered")]))[0])
GREETED_ANEW = [b""]  # what a broker says to a new connection


class Broker:
    """Answers HELLO as a Flow does, and keeps all headers; what it says to others, the test decides."""

    def __init__(self, answer: Answers = lambda header: None) -> None:
        self.heard: list[list[Any]] = []
        self.instance = "one"
        self._answer = answer

    def __call__(self, header: list[Any]) -> list[bytes] | None:
        if header[1] == bundles.BUNDLE:
            self.heard += [entry[0] for entry in header[2]]
            return None
        self.heard.append(header)
        if header[1] == messages.HELLO:
            info = {"executors": {"upper": {}}, "max_message_bytes": 10**6, "instance": self.instance}
            return welcome(header, info)
        return self._answer(header)

    def kinds(self, *wanted: int) -> list[int]:
        """Which of these kinds of messages it has got, in order."""
        return [header[1] for header in only(self, *wanted)]


def only(broker: Broker, *kinds: int) -> list[list[Any]]:
    """The messages of these kinds that it has got."""
    return [header for header in broker.heard if header[1] in kinds]


def reply(header: list[Any]) -> list[bytes]:
    """The answer to a request."""
    return [msgpack.packb([messages.VERSION, messages.REPLY, header[2], None, None, 1]), ANSWER]


def replies(header: list[Any]) -> list[bytes]:
    """The answer to a single request, or to several that came as one."""
    if header[1] == messages.REQUESTS:
        return [msgpack.packb([messages.VERSION, messages.REPLIES, header[2], 1, [ANSWER] * len(header[6])])]
    return reply(header)


def controlled(header: list[Any], **result: Any) -> list[bytes]:
    """The answer to a command."""
    return [msgpack.packb([messages.VERSION, messages.CONTROLLED, header[2], result])]


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
    folder = max(socket_folders(), key=lambda name: os.stat(os.path.join(tempfile.gettempdir(), name)).st_ctime)
    return f"ipc://{tempfile.gettempdir()}/{folder}/back"


def header(*fields: Any) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def request(**changes: Any) -> bytes:
    fields = {
        "version": VERSION,
        "kind": REQUEST,
        "id": 7,
        "endpoint": "/",
        "targets": None,
        "parts": None,
        "ms": 0,
        "docs": 1,
    }
    return header(*{**fields, **changes}.values())


class CutError(Exception):
    """The other end has closed the connection."""


class Raw:
    """A TCP connection that speaks ZMTP 3 by hand, up to where frames may be sent; it reads what it is told to."""

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
            self.socket.sendall(b"".join(zmtp(frame, more or at < last) for at, frame in enumerate(frames)))
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
        """Whether the other end has closed the connection; what it has sent is read and forgotten."""
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
