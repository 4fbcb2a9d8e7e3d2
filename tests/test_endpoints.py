"""Endpoints that no request could name are refused wherever one is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zflow import Executor, Flow, requests
from zflow.devices.protocol.messages import MAX_ENDPOINT
from zflow.devices.routing import walk
from zflow.endpoints import DEFAULT, LONGEST, check_sendable, spelt
from zflow.errors import InvalidExecutor, InvalidFlow

TOO_LONG = "/" + "x" * LONGEST
GIVEN: dict[str, Callable[[str], Any]] = {
    "@requests": lambda endpoint: requests(on=endpoint),
    "polling": lambda endpoint: Flow().add(polling={endpoint: "ALL"}),
    "uses_requests": lambda endpoint: Flow().add(uses=Executor, uses_requests={endpoint: "work"}),
    "uses_dynamic_batching": lambda endpoint: Flow().add(
        uses_dynamic_batching={endpoint: {"preferred_batch_size": 2}}
    ),
}


@pytest.mark.parametrize("where", GIVEN)
def test_one_that_is_too_long_is_refused_where_it_is_given(where: str) -> None:
    with pytest.raises(
        (InvalidFlow, InvalidExecutor),
        match=f"an endpoint has at most 1024 characters, not 1025.*{where}",
    ):
        GIVEN[where](TOO_LONG)
    with pytest.raises(
        (InvalidFlow, InvalidExecutor), match=f"a text that can be sent as UTF-8.*{where}"
    ):
        GIVEN[where]("/\ud800")
    GIVEN[where](TOO_LONG[:-1])


def test_as_long_as_one_may_be_it_can_be_asked_for() -> None:
    check_sendable("/" + "x" * (MAX_ENDPOINT - 1), "it", InvalidFlow)
    assert LONGEST == MAX_ENDPOINT


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/foo", "/foo"),
        ("foo", "/foo"),
        ("foo/bar", "/foo/bar"),
        ("/", "/"),
        ("*", DEFAULT),
        ("**", "/**"),
        ("", None),
        (None, None),
        (b"/foo", None),
    ],
)
def test_one_that_is_written_without_a_slash_is_meant_with_one(written: Any, meant: Any) -> None:
    assert spelt(written) == meant
    assert walk.DEFAULT == DEFAULT
