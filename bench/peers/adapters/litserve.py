"""LitServe: FastAPI in front of Python workers, HTTP with JSON bodies."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any

import litserve

from bench.peers import httpload, jobs


class Echo(litserve.LitAPI):
    """Answers with what it was sent."""

    def setup(self, device: str) -> None:
        """Have nothing to load."""

    def predict(self, x: Any) -> Any:
        """Return the Document."""
        return x


class Unlike(litserve.LitAPI):
    """Takes as long as its seat says."""

    def setup(self, device: str) -> None:
        """Take a seat."""
        self.seconds = jobs.work_seconds()

    def predict(self, x: Any) -> Any:
        """Sleep and return the Document."""
        time.sleep(self.seconds)
        return x


def serve(port: str, replicas: str, kind: str) -> None:
    """Serve until ended."""
    api = Unlike() if kind == "unlike" else Echo()
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(replicas), timeout=False
    )
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


def start(replicas: int, unlike: bool) -> httpload.HttpSystem:
    """Start a server."""
    port = httpload.free_port()
    kind = "unlike" if unlike else "echo"
    command = [
        sys.executable,
        "-m",
        "bench.peers.adapters.litserve",
        "serve",
        str(port),
        str(replicas),
        kind,
    ]
    return httpload.HttpSystem(command, port, "/predict")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        jobs.main({"litserve": version("litserve")}, start)
