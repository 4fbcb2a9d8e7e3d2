"""`index`, `search`, `update` and `delete` stand for `post` and add nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import awaited

from zflow import AsyncClient, Client, Flow
from zflow.clients.shortcuts import Shortcuts

NAMES = ["index", "search", "update", "delete"]


class Told(Shortcuts):
    """Gives back what its `post` was called with."""

    def post(self, *arguments: Any, **options: Any) -> Any:
        return arguments, options


class ToldLater(Shortcuts):
    """The same, for whoever awaits it."""

    async def post(self, *arguments: Any, **options: Any) -> Any:
        return arguments, options


@pytest.mark.parametrize("name", NAMES)
def test_each_posts_to_the_endpoint_of_its_name(name: str) -> None:
    inputs, parameters = object(), {"limit": 3}
    call = getattr(Told(), name)
    assert call() == ((f"/{name}", None, None), {})
    assert call(inputs) == ((f"/{name}", inputs, None), {})
    assert call(inputs, parameters, timeout=5) == ((f"/{name}", inputs, parameters), {"timeout": 5})
    assert call(parameters=parameters, request_size=1) == (
        (f"/{name}", None, parameters),
        {"request_size": 1},
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_post_returns_is_returned_also_to_be_awaited(name: str) -> None:
    assert asyncio.run(awaited(getattr(ToldLater(), name)("inputs", prefetch=2))) == (
        (f"/{name}", "inputs", None),
        {"prefetch": 2},
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_endpoint_cannot_be_given_a_second_time(name: str) -> None:
    with pytest.raises(TypeError, match="on"):
        getattr(Flow(), name)(on="/elsewhere")


def test_whatever_posts_has_them() -> None:
    assert all(issubclass(kind, Shortcuts) for kind in (Flow, Client, AsyncClient))
