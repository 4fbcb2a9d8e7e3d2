"""Who comes over TCP and means no good: a hostile client, and a replica that differs from those of the Flow."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgpack
import zmq
from helpers import ROOT

from tests.fuzz import mutations
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import ACCEPTED, READY, REFUSED, VERSION

RATE = 2000.0  # messages a second of a hostile client
PATIENCE = 1000  # ms for each word of the broker, which may be dead or stopped just then


def be_hostile(port: int, seed: int) -> subprocess.Popen[bytes]:
    """Start a client that sends what nobody expects, until it is killed."""
    told = [f"tcp://127.0.0.1:{port}", mutations.FRONT, str(10**9), str(seed), str(RATE)]
    return subprocess.Popen([sys.executable, "-m", "tests.fuzz.hostile", *told], cwd=ROOT, stdout=subprocess.DEVNULL)


def join(port: int, executor: str, endpoints: list[str]) -> bool | None:
    """Try to join as a replica that binds these endpoints; whether it was taken in, None if nobody says."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.ROUTING_ID, f"{executor}/rep-9@elsewhere#1-".encode() + os.urandom(4).hex().encode())
    socket.connect(f"tcp://127.0.0.1:{port}")
    try:
        if not socket.poll(PATIENCE) or socket.recv_multipart() != [b""]:
            return None
        socket.send(msgpack.packb([VERSION, READY, executor, endpoints, 1, 0, 0, {}]))
        while socket.poll(PATIENCE):
            frames: list[Any] = socket.recv_multipart()
            for header, _ in bundles.read(frames, 0, messages.TO_REPLICA) if frames[0] else ():
                if header[1] in (ACCEPTED, REFUSED):
                    return bool(header[1] == ACCEPTED)
        return None
    finally:
        context.destroy(linger=0)
