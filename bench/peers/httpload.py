"""A client for systems that speak HTTP: keep-alive connections of plain sockets,
each with one request under way.

It sends the same bytes each time and reads no more of an answer than its length, so that it does
not limit a server; how busy it was is among the results. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from bench.peers.jobs import TEXT

READY_WITHIN = 60.0  # seconds
ENDED_WITHIN = 10.0  # seconds


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Connection:
    """A connection with one request under way at most."""

    def __init__(self, port: int, path: str) -> None:
        body = json.dumps({"id": "0123456789abcdef", "text": TEXT}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=READY_WITHIN)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self) -> None:
        """Send the request."""
        self._read = b""
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Read what is there, at least something; return whether the answer is complete.

        Raises:
            ConnectionError: the server has closed, or has not answered with 200.
        """
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return False
        if b" 200 " not in head[:16]:
            raise ConnectionError(f"the server answers {self._read[:200]!r}")
        return len(body) >= _length(head)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError(f"no length in the answer: {head!r}")


class HttpSystem:
    """A server in a process of its own, and connections to it.

    Args:
        command: what starts it; it and its children are ended by a signal to their group.
        port: where it listens.
        path: where requests are posted to.
    """

    def __init__(self, command: Sequence[str], port: int, path: str) -> None:
        self._port, self._path = port, path
        self._process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
        self._connections: list[Connection] = []

    def __enter__(self) -> HttpSystem:
        until = time.monotonic() + READY_WITHIN
        while True:
            try:
                self.call()
                return self
            except OSError:
                self._close()
                if time.monotonic() > until or self._process.poll() is not None:
                    self.__exit__()
                    raise RuntimeError("the server did not answer") from None
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDED_WITHIN)

    def _close(self) -> None:
        for connection in self._connections:
            connection.socket.close()
        self._connections.clear()

    def _connected(self, count: int) -> list[Connection]:
        while len(self._connections) < count:
            self._connections.append(Connection(self._port, self._path))
        return self._connections[:count]

    def call(self) -> None:
        """Post one Document and wait for it to come back."""
        (connection,) = self._connected(1)
        connection.send()
        while not connection.receive():
            pass

    def stream(self, source: Iterator[int], in_flight: int) -> int:
        """Post a Document for each item of `source`, each of so many connections one at a time."""
        answered = under_way = 0
        with selectors.DefaultSelector() as selector:
            for connection in self._connected(in_flight):
                if next(source, None) is None:
                    break
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send()
                under_way += 1
            while under_way:
                for key, _ in selector.select():
                    connection = key.data
                    if not connection.receive():
                        continue
                    answered += 1
                    if next(source, None) is None:
                        under_way -= 1
                        selector.unregister(connection.socket)
                    else:
                        connection.send()
        return answered
