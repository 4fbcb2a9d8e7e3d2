"""What a post brings back: who is called with which Response, and what becomes of all of them."""

from __future__ import annotations

from typing import Any

import pytest

from zflow import Document, DocumentArray, Response, errors
from zflow.clients.response import Callbacks, ready, together


def good(*texts: str) -> Response:
    return Response(DocumentArray(Document(text=text) for text in texts))


def bad() -> Response:
    return Response(DocumentArray(), error=errors.ExecutorError("went wrong"))


def noting(*names: str) -> tuple[Callbacks, list[tuple[str, Response]]]:
    """Callbacks of these names, and what they were called with."""
    called: list[tuple[str, Response]] = []
    return Callbacks(
        **{name: lambda response, name=name: called.append((name, response)) for name in names}
    ), called


def test_a_response_has_no_error_until_one_is_given() -> None:
    first, second = good(), good()
    assert (first.parameters, first.endpoint, first.error) == ({}, "/", None)
    first.parameters["only"] = "here"
    assert second.parameters == {}


@pytest.mark.parametrize(
    ("names", "called"),
    [
        ((), []),
        (("done",), ["done"]),
        (("error",), []),
        (("always",), ["always"]),
        (("done", "error", "always"), ["done", "always"]),
    ],
)
def test_a_good_response_goes_to_done_and_then_to_always(
    names: tuple[str, ...], called: list[str]
) -> None:
    callbacks, seen = noting(*names)
    response = good("a")
    callbacks.deliver(response)
    assert seen == [(name, response) for name in called]


@pytest.mark.parametrize(
    ("names", "called"),
    [(("error",), ["error"]), (("done", "error", "always"), ["error", "always"])],
)
def test_a_failed_response_goes_to_error_and_then_to_always(
    names: tuple[str, ...], called: list[str]
) -> None:
    callbacks, seen = noting(*names)
    response = bad()
    callbacks.deliver(response)
    assert seen == [(name, response) for name in called]


@pytest.mark.parametrize(
    ("names", "called"), [((), []), (("done",), []), (("done", "always"), ["always"])]
)
def test_a_failure_without_an_error_callback_is_raised_after_always(
    names: tuple[str, ...], called: list[str]
) -> None:
    callbacks, seen = noting(*names)
    response = bad()
    with pytest.raises(errors.ExecutorError) as caught:
        callbacks.deliver(response)
    assert caught.value is response.error
    assert seen == [(name, response) for name in called]


def test_what_a_callback_raises_is_raised() -> None:
    def fail(response: Response) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Callbacks(done=fail).deliver(good())


@pytest.mark.parametrize(
    ("names", "taken"), [((), False), (("error",), False), (("done",), True), (("always",), True)]
)
def test_done_and_always_take_the_results_and_error_does_not(
    names: tuple[str, ...], taken: bool
) -> None:
    assert noting(*names)[0].take_results is taken


@pytest.mark.parametrize(
    ("info", "is_ready"),
    [
        ({"executors": {"a": {"replicas": ["a/rep-0"]}, "b": {"replicas": ["b/rep-0"]}}}, True),
        ({"executors": {}}, True),
        ({"executors": {"a": {"replicas": ["a/rep-0"]}, "b": {"replicas": []}}}, False),
        ({"executors": {"a": {}}}, False),
        ({"executors": {"a": {"replicas": ["a/rep-0"]}}, "closing": True}, False),
        ({"executors": {"a": {"replicas": ["a/rep-0"]}}, "closing": False}, True),
        ({}, False),
        ({"executors": ["a"]}, False),
        ({"executors": {"a": ["a/rep-0"]}}, False),
    ],
)
def test_a_flow_is_ready_with_a_replica_of_every_executor_until_it_closes(
    info: dict[str, Any], is_ready: bool
) -> None:
    assert ready(info) is is_ready


def test_all_documents_come_together_in_the_order_of_the_responses() -> None:
    assert together([]).texts == []
    assert together([good("a", "b")]).texts == ["a", "b"]
    assert together([good("a", "b"), good(), good("c")]).texts == ["a", "b", "c"]
    assert isinstance(together([good("a"), good("b")]), DocumentArray)


def test_who_goes_on_has_failures_logged_and_may_keep_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logged, kept = Callbacks(go_on=True), Callbacks(go_on=True, whole=True)
    kept.deliver(bad())
    assert kept.keeps(bad())
    assert not caplog.text
    logged.deliver(bad())
    assert "a request to '/' failed and the others go on: went wrong" in caplog.text
    assert not logged.keeps(bad())
    assert not Callbacks(whole=True).keeps(bad())
    assert Callbacks().keeps(good())
    caplog.clear()
    noted, seen = noting("error")
    noted.go_on = True
    noted.deliver(bad())
    assert len(seen) == 1
    assert not caplog.text


def test_a_response_has_what_jinas_have() -> None:
    response = Response(DocumentArray(Document(text="a")), endpoint="/x")
    assert response.data.docs is response.docs
    response.data.docs = DocumentArray()
    assert len(response.docs) == 0
    header = response.header
    assert (header.exec_endpoint, header.status.code, header.status.description) == ("/x", 0, "")
    status = bad().header.status
    assert (status.code, status.description) == (1, "went wrong")
    assert (status.SUCCESS, status.ERROR) == (0, 1)
