"""The C `zmq.proxy` with plain pyzmq endpoints, in this project's own interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

from bench.common import same_bytes
from bench.peers import jobs
from bench.yardsticks.proxy import ProxyEcho


class ProxySystem:
    """A running proxy."""

    def __init__(self, replicas: int, unlike: bool) -> None:
        self._echo = ProxyEcho(replicas, sleeps=jobs.UNLIKE if unlike else ())
        self._message = same_bytes()

    def __enter__(self) -> ProxySystem:
        return self

    def __exit__(self, *_: object) -> None:
        self._echo.close()

    def call(self) -> None:
        """Send one Document's bytes and wait for them to come back."""
        self._echo.call(self._message)

    def stream(self, source: Iterator[int], in_flight: int) -> int:
        """Send a Document's bytes for each item of `source`."""
        return self._echo.stream((self._message for _ in source), in_flight)


if __name__ == "__main__":
    jobs.main({"libzmq": zmq.zmq_version()}, ProxySystem)
