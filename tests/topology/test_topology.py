"""The plan of a Flow: what may be said about Executors, and how they hang together."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.errors import InvalidExecutor, InvalidFlow, NotSupported
from zflow.executors.executor import Executor
from zflow.topology.options import FIELDS, GATEWAY, check_defaults
from zflow.topology.topology import ExecutorSpec, Topology


class Mine(Executor):
    pass


def names(specs):
    return [spec.name for spec in specs]


def test_everything_has_a_default():
    spec = Topology().add({})
    assert spec == ExecutorSpec(name="executor0", needs=(GATEWAY,))


def test_the_table_of_fields_agrees_with_the_spec():
    own = {"folder", "pure_join", "autoscale"}
    fields = {field.name: field for field in dataclasses.fields(ExecutorSpec) if field.name not in own}
    assert set(fields) == set(FIELDS)
    made = ExecutorSpec(name="x", needs=(GATEWAY,))
    for name in set(fields) - {"name", "needs"}:
        assert getattr(made, name) == FIELDS[name].default, name


def test_names_go_by_position_and_step_aside_for_names_that_are_taken():
    topology = Topology()
    topology.add({}, name="executor1")
    assert topology.add({}).name == "executor2"
    assert topology.add({}, name="mine-2_b").name == "mine-2_b"
    assert topology.add({}).name == "executor3"


def test_needs_default_to_the_one_added_before():
    topology = Topology()
    assert topology.add({}, name="a").needs == (GATEWAY,)
    assert topology.add({}, name="b").needs == ("a",)
    assert topology.add({}, name="c", needs="gateway").needs == (GATEWAY,)
    assert topology.add({}, name="d").needs == ("c",)
    assert topology.add({}, name="e", needs=["b", "d"]).needs == ("b", "d")


def test_values_come_out_in_their_final_type():
    spec = Topology().add(
        {},
        "/some/folder",
        uses=Mine,
        replicas=np.int64(2),
        polling={"*": "all"},
        uses_with={"a": 1},
        uses_requests={"/x": "foo"},
        py_modules=["a.py", Path("b.py")],
        env={"A": "x", "B": 3, "C": 0.5},
        workspace=Path("work"),
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
        uses_requests={"/x": "foo"},
        py_modules=("a.py", "b.py"),
        env={"A": "x", "B": "3", "C": "0.5"},
        workspace="work",
        timeout_send=10,
        timeout_ready=-1,
        retries=0,
        no_reduce=True,
        folder="/some/folder",
    )
    assert type(spec.replicas) is int


def test_what_the_user_changes_later_does_not_reach_the_plan():
    uses_with = {"a": 1}
    spec = Topology().add({}, uses_with=uses_with)
    uses_with["a"] = 2
    assert spec.uses_with == {"a": 1}


def test_defaults_hold_where_nothing_else_is_said():
    defaults = check_defaults({"replicas": 3, "env": {"A": 1}, "retries": None})
    assert defaults == {"replicas": 3, "env": {"A": "1"}}
    topology = Topology()
    assert topology.add(defaults).replicas == 3
    assert topology.add(defaults, replicas=None).replicas == 3
    spec = topology.add(defaults, replicas=1, env={"B": 2})
    assert (spec.replicas, spec.env) == (1, {"A": "1", "B": "2"})
    assert topology.add(defaults, env={"A": 2}).env == {"A": "2"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"replicas": 0}, "replicas must be a whole number of 1 or more, not 0 (executor 'encoder')"),
        ({"replicas": -2}, "replicas must be a whole number of 1 or more, not -2 (executor 'encoder')"),
        ({"replicas": 2.0}, "replicas must be a whole number of 1 or more, not 2.0 (executor 'encoder')"),
        ({"replicas": True}, "replicas must be a whole number of 1 or more, not True (executor 'encoder')"),
        (
            {"replicas": "3"},
            "replicas must be a whole number of 1 or more, not '3' (a text: leave the quotes out) (executor 'encoder')",
        ),
        ({"replicas": np.array([1, 2])}, "replicas must be a whole number of 1 or more, not array([1, 2])"),
        ({"shards": 0}, "shards must be a whole number of 1 or more, not 0"),
        ({"replica": 3}, "unknown keyword 'replica'; did you mean 'replicas'? (executor 'encoder')"),
        ({"folder": "x"}, "unknown keyword 'folder'; known are 'name', 'uses', "),
        ({"polling": "SOME"}, "polling must be ANY or ALL, not 'SOME' (executor 'encoder')"),
        ({"needs": []}, "needs must name at least one Executor, or 'gateway' (executor 'encoder')"),
        ({"needs": ["a", "b", "a"]}, "needs names 'a' more than once: name it once (executor 'encoder')"),
        ({"needs": 5}, "needs must be the name of an Executor, 'gateway', or a list of names, not 5"),
        ({"needs": ["a", 5]}, "needs must be the name of an Executor, 'gateway', or a list of names, not ['a', 5]"),
        ({"uses_with": ["a"]}, "uses_with must be a dict, not ['a'] (executor 'encoder')"),
        ({"uses_with": {1: 2}}, "the keys of uses_with must be texts, not 1 (executor 'encoder')"),
        ({"uses_metas": "x"}, "uses_metas must be a dict, not 'x'"),
        ({"uses_requests": {"x": "foo"}}, "uses_requests goes by endpoints, which start with '/', not by 'x'"),
        ({"uses_requests": {"/x": 1}}, "uses_requests['/x'] must be the name of a method, not 1"),
        ({"py_modules": [1]}, "py_modules must be a path, not 1"),
        ({"workspace": ""}, "workspace must be a path, not ''"),
        ({"env": ["A=1"]}, "env must be a dict, not ['A=1']"),
        ({"env": {"A": True}}, "env['A'] must be a text or a number, not True: put it in quotes"),
        ({"env": {"A": None}}, "env['A'] must be a text or a number, not None: put it in quotes"),
        ({"env": {"A=B": "1"}}, "env['A=B']: the name of an environment variable is a text without '='"),
        ({"env": {"CUDA_VISIBLE_DEVICES": "RR0-2"}}, "env['CUDA_VISIBLE_DEVICES']='RR0-2' has '0-2', which is no"),
        ({"timeout_send": 0}, "timeout_send must be a whole number of milliseconds of 1 or more, or -1 for no limit"),
        (
            {"timeout_ready": 1.5},
            "timeout_ready must be a whole number of milliseconds of 1 or more, or -1 for no limit",
        ),
        (
            {"timeout_ready": -2},
            "timeout_ready must be a whole number of milliseconds of 1 or more, or -1 for no limit",
        ),
        ({"retries": -2}, "retries must be a whole number of 0 or more, or -1 for max(3, replicas), not -2"),
        ({"no_reduce": 1}, "no_reduce must be True or False, not 1 (executor 'encoder')"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(kwargs, message):
    topology = Topology()
    with pytest.raises(InvalidFlow) as caught:
        topology.add({}, name="encoder", **kwargs)
    assert str(caught.value).startswith(message)
    assert topology.specs == []


@pytest.mark.parametrize("name", ["", " ", "my exec", "1st", "-x", "a/b", "a.b", "ünï", "a\n", 5, ["a"]])
def test_a_wrong_name_is_an_error(name):
    with pytest.raises(InvalidFlow, match=r"^name must start with a letter or '_'"):
        Topology().add({}, name=name)


def test_gateway_and_names_that_are_taken_are_errors():
    topology = Topology()
    with pytest.raises(InvalidFlow, match="name 'gateway' is taken: it stands for the entrance"):
        topology.add({}, name="gateway")
    topology.add({}, name="a")
    with pytest.raises(InvalidFlow, match="name 'a' is taken by another Executor"):
        topology.add({}, name="a")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gpus": "all"}, "gpus is not supported by this version of zflow: set env={'CUDA_VISIBLE_DEVICES': 'RR'}"),
        ({"uses": "docker://image"}, "uses='docker://image': containers are not supported"),
    ],
)
def test_what_is_not_carried_out_is_refused(kwargs, message):
    with pytest.raises(NotSupported) as caught:
        Topology().add({}, name="x", **kwargs)
    assert str(caught.value).startswith(message)


def test_an_external_executor_is_its_addresses():
    topology = Topology()
    spec = topology.add({}, name="far", external=True, host=["a", "::1"], port=[1234, "1235"])
    assert (spec.addresses, spec.local) == (("a:1234", "[::1]:1235"), False)
    assert topology.add({}, external=True, host="localhost:12345").addresses == ("localhost:12345",)
    assert topology.add({}, external=True, host="far", port=[1, 2]).addresses == ("far:1", "far:2")
    assert topology.add({}, external=True, port=1234, needs="far").addresses == ("127.0.0.1:1234",)
    assert topology.add({}, name="near").local


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"external": True}, "external=True needs to know where: host='localhost:12345', or host= and port="),
        ({"host": "far"}, "host says where an external Executor runs: add external=True"),
        ({"port": 1234}, "port says where an external Executor runs: add external=True"),
        ({"curve": "keys"}, "curve says where an external Executor runs: add external=True"),
        ({"external": True, "port": 1234, "uses": Mine}, "uses is the business of the Flow where an external Executor"),
    ],
)
def test_what_does_not_fit_an_external_executor_is_refused(kwargs, message):
    topology = Topology()
    with pytest.raises(InvalidFlow) as caught:
        topology.add({}, name="x", **kwargs)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("(executor 'x')")


@pytest.mark.parametrize("value", ["0,1", "RR", "RR0:2", "rr-2"])
def test_devices_may_be_named_or_dealt_out(value):
    assert Topology().add({}, env={"CUDA_VISIBLE_DEVICES": value}).env == {"CUDA_VISIBLE_DEVICES": value}


def test_uses_is_checked_when_it_is_said():
    with pytest.raises(InvalidExecutor, match=r"uses must be a class.* not 5 of type int \(executor 'x'\)"):
        Topology().add({}, name="x", uses=5)


def test_defaults_are_checked_too():
    with pytest.raises(InvalidFlow, match=r"replicas must be .* not 0 \(Flow\)"):
        check_defaults({"replicas": 0})
    with pytest.raises(InvalidFlow, match=r"unknown keyword 'prt'; did you mean 'port'\? \(Flow\)"):
        check_defaults({"prt": 1}, also=["port"])
    with pytest.raises(InvalidFlow, match="needs belongs to one Executor"):
        check_defaults({"needs": "gateway"})


def test_a_join_has_no_process_unless_more_is_said_about_it():
    topology = Topology()
    topology.add({"replicas": 2}, name="a")
    topology.add({}, name="b", needs="gateway")
    join = topology.needs({"replicas": 2}, name="both", needs=["a", "b"], uses=None)
    assert join == ExecutorSpec(name="both", needs=("a", "b"), pure_join=True)
    busy = topology.needs({"replicas": 2}, needs=["a", "b"], uses=Mine)
    assert (busy.pure_join, busy.uses, busy.replicas) == (False, Mine, 2)
    assert topology.needs({}, needs=["a", "b"], no_reduce=True).pure_join is False


def test_needs_all_waits_for_every_loose_end():
    topology = Topology()
    topology.add({}, name="a")
    topology.add({}, name="b", needs="gateway")
    topology.add({}, name="c", needs="a")
    assert topology.leaves() == ["b", "c"]
    assert topology.needs_all({}, name="end") == ExecutorSpec(name="end", needs=("b", "c"), pure_join=True)
    assert topology.leaves() == ["end"]


def test_needs_and_needs_all_refuse_what_makes_no_sense():
    topology = Topology()
    with pytest.raises(InvalidFlow, match=r"needs_all\(\) has nothing to wait for: add\(\) an Executor first"):
        topology.needs_all({})
    topology.add({})
    with pytest.raises(InvalidFlow, match=r"leave needs= out, or call needs\(\) instead"):
        topology.needs_all({}, needs=["executor0"])
    with pytest.raises(InvalidFlow, match="needs must name at least one Executor"):
        topology.needs({}, needs=[])
    with pytest.raises(InvalidFlow, match="unknown keyword 'nmae'; did you mean 'name'"):
        topology.needs_all({}, nmae="x")


def test_order_allows_needs_that_are_added_later():
    topology = Topology()
    topology.add({}, name="last", needs=["middle", "first"])
    topology.add({}, name="middle", needs="first")
    topology.add({}, name="first", needs="gateway")
    assert names(topology.order()) == ["first", "middle", "last"]
    assert topology.leaves() == ["last"]


def test_order_names_what_does_not_exist():
    topology = Topology()
    topology.add({}, name="encoder")
    topology.add({}, name="indexer", needs="encder")
    with pytest.raises(InvalidFlow) as caught:
        topology.order()
    assert str(caught.value) == (
        "needs names 'encder', but there is no Executor of that name; did you mean 'encoder'? (executor 'indexer')"
    )


def test_order_names_a_cycle_in_order():
    topology = Topology()
    topology.add({}, name="free")
    topology.add({}, name="before", needs="c")
    topology.add({}, name="a", needs="c")
    topology.add({}, name="b", needs="a")
    topology.add({}, name="c", needs=["free", "b"])
    with pytest.raises(InvalidFlow) as caught:
        topology.order()
    assert str(caught.value) == (
        "needs form a cycle: 'c' needs 'b', 'b' needs 'a', 'a' needs 'c'; "
        "let one of them need 'gateway' or something outside the cycle"
    )
    alone = Topology()
    alone.add({}, name="a", needs="a")
    with pytest.raises(InvalidFlow, match="needs form a cycle: 'a' needs 'a'"):
        alone.order()


@given(st.lists(st.sets(st.integers(0, 9), max_size=4), max_size=10), st.randoms(use_true_random=False))
def test_order_puts_each_after_what_it_needs(edges, shuffler: random.Random):
    graph = {f"n{i}": [f"n{j}" for j in sorted(js) if j < i] or ["gateway"] for i, js in enumerate(edges)}
    topology = Topology()
    added = list(graph)
    shuffler.shuffle(added)
    for name in added:
        topology.add({}, name=name, needs=graph[name])
    ordered = names(topology.order())
    assert sorted(ordered) == sorted(graph)
    for position, name in enumerate(ordered):
        assert set(graph[name]) <= {"gateway", *ordered[:position]}
    assert set(topology.leaves()) == set(graph) - {need for needs in graph.values() for need in needs}
