"""Ray Serve: a deployment, called through its handle in the process that started it.

A replica may be given 64 requests at a time in the echo, and 5, the default, in the other job: the
best of what was tried. With 5 the echo is slower by far, and with 1 unlike replicas are.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# It gives up soon on a machine that is busy with other things.
os.environ["RAY_raylet_start_wait_time_s"] = "180"  # noqa: SIM112
os.environ["RAY_agent_register_timeout_ms"] = "180000"  # noqa: SIM112

import ray
from ray import serve

from bench.peers import jobs


class Echo:
    """Answers with what it was sent."""

    async def __call__(self, document: dict[str, str]) -> dict[str, str]:
        """Return the Document."""
        return document


class Unlike:
    """Takes as long as its seat says."""

    def __init__(self, seats: str) -> None:
        os.environ[jobs.SEATS] = seats
        self.seconds = jobs.work_seconds()

    def __call__(self, document: dict[str, str]) -> dict[str, str]:
        """Sleep and return the Document."""
        time.sleep(self.seconds)
        return document


class RaySystem:
    """Ray on this machine with one deployment; Ray itself stays until `main` has ended."""

    def __init__(self, replicas: int, unlike: bool) -> None:
        self._replicas, self._unlike = replicas, unlike
        self._document = {"id": "0123456789abcdef", "text": jobs.TEXT}

    def __enter__(self) -> RaySystem:
        deployment: Any = serve.deployment(
            num_replicas=self._replicas,
            max_ongoing_requests=5 if self._unlike else 64,
            ray_actor_options={"num_cpus": 0.1},
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )(Unlike if self._unlike else Echo)
        application = deployment.bind(os.environ[jobs.SEATS]) if self._unlike else deployment.bind()
        self._handle: Any = serve.run(application)
        return self

    def __exit__(self, *_: object) -> None:
        serve.delete("default")

    def call(self) -> None:
        """Send one Document and wait for it to come back."""
        self._handle.remote(self._document).result()

    def stream(self, source: Iterator[int], in_flight: int) -> int:
        """Send a Document for each item of `source`, and take the results in order."""
        waiting: deque[Any] = deque()
        answered = 0
        for _ in source:
            if len(waiting) == in_flight:
                waiting.popleft().result()
                answered += 1
            waiting.append(self._handle.remote(self._document))
        for response in waiting:
            response.result()
        return answered + len(waiting)


def main() -> None:
    """Start Ray, do the jobs, and end it."""
    os.environ["PYTHONPATH"] = os.getcwd()  # its workers import this package, too
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    try:
        jobs.main({"ray": version("ray")}, RaySystem)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
