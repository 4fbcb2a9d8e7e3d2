"""A process that sends what nobody expects, and looks for others' data in whatever it hears.

`python -m tests.fuzz.hostile ADDRESS PORT COUNT SEED RATE` prints at its end, as JSON,
what it has sent and heard.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from itertools import islice

import zmq

from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    MEMBER,
    STRANGER,
    TO_CLIENT,
    TO_REPLICA,
    Hello,
    Message,
    Welcome,
    encoder,
)

from . import mutations

CANARY = b"what is another's, not to be seen"  # is in every result of those who use the Flow
PER_CONNECTION = 20_000  # messages until it connects anew, as somebody else
WITHIN = 64  # messages, after which it listens
TOKEN = 4711
LAST_ANSWER = 2000  # ms that the answer to the last question may take
# Seconds that a message may wait to be taken; then the connection was cut, and another one is made.
NOBODY_READS = 5.0


class Hostile:
    """One peer after another, each with a connection of its own."""

    def __init__(self, address: str, port: str, seed: int) -> None:
        self._context = zmq.Context()
        self._address = address
        self._messages = mutations.stream(seed, port)
        self._direction = TO_CLIENT if port == mutations.FRONT else TO_REPLICA
        self._luck = random.Random(seed)
        self.sent = self.heard = self.cut = self.seen = 0

    def run(self, count: int, rate: float) -> None:
        """Send so many messages, at most so many a second; 0 for as many as there can be."""
        begun = time.monotonic()
        while self.sent < count:
            socket = self._connected()
            for _ in range(min(PER_CONNECTION, count - self.sent) // WITHIN + 1):
                if not self._send_some(socket):
                    self.cut += 1
                    break
                self._listen(socket)
                if rate and (ahead := self.sent / rate - (time.monotonic() - begun)) > 0:
                    time.sleep(ahead)
            self._hear_out(socket)
            socket.close(linger=0)
        self._context.destroy(linger=0)

    def _connected(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.set(zmq.SNDTIMEO, int(NOBODY_READS * 1000))
        socket.set(
            zmq.ROUTING_ID,
            self._luck.choice((STRANGER, MEMBER, b"own/rep-0@far#")) + os.urandom(8).hex().encode(),
        )
        socket.connect(self._address)
        return socket

    def _send_some(self, socket: zmq.Socket[bytes]) -> bool:
        with contextlib.suppress(zmq.Again):
            for frames in islice(self._messages, WITHIN):
                socket.send_multipart(frames)
                self.sent += 1
            return True
        return False

    def _hear_out(self, socket: zmq.Socket[bytes]) -> None:
        """Listen until what was sent last is answered, which anybody may ask,
        or nothing more comes.
        """
        with contextlib.suppress(zmq.Again):
            socket.send_multipart(bundles.message(Hello(TOKEN), encoder()))
            while socket.poll(LAST_ANSWER):
                frames = socket.recv_multipart()
                self._look(frames)
                if any(
                    isinstance(message, Welcome) and message.token == TOKEN
                    for message in self._said(frames)
                ):
                    return

    def _said(self, frames: list[bytes]) -> list[Message]:
        return bundles.read(frames, 0, self._direction) if frames[0] else []

    def _look(self, frames: list[bytes]) -> None:
        self.heard += 1
        self.seen += any(CANARY in frame for frame in frames)

    def _listen(self, socket: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._look(socket.recv_multipart(zmq.NOBLOCK))


def main(address: str, port: str, count: str, seed: str, rate: str) -> None:
    """Be hostile, and tell what came of it."""
    hostile = Hostile(address, port, int(seed))
    hostile.run(int(count), float(rate))
    print(
        json.dumps(
            {"sent": hostile.sent, "heard": hostile.heard, "cut": hostile.cut, "seen": hostile.seen}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
