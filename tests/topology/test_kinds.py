"""The kinds of values: what each takes, what comes out, and what a wrong value says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.errors import InvalidFlow
from zflow.executors.batching import Batching
from zflow.topology.kinds import GATEWAY, MOST, MOST_REPLICAS
from zflow.topology.options import FIELDS, FLOW_FIELDS
from zflow.topology.scaling import ReplicaRange

OWNER = "executor 'x'"


def checked(key: str, value: Any) -> Any:
    return FIELDS[key].check(key, value, OWNER)


def refusal(key: str, value: Any) -> str:
    with pytest.raises(InvalidFlow) as caught:
        checked(key, value)
    assert str(caught.value).endswith(f" ({OWNER})")
    assert caught.value.key[0] == key
    return str(caught.value).removesuffix(f" ({OWNER})")


WHOLE = {
    "replicas": (1, "a whole number of 1 or more"),
    "shards": (1, "a whole number of 1 or more"),
    "retries": (-1, "a whole number of 0 or more, or -1 for max(3, replicas)"),
    "max_queue": (1, "a whole number of 1 or more, or -1 for no limit"),
    "max_queue_bytes": (1, "a whole number of 1 or more, or -1 for no limit"),
    "timeout_send": (1, "a whole number of milliseconds of 1 or more, or -1 for no limit"),
    "timeout_run": (1, "a whole number of milliseconds of 1 or more, or -1 for no limit"),
    "timeout_ready": (1, "a whole number of milliseconds of 1 or more, or -1 for no limit"),
}


@pytest.mark.parametrize("key", WHOLE)
@settings(max_examples=25)
@given(st.integers(-(2**70), 2**70) | st.integers(-3, 3))
def test_whole_numbers_have_a_least_and_may_be_unlimited(key: str, number: int) -> None:
    least, words = WHOLE[key]
    most = MOST_REPLICAS if key in ("replicas", "shards") else MOST
    if number > most:
        assert refusal(key, number) == f"{key} must be {most} or less, not {number}"
    elif number >= least or (number == -1 and "-1" in words):
        assert checked(key, number) == number
    else:
        assert refusal(key, number) == f"{key} must be {words}, not {number}"


@pytest.mark.parametrize("key", WHOLE)
def test_whole_numbers_are_those_of_numpy_too_and_nothing_else(key: str) -> None:
    for kind in (np.int8, np.uint64):
        assert (checked(key, kind(3)), type(checked(key, kind(3)))) == (3, int)
    for wrong in (True, 1.0, None, [1], np.bool_(True), np.array([1]), np.float32(1), b"1"):
        assert refusal(key, wrong).startswith(f"{key} must be ")
    assert refusal(key, "3").endswith("not '3' (a text: leave the quotes out)")
    assert refusal(key, "three").endswith("not 'three'")


@pytest.mark.parametrize("key", ["install_requirements", "idempotent", "no_reduce", "external"])
def test_flags_are_true_or_false_and_nothing_that_counts_as_one(key: str) -> None:
    assert (checked(key, True), checked(key, False)) == (True, False)
    for wrong in (1, 0, "true", None, np.bool_(True)):
        assert refusal(key, wrong).startswith(f"{key} must be True or False, not ")


@pytest.mark.parametrize(
    "key", ["uses_with", "uses_metas", "uses_requests", "env", "uses_dynamic_batching"]
)
def test_a_dict_is_copied(key: str) -> None:
    value: dict[str, Any] = {}
    assert checked(key, value) == {}
    assert checked(key, value) is not value
    assert refusal(key, [("a", 1)]).startswith(f"{key} must be a dict")


def test_batches_go_by_endpoint() -> None:
    said = {
        "/encode": {"preferred_batch_size": 32, "timeout": 100},
        "/x": {"preferred_batch_size": 1},
    }
    assert checked("uses_dynamic_batching", said) == {
        "/encode": Batching(32, 0.1),
        "/x": Batching(1),
    }
    assert refusal("uses_dynamic_batching", {"/x": {"preferred_batch_size": 0}}) == (
        "uses_dynamic_batching['/x']['preferred_batch_size'] must be a whole number from 1 to "
        "1000000, not 0"
    )


def test_one_need_or_several() -> None:
    assert checked("needs", "a") == ("a",)
    assert checked("needs", ["b", "a"]) == checked("needs", ("b", "a")) == ("b", "a")
    assert (
        refusal("needs", {"a"})
        == "needs must be the name of an Executor, 'gateway', or a list of names, not {'a'}"
    )


def test_names_of_methods_may_be_any_identifier() -> None:
    assert checked("uses_requests", {"/": "_foo", "/a/b": "größer"}) == {
        "/": "_foo",
        "/a/b": "größer",
    }
    for wrong in ("a b", "", "a.b", None):
        assert refusal("uses_requests", {"/x": wrong}) == (
            f"uses_requests['/x'] must be the name of a method, not {wrong!r}"
        )


def test_endpoints_may_be_written_without_a_slash() -> None:
    assert checked("uses_requests", {"x": "foo", "*": "bar"}) == {"/x": "foo", "/default": "bar"}
    assert checked("endpoints", ["x", "/y", "*"]) == ("/x", "/y", "/default")
    size = {"preferred_batch_size": 2}
    assert list(checked("uses_dynamic_batching", {"x": size, "*": size})) == ["/x", "/default"]


def test_what_a_shard_failure_comes_to() -> None:
    assert [checked("on_shard_failure", word) for word in ("fail", "partial")] == [
        "fail",
        "partial",
    ]
    for wrong in ("FAIL", "", None, 1, ["fail"]):
        assert (
            refusal("on_shard_failure", wrong)
            == f"on_shard_failure must be 'fail' or 'partial', not {wrong!r}"
        )


def test_environment_variables_are_texts() -> None:
    assert checked("env", {"A": "", "B": 1e3, "C": -1, "ä": "ö"}) == {
        "A": "",
        "B": "1000.0",
        "C": "-1",
        "ä": "ö",
    }
    for name in ("", "A=B", "A\0"):
        assert refusal("env", {name: "x"}) == (
            f"env[{name!r}]: the name of an environment variable is a text without '='"
        )
    assert refusal("env", {"A": "x\0"}).startswith(
        "env['A'] must be a text or a number, not 'x\\x00'"
    )
    assert refusal("env", {1: "x"}) == "the keys of env must be texts, not 1"


def test_paths_may_be_objects_and_stay_as_they_are_written() -> None:
    assert checked("workspace", Path("a") / "b") == "a/b"
    assert checked("workspace", "~/a/../b") == "~/a/../b"
    assert checked("py_modules", "a.py") == checked("py_modules", Path("a.py")) == ("a.py",)
    assert checked("py_modules", []) == ()
    for wrong in ("", "a\0", 1, None, b"a"):
        assert refusal("workspace", wrong) == f"workspace must be a path, not {wrong!r}"
        assert refusal("py_modules", ["a.py", wrong]) == f"py_modules must be a path, not {wrong!r}"


@settings(max_examples=25)
@given(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]*", fullmatch=True).filter(
        lambda name: name != GATEWAY and len(name) <= 100
    )
)
def test_a_name_is_letters_digits_and_dashes(name: str) -> None:
    assert checked("name", name) == name
    for wrong in (f"{name} ", f"{name}.a", f"-{name}", f"1{name}", f"{name}\n", f"{name}ä"):
        with pytest.raises(
            InvalidFlow,
            match=r"^name must start with a letter or '_' and hold only letters, digits",
        ):
            checked("name", wrong)


def test_a_range_that_was_checked_before_stays_what_it_is() -> None:
    limits = checked("replicas", {"max": 4, "wait": np.int64(100)})
    assert limits == ReplicaRange(1, 4, wait=100)
    assert type(limits.wait) is int
    assert checked("replicas", limits) is limits


OF_THE_FLOW = {
    "port": (1, 65535, "a whole number from 1 to 65535"),
    "replica_port": (0, 65535, "a port, or 0 for any free one"),
    "max_connections": (1, MOST, "a whole number of 1 or more"),
    "max_requests_per_client": (1, 10**9, "a whole number of 1 or more"),
    "timeout_close": (0, MOST, "a whole number of 0 or more"),
    "max_message_bytes": (1024, MOST, "a whole number of 1024 or more"),
    "shared_memory": (
        -1,
        MOST,
        "a number of bytes, 0 for none, or -1 for an eighth of the machine's memory",
    ),
}


@pytest.mark.parametrize("key", OF_THE_FLOW)
def test_numbers_of_the_flow_have_both_ends(key: str) -> None:
    least, most, words = OF_THE_FLOW[key]
    check = FLOW_FIELDS[key].check
    assert [check(key, number, "Flow") for number in (least, most, np.int64(least))] == [
        least,
        most,
        least,
    ]
    for wrong in (least - 1, most + 1, True, 5.0, "5", np.array([1])):
        with pytest.raises(InvalidFlow) as caught:
            check(key, wrong, "Flow")
        assert caught.value.key == (key,)
        past = isinstance(wrong, int) and wrong > most > 65535
        assert caught.value.message.startswith(
            f"{key} must be {f'{most} or less' if past else words}, not "
        )


def test_words_of_the_flow() -> None:
    for key, right, wrong in [
        ("start_method", ["fork", "spawn"], ["forkserver", "", 1, True]),
        ("host", ["127.0.0.1", "::", "example.org"], ["", "a\n", 5, b"x"]),
        ("allow_control", [True, False], [1, "yes"]),
        ("curve", ["keys", "~/keys"], ["", "a\0", 5]),
    ]:
        assert [FLOW_FIELDS[key].check(key, value, "Flow") for value in right] == right
        for value in wrong:
            with pytest.raises(InvalidFlow, match=rf"^{key} must be .* \(Flow\)$"):
                FLOW_FIELDS[key].check(key, value, "Flow")
    assert FLOW_FIELDS["curve"].check("curve", Path("keys"), "Flow") == "keys"
