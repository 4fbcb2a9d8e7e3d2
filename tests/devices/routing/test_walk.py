"""Nodes say who is visited; a walk that is many requests is cut where one of them goes its own
way.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.routing.walk import DEFAULT, Node, Walk


class TestPollsAll:
    @pytest.mark.parametrize(
        ("polling", "asked"),
        [
            ({}, []),
            ({"*": "ALL"}, ["/a", "/b"]),
            ({"*": "ANY"}, []),
            ({"/a": "ALL"}, ["/a"]),
            ({"/a": "ALL", "*": "ANY"}, ["/a"]),
            ({"/a": "ANY", "*": "ALL"}, ["/b"]),
        ],
    )
    def test_an_endpoint_of_its_own_counts_before_that_of_the_others(
        self, polling: dict[str, str], asked: list[str]
    ) -> None:
        node = Node("a", shards=2, polling=polling)
        assert [endpoint for endpoint in ("/a", "/b") if node.polls_all(endpoint)] == asked

    def test_there_is_no_all_where_there_is_one(self) -> None:
        assert not Node("a", polling={"*": "ALL"}).polls_all("/a")


class TestVisited:
    @pytest.mark.parametrize(
        ("endpoints", "visited"),
        [(None, True), ({"/x"}, True), ({DEFAULT}, True), ({"/y"}, False), (set(), False)],
    )
    def test_by_who_asks_for_what_it_binds(self, endpoints: set[str] | None, visited: bool) -> None:
        node = Node("a", endpoints=None if endpoints is None else frozenset(endpoints))
        assert node.visited("/x", None) == visited
        assert node.visited("/x", frozenset({"a", "b"})) == visited

    def test_not_if_others_are_meant(self) -> None:
        assert not Node("a").visited("/x", frozenset({"b"}))
        assert not Node("a").visited("/x", frozenset())

    def test_a_join_that_only_waits_never_is(self) -> None:
        join = Node("join", ("a", "b"), process=False, no_reduce=True)
        assert not join.visited("/x", None)
        assert not join.visited("/x", frozenset({"join"}))

    @pytest.mark.parametrize(("needs", "visited"), [(("a", "b"), True), (("a",), False)])
    def test_one_that_wants_its_inputs_apart_is_if_there_are_several(
        self, needs: tuple[str, ...], visited: bool
    ) -> None:
        node = Node("end", needs, no_reduce=True, endpoints=frozenset({"/y"}))
        assert node.visited("/x", None) == visited
        assert not node.visited("/x", frozenset({"a"}))


def test_notes_are_kept_by_executor() -> None:
    walk = Walk("origin", "/")
    assert walk.notes is None
    walk.note("a", 1)
    walk.note("b", 2)
    walk.note("a", 3)
    assert walk.notes == {"a": 3, "b": 2}


def bulk(first: int, docs: list[int]) -> Walk:
    """A walk of so many requests, whose origins end with ids from `first` on; each has 10 bytes."""
    walk = Walk(("port", b"me", first), "/", frozenset({"a"}), 1.0, len(docs))
    walk.docs, walk.size, walk.client = docs, 10 * len(docs), b"me"
    return walk


class TestWalk:
    def test_it_is_cut(self) -> None:
        walk = Walk(("port", b"me", 5), "/", None, 1.0, 4)
        walk.docs, walk.size, walk.open, walk.client = [1, 2, 3, 4], 40, {(0, 70)}, b"me"
        head = walk.cut(3)
        assert head.origins == [("port", b"me", id) for id in (5, 6, 7)]
        assert walk.origins == [("port", b"me", 8)]
        assert (head.docs, head.size, head.open, head.timeout) == ([1, 2, 3], 30, {(0, 70)}, 1.0)
        assert (walk.docs, walk.size, walk.open, walk.count) == ([4], 10, {(0, 73)}, 1)

    def test_what_they_have_in_common_both_parts_have(self) -> None:
        walk = bulk(5, [1, 1, 1])
        walk.begun, walk.deadline, walk.visits = 3.0, 4.0, 2
        for part in (walk.cut(2), walk):
            assert (part.endpoint, part.targets, part.timeout, part.client) == (
                "/",
                frozenset({"a"}),
                1.0,
                b"me",
            )
            assert (part.begun, part.deadline, part.visits) == (3.0, 4.0, 2)

    def test_one_request_has_its_origin_whatever_that_is(self) -> None:
        assert Walk("anything", "/").origins == ["anything"]

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, 9), min_size=2, max_size=64), st.data())
    def test_however_it_is_cut_each_request_is_there_once(
        self, docs: list[int], data: st.DataObject
    ) -> None:
        walk = bulk(5, docs)
        walk.open = {(0, 70), (1, 500)}
        parts = [walk]
        for _ in range(data.draw(st.integers(1, 8))):
            some = [at for at, part in enumerate(parts) if part.count > 1]
            if some:
                at = data.draw(st.sampled_from(some))
                parts.insert(at, parts[at].cut(data.draw(st.integers(1, parts[at].count - 1))))
        assert [origin for part in parts for origin in part.origins] == [
            ("port", b"me", 5 + at) for at in range(len(docs))
        ]
        assert [one for part in parts for one in part.docs] == docs
        assert all(part.size == 10 * part.count for part in parts)
        for part in parts:
            ahead = part.origins[0][-1] - 5  # the task ids follow one another as the requests do
            assert part.open == {(0, 70 + ahead), (1, 500 + ahead)}
