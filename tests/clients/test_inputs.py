"""What a post is given: options checked, inputs cut into requests, targets found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from helpers import texts
from hypothesis import given
from hypothesis import strategies as st

from zflow import Document, DocumentArray, errors
from zflow.clients.inputs import (
    batches,
    check_document,
    check_options,
    choose_targets,
    resolved,
    seconds,
)
from zflow.devices.protocol import messages

FINE: dict[str, Any] = {
    "on": "/",
    "parameters": None,
    "request_size": 1,
    "prefetch": 1,
    "timeout": None,
    "on_overload": "fail",
}


class Hidden:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"on": "/" + "x" * (messages.MAX_ENDPOINT - 1)},
        {"parameters": {}},
        {"parameters": {"limit": 3}},
        {"request_size": 10**6, "prefetch": 10**6, "timeout": 10**6},
        {"timeout": 1},
        {"on_overload": "wait"},
    ],
)
def test_options_that_can_be(changes: dict[str, Any]) -> None:
    check_options(**{**FINE, **changes})


@pytest.mark.parametrize(
    ("on", "sent"), [("/a", "/a"), ("a", "/a"), ("a/b", "/a/b"), ("*", "/default")]
)
def test_the_endpoint_gets_its_slash(on: str, sent: str) -> None:
    assert check_options(**{**FINE, "on": on}) == sent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on": ""}, "an endpoint is a text that starts with '/', not ''"),
        ({"on": None}, "an endpoint is a text that starts with '/', not None"),
        ({"on": b"/"}, "an endpoint is a text that starts with '/', not b'/'"),
        (
            {"on": "/" + "x" * messages.MAX_ENDPOINT},
            f"an endpoint has at most {messages.MAX_ENDPOINT} characters, not "
            f"{messages.MAX_ENDPOINT + 1}",
        ),
        ({"parameters": [1]}, "parameters must be a dict, not [1]"),
        ({"parameters": ()}, "parameters must be a dict, not ()"),
        ({"on_overload": "retry"}, "on_overload must be 'fail' or 'wait', not 'retry'"),
        ({"on_overload": None}, "on_overload must be 'fail' or 'wait', not None"),
        ({"request_size": 0}, "request_size must be a whole number of 1 or more, not 0"),
        ({"request_size": None}, "request_size must be a whole number of 1 or more, not None"),
        ({"prefetch": 1.0}, "prefetch must be a whole number of 1 or more, not 1.0"),
        ({"prefetch": True}, "prefetch must be a whole number of 1 or more, not True"),
        ({"timeout": 0}, "timeout must be a whole number of 1 or more, not 0"),
        ({"timeout": "5"}, "timeout must be a whole number of 1 or more, not '5'"),
        (
            {"timeout": Hidden()},
            "timeout must be a whole number of 1 or more, not <Hidden whose repr() fails>",
        ),
    ],
)
def test_an_option_that_cannot_be_is_named_with_its_value_and_what_it_may_be(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        check_options(**{**FINE, **changes})
    assert str(caught.value) == message


def test_a_long_value_does_not_make_a_long_message() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        check_options(**{**FINE, "parameters": "x" * 10**6})
    assert len(str(caught.value)) < 200


# -- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("enc", ["enc-a", "enc-b"]),
        ("enc-b", ["enc-b"]),
        (".*-a|index", ["enc-a", "index"]),
        ("index$", ["index"]),
        ("", ["enc-a", "enc-b", "index"]),
        ("(?i)ENC", ["enc-a", "enc-b"]),
    ],
)
def test_a_target_is_matched_from_the_start_of_the_names(pattern: str, found: list[str]) -> None:
    assert choose_targets(pattern, iter(["enc-a", "enc-b", "index"])) == found


def test_no_pattern_means_all_whoever_they_are() -> None:
    assert choose_targets(None, []) is None
    assert choose_targets(None, ["encoder"]) is None


def test_a_target_that_nothing_matches_names_those_that_there_are() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        choose_targets("coder", ["encoder", "indexer"])
    assert (
        str(caught.value)
        == "target_executor 'coder' matches no Executor; there are 'encoder', 'indexer'"
    )
    with pytest.raises(errors.BadRequest, match="there are none"):
        choose_targets("encoder", [])


@pytest.mark.parametrize("pattern", ["(", "*", "[a", 3, ["encoder"]])
def test_a_target_that_is_no_regular_expression_is_named(pattern: Any) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        choose_targets(pattern, ["encoder"])
    assert str(caught.value).startswith(
        f"target_executor {pattern!r} is not a regular expression: "
    )


# -- inputs ----------------------------------------------------------------------------------------


@given(
    count=st.integers(0, 50),
    size=st.integers(1, 60),
    kind=st.sampled_from([list, tuple, iter, DocumentArray]),
)
def test_every_document_is_in_one_request_in_order_and_all_but_the_last_are_full(
    count: int, size: int, kind: Any
) -> None:
    docs = list(texts(count))
    cut = list(batches(kind(docs), size))
    assert all(isinstance(batch, DocumentArray) for batch in cut)
    assert [doc for batch in cut for doc in batch] == docs
    assert [len(batch) for batch in cut[:-1]] == [size] * (len(cut) - 1)
    assert all(0 < len(batch) <= size for batch in cut) or (count == 0 and len(cut) == 1)


@pytest.mark.parametrize(
    "nothing", [None, [], (), DocumentArray(), iter(()), (doc for doc in texts(0))]
)
def test_nothing_is_one_request_without_documents(nothing: Any) -> None:
    assert [batch.texts for batch in batches(nothing, 3)] == [[]]


def test_a_document_is_one_request() -> None:
    assert [batch.texts for batch in batches(Document(text="a"), 3)] == [["a"]]


def test_an_iterator_is_read_as_it_is_needed() -> None:
    read: list[str] = []

    def counted() -> Iterator[Document]:
        for doc in texts(10):
            read.append(doc.text)
            yield doc

    cut = batches(counted(), 3)
    assert read == []
    assert next(cut).texts == ["0", "1", "2"]
    assert read == ["0", "1", "2"]
    assert next(cut).texts == ["3", "4", "5"]
    assert read == ["0", "1", "2", "3", "4", "5"]


def test_inputs_may_be_a_function_that_gives_them() -> None:
    def generator() -> Iterator[Document]:
        yield from texts(5)

    for function in (generator, lambda: DocumentArray(texts(5)), lambda: iter(list(texts(5)))):
        assert [len(docs) for docs in batches(resolved(function), 2)] == [2, 2, 1]
    assert [len(docs) for docs in batches(resolved(lambda: Document()), 2)] == [1]
    docs = DocumentArray()
    assert resolved(docs) is docs
    assert resolved(None) is None


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "the function given as inputs returned None"),
        (lambda docs: docs, "the function given as inputs needs arguments"),
        (Document, "inputs must be a Document"),
        (lambda: lambda: None, "inputs must be a Document"),
    ],
)
def test_a_function_that_gives_no_documents_is_refused(function: Any, words: str) -> None:
    with pytest.raises(errors.BadRequest, match=words):
        batches(resolved(function), 1)


def test_what_is_asynchronous_is_for_an_async_client() -> None:
    async def generator() -> AsyncIterator[Document]:
        yield Document()

    async def coroutine() -> Document:
        return Document()

    for inputs in (generator(), generator, coroutine):
        with pytest.raises(errors.BadRequest, match=r"AsyncClient"):
            batches(resolved(inputs), 1)


@pytest.mark.parametrize("inputs", ["text", b"bytes", {"text": "a"}, 7, object, Hidden()])
def test_inputs_that_are_no_documents_are_refused_at_once(inputs: Any) -> None:
    with pytest.raises(
        errors.BadRequest,
        match="inputs must be a Document, a DocumentArray or an iterable of Documents, not ",
    ):
        batches(inputs, 3)


@pytest.mark.parametrize("place", [0, 2, 3, 7])
def test_an_input_that_is_no_document_is_named_by_its_place_in_all(place: int) -> None:
    inputs: list[Any] = list(texts(9))
    inputs[place] = "no document"
    cut = batches(inputs, 3)
    before = [next(cut) for _ in range(place // 3)]
    assert [len(batch) for batch in before] == [3] * (place // 3)
    with pytest.raises(errors.BadRequest) as caught:
        next(cut)
    assert str(caught.value) == f"inputs must be Documents, but the one at {place} is 'no document'"


def test_one_input_is_checked_alone() -> None:
    check_document(Document(), 0)
    with pytest.raises(
        errors.BadRequest, match=r"inputs must be Documents, but the one at 5 is None"
    ):
        check_document(None, 5)


# -- a time to wait --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "expected"), [(1, 0.001), (1.5, 0.0015), (2000, 2.0), (10**9, 10.0**6)]
)
def test_a_time_to_wait_is_in_milliseconds(timeout: float, expected: float) -> None:
    assert seconds(timeout) == pytest.approx(expected)


@pytest.mark.parametrize("timeout", [0, -1, True, None, "5", [], float("inf"), float("nan")])
def test_a_time_to_wait_that_cannot_be(timeout: Any) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        seconds(timeout)
    assert str(caught.value) == f"timeout must be a number of ms above 0, not {timeout!r}"


@pytest.mark.parametrize(
    ("timeout", "meant"), [(0.5, "500 is half a second"), (0.25, "250 is 0.25 seconds")]
)
def test_who_seems_to_mean_seconds_is_told_the_milliseconds(timeout: float, meant: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        seconds(timeout)
    assert str(caught.value) == f"timeout is in milliseconds: {timeout} is less than one; {meant}"


@pytest.mark.parametrize("pattern", [b"e", 3, "a{9999999999}", "(" * 100_000])
def test_a_target_that_is_no_pattern_at_all(pattern: Any) -> None:
    with pytest.raises(errors.BadRequest, match=r"target_executor .* regular expression"):
        choose_targets(pattern, ["encoder"])


@pytest.mark.parametrize("name", ["request_size", "prefetch", "timeout"])
def test_numbers_have_an_end(name: str) -> None:
    good: dict[str, Any] = {
        "on": "/",
        "parameters": None,
        "request_size": 1,
        "prefetch": 1,
        "timeout": None,
        "on_overload": "fail",
        name: 2**53,
    }
    check_options(**good)
    with pytest.raises(
        errors.BadRequest, match=f"{name} must be a whole number of {2**53} or less"
    ):
        check_options(**{**good, name: 2**53 + 1})
    with pytest.raises(
        errors.BadRequest, match=f"timeout must be a number of ms of {2**53} or less"
    ):
        seconds(10**400)


def test_an_endpoint_can_be_sent() -> None:
    with pytest.raises(errors.BadRequest, match="an endpoint is a text that can be sent as UTF-8"):
        check_options("/\udcff", None, 1, 1, None, "fail")
