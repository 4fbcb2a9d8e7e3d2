"""Jina 3: a Flow with one Executor, gRPC, the Flow's own client."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

os.environ["JINA_LOG_LEVEL"] = "ERROR"
os.environ["JINA_OPTOUT_TELEMETRY"] = "1"

from docarray import BaseDoc, DocList
from jina import Executor, Flow, requests

from bench.peers import jobs


class Text(BaseDoc):
    """A Document with a text."""

    text: str


class Echo(Executor):
    """Answers with what it was sent."""

    @requests
    def echo(self, docs: DocList[Text], **kwargs: Any) -> DocList[Text]:
        """Return the Documents."""
        return docs


class Unlike(Executor):
    """Takes as long as its seat says."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = jobs.work_seconds()

    @requests
    def work(self, docs: DocList[Text], **kwargs: Any) -> DocList[Text]:
        """Sleep and return the Documents."""
        time.sleep(self.seconds)
        return docs


class JinaSystem:
    """A running Flow."""

    def __init__(self, replicas: int, unlike: bool) -> None:
        self._flow = Flow().add(uses=Unlike if unlike else Echo, replicas=replicas)
        self._one = DocList[Text]([Text(text=jobs.TEXT)])

    def __enter__(self) -> JinaSystem:
        self._flow.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._flow.close()

    def call(self) -> None:
        """Post one Document and wait for it to come back."""
        self._flow.post("/", self._one, return_type=DocList[Text])

    def stream(self, source: Iterator[int], in_flight: int) -> int:
        """Post a Document for each item of `source`."""
        documents = (Text(text=jobs.TEXT) for _ in source)
        answered = self._flow.post(
            "/", documents, request_size=1, prefetch=in_flight, return_type=DocList[Text]
        )
        return len(answered)


if __name__ == "__main__":
    jobs.main({"jina": version("jina"), "docarray": version("docarray")}, JinaSystem)
