"""Which endpoints a Flow takes, and what is said of the others."""

from __future__ import annotations

import pytest

from zflow.devices.routing.entrance import MOST_KEPT, MOST_REFUSED, Entrance
from zflow.devices.routing.walk import Node


def node(*endpoints: str, **options: object) -> Node:
    return Node("a", endpoints=frozenset(endpoints), **options)  # type: ignore[arg-type]


def test_what_any_executor_binds_is_taken_and_nothing_else() -> None:
    entrance = Entrance([node("/index"), Node("b", process=False), node("/search", "/rank")], True)
    for endpoint in ("/index", "/search", "/rank"):
        assert entrance.objection(endpoint) is None
    assert entrance.taken == {"/index", "/search", "/rank"}
    assert entrance.objection("/Serch") == (
        "no Executor binds '/Serch'; there are '/search', '/index', '/rank' "
        "(Flow(unknown_endpoints='pass') lets such requests pass)"
    )
    assert (entrance.objection("/default") or "").startswith("no Executor binds '*'; there are ")
    assert entrance.objection("") is not None
    assert len(entrance.taken) == 3


@pytest.mark.parametrize(
    "takes_all",
    [
        Node("b"),
        Node("b", endpoints=frozenset()),
        Node("b", endpoints=frozenset({"/default", "/x"})),
        Node("b", endpoints=frozenset({"/x"}), addresses=("tcp://far:1",)),
    ],
)
def test_where_one_takes_every_endpoint_or_may_they_all_are(takes_all: Node) -> None:
    assert Entrance([node("/index"), takes_all], True).objection("/other") is None


@pytest.mark.parametrize("nodes", [[], [Node("b", process=False)]])
def test_a_flow_without_executors_takes_all(nodes: list[Node]) -> None:
    assert Entrance(nodes, True).objection("/other") is None


def test_nothing_is_refused_where_that_was_said() -> None:
    assert Entrance([node("/index")], False).objection("/other") is None


def test_what_binds_something_else_by_now_is_asked_anew() -> None:
    one = node("/index")
    entrance = Entrance([one], True)
    assert entrance.objection("/index") is None
    assert entrance.objection("/other") is not None
    one.endpoints = frozenset({"/other"})
    entrance.changed()
    assert not entrance.taken
    assert entrance.objection("/other") is None
    assert "there are '/other'" in (entrance.objection("/index") or "")


def test_what_strangers_ask_for_takes_no_room() -> None:
    entrance = Entrance([Node("a")], True)
    for number in range(MOST_KEPT + 10):
        assert entrance.objection(f"/{number}") is None
    assert len(entrance.taken) == MOST_KEPT
    entrance = Entrance([node(*(f"/{number}" for number in range(1000)), "/" + "x" * 999)], True)
    for number in range(MOST_REFUSED + 10):
        told = entrance.objection("/" + "x" * (5 * number + 1)) or ""
        assert "and 981 more" in told
        assert len(told) < 1000
    assert len(entrance._refused) == MOST_REFUSED
