"""Who comes over TCP and means no good: a hostile client,
and a replica that differs from those of the Flow.
"""

from __future__ import annotations

import os
import subprocess
import sys

import zmq
from helpers import ROOT

from tests.fuzz import mutations
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import TO_REPLICA, Accepted, Ready, Refused, encoder

RATE = 2000.0  # messages a second of a hostile client
PATIENCE = 1000  # ms for each word of the broker, which may be dead or stopped just then


def be_hostile(port: int, seed: int) -> subprocess.Popen[bytes]:
    """Start a client that sends what nobody expects, until it is killed."""
    told = [f"tcp://127.0.0.1:{port}", mutations.FRONT, str(10**9), str(seed), str(RATE)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.hostile", *told], cwd=ROOT, stdout=subprocess.DEVNULL
    )


def join(port: int, executor: str, endpoints: list[str]) -> bool | None:
    """Try to join as a replica that binds these endpoints; whether it was taken in,
    None if nobody says.
    """
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set(
        zmq.ROUTING_ID, f"{executor}/rep-9@elsewhere#1-".encode() + os.urandom(4).hex().encode()
    )
    socket.connect(f"tcp://127.0.0.1:{port}")
    try:
        if not socket.poll(PATIENCE) or socket.recv_multipart() != [b""]:
            return None
        socket.send_multipart(bundles.message(Ready(executor, endpoints, 1, 0, 0, {}), encoder()))
        while socket.poll(PATIENCE):
            frames = socket.recv_multipart()
            for message in bundles.read(frames, 0, TO_REPLICA) if frames[0] else ():
                if isinstance(message, (Accepted, Refused)):
                    return isinstance(message, Accepted)
        return None
    finally:
        context.destroy(linger=0)
