"""`post`: what it takes and gives back, how it streams, and what goes wrong,
over real processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Append, Gate, Upper, begun, in_background, let_go, replicas, texts, wait_for

from zflow import Client, Document, DocumentArray, Executor, Flow, Response, errors, requests


class Report(Executor):
    """Tells what a request looked like when it arrived, and what this replica is."""

    def __init__(self, shade: str = "none", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shade = shade

    @requests
    def report(
        self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        return {
            "size": len(docs),
            "texts": docs.texts,
            "parameters": dict(parameters),
            "shade": self.shade,
        }

    @requests(on="/types")
    def types(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {name: type(value).__name__ for name, value in parameters.items()}

    @requests(on=["/index", "/search", "/update", "/delete"])
    def named(
        self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any
    ) -> DocumentArray:
        return DocumentArray([Document(text=f"{doc.text} {parameters}") for doc in docs])

    @requests(on="/slow-first")
    def slow_first(self, docs: DocumentArray, **kwargs: Any) -> None:
        if docs[0].text == "0":
            time.sleep(0.05)

    def undecorated(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs.texts = ["by name"] * len(docs)


class Wrong(Executor):
    """Fails in every way that an Executor can fail a request."""

    @requests
    def fine(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].tags["pid"] = os.getpid()

    @requests(on="/raise")
    def boom(self, docs: DocumentArray, **kwargs: Any) -> None:
        raise LookupError("no such thing as ü")

    @requests(on="/exit")
    def leave(self, **kwargs: Any) -> None:
        raise SystemExit(7)

    @requests(on="/interrupt")
    def interrupt(self, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    @requests(on="/type")
    def wrong_type(self, **kwargs: Any) -> Any:
        return "text"

    @requests(on="/unsendable")
    def unsendable(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].tags["handle"] = {1, 2}

    @requests(on="/unsendable-dict")
    def unsendable_dict(self, **kwargs: Any) -> Any:
        return {"answer": object()}

    @requests(on="/not-documents")
    def not_documents(self, docs: DocumentArray, **kwargs: Any) -> Any:
        return list(docs)

    @requests(on="/huge")
    def huge(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].blob = bytes(3_000_000)

    @requests(on="/odd-error")
    def odd_error(self, **kwargs: Any) -> None:
        class Odd(Exception):
            def __str__(self) -> str:
                raise ValueError("not even this works")

        raise Odd

    @requests(on="/long-error")
    def long_error(self, **kwargs: Any) -> None:
        raise ValueError("x" * 1_000_000)

    @requests(on="/surrogate")
    def surrogate(self, **kwargs: Any) -> None:
        raise ValueError("\udcff is no text")


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="report", uses=Report, uses_with={"shade": "blue"}) as running:
        yield running


@pytest.fixture(scope="module")
def trio() -> Iterator[Flow]:
    with Flow(replicas=3).add(name="report", uses=Report).add(name="upper", uses=Upper) as running:
        yield running


@pytest.fixture(scope="module")
def wrong() -> Iterator[Flow]:
    with Flow(max_message_bytes=2_000_000).add(name="wrong", uses=Wrong, replicas=2) as running:
        yield running


def reports(responses: list[Response], executor: str = "report") -> list[Any]:
    """What the Executor returned as a dict, by request."""
    found = [response.parameters["__results__"] for response in responses]
    return [
        result for each in found for name, result in each.items() if name.startswith(f"{executor}/")
    ]


# -- what post takes and gives back ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (Document(text="a"), ["a {}"]),
        (DocumentArray([Document(text="a"), Document(text="b")]), ["a {}", "b {}"]),
        ([Document(text="a"), Document(text="b")], ["a {}", "b {}"]),
        ((Document(text="a"),), ["a {}"]),
        ([], []),
        (DocumentArray(), []),
        (None, []),
    ],
    ids=["document", "array", "list", "tuple", "empty list", "empty array", "none"],
)
def test_kinds_of_inputs(flow: Flow, inputs: Any, expected: list[str]) -> None:
    result = flow.post("/index", inputs)
    assert isinstance(result, DocumentArray)
    assert result.texts == expected


@pytest.mark.parametrize("nothing", [None, [], DocumentArray(), iter(())])
def test_nothing_is_one_request_without_documents(flow: Flow, nothing: Any) -> None:
    assert [found["size"] for found in reports(flow.post("/", nothing, return_responses=True))] == [
        0
    ]
    assert flow.index(nothing, return_responses=True)[0].endpoint == "/index"


def test_nothing_is_one_request_from_asyncio_too(flow: Flow) -> None:
    async def none() -> AsyncIterator[Document]:
        for doc in texts(0):
            yield doc

    async def sizes() -> list[int]:
        client = flow.async_client()
        try:
            return [
                found["size"]
                for nothing in (None, [], none())
                for found in reports(await client.post("/", nothing, return_responses=True))
            ]
        finally:
            await client.close()

    assert asyncio.run(sizes()) == [0, 0, 0]


def test_an_iterator_is_read_once_and_in_order(flow: Flow) -> None:
    assert flow.index(texts(250)).texts == [f"{number} {{}}" for number in range(250)]


@pytest.mark.parametrize("endpoint", ["index", "search", "update", "delete"])
def test_shortcuts(flow: Flow, endpoint: str) -> None:
    assert getattr(flow, endpoint)(Document(text="a"), parameters={"n": 1}).texts == ["a {'n': 1}"]


def test_request_size_cuts_the_inputs(flow: Flow) -> None:
    responses = flow.post("/", texts(7), request_size=3, return_responses=True)
    assert [found["texts"] for found in reports(responses)] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6"],
    ]
    assert [len(response.docs) for response in responses] == [3, 3, 1]
    sizes = [
        found["size"]
        for found in reports(flow.post("/", DocumentArray(texts(201)), return_responses=True))
    ]
    assert sizes == [100, 100, 1]


def test_parameters_keep_their_types_both_ways(flow: Flow) -> None:
    given = {
        "i": 1,
        "f": 1.0,
        "t": True,
        "n": None,
        "s": "x",
        "b": b"y",
        "l": [1, 2.0],
        "d": {"k": 1},
        "big": 2**70,
    }
    response = flow.post("/", None, given, return_responses=True)[0]
    (found,) = reports([response])
    assert found["parameters"] == given
    assert [type(value) for value in found["parameters"].values()] == [
        type(value) for value in given.values()
    ]
    assert {name: response.parameters[name] for name in given} == given
    kinds = reports(flow.post("/types", None, given, return_responses=True))[0]
    assert kinds == {name: type(value).__name__ for name, value in given.items()}


def test_numpy_arrays_in_documents_and_parameters(flow: Flow) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    (found,) = reports(flow.post("/", None, {"array": array}, return_responses=True))
    assert (found["parameters"]["array"] == array).all()
    assert found["parameters"]["array"].dtype == np.int16


def test_what_the_caller_sent_is_not_changed(trio: Flow) -> None:
    doc, parameters = Document(text="a"), {"n": [1]}
    assert trio.post("/", doc, parameters).texts == ["A"]
    assert (doc.text, doc.tags, parameters) == ("a", {}, {"n": [1]})


def test_dicts_returned_are_found_by_replica(trio: Flow) -> None:
    response = trio.post("/", Document(text="a"), return_responses=True)[0]
    (name,) = response.parameters["__results__"]
    assert name in {"report/rep-0", "report/rep-1", "report/rep-2"}
    assert response.docs.texts == ["A"]


def test_results_come_in_the_order_of_the_inputs(trio: Flow) -> None:
    result = trio.post("/slow-first", texts(200), request_size=1)
    assert result.texts == [str(number) for number in range(200)]


def test_uses_with_and_uses_requests(flow: Flow) -> None:
    assert reports(flow.post("/", None, return_responses=True))[0]["shade"] == "blue"
    with Flow().add(uses=Report, uses_requests={"/index": "undecorated"}) as other:
        assert other.index(Document(text="a")).texts == ["by name"]
        assert other.search(Document(text="a")).texts == ["a {}"]


def test_callbacks_take_the_results(flow: Flow) -> None:
    done: list[Response] = []
    always: list[Response] = []
    assert (
        flow.post("/index", texts(5), request_size=2, on_done=done.append, on_always=always.append)
        is None
    )
    assert [response.docs.texts for response in done] == [
        ["0 {}", "1 {}"],
        ["2 {}", "3 {}"],
        ["4 {}"],
    ]
    assert always == done
    assert [response.error for response in done] == [None] * 3
    assert {response.endpoint for response in done} == {"/index"}


def test_on_error_gets_the_failed_and_the_rest_is_returned(wrong: Flow) -> None:
    failed: list[Response] = []
    assert wrong.post("/raise", texts(3), request_size=1, on_error=failed.append) == DocumentArray()
    # As they were sent.
    assert [response.docs.texts for response in failed] == [["0"], ["1"], ["2"]]
    assert {type(response.error) for response in failed} == {errors.ExecutorError}
    good: list[Response] = []
    every: list[Response] = []
    failed.clear()
    wrong.post(
        "/raise", Document(), on_done=good.append, on_error=failed.append, on_always=every.append
    )
    assert (len(good), len(failed), len(every)) == (0, 1, 1)


def test_on_always_is_called_before_the_error_is_raised(wrong: Flow) -> None:
    every: list[Response] = []
    with pytest.raises(errors.ExecutorError):
        wrong.post("/raise", Document(), on_always=every.append)
    assert len(every) == 1


def test_a_callback_that_raises_ends_the_post_and_nothing_else(flow: Flow) -> None:
    def fail(response: Response) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        flow.post("/index", texts(500), request_size=1, on_done=fail)
    assert flow.index(texts(5)).texts == [f"{number} {{}}" for number in range(5)]


def test_a_generator_that_raises_ends_the_post_and_nothing_else(flow: Flow) -> None:
    def broken() -> Iterator[Document]:
        yield from texts(150)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        flow.index(broken(), request_size=1)
    assert flow.index(texts(5)).texts == [f"{number} {{}}" for number in range(5)]


def test_a_generator_that_posts_itself(flow: Flow) -> None:
    def nested() -> Iterator[Document]:
        for doc in texts(5):
            yield flow.index(doc)[0]

    assert flow.index(nested(), request_size=1).texts == [
        f"{number} {{}} {{}}" for number in range(5)
    ]


def test_a_callback_that_posts_itself(flow: Flow) -> None:
    found: list[str] = []
    flow.index(
        texts(5),
        request_size=1,
        on_done=lambda response: found.extend(flow.index(response.docs).texts),
    )
    assert found == [f"{number} {{}} {{}}" for number in range(5)]


def test_progress_is_shown_nowhere_but_on_a_terminal(
    flow: Flow, capfd: pytest.CaptureFixture[str]
) -> None:
    assert flow.index(texts(3), show_progress=True).texts == ["0 {}", "1 {}", "2 {}"]
    assert capfd.readouterr().err == ""


def test_target_executor_is_a_regular_expression_over_names() -> None:
    flow = Flow()
    for name in ("enc-a", "enc-b", "index"):
        flow.add(name=name, uses=Append, uses_with={"letter": name[-1]})
    with flow:
        targets = {
            None: "abx",
            "enc": "ab",
            "enc-b": "b",
            ".*-a|index": "ax",
            "index$": "x",
            ".*": "abx",
        }
        found = {
            target: flow.post("/", Document(), target_executor=target).texts[0]
            for target in targets
        }
        assert found == targets
        with pytest.raises(errors.BadRequest, match=r"'nobody'.*enc-a"):
            flow.post("/", Document(), target_executor="nobody")
        with pytest.raises(errors.BadRequest, match=r"regular expression"):
            flow.post("/", Document(), target_executor="(")
        assert flow.post("/", Document()).texts == ["abx"]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on": ""}, ["'/'", "''"]),
        ({"on": 3}, ["'/'", "3"]),
        ({"on": "/" + "x" * 2000}, ["1024", "2001"]),
        ({"parameters": [1]}, ["parameters", "[1]"]),
        ({"request_size": 0}, ["request_size", "0"]),
        ({"request_size": 2.5}, ["request_size", "2.5"]),
        ({"prefetch": 0}, ["prefetch", "0"]),
        ({"prefetch": True}, ["prefetch", "True"]),
        ({"timeout": 0}, ["timeout", "0"]),
        ({"timeout": -5}, ["timeout", "-5"]),
        ({"timeout": 0.5}, ["timeout", "0.5"]),
        ({"timeout": "1000"}, ["timeout", "'1000'"]),
        ({"timeout": True}, ["timeout", "True"]),
        ({"inputs": "text"}, ["inputs", "'text'"]),
        ({"inputs": 7}, ["inputs", "7"]),
        ({"inputs": {"text": "a"}}, ["inputs", "text"]),
        ({"inputs": [Document(), "text"]}, ["1", "'text'"]),
    ],
)
def test_wrong_arguments_of_post_are_named(
    flow: Flow, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        flow.post(**{"on": "/", **arguments})
    assert all(word in str(caught.value) for word in words), caught.value
    assert flow.index(Document(text="a")).texts == ["a {}"]


def test_what_cannot_be_sent_is_named_by_document_and_field(flow: Flow) -> None:
    docs = [Document(text="fine"), Document(id="second", tags={"deep": {"bad": {1, 2}}})]
    with pytest.raises(errors.SerializationError) as caught:
        flow.post("/index", docs)
    assert all(word in str(caught.value) for word in ("'second'", "tags", "bad", "set")), (
        caught.value
    )
    with pytest.raises(errors.SerializationError, match=r"lambda|function"):
        flow.post("/index", Document(), {"call": lambda: None})
    assert flow.index(Document(text="a")).texts == ["a {}"]


def test_a_request_over_the_limit_names_the_largest_document(wrong: Flow) -> None:
    docs = [Document(text="small"), Document(id="large", blob=bytes(3_000_000))]
    for client in (wrong, Client(port=wrong.port)):
        with pytest.raises(errors.RequestTooLarge) as caught:
            client.post("/", docs)
        assert all(
            word in str(caught.value)
            for word in ("'large'", "blob", "2000000", "max_message_bytes")
        )
    half = [Document(blob=bytes(1_000_000)) for _ in range(3)]
    with pytest.raises(errors.RequestTooLarge, match="request_size"):
        wrong.post("/", half)
    assert len(wrong.post("/", half, request_size=1)) == 3


FAILURES = {
    "/raise": (
        errors.ExecutorError,
        ["wrong/rep-", "LookupError", "no such thing as ü", "Traceback", "in boom"],
    ),
    "/exit": (errors.ExecutorError, ["wrong/rep-", "SystemExit", "7", "in leave"]),
    "/interrupt": (errors.ExecutorError, ["KeyboardInterrupt", "in interrupt"]),
    "/type": (errors.ExecutorError, ["Wrong.wrong_type", "str", "DocumentArray"]),
    "/unsendable": (errors.SerializationError, ["wrong/rep-", "'d'", "tags", "handle", "set"]),
    "/unsendable-dict": (errors.SerializationError, ["wrong/rep-", "answer", "object"]),
    "/not-documents": (errors.ExecutorError, ["Wrong.not_documents", "list", "DocumentArray"]),
    "/huge": (errors.RequestTooLarge, ["wrong/rep-", "'d'", "blob", "2000000"]),
    "/odd-error": (errors.ExecutorError, ["Odd", "in odd_error"]),
    "/long-error": (errors.ExecutorError, ["ValueError", "xxx"]),
    "/surrogate": (errors.ExecutorError, ["ValueError", "is no text"]),
}


@pytest.mark.parametrize("endpoint", FAILURES)
def test_a_request_that_fails_in_the_executor_fails_alone(wrong: Flow, endpoint: str) -> None:
    kind, words = FAILURES[endpoint]
    before = replicas("wrong")
    with pytest.raises(kind) as caught:
        wrong.post(endpoint, Document(id="d"))
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) < 200_000
    served = {doc.tags["pid"] for doc in wrong.post("/", texts(50), request_size=1)}
    assert served <= set(before.values())
    assert replicas("wrong") == before, "the replica lives"


def test_the_remote_error_has_parts(wrong: Flow) -> None:
    with pytest.raises(errors.ExecutorError) as caught:
        wrong.post("/raise", Document())
    error = caught.value
    assert error.executor in {"wrong/rep-0", "wrong/rep-1"}
    assert error.exception == "LookupError"
    assert error.traceback.rstrip().endswith("LookupError: no such thing as ü")
    assert error.message == f"{error.executor} raised at '/raise': LookupError: no such thing as ü"
    assert "worker.py" not in error.traceback, "only what the user wrote"


def test_errors_pickle_with_all_their_parts(wrong: Flow) -> None:
    for endpoint in FAILURES:
        with pytest.raises(errors.ZflowError) as caught:
            wrong.post(endpoint, Document(id="d"))
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (type(copy), str(copy), vars(copy)) == (
            type(caught.value),
            str(caught.value),
            vars(caught.value),
        )


def test_the_first_failure_in_the_order_of_inputs_is_raised_and_others_go_on(wrong: Flow) -> None:
    served = in_background(wrong.post, "/", texts(300), request_size=1)
    for _ in range(20):
        with pytest.raises(errors.ExecutorError):
            wrong.post("/raise", texts(20), request_size=1)
    assert served.result(30).texts == [str(number) for number in range(300)]


# -- deadlines -------------------------------------------------------------------------------------


def test_timeout_send_ends_a_request_wherever_it_is(tmp_path: Path) -> None:
    flow = Flow(timeout_close=2000).add(
        name="late", uses=Gate, uses_with={"folder": str(tmp_path)}, timeout_send=300, retries=0
    )
    with flow, contextlib.ExitStack() as stack:
        stack.callback(let_go, tmp_path, "held", "queued")
        held = in_background(flow.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        queued = in_background(flow.post, "/hold", Document(text="queued"))
        error = held.exception(30)
        assert isinstance(error, errors.DeadlineExceeded)
        assert all(word in str(error) for word in ("'late'", "timeout_send=300", "late/rep-0"))
        error = queued.exception(30)
        assert isinstance(error, errors.DeadlineExceeded)
        assert "queued" in str(error)
        let_go(tmp_path, "held")
        wait_for(
            lambda: not isinstance(_try(flow), errors.DeadlineExceeded), what="it serves again"
        )
        assert not (tmp_path / "queued.begun").exists(), "nobody waits for it: it is not begun"
        assert isinstance(held.exception(), TimeoutError)


def _try(flow: Flow) -> Exception | None:
    try:
        flow.post("/", Document(text="a"))
    except errors.ZflowError as error:
        return error
    return None
