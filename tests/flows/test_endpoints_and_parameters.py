"""Which method a request reaches, and with which parameters, over real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from zflow import Document, DocumentArray, Executor, Flow, requests


class NamesItsMethod(Executor):
    """Answers with the method that was called, and what it was called with."""

    def __init__(self, metas: dict[str, Any], requests: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = metas
        self.bound = requests

    @requests
    def all_req(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"all_req": dict(parameters), "name": self.metas.name}

    @requests(on="/foo")
    def foo(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"foo": dict(parameters), "bound": self.bound}

    def bar(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"bar": dict(parameters)}

    @requests(on="index")
    def index(self, docs: DocumentArray, **kwargs: Any) -> dict[str, Any]:
        return {"index": len(docs), "metas": self.index}


class TakesTheRest(Executor):
    @requests(on="*")
    def rest(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        found = {key: value for key, value in parameters.items() if key != "__results__"}
        parameters["seen"] = True
        return {"rest": found, "name": self.metas.name}

    @requests(on="together", batch_size=8)
    def together(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        docs.texts = [str(parameters)] * len(docs)
        parameters["seen"] = len(docs) > 0


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    moved = {"/bar": "bar", "non_foo": "foo", "/alias_foo": "foo"}
    said = Flow().add(
        name="said", uses=NamesItsMethod, uses_requests=moved, uses_metas={"name": "mine"}
    )
    with said.add(name="rest", uses=TakesTheRest) as running:
        yield running


def results(flow: Flow, on: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the Executors have answered, by name."""
    [response] = flow.post(on, parameters=parameters, return_responses=True)
    found = response.parameters["__results__"]
    return {name.partition("/")[0]: result for name, result in found.items()}


@pytest.mark.parametrize(
    ("on", "method"),
    [("/bar", "bar"), ("/non_foo", "foo"), ("/foo", "all_req"), ("/alias_foo", "foo")],
)
def test_uses_requests_replace_what_the_decorator_says(flow: Flow, on: str, method: str) -> None:
    said = results(flow, on)["said"]
    assert next(iter(said)) == method
    assert said.get("name", "mine") == "mine"


@pytest.mark.parametrize(("on", "method"), [("bar", "bar"), ("non_foo", "foo"), ("*", "all_req")])
def test_endpoints_may_be_written_without_a_slash_or_as_a_star(
    flow: Flow, on: str, method: str
) -> None:
    assert next(iter(results(flow, on)["said"])) == method
    assert results(flow, on)["rest"]["name"] == "TakesTheRest"


def test_an_attribute_hides_no_handler_and_a_constructor_gets_what_it_names(flow: Flow) -> None:
    found = flow.index(DocumentArray.empty(3), return_responses=True)[0].parameters["__results__"]
    assert found["said/rep-0"] == {"index": 3, "metas": {"name": "mine"}}
    assert results(flow, "non_foo")["said"]["bound"] == {
        "/bar": "bar",
        "/non_foo": "foo",
        "/alias_foo": "foo",
    }


def test_parameters_for_one_executor_reach_that_one_only(flow: Flow) -> None:
    given = {"top_k": 1, "said__top_k": 5, "rest": {"size": 7}, "nobody__x": 2, "rest__y": 3}
    found = results(flow, "/bar", given)
    assert found["said"]["bar"] == {"top_k": 5, "nobody__x": 2, "rest": {"size": 7}}
    assert found["rest"]["rest"] == {
        "top_k": 1,
        "nobody__x": 2,
        "y": 3,
        "size": 7,
        "rest": {"size": 7},
    }
    [response] = flow.post("/bar", parameters=given, return_responses=True)
    del response.parameters["__results__"]
    assert response.parameters == {**given, "seen": True}


def test_parameters_for_one_executor_reach_it_in_batches_too(flow: Flow) -> None:
    async def main() -> list[Any]:
        client = flow.async_client()
        try:
            posts = [
                client.post(
                    "/together",
                    Document(),
                    {"said__top_k": 1, "rest__top_k": at % 2},
                    return_responses=True,
                )
                for at in range(20)
            ]
            return [(await post)[0] for post in posts]
        finally:
            await client.close()

    for at, response in enumerate(asyncio.run(main())):
        assert response.docs.texts == [str({"top_k": at % 2})]
        response.parameters.pop("__results__")
        assert response.parameters == {
            "said__top_k": 1,
            "rest__top_k": at % 2,
            "seen": True,
        }
