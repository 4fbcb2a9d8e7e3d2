"""The plan of a Flow: what may be said about Executors, and how they hang together."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.errors import InvalidFlow
from zflow.executors.executor import Executor
from zflow.topology.kinds import GATEWAY
from zflow.topology.options import check_defaults
from zflow.topology.topology import ExecutorSpec, Topology


class Mine(Executor):
    pass


def names(specs):
    return [spec.name for spec in specs]


def test_everything_has_a_default():
    spec = Topology().add({})
    assert spec == ExecutorSpec(name="executor0", needs=(GATEWAY,))


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


def test_gateway_and_names_that_are_taken_are_errors():
    topology = Topology()
    with pytest.raises(InvalidFlow, match="name 'gateway' is taken: it stands for the entrance"):
        topology.add({}, name="gateway")
    topology.add({}, name="a")
    with pytest.raises(InvalidFlow, match="name 'a' is taken by another Executor"):
        topology.add({}, name="a")


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
    assert topology.needs_all({}, name="end") == ExecutorSpec(
        name="end", needs=("b", "c"), pure_join=True
    )
    assert topology.leaves() == ["end"]


def test_needs_and_needs_all_refuse_what_makes_no_sense():
    topology = Topology()
    with pytest.raises(
        InvalidFlow, match=r"needs_all\(\) has nothing to wait for: add\(\) an Executor first"
    ):
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
        "needs names 'encder', but there is no Executor of that name; did you mean 'encoder'? "
        "(executor 'indexer')"
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


@given(
    st.lists(st.sets(st.integers(0, 9), max_size=4), max_size=10), st.randoms(use_true_random=False)
)
def test_order_puts_each_after_what_it_needs(edges, shuffler: random.Random):
    graph = {
        f"n{i}": [f"n{j}" for j in sorted(js) if j < i] or ["gateway"] for i, js in enumerate(edges)
    }
    topology = Topology()
    added = list(graph)
    shuffler.shuffle(added)
    for name in added:
        topology.add({}, name=name, needs=graph[name])
    ordered = names(topology.order())
    assert sorted(ordered) == sorted(graph)
    for position, name in enumerate(ordered):
        assert set(graph[name]) <= {"gateway", *ordered[:position]}
    assert set(topology.leaves()) == set(graph) - {
        need for needs in graph.values() for need in needs
    }


def test_disable_reduce_is_another_word_for_no_reduce() -> None:
    topology = Topology()
    topology.add({}, name="a", disable_reduce=True)
    topology.add({}, name="b", shards=2, disable_reduce=False)
    topology.add({"no_reduce": True}, name="c", disable_reduce=False)
    assert [spec.no_reduce for spec in topology.specs] == [True, False, False]
    assert topology.needs({}, needs=["a", "b"], disable_reduce=True).pure_join is False
    with pytest.raises(InvalidFlow, match="disable_reduce must be True or False, not 'x'"):
        topology.add({}, disable_reduce="x")
    with pytest.raises(InvalidFlow, match="no_reduce and disable_reduce"):
        topology.add({}, no_reduce=False, disable_reduce=True)
