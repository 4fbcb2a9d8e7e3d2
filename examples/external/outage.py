"""An outage: of two Encoders that a Flow uses, one is killed half way through 1,000 requests,
and started again.

python examples/external/outage.py
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from zflow import Client, Document, DocumentArray, Flow

NEAR, FAR = "localhost:12345", "127.0.0.1:12346"
PATIENCE = 60.0  # seconds until it gives up on something that has to happen


class Server:
    """`encoder.py` in processes of its own.

    Args:
        address: where it listens.
        within: the words of a command that runs another one,
            such as one that enters a network namespace.
    """

    def __init__(self, address: str, within: Sequence[str] = ()) -> None:
        self._address = address
        self._command = [
            *within,
            sys.executable,
            str(Path(__file__).with_name("encoder.py")),
            address,
        ]
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self._process = subprocess.Popen(self._command, start_new_session=True)

    def kill(self) -> None:
        """End it without a warning, and return when nobody listens there any more."""
        self._process.kill()  # its other processes notice that, and end too
        self._process.wait()
        with contextlib.suppress(OSError):
            while True:
                host, _, port = self._address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=1).close()
                time.sleep(0.01)

    def stop(self) -> None:
        """End it in good order."""
        self._process.terminate()
        self._process.wait()

    def wait_until_ready(self) -> None:
        """Return when it answers."""
        with Client(self._address) as client:
            until = time.monotonic() + PATIENCE
            while not client.is_flow_ready(timeout=1):
                if self._process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"nothing answers at {self._address}")


def shares(docs: DocumentArray) -> Counter[int]:
    """How many requests each process has answered."""
    return Counter(doc.tags["pid"] for doc in docs)


def outage(flow: Flow, server: Server) -> None:
    """Post to a Flow before, while and after one of its servers is down,
    and print what came of it.
    """

    def texts(kill_at: int | None = None) -> Iterator[Document]:
        for number in range(1000):
            if number == kill_at:
                server.kill()
            yield Document(id=str(number), text=f"text {number}")

    docs = flow.post("/", texts(), request_size=1)
    print(f"before: {len(docs)} answered by {len(shares(docs))} processes")

    docs = flow.post("/", texts(kill_at=500), request_size=1)
    assert docs[:, "id"] == [str(number) for number in range(1000)]
    print(f"one killed half way: {len(docs)} answered, none lost")

    docs = flow.post("/", texts(), request_size=1)
    print(f"without it: {len(docs)} answered by {len(shares(docs))} process")

    server.start()
    server.wait_until_ready()
    until = time.monotonic() + PATIENCE
    while len(shares(docs)) < 2:
        if time.monotonic() > until:
            raise SystemExit("the server is back, but the Flow does not use it")
        docs = flow.post("/", texts(), request_size=1)
    print(f"after its return: {len(docs)} answered by {len(shares(docs))} processes")


def main(near: str = NEAR, far: str = FAR, within: Sequence[str] = ()) -> None:
    """Serve twice, the second time `within` something, and let that one fail."""
    servers = [Server(near), Server(far, within)]
    try:
        for server in servers:
            server.wait_until_ready()
        with Flow().add(host=[near, far], external=True) as flow:
            outage(flow, servers[1])
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
