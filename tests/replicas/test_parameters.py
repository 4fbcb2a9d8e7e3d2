"""Parameters for one Executor: what it is called with, and what goes on to the next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.replicas.parameters import carried, view

NAMES = ("encoder", "indexer", "my__exec", "my")


@pytest.mark.parametrize(
    ("parameters", "encoder", "indexer"),
    [
        ({"encoder__top_k": 5}, {"top_k": 5}, {}),
        ({"top_k": 3, "encoder__top_k": 5}, {"top_k": 5}, {"top_k": 3}),
        ({"encoder__a__b": 1}, {"a__b": 1}, {}),
        ({"encoder__top_k": 5, "indexer__top_k": 7}, {"top_k": 5}, {"top_k": 7}),
        ({"encoder": {"a": 1}}, {"encoder": {"a": 1}, "a": 1}, {"encoder": {"a": 1}}),
        (
            {"a": 0, "encoder__a": 1, "encoder": {"a": 2}},
            {"a": 2, "encoder": {"a": 2}},
            {"a": 0, "encoder": {"a": 2}},
        ),
        ({"my__exec__x": 1, "my__x": 2}, {}, {}),
    ],
)
def test_what_is_for_one_executor_reaches_that_one(
    parameters: dict[str, Any], encoder: dict[str, Any], indexer: dict[str, Any]
) -> None:
    kept = dict(parameters)
    assert view(parameters, "encoder", NAMES) == encoder
    assert view(parameters, "indexer", NAMES) == indexer
    assert parameters == kept


def test_the_longest_name_counts() -> None:
    parameters = {"my__exec__x": 1, "my__x": 2}
    assert view(parameters, "my__exec", NAMES) == {"x": 1}
    assert view(parameters, "my", NAMES) == {"x": 2}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"a": 1},
        {"nobody__a": 1},
        {"encoder": 5},
        {"indexer": {"a": 1}},
        {"encoder__": 1},
        {"__encoder__a": 1},
        {"__results__": {"encoder/rep-0": {}}},
        {1: 2, b"encoder__a": 3, None: 4},
    ],
)
def test_all_else_is_for_everybody(parameters: dict[str, Any]) -> None:
    assert view(parameters, "encoder", NAMES) is parameters


def test_a_long_key_is_looked_at_no_further_than_a_name_may_reach() -> None:
    class Names(tuple[str, ...]):
        asked = 0

        def __contains__(self, name: object) -> bool:
            self.asked += 1
            return super().__contains__(name)

    names = Names(NAMES)
    parameters = {"_" * 10_000: 1, "encoder" + "_" * 10_000: 2}
    assert view(parameters, "indexer", names) == {"_" * 10_000: 1}
    assert names.asked < 50


def test_what_an_executor_changes_goes_on_and_what_is_for_others_too() -> None:
    parameters = {"a": 1, "b": 2, "gone": 3, "encoder__a": 5, "indexer__c": 6}
    before = view(parameters, "encoder", NAMES)
    after = dict(before)
    assert carried(parameters, before, after) == parameters
    del after["gone"]
    after["b"], after["new"] = 7, 8
    assert carried(parameters, before, after) == {
        "a": 1,
        "b": 7,
        "encoder__a": 5,
        "indexer__c": 6,
        "new": 8,
    }
    after["a"] = 9
    assert carried(parameters, before, after)["a"] == 9
    after.clear()
    assert carried(parameters, before, after) == {"a": 1, "encoder__a": 5, "indexer__c": 6}


KEYS = st.sampled_from(["a", "b", "encoder__a", "indexer__b", "encoder", "x__y", "__results__"])


@given(st.dictionaries(KEYS, st.one_of(st.integers(), st.dictionaries(KEYS, st.integers()))))
def test_whoever_changes_nothing_hands_on_what_came(parameters: dict[str, Any]) -> None:
    for name in NAMES:
        seen = view(parameters, name, NAMES)
        assert carried(parameters, seen, dict(seen)) == parameters
