"""mosec: its own Rust server in front of Python workers, HTTP with JSON bodies."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any

import mosec

from bench.peers import httpload, jobs


class Echo(mosec.Worker):
    """Answers with what it was sent."""

    def forward(self, data: Any) -> Any:
        """Return the Document."""
        return data


class Unlike(mosec.Worker):
    """Takes as long as its seat says."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = jobs.work_seconds()

    def forward(self, data: Any) -> Any:
        """Sleep and return the Document."""
        time.sleep(self.seconds)
        return data


def serve(port: str, replicas: str, kind: str) -> None:
    """Serve until ended."""
    sys.argv[1:] = [
        "--address",
        "127.0.0.1",
        "--port",
        port,
        "--timeout",
        "60000",
        "--log-level",
        "warning",
    ]
    server = mosec.Server()
    server.append_worker(Unlike if kind == "unlike" else Echo, num=int(replicas))
    server.run()


def start(replicas: int, unlike: bool) -> httpload.HttpSystem:
    """Start a server."""
    port = httpload.free_port()
    kind = "unlike" if unlike else "echo"
    command = [
        sys.executable,
        "-m",
        "bench.peers.adapters.mosec",
        "serve",
        str(port),
        str(replicas),
        kind,
    ]
    return httpload.HttpSystem(command, port, "/inference")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        jobs.main({"mosec": version("mosec")}, start)
