"""Sockets that speak the protocol by hand: clients and replicas that say what they like, and a broker that is none."""

from __future__ import annotations

import contextlib
import os
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
from zflow.devices.protocol import messages
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
    return [msgpack.packb([messages.VERSION, messages.WELCOME, header[2], info])]


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
