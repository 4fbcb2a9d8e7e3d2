"""The tables of all options: they agree with signatures, docstrings and pages;
what becomes of what is given.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

from zflow import Flow
from zflow.errors import InvalidExecutor, InvalidFlow, NotSupported
from zflow.executors.executor import Executor
from zflow.topology.kinds import GATEWAY
from zflow.topology.options import (
    DEFAULTS,
    FIELDS,
    FLOW_FIELDS,
    SHARED,
    UNSUPPORTED,
    Field,
    check_defaults,
    check_known,
)
from zflow.topology.scaling import ReplicaRange
from zflow.topology.topology import ExecutorSpec, Topology

OWNER = "executor 'x'"


class Mine(Executor):
    pass


# -- the table -------------------------------------------------------------------------------------


def test_the_table_of_fields_agrees_with_the_spec():
    own = {"folder", "pure_join", "autoscale"}
    fields = {
        field.name: field for field in dataclasses.fields(ExecutorSpec) if field.name not in own
    }
    assert set(fields) == set(FIELDS)
    made = ExecutorSpec(name="x", needs=(GATEWAY,))
    for name in set(fields) - {"name", "needs"}:
        assert getattr(made, name) == FIELDS[name].default, name


@pytest.mark.parametrize("table", [FIELDS, FLOW_FIELDS])
def test_each_default_is_a_value_that_could_be_given_or_says_that_nothing_was(
    table: Mapping[str, Field],
) -> None:
    for key, field in table.items():
        if field.default not in (None, ()):
            assert field.check(key, field.default, OWNER) == field.default, key


@pytest.mark.parametrize("table", [FIELDS, FLOW_FIELDS])
def test_each_is_described_in_a_line(table: Mapping[str, Field]) -> None:
    for key, field in table.items():
        assert field.kind.words, key
        assert field.about, key
        assert "\n" not in field.kind.words + field.about + field.left_out, key
    assert not set(FIELDS) & set(UNSUPPORTED)


def test_what_a_flow_takes_is_its_own_or_its_executors() -> None:
    assert not set(FLOW_FIELDS) & SHARED
    assert {key: field.default for key, field in FLOW_FIELDS.items()} == DEFAULTS


def test_what_belongs_to_one_executor_is_no_default_for_all() -> None:
    assert {key for key in FIELDS if key not in SHARED} == {
        *(
            "name",
            "needs",
            "endpoints",
            "uses_dynamic_batching",
            "external",
            "host",
            "port",
            "curve",
        ),
    }


# -- who else names them ---------------------------------------------------------------------------

#: By what the words of a kind say, what has to stand in the annotation of a keyword that takes it.
TYPES = {
    "whole number": "int",
    "ms of": "int",
    "bytes of": "int",
    "port": "int",
    "True or False": "bool",
    "text": "str",
    "`": "str",
    "path": "os.PathLike[str]",
    "dict": "Mapping[str, ",
    "list": "list[",
}


@pytest.mark.parametrize(("method", "table"), [(Flow.__init__, FLOW_FIELDS), (Flow.add, FIELDS)])
def test_the_signature_names_all_with_their_types(
    method: Callable[..., Any], table: Mapping[str, Field]
) -> None:
    said = {
        key: one
        for key, one in inspect.signature(method).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    assert list(said) == list(table)
    for key, parameter in said.items():
        # Else what was given could not be told from what was not.
        assert parameter.default is None, key
        annotation = parameter.annotation.replace("Sequence[", "list[")
        types = {kind for word, kind in TYPES.items() if word in table[key].kind.words}
        types |= {"str"} if "os.PathLike[str]" in types else set()
        assert all(kind in annotation for kind in types), (key, types, annotation)
        assert ("int" in annotation.split(" | ")) == ("int" in types), key
        assert ("bool" in annotation) == ("bool" in types), key


@pytest.mark.parametrize(("described", "table"), [(Flow, FLOW_FIELDS), (Flow.add, FIELDS)])
def test_the_docstring_describes_all_in_the_same_order(
    described: Any, table: Mapping[str, Field]
) -> None:
    arguments = inspect.getdoc(described).split("Args:\n")[1].split("Raises:")[0]
    names = re.findall(r"^    (\w+): \S", arguments, re.MULTILINE)
    assert [name for name in names if name != "defaults"] == list(table)


@pytest.mark.parametrize(
    ("heading", "table"), [("Of `Flow(...)`", FLOW_FIELDS), ("Of `add(...)`", FIELDS)]
)
def test_the_page_has_a_row_for_each_that_begins_with_what_it_does(
    heading: str, table: Mapping[str, Field]
) -> None:
    page = (ROOT / "docs" / "flow.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*) \|$", page.split(heading)[1].split("\n\n")[1], re.MULTILINE
    )
    assert [key for key, _, _ in rows] == list(table)
    for key, default, about in rows:
        assert default.strip("`") == (table[key].left_out.strip("`") or "none"), key
        assert about.startswith(table[key].about), key


# -- through a plan --------------------------------------------------------------------------------


def test_values_come_out_in_their_final_type():
    spec = Topology().add(
        {},
        "/some/folder",
        uses=Mine,
        replicas=np.int64(2),
        polling={"*": "all"},
        uses_with={"a": 1},
        endpoints=["/a", "/b"],
        uses_requests={"/x": "foo"},
        py_modules=["a.py", Path("b.py")],
        env={"A": "x", "B": 3, "C": 0.5},
        workspace=Path("work"),
        seed=7,
        timeout_send=10,
        timeout_ready=-1,
        retries=0,
        no_reduce=True,
    )
    assert spec == ExecutorSpec(
        name="executor0",
        needs=(GATEWAY,),
        uses=Mine,
        replicas=2,
        polling={"*": "ALL"},
        uses_with={"a": 1},
        endpoints=("/a", "/b"),
        uses_requests={"/x": "foo"},
        py_modules=("a.py", "b.py"),
        env={"A": "x", "B": "3", "C": "0.5"},
        workspace="work",
        seed=7,
        timeout_send=10,
        timeout_ready=-1,
        retries=0,
        no_reduce=True,
        folder="/some/folder",
    )
    assert type(spec.replicas) is int


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"replicas": 0},
            "replicas must be a whole number of 1 or more, not 0 (executor 'encoder')",
        ),
        (
            {"replicas": -2},
            "replicas must be a whole number of 1 or more, not -2 (executor 'encoder')",
        ),
        (
            {"replicas": 2.0},
            "replicas must be a whole number of 1 or more, not 2.0 (executor 'encoder')",
        ),
        (
            {"replicas": True},
            "replicas must be a whole number of 1 or more, not True (executor 'encoder')",
        ),
        (
            {"replicas": "3"},
            "replicas must be a whole number of 1 or more, not '3' (a text: leave the quotes out) "
            "(executor 'encoder')",
        ),
        (
            {"replicas": np.array([1, 2])},
            "replicas must be a whole number of 1 or more, not array([1, 2])",
        ),
        ({"shards": 0}, "shards must be a whole number of 1 or more, not 0"),
        (
            {"replica": 3},
            "unknown keyword 'replica'; did you mean 'replicas'? (executor 'encoder')",
        ),
        ({"folder": "x"}, "unknown keyword 'folder'; known are 'name', 'uses', "),
        ({"polling": "SOME"}, "polling must be ANY or ALL, not 'SOME' (executor 'encoder')"),
        ({"needs": []}, "needs must name at least one Executor, or 'gateway' (executor 'encoder')"),
        (
            {"needs": ["a", "b", "a"]},
            "needs names 'a' more than once: name it once (executor 'encoder')",
        ),
        (
            {"needs": 5},
            "needs must be the name of an Executor, 'gateway', or a list of names, not 5",
        ),
        (
            {"needs": ["a", 5]},
            "needs must be the name of an Executor, 'gateway', or a list of names, not ['a', 5]",
        ),
        ({"uses_with": ["a"]}, "uses_with must be a dict, not ['a'] (executor 'encoder')"),
        ({"uses_with": {1: 2}}, "the keys of uses_with must be texts, not 1 (executor 'encoder')"),
        (
            {"endpoints": []},
            "endpoints must be a list of 1 to 1000 endpoints, as in ['/index', '/search'], not []",
        ),
        ({"endpoints": "/a"}, "endpoints must be a list of 1 to 1000 endpoints"),
        ({"endpoints": [""]}, "endpoints must be texts that start with '/', not ''"),
        ({"endpoints": ["/" * 1025]}, "an endpoint has at most 1024 characters, not 1025"),
        ({"endpoints": ["/\udc80"]}, "an endpoint is a text that can be sent as UTF-8"),
        ({"uses_metas": "x"}, "uses_metas must be a dict, not 'x'"),
        (
            {"uses_requests": {"": "foo"}},
            "uses_requests goes by endpoints, which start with '/', not by ''",
        ),
        ({"uses_requests": {"/x": 1}}, "uses_requests['/x'] must be the name of a method, not 1"),
        ({"py_modules": [1]}, "py_modules must be a path, not 1"),
        ({"workspace": ""}, "workspace must be a path, not ''"),
        ({"seed": -1}, "seed must be a whole number from 0 to 2**64 - 1, not -1"),
        ({"seed": 2**64}, "seed must be a whole number from 0 to 2**64 - 1"),
        ({"env": ["A=1"]}, "env must be a dict, not ['A=1']"),
        ({"env": {"A": True}}, "env['A'] must be a text or a number, not True: put it in quotes"),
        ({"env": {"A": None}}, "env['A'] must be a text or a number, not None: put it in quotes"),
        (
            {"env": {"A=B": "1"}},
            "env['A=B']: the name of an environment variable is a text without '='",
        ),
        (
            {"env": {"CUDA_VISIBLE_DEVICES": "RR0-2"}},
            "env['CUDA_VISIBLE_DEVICES']='RR0-2' has '0-2', which is no",
        ),
        (
            {"timeout_send": 0},
            "timeout_send must be a whole number of milliseconds of 1 or more, or -1 for no limit",
        ),
        (
            {"timeout_ready": 1.5},
            "timeout_ready must be a whole number of milliseconds of 1 or more, or -1 for no limit",
        ),
        (
            {"timeout_ready": -2},
            "timeout_ready must be a whole number of milliseconds of 1 or more, or -1 for no limit",
        ),
        (
            {"retries": -2},
            "retries must be a whole number of 0 or more, or -1 for max(3, replicas), not -2",
        ),
        ({"no_reduce": 1}, "no_reduce must be True or False, not 1 (executor 'encoder')"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(kwargs, message):
    topology = Topology()
    with pytest.raises(InvalidFlow) as caught:
        topology.add({}, name="encoder", **kwargs)
    assert str(caught.value).startswith(message)
    assert topology.specs == []


def test_a_name_has_at_most_a_hundred_characters():
    assert Topology().add({}, name="x" * 100).name == "x" * 100
    for length in (101, 300):
        with pytest.raises(
            InvalidFlow, match=f"^name has at most 100 characters, not {length}: 'xxx"
        ):
            Topology().add({}, name="x" * length)


@pytest.mark.parametrize(
    "name", ["", " ", "my exec", "1st", "-x", "a/b", "a.b", "ünï", "a\n", 5, ["a"]]
)
def test_a_wrong_name_is_an_error(name):
    with pytest.raises(InvalidFlow, match=r"^name must start with a letter or '_'"):
        Topology().add({}, name=name)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"gpus": "all"},
            "gpus is not supported by this version of zflow: set env={'CUDA_VISIBLE_DEVICES': "
            "'RR'}",
        ),
        ({"uses": "docker://image"}, "uses='docker://image': containers are not supported"),
    ],
)
def test_what_is_not_carried_out_is_refused(kwargs, message):
    with pytest.raises(NotSupported) as caught:
        Topology().add({}, name="x", **kwargs)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", ["0,1", "RR", "RR0:2", "rr-2"])
def test_devices_may_be_named_or_dealt_out(value):
    assert Topology().add({}, env={"CUDA_VISIBLE_DEVICES": value}).env == {
        "CUDA_VISIBLE_DEVICES": value
    }


def test_uses_is_checked_when_it_is_said():
    with pytest.raises(
        InvalidExecutor, match=r"uses must be a class.* not 5 of type int \(executor 'x'\)"
    ):
        Topology().add({}, name="x", uses=5)


def test_defaults_are_checked_too():
    with pytest.raises(InvalidFlow, match=r"replicas must be .* not 0 \(Flow\)"):
        check_defaults({"replicas": 0})
    with pytest.raises(InvalidFlow, match=r"unknown keyword 'prt'; did you mean 'port'\? \(Flow\)"):
        check_defaults({"prt": 1})
    with pytest.raises(InvalidFlow, match="needs belongs to one Executor"):
        check_defaults({"needs": "gateway"})


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ({"min": 1, "max": 8}, ReplicaRange(1, 8)),
        ({"max": 3}, ReplicaRange(1, 3)),
        ({"min": 2, "max": 2, "wait": 100, "idle": 1}, ReplicaRange(2, 2, 100, 1)),
    ],
)
def test_a_dict_says_from_where_to_where(said, limits):
    spec = Topology().add({}, replicas=said)
    assert (spec.replicas, spec.autoscale) == (limits.min, limits)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"min": 0, "max": 8}, "replicas['min'] must be a whole number of 1 or more, not 0"),
        ({"min": 1, "max": 8.0}, "replicas['max'] must be a whole number of 1 or more, not 8.0"),
        ({"min": True, "max": 8}, "replicas['min'] must be a whole number of 1 or more, not True"),
        (
            {"min": 1, "max": "8"},
            "replicas['max'] must be a whole number of 1 or more, not '8' (a text: leave the q",
        ),
        ({"min": 1, "max": None}, "replicas['max'] must be a whole number of 1 or more, not None"),
        (
            {"min": 1, "max": 8, "wait": 0.5},
            "replicas['wait'] must be a whole number of 1 or more, not 0.5",
        ),
        (
            {"min": 1, "max": 8, "idle": -1},
            "replicas['idle'] must be a whole number of 1 or more, not -1",
        ),
        ({"min": 3, "max": 2}, "replicas['max'] must be 3 or more, as 'min' is, not 2"),
        (
            {"min": 1},
            "replicas must say how many there may be, as in {'min': 1, 'max': 8}, not {'min': 1}",
        ),
        ({}, "replicas must say how many there may be"),
        ({"min": 1, "maxx": 8}, "replicas has an unknown key 'maxx'; did you mean 'max'?"),
        (
            {"from": 1, "to": 8},
            "replicas has an unknown key 'from'; known are 'min', 'max', 'wait', 'idle'",
        ),
        ({1: 8}, "replicas has an unknown key 1; known are"),
        ([1, 8], "replicas must be a whole number of 1 or more, not [1, 8]"),
    ],
)
def test_a_wrong_range_is_named_with_the_way_out(said, message):
    with pytest.raises(InvalidFlow) as caught:
        Flow().add(name="encoder", replicas=said)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("(executor 'encoder')")


# -- which there are -------------------------------------------------------------------------------


def test_known_keywords_pass_and_others_are_named_with_the_nearest() -> None:
    check_known(FIELDS, "Flow")
    with pytest.raises(InvalidFlow) as caught:
        check_known(["replicas", "use"], OWNER)
    assert str(caught.value) == f"unknown keyword 'use'; did you mean 'uses'? ({OWNER})"
    with pytest.raises(InvalidFlow, match=r"did you mean 'prot_public'\? \(Flow\)$"):
        check_known(["prot_publik"], "Flow", also=["prot_public"])
    with pytest.raises(InvalidFlow) as caught:
        check_known(["zzzzzz"], OWNER)
    assert all(repr(key) in str(caught.value) for key in FIELDS)


def test_defaults_of_none_are_left_out_and_given_ones_are_not_changed() -> None:
    given_defaults = {"replicas": None, "env": {"A": 1}, "retries": 0}
    assert check_defaults(given_defaults) == {"env": {"A": "1"}, "retries": 0}
    assert given_defaults == {"replicas": None, "env": {"A": 1}, "retries": 0}
    assert check_defaults({}) == {}


@pytest.mark.parametrize("key", sorted(set(FIELDS) - SHARED))
def test_what_belongs_to_one_executor_is_refused_as_a_default(key: str) -> None:
    with pytest.raises(InvalidFlow) as caught:
        check_defaults({key: None})
    assert (
        str(caught.value)
        == f"{key} belongs to one Executor: give it to add({key}=...), not to Flow(...)"
    )


def test_what_is_not_carried_out_is_refused_as_a_default_too() -> None:
    with pytest.raises(
        NotSupported, match=r"^gpus is not supported by this version of zflow: set env=.* \(Flow\)$"
    ):
        check_defaults({"gpus": "all"})
