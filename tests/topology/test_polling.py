"""Which shards get a request, by endpoint."""

import pytest

from zflow.errors import InvalidFlow
from zflow.topology.polling import by_endpoint, check


@pytest.mark.parametrize(
    ("polling", "expected"),
    [
        ("ANY", {"/index": "ANY", "/search": "ALL", "/other": "ANY"}),
        ("all", {"/index": "ANY", "/search": "ALL", "/other": "ALL"}),
        ({}, {"/index": "ANY", "/search": "ALL", "/other": "ANY"}),
        ({"*": "All"}, {"/index": "ANY", "/search": "ALL", "/other": "ALL"}),
        ({"/index": "ALL", "/search": "any"}, {"/index": "ALL", "/search": "ANY", "/other": "ANY"}),
        (
            {"/custom": "ALL", "/search": "ANY", "*": "ANY"},
            {"/index": "ANY", "/search": "ANY", "/custom": "ALL", "/other": "ANY", "*": "ANY"},
        ),
    ],
)
def test_an_endpoint_that_is_named_wins_and_index_and_search_keep_their_defaults(polling, expected):
    checked = check(polling, "executor 'x'")
    found = by_endpoint(checked)
    assert {endpoint: found.get(endpoint, found["*"]) for endpoint in expected} == expected


@pytest.mark.parametrize(
    ("polling", "message"),
    [
        ("some", "polling must be ANY or ALL, not 'some' (executor 'x')"),
        (None, "polling must be ANY or ALL, not None (executor 'x')"),
        (["ANY"], "polling must be ANY or ALL, not ['ANY'] (executor 'x')"),
        ({"/x": "SOME"}, "polling must be ANY or ALL, not 'SOME' (executor 'x', endpoint '/x')"),
        ({"/x": 1}, "polling must be ANY or ALL, not 1 (executor 'x', endpoint '/x')"),
        (
            {"": "ANY"},
            "polling goes by endpoints, which start with '/', or by '*', not by '' (executor 'x')",
        ),
        (
            {1: "ANY"},
            "polling goes by endpoints, which start with '/', or by '*', not by 1 (executor 'x')",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_endpoint(polling, message):
    with pytest.raises(InvalidFlow) as caught:
        check(polling, "executor 'x'")
    assert str(caught.value) == message


def test_the_dict_is_copied():
    given = {"/x": "ANY"}
    checked = check(given, "executor 'x'")
    given["/x"] = "ALL"
    assert by_endpoint(checked)["/x"] == "ANY"


def test_a_slash_may_be_left_out():
    assert check({"x": "ALL", "*": "ANY"}, "executor 'x'") == {"/x": "ALL", "*": "ANY"}
