"""Posts as those who come from Jina write them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, Response, requests
from zflow.errors import ExecutorError, FlowUnreachable, ReplicaCrashed


class Picky(Executor):
    """Takes no Document that says so, and dies once at `/die`."""

    @requests
    def take(self, docs: DocumentArray, **kwargs: Any) -> None:
        if "bad" in docs.texts:
            raise LookupError("no bad ones")

    @requests(on="/die")
    def die(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        marker = Path(parameters["marker"])
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return {"alive": True}


TEXTS = ("a", "bad", "c", "bad", "e")


def documents() -> Iterator[Document]:
    for text in TEXTS:
        yield Document(text=text)


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="picky", uses=Picky, retries=0) as running:
        yield running


@pytest.fixture
def client(flow: Flow) -> Iterator[Client]:
    with Client(host=f"grpc://localhost:{flow.port}", protocol="grpc") as mine:
        yield mine


def texts_and_codes(responses: list[Response]) -> list[tuple[str, int]]:
    return [(response.data.docs[0].text, response.header.status.code) for response in responses]


GONE_ON = [("a", 0), ("bad", 1), ("c", 0), ("bad", 1), ("e", 0)]


def test_a_failed_request_need_not_end_the_others(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExecutorError):
        client.post("/", documents, request_size=1)
    docs = client.post("/", documents, request_size=1, continue_on_error=True)
    assert docs.texts == ["a", "c", "e"]
    assert caplog.text.count("the others go on: picky/rep-0 raised at '/': LookupError") == 2
    responses = client.post(
        "/", documents, request_size=1, continue_on_error=True, return_responses=True
    )
    assert texts_and_codes(responses) == GONE_ON
    header = responses[1].header
    assert "LookupError: no bad ones" in header.status.description
    assert header.exec_endpoint == "/"
    failed: list[Response] = []
    docs = client.post(
        "/", documents, request_size=1, continue_on_error=True, on_error=failed.append
    )
    assert (docs.texts, len(failed)) == (["a", "c", "e"], 2)


def test_from_asyncio_too(flow: Flow) -> None:
    async def generator() -> AsyncIterator[Document]:
        for doc in documents():
            yield doc

    async def coroutine() -> list[Document]:
        return list(documents())

    async def main() -> None:
        options: dict[str, Any] = {"request_size": 1, "continue_on_error": True}
        async with AsyncClient(host=f"grpc://localhost:{flow.port}") as client:
            for inputs in (documents, generator, generator(), coroutine, coroutine()):
                docs = await client.post("/", inputs, **options)
                assert docs.texts == ["a", "c", "e"]
            responses = await client.post("/", documents, return_responses=True, **options)
            assert texts_and_codes(responses) == GONE_ON
            seen = [one async for one in client.post("/", documents, **options)]
            assert [docs.texts for docs in seen] == [["a"], ["c"], ["e"]]
            whole = client.post("/", documents, return_responses=True, **options)
            assert texts_and_codes([one async for one in whole]) == GONE_ON

    asyncio.run(main())


def test_a_request_whose_replica_died_is_tried_again(tmp_path: Path) -> None:
    def post(marker: str, **options: Any) -> Any:
        parameters = {"marker": str(tmp_path / marker)}
        return flow.post("/die", parameters=parameters, return_responses=True, **options)

    with Flow().add(name="picky", uses=Picky, retries=0) as flow:
        with pytest.raises(ReplicaCrashed):
            post("once")
        [response] = post("again", max_attempts=3, initial_backoff=0.01)
    assert response.parameters["__results__"] == {"picky/rep-0": {"alive": True}}


def test_a_flow_that_is_not_there_is_tried_so_often(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def away(*_: Any) -> None:
        tried.append(1)
        raise FlowUnreachable("nobody")

    monkeypatch.setattr(Client, "_connection", away)
    with pytest.raises(FlowUnreachable):
        client.post("/", max_attempts=3, initial_backoff=0)
    assert len(tried) == 3
