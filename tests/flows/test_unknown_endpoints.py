"""Endpoints that no Executor of a Flow binds: refused where they come in, or let through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, requests
from zflow.errors import BadRequest


class EndsInI(Executor):
    @requests(on="/index")
    def index(self, docs: DocumentArray, **kwargs: object) -> None:
        docs.texts = [text + "i" for text in docs.texts]


class Search(Executor):
    @requests(on=["/search", "/rank"])
    def search(self, docs: DocumentArray, **kwargs: object) -> None:
        docs.texts = [text + "s" for text in docs.texts]


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="indexer", uses=EndsInI, replicas=2).add(uses=Search).needs_all() as flow:
        yield flow


def test_a_mistyped_endpoint_is_refused_with_the_nearest_first(flow: Flow) -> None:
    words = r"^no Executor binds '/serach'; there are '/search', '/index', '/rank' \(Flow\(unknown_"
    with pytest.raises(BadRequest, match=words):
        flow.post("/serach", Document(text="a"))
    with pytest.raises(BadRequest, match=words):
        Client(port=flow.port).post("/serach", Document(text="a"))
    with pytest.raises(BadRequest, match=words):
        flow.post("/serach", Document(text="a"), target_executor="indexer")

    async def ask() -> None:
        async with AsyncClient(port=flow.port) as client:
            await client.post("/serach", Document(text="a"))

    with pytest.raises(BadRequest, match=words):
        asyncio.run(ask())
    with pytest.raises(BadRequest, match="there are '/index', '/rank', '/search'"):
        flow.post("/", Document(text="a"))


def test_every_request_of_a_post_is_refused(flow: Flow) -> None:
    refused: list[BadRequest] = []
    documents = (Document(text=str(n)) for n in range(6))
    flow.post(
        "/nobody",
        documents,
        request_size=1,
        on_error=lambda response: refused.append(response.error),
    )
    assert [type(error) for error in refused] == [BadRequest] * 6
    assert len({str(error) for error in refused}) == 1


def test_what_one_of_them_binds_goes_through_all(flow: Flow) -> None:
    assert flow.post("/index", Document(text="a")).texts == ["ai"]
    assert flow.post("/rank", Document(text="a")).texts == ["as"]


@contextmanager
def through(far: Flow, **options: object) -> Iterator[Flow]:
    with Flow().add(external=True, host="localhost", port=far.port, **options) as near:
        yield near


def test_a_request_of_another_flow_passes_and_external_executors_count_as_binding_all(
    flow: Flow,
) -> None:
    with through(flow, endpoints=["/search", "/other"]) as near:
        assert near.post("/search", Document(text="a")).texts == ["as"]
        assert near.post("/other", Document(text="a")).texts == ["a"]
        assert near.post("/nowhere", Document(text="a")).texts == ["a"]


def test_all_pass_where_an_executor_has_no_endpoints_or_the_flow_says_so() -> None:
    class Silent(Executor):
        pass

    with Flow().add(uses=EndsInI).add(name="fast_indexer") as flow:
        assert flow.post("/nobody", Document(text="a")).texts == ["a"]
    text = "jtype: Flow\nwith: {unknown_endpoints: pass}\nexecutors:\n- uses: EndsInI"
    with Flow.load_config(text) as flow:
        assert flow.post("/nobody", Document(text="a")).texts == ["a"]
        assert flow.post("/index", Document(text="a")).texts == ["ai"]
    with Flow().add(uses=Silent) as flow:
        assert flow.post("/nobody", Document(text="a")).texts == ["a"]
