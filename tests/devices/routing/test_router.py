"""A request's walk through graphs of all shapes,
whoever is visited and in whatever order they are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.protocol.parts import Payload
from zflow.devices.routing.router import Reply, Router, Visit, side_by_side
from zflow.devices.routing.walk import DEFAULT, ENTRANCE, Node, Walk

DOCS = [b"docs"]


def walk_through(
    nodes: Sequence[Node],
    endpoint: str = "/",
    targets: set[str] | None = None,
    late: Sequence[str] = (),
) -> tuple[list[str], Any]:
    """Visit whatever the router says, first come first served but those in `late` last.

    Returns who was visited, as `'node(input,input)'`, and the answer. A node's result is its own
    name; the payloads of one input are joined by `+`.
    """
    router = Router(nodes)
    walk = Walk("origin", endpoint, None if targets is None else frozenset(targets))
    steps = list(router.start(walk, DOCS))
    visited, answers = [], []
    while steps:
        step = min(
            steps, key=lambda step: isinstance(step, Visit) and router.nodes[step.node].name in late
        )
        steps.remove(step)
        if isinstance(step, Reply):
            answers.append(written(step.inputs))
            continue
        name = router.nodes[step.node].name
        visited.append(f"{name}({written(step.inputs)})")
        steps.extend(router.done(walk, step.node, [name.encode()]))
    assert len(answers) == 1
    assert walk.visits == len(visited)
    assert not walk.inputs
    return visited, answers[0]


def written(inputs: list[tuple[str, list[Payload]]]) -> str:
    """`'left=left,right=docs+other'`; just the payloads where there is only one input."""
    payloads = {name: "+".join(payload[0].decode() for payload in some) for name, some in inputs}
    return (
        next(iter(payloads.values()))
        if len(payloads) == 1
        else ",".join(f"{k}={v}" for k, v in payloads.items())
    )


class TestShapes:
    def test_nothing_at_all(self) -> None:
        assert walk_through([]) == ([], "docs")

    def test_one(self) -> None:
        assert walk_through([Node("a")]) == (["a(docs)"], "a")

    def test_a_chain(self) -> None:
        nodes = [Node("a"), Node("b", ("a",)), Node("c", ("b",))]
        assert walk_through(nodes) == (["a(docs)", "b(a)", "c(b)"], "c")

    def test_branches_from_the_entrance_and_the_answer_joins_them_in_the_order_of_the_nodes(
        self,
    ) -> None:
        nodes = [Node("a"), Node("b"), Node("c")]
        visited = ["a(docs)", "b(docs)", "c(docs)"]
        assert walk_through(nodes) == (visited, "a=a,b=b,c=c")
        assert walk_through(nodes, late=["a"]) == ([*visited[1:], visited[0]], "a=a,b=b,c=c")

    def test_a_diamond(self) -> None:
        nodes = [
            Node("top"),
            Node("left", ("top",)),
            Node("right", ("top",)),
            Node("end", ("left", "right")),
        ]
        visited = ["top(docs)", "left(top)", "right(top)", "end(left=left,right=right)"]
        assert walk_through(nodes) == (visited, "end")

    def test_inputs_come_in_the_order_of_needs_whoever_is_first(self) -> None:
        nodes = [Node("a"), Node("b"), Node("c"), Node("end", ("c", "a", "b"))]
        for late in ([], ["a"], ["b", "c"], ["c"]):
            visited, answer = walk_through(nodes, late=late)
            assert visited[-1] == "end(c=c,a=a,b=b)"
            assert answer == "end"

    def test_a_node_may_need_the_entrance_as_well(self) -> None:
        nodes = [Node("a"), Node("b", ("a", ENTRANCE))]
        assert walk_through(nodes) == (["a(docs)", "b(a=a,gateway=docs)"], "b")

    def test_branches_of_different_length(self) -> None:
        nodes = [Node("a"), Node("b", ("a",)), Node("c"), Node("end", ("b", "c"))]
        assert walk_through(nodes)[0] == ["a(docs)", "c(docs)", "b(a)", "end(b=b,c=c)"]

    def test_loose_ends_of_different_depth_are_all_in_the_answer(self) -> None:
        nodes = [Node("a"), Node("b", ("a",)), Node("c"), Node("d", ("a",))]
        assert walk_through(nodes)[1] == "b=b,c=c,d=d"

    def test_a_join_without_a_process_only_waits(self) -> None:
        nodes = [Node("a"), Node("b"), Node("join", ("a", "b"), process=False)]
        assert walk_through(nodes) == (["a(docs)", "b(docs)"], "a+b")
        assert walk_through(nodes, late=["a"])[1] == "a+b"

    def test_what_comes_after_such_a_join_gets_all_payloads_side_by_side(self) -> None:
        nodes = [
            Node("a"),
            Node("b"),
            Node("join", ("b", "a"), process=False),
            Node("end", ("join",)),
        ]
        assert walk_through(nodes)[0][-1] == "end(b+a)"


class TestPassedBy:
    nodes = (
        Node("a", endpoints=frozenset({"/a"})),
        Node("b", ("a",), endpoints=frozenset({"/b", "/both"})),
    )

    @pytest.mark.parametrize(
        ("endpoint", "visited", "answer"),
        [
            ("/a", ["a(docs)"], "a"),
            ("/b", ["b(docs)"], "b"),
            ("/c", [], "docs"),
            ("/both", ["b(docs)"], "b"),
        ],
    )
    def test_who_does_not_bind_the_endpoint(
        self, endpoint: str, visited: list[str], answer: str
    ) -> None:
        assert walk_through(self.nodes, endpoint) == (visited, answer)

    def test_who_binds_the_default_endpoint_takes_all(self) -> None:
        nodes = [
            Node("a", endpoints=frozenset({DEFAULT, "/a"})),
            Node("b", ("a",), endpoints=frozenset()),
        ]
        assert walk_through(nodes, "/x") == (["a(docs)"], "a")

    def test_as_long_as_nobody_knows_what_it_binds_it_is_visited(self) -> None:
        node = Node("a")
        router = Router([node])
        assert router.start(Walk("", "/x"), DOCS) == [Visit(0, [(ENTRANCE, [DOCS])])]
        node.endpoints = frozenset({"/y"})
        assert router.start(Walk("", "/x"), DOCS) == [Reply([("a", [DOCS])])]

    def test_who_is_not_among_the_targets(self) -> None:
        nodes = [Node("a"), Node("b", ("a",)), Node("c", ("b",))]
        assert walk_through(nodes, targets={"b"}) == (["b(docs)"], "b")
        assert walk_through(nodes, targets={"a", "c"}) == (["a(docs)", "c(a)"], "c")
        assert walk_through(nodes, targets=set()) == ([], "docs")

    def test_a_target_that_does_not_bind_the_endpoint_is_passed_by_all_the_same(self) -> None:
        assert walk_through(self.nodes, "/a", targets={"b"}) == ([], "docs")

    def test_one_branch_of_two(self) -> None:
        nodes = [Node("a"), Node("b", endpoints=frozenset()), Node("end", ("b", "a"))]
        assert walk_through(nodes)[0] == ["a(docs)", "end(b=docs,a=a)"]

    def test_payloads_that_nobody_touched_are_there_once(self) -> None:
        nodes = [
            Node("a"),
            Node("b"),
            Node("c"),
            Node("join", ("a", "b", "c"), process=False),
            Node("end", ("join",)),
        ]
        assert walk_through(nodes, targets={"end"}) == (["end(docs)"], "end")
        assert walk_through(nodes, targets={"b", "end"})[0] == ["b(docs)", "end(docs+b)"]

    def test_however_many_diamonds_nobody_visits_there_is_one_payload(self) -> None:
        nodes = [Node("n0")]
        for number in range(50):
            before = nodes[-1].name
            nodes += [Node(f"l{number}", (before,)), Node(f"r{number}", (before,))]
            nodes += [Node(f"n{number + 1}", (f"l{number}", f"r{number}"))]
        assert walk_through(nodes, targets={"n50"}) == (["n50(l49=docs,r49=docs)"], "n50")

    def test_payloads_that_are_equal_but_not_the_same_are_kept_apart(self) -> None:
        one, other = [b"x"], [b"x"]
        assert side_by_side([("a", [one]), ("b", [other]), ("c", [one])]) == [one, other]
        assert side_by_side([("a", [one])]) == [one]


class TestApart:
    @pytest.mark.parametrize(
        ("needs", "apart"),
        [
            ({"a": "", "b": "a"}, ""),
            ({"a": "", "b": "a", "c": "a", "d": "bc", "e": "d"}, "bc"),
            ({"a": "", "b": "a", "c": "a"}, "bc"),
            ({"a": "", "b": "a", "c": "a", "d": "bc", "e": "a", "f": "de"}, "bcde"),
            ({"a": "", "b": "", "c": "ab", "d": "a", "e": "cd"}, "abcd"),
        ],
    )
    def test_is_who_is_on_the_way_to_some_of_what_meets(
        self, needs: dict[str, str], apart: str
    ) -> None:
        nodes = [Node(name, tuple(some) or (ENTRANCE,)) for name, some in needs.items()]
        Router(nodes)
        assert "".join(node.name for node in nodes if node.apart) == apart

    def test_what_meets_is_also_what_shards_and_a_flow_elsewhere_reduce(self) -> None:
        walk, elsewhere = Walk(1, "/x"), Walk(2, "/x")
        elsewhere.meets = True
        shards = Node("a", shards=2, polling={"/x": "ALL", "*": "ANY"})
        assert shards.meets(walk)
        assert not shards.meets(Walk(3, "/y"))
        assert Node("a").meets(elsewhere)
        assert not Node("a").meets(walk)


class TestNoReduce:
    def test_with_several_predecessors_it_is_visited_whatever_it_binds(self) -> None:
        nodes = [
            Node("a"),
            Node("b"),
            Node("end", ("a", "b"), no_reduce=True, endpoints=frozenset({"/x"})),
        ]
        assert walk_through(nodes, "/y")[0][-1] == "end(a=a,b=b)"

    def test_with_one_it_makes_no_difference(self) -> None:
        nodes = [Node("a"), Node("end", ("a",), no_reduce=True, endpoints=frozenset({"/x"}))]
        assert walk_through(nodes, "/y") == (["a(docs)"], "a")

    def test_its_code_does_not_run_when_it_is_not_among_the_targets(self) -> None:
        nodes = [Node("a"), Node("b"), Node("end", ("a", "b"), no_reduce=True)]
        assert walk_through(nodes, targets={"a", "b"}) == (["a(docs)", "b(docs)"], "a+b")


class TestGraphs:
    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ([Node("a", ("b",)), Node("b")], r"'a' needs \['b'\], which do not come before it"),
            ([Node("a", ("a",))], r"'a' needs \['a'\]"),
            ([Node("a", ())], r"'a' needs \[\]; there must be one at least"),
            ([Node("a"), Node("b", ("a", "a"))], r"'b' needs \['a', 'a'\]; .* none twice"),
            ([Node("a"), Node("a")], "two nodes are called 'a'"),
            ([Node(ENTRANCE)], "two nodes are called 'gateway'"),
        ],
    )
    def test_that_cannot_be_walked_are_refused(self, nodes: list[Node], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Router(nodes)

    def test_walks_do_not_meet(self) -> None:
        router = Router([Node("a"), Node("b"), Node("end", ("a", "b"))])
        one, two = Walk(1, "/"), Walk(2, "/")
        assert len(router.start(one, [b"1"])) == len(router.start(two, [b"2"])) == 2
        assert router.done(one, 0, [b"1a"]) == []
        assert router.done(two, 1, [b"2b"]) == []
        assert router.done(two, 0, [b"2a"]) == [Visit(2, [("a", [[b"2a"]]), ("b", [[b"2b"]])])]
        assert router.done(one, 1, [b"1b"]) == [Visit(2, [("a", [[b"1a"]]), ("b", [[b"1b"]])])]


# -- any graph, any order, against a model ---------------------------------------------------------


@dataclass
class Case:
    """A graph, and who is visited in it."""

    nodes: list[Node]
    visited: set[str]
    targets: frozenset[str] | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    nodes: list[Node] = []
    visited = set()
    names = [ENTRANCE]
    targets: set[str] | None = set() if draw(st.booleans()) else None
    for number in range(draw(st.integers(0, 9))):
        name = f"n{number}"
        needs = tuple(draw(st.permutations(names))[: draw(st.integers(1, min(4, len(names))))])
        process = draw(st.sampled_from([True, True, True, False]))
        bound = draw(st.sampled_from([None, {"/x"}, {DEFAULT}, {"/y"}, set()]))
        no_reduce = draw(st.booleans())
        wanted = targets is None or draw(st.booleans())
        if targets is not None and wanted:
            targets.add(name)
        binds = bound is None or bool(bound & {"/x", DEFAULT}) or (no_reduce and len(needs) > 1)
        if process and wanted and binds:
            visited.add(name)
        nodes.append(
            Node(name, needs, process, no_reduce, None if bound is None else frozenset(bound))
        )
        names.append(name)
    return Case(nodes, visited, None if targets is None else frozenset(targets))


class Model:
    """What flows through the graph, worked out from its end:
    an output is a list of the names of who made it.
    """

    def __init__(self, case: Case) -> None:
        self.nodes = {node.name: node for node in case.nodes}
        self.visited = case.visited
        needed = {name for node in case.nodes for name in node.needs}
        self.ends = [node.name for node in case.nodes if node.name not in needed] or [ENTRANCE]

    def inputs(self, names: Sequence[str]) -> list[tuple[str, list[str]]]:
        return [(name, self.output(name)) for name in names]

    def output(self, name: str) -> list[str]:
        if name == ENTRANCE or name in self.visited:
            return [name]
        makers = [maker for _, output in self.inputs(self.nodes[name].needs) for maker in output]
        return list(dict.fromkeys(makers))

    def waits_for(self, names: Sequence[str]) -> set[str]:
        return {maker for _, output in self.inputs(names) for maker in output} - {ENTRANCE}


@settings(deadline=None, max_examples=300, derandomize=True)
@given(cases(), st.data())
def test_any_graph_in_any_order(case: Case, data: st.DataObject) -> None:
    model = Model(case)
    router = Router(case.nodes)
    walk = Walk("origin", "/x", case.targets)
    made: dict[int, str] = {}  # the payloads are told apart by who they are, not by what is in them

    def payload_of(name: str) -> Payload:
        payload = [b"same"]
        made[id(payload)] = name
        payloads.append(payload)
        return payload

    def read(inputs: list[tuple[str, list[Payload]]]) -> list[tuple[str, list[str]]]:
        return [(name, [made[id(payload)] for payload in some]) for name, some in inputs]

    payloads: list[Payload] = []  # keeps them alive, so that their ids stay theirs
    steps = router.start(walk, payload_of(ENTRANCE))
    under_way: list[int] = []
    begun: set[str] = set()
    done: set[str] = set()
    answers: list[Any] = []
    while True:
        for step in steps:
            if isinstance(step, Reply):
                answers.append(read(step.inputs))
                continue
            node = router.nodes[step.node]
            assert node.name not in begun
            assert read(step.inputs) == model.inputs(node.needs)
            begun.add(node.name)
            under_way.append(step.node)
        # Neither too early nor late: a node is visited as soon as all it gets has been made.
        assert begun == {
            name for name in case.visited if model.waits_for(model.nodes[name].needs) <= done
        }
        assert bool(answers) == (model.waits_for(model.ends) <= done)
        if not under_way:
            break
        node_done = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        done.add(router.nodes[node_done].name)
        steps = router.done(walk, node_done, payload_of(router.nodes[node_done].name))
    assert begun == done == case.visited
    assert answers == [model.inputs(model.ends)]
    assert walk.visits == len(case.visited)
    assert not walk.inputs
