"""zflow, in this project's own interpreter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import zflow
from bench.peers import jobs
from zflow import Document, DocumentArray, Executor, Flow, requests


class Echo(Executor):
    """Answers with what it was sent."""

    @requests
    def echo(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Leave the Documents as they are."""


class Unlike(Executor):
    """Takes as long as its seat says."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = jobs.work_seconds()

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Sleep and leave the Documents as they are."""
        time.sleep(self.seconds)


class ZflowSystem:
    """A running Flow."""

    def __init__(self, replicas: int, unlike: bool) -> None:
        self._flow = Flow().add(name="peer", uses=Unlike if unlike else Echo, replicas=replicas)
        self._one = DocumentArray(Document(text=jobs.TEXT))

    def __enter__(self) -> ZflowSystem:
        self._flow.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flow.close()

    def call(self) -> None:
        """Post one Document and wait for it to come back."""
        self._flow.post("/", self._one)

    def stream(self, source: Iterator[int], in_flight: int) -> int:
        """Post a Document for each item of `source`."""
        documents = (Document(text=jobs.TEXT) for _ in source)
        answered = self._flow.post("/", documents, request_size=1, prefetch=in_flight)
        assert isinstance(answered, DocumentArray)
        return len(answered)


if __name__ == "__main__":
    jobs.main({"zflow": zflow.__version__}, ZflowSystem)
