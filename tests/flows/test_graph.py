"""Graphs of Executors: branches, joins, reducing,
and what an Executor is given where branches meet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Append, Gate, begun, in_background, let_go, replicas, socket_folders, titled

from zflow import Document, DocumentArray, Executor, Flow, errors, requests


class Mark(Executor):
    """Leaves its mark on each Document: in a tag, and in fields that start out empty."""

    @requests
    def mark(
        self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        name = self.runtime_args.name.partition("/")[0]
        for doc in docs:
            doc.tags[name] = True
            doc.tags["last"] = name
            if parameters.get("field") == name:
                doc.embedding = np.arange(3)
        return {"n": len(docs)}

    @requests(on="/own")
    def own(self, **kwargs: Any) -> DocumentArray:
        name = self.runtime_args.name.partition("/")[0]
        return DocumentArray([Document(id="shared", text=name), Document(id=name, text=name)])

    @requests(on="/matches")
    def matches(self, docs: DocumentArray, **kwargs: Any) -> None:
        name = self.runtime_args.name.partition("/")[0]
        docs[0].matches = DocumentArray([Document(id="both", text=name), Document(id=f"by {name}")])


class Matrix(Executor):
    """Tells what it was given, as the texts and tags of one Document."""

    @requests
    def look(
        self,
        docs: DocumentArray,
        docs_matrix: list[DocumentArray] | None,
        docs_map: dict[str, DocumentArray] | None,
        **kwargs: Any,
    ) -> DocumentArray:
        return DocumentArray(
            [
                Document(
                    tags={
                        "docs": docs.texts,
                        "matrix": docs_matrix and [docs.texts for docs in docs_matrix],
                        "map": docs_map and {name: docs.texts for name, docs in docs_map.items()},
                    }
                )
            ]
        )


class OnlyIndex(Executor):
    """Binds one endpoint and no other."""

    @requests(on="/index")
    def index(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.text += self.runtime_args.name[0]


class Fail(Executor):
    """Raises."""

    @requests
    def fail(self, **kwargs: Any) -> None:
        raise ValueError("this branch fails")


def branches(**options: Any) -> Flow:
    """Two branches from the entrance, `left` and `right`."""
    return Flow(**options).add(name="left", uses=Mark).add(name="right", uses=Mark, needs="gateway")


@pytest.fixture(scope="module")
def joined() -> Iterator[Flow]:
    with branches().needs_all(name="join") as flow:
        yield flow


@pytest.fixture(scope="module")
def apart() -> Iterator[Flow]:
    with branches().add(name="look", uses=Matrix, needs=["right", "left"], no_reduce=True) as flow:
        yield flow


def test_a_chain_is_walked_in_order() -> None:
    flow = Flow()
    for letter in "abcde":
        flow.add(uses=Append, uses_with={"letter": letter})
    with flow:
        assert flow.post("/", [Document(text="-"), Document(text="+")]).texts == [
            "-abcde",
            "+abcde",
        ]


def test_branches_join_and_reduce(joined: Flow) -> None:
    docs = [Document(id="a"), Document(id="b")]
    result = joined.post("/", docs)
    assert [doc.id for doc in result] == ["a", "b"], "each Document once"
    # A field that both branches filled keeps the left one's value: the first in needs.
    assert [doc.tags["last"] for doc in result] == ["left", "left"]


def test_a_field_that_is_empty_on_the_left_takes_the_value_of_the_right(joined: Flow) -> None:
    (doc,) = joined.post("/", Document(), {"field": "right"})
    assert doc.embedding.tolist() == [0, 1, 2]
    assert doc.tags["last"] == "left"


def test_documents_that_only_one_branch_has_are_kept(joined: Flow) -> None:
    result = joined.post("/own", Document(id="sent"))
    assert {doc.id: doc.text for doc in result} == {
        "shared": "left",
        "left": "left",
        "right": "right",
    }
    assert [doc.id for doc in result] == ["shared", "left", "right"]


def test_matches_reduce_too(joined: Flow) -> None:
    (doc,) = joined.post("/matches", Document())
    assert [match.id for match in doc.matches] == ["both", "by left", "by right"]
    assert doc.matches[0].text == "left"


def test_what_both_branches_returned_as_dicts_is_kept(joined: Flow) -> None:
    response = joined.post("/", Document(), {"x": 1}, return_responses=True)[0]
    assert response.parameters == {
        "x": 1,
        "__results__": {"left/rep-0": {"n": 1}, "right/rep-0": {"n": 1}},
    }


def test_many_requests_through_a_join_keep_their_order(joined: Flow) -> None:
    result = joined.post("/", (Document(text=str(number)) for number in range(500)), request_size=3)
    assert result.texts == [str(number) for number in range(500)]


@pytest.mark.parametrize(
    ("build", "last"),
    [
        (lambda flow: flow.needs(["left", "right"]), "left"),
        (lambda flow: flow.needs(["right", "left"]), "right"),
        (lambda flow: flow.needs_all(), "left"),
        (lambda flow: flow, "left"),  # loose ends are joined by the client, in the order of adding
        (lambda flow: flow.add(name="end", uses=Append, needs=["right", "left"]), "right"),
        (lambda flow: flow.needs(["right", "left"], uses=Append), "right"),
        (lambda flow: flow.needs_all(uses=Append), "left"),
    ],
    ids=[
        "needs",
        "needs turned",
        "needs_all",
        "loose ends",
        "add",
        "needs with uses",
        "needs_all with uses",
    ],
)
def test_the_first_in_needs_has_priority(build: Callable[[Flow], Flow], last: str) -> None:
    with build(branches()) as flow:
        (doc,) = flow.post("/", Document(id="a"), {"field": "right"})
        assert doc.tags["last"] == last
        assert doc.embedding.tolist() == [0, 1, 2]


def test_a_join_without_uses_has_no_process(joined: Flow) -> None:
    assert (len(replicas("left")), len(replicas("right")), len(replicas("join"))) == (1, 1, 0)


def test_no_reduce_gives_the_branches_apart(apart: Flow) -> None:
    (doc,) = apart.post("/own", Document(text="sent"))
    assert doc.tags == {
        "docs": ["right", "right", "left", "left"],
        "matrix": [["right", "right"], ["left", "left"]],
        "map": {"right": ["right", "right"], "left": ["left", "left"]},
    }
    assert list(doc.tags["map"]) == ["right", "left"], "in the order of needs"


def test_without_no_reduce_there_is_no_matrix() -> None:
    with branches().add(uses=Matrix, needs=["left", "right"]) as flow:
        (doc,) = flow.post("/own", Document())
    assert doc.tags == {"docs": ["left", "left", "right"], "matrix": None, "map": None}


def test_no_reduce_after_a_single_predecessor_changes_nothing() -> None:
    with Flow().add(uses=Append).add(uses=Matrix, no_reduce=True) as flow:
        (doc,) = flow.post("/", Document(text="a"))
    assert doc.tags == {"docs": ["ax"], "matrix": None, "map": None}


def test_forward_references_and_a_diamond() -> None:
    flow = Flow().add(name="end", uses=Append, uses_with={"letter": "4"}, needs=["left", "right"])
    flow.add(name="left", uses=Append, uses_with={"letter": "2"}, needs="top")
    flow.add(name="right", uses=Append, uses_with={"letter": "3"}, needs="top")
    flow.add(name="top", uses=Append, uses_with={"letter": "1"}, needs="gateway")
    with flow:
        assert flow.post("/", Document(text="0")).texts == ["0124"]


def test_branches_of_different_lengths_and_joins_of_joins() -> None:
    flow = Flow()
    flow.add(name="a", uses=Mark).add(name="b", uses=Mark).add(name="c", uses=Mark)
    flow.add(name="d", uses=Mark, needs="gateway").needs(["c", "d"], name="cd")
    flow.add(name="e", uses=Mark, needs="a").needs(["cd", "e"], name="end").add(name="f", uses=Mark)
    with flow:
        response = flow.post("/", Document(), return_responses=True)[0]
        names = {name.partition("/")[0] for name in response.parameters["__results__"]}
        assert names == set("abcdef")
        assert response.docs[0].tags == {**dict.fromkeys("abcdef", True), "last": "f"}


def test_an_endpoint_that_is_not_bound_is_passed_by() -> None:
    flow = (
        Flow()
        .add(name="one", uses=OnlyIndex)
        .add(name="all", uses=Append, uses_with={"letter": "a"})
    )
    flow.add(name="two", uses=OnlyIndex)
    with flow:
        assert flow.post("/index", Document(text="")).texts == ["oat"]
        assert flow.post("/search", Document(text="")).texts == ["a"]


def test_branches_that_do_not_bind_the_endpoint_bring_the_request_once() -> None:
    flow = (
        Flow(unknown_endpoints="pass")
        .add(name="x", uses=OnlyIndex)
        .add(name="y", uses=OnlyIndex, needs="gateway")
        .needs_all()
    )
    with flow:
        assert flow.post("/search", [Document(id="a"), Document(id="a")]).texts == ["", ""]
        assert flow.post("/search", Document(text="same")).texts == ["same"]


def test_a_no_reduce_executor_is_visited_even_where_it_binds_nothing() -> None:
    flow = branches().add(name="look", uses=OnlyIndex, needs=["left", "right"], no_reduce=True)
    with flow:
        assert [doc.id for doc in flow.post("/own", Document())] == [
            "shared",
            "left",
            "shared",
            "right",
        ]


def test_targets_in_one_branch_only(joined: Flow) -> None:
    (doc,) = joined.post("/", Document(id="a", text="kept"), target_executor="right")
    assert (doc.text, doc.tags) == ("kept", {"right": True, "last": "right"})
    response = joined.post("/", Document(), target_executor="right", return_responses=True)[0]
    assert list(response.parameters["__results__"]) == ["right/rep-0"]


def test_a_failing_branch_fails_the_request_at_once_and_only_that(tmp_path: Path) -> None:
    flow = Flow(timeout_close=2000).add(name="slow", uses=Gate, uses_with={"folder": str(tmp_path)})
    flow.add(name="bad", uses=Fail, needs="gateway").needs_all()
    with flow, contextlib.ExitStack() as stack:
        stack.callback(let_go, tmp_path, "first")
        failed = in_background(flow.post, "/hold", Document(text="first"))
        error = failed.exception(30)  # while the other branch still holds it
        assert isinstance(error, errors.ExecutorError)
        assert "this branch fails" in str(error)
        begun(tmp_path, "first")
        let_go(tmp_path, "first")
        result = flow.post("/", Document(text="a"), target_executor="slow")
        assert result.texts == ["a"]
        assert len(begun(tmp_path, "first")) == 1


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Flow().add(name="a", needs="b"), ["'b'", "'a'"]),
        (
            lambda: Flow().add(name="encoder").add(name="b", needs="encodr"),
            ["'encodr'", "'encoder'"],
        ),
        (
            lambda: Flow().add(name="a", needs="b").add(name="b", needs="a"),
            ["cycle", "'a' needs 'b'", "'b' needs 'a'"],
        ),
        (lambda: Flow().add(name="a", needs="a"), ["'a'"]),
        (lambda: Flow().add(name="a").add(name="b", needs=["a", "a"]), ["'a'", "more than once"]),
        (lambda: Flow().needs([]), ["needs"]),
    ],
    ids=["nothing of that name", "misspelt", "cycle", "itself", "twice", "empty"],
)
def test_needs_that_cannot_be_are_refused_before_anything_starts(
    build: Callable[[], Flow], words: list[str]
) -> None:
    before = (titled(""), socket_folders())
    with pytest.raises(errors.InvalidFlow) as caught:
        build().start()
    assert all(word in str(caught.value) for word in words), caught.value
    assert (titled(""), socket_folders()) == before


class Replaces(Executor):
    @requests
    def work(self, docs: DocumentArray) -> DocumentArray:
        return DocumentArray(Document(id=doc.id, embedding=[1.0]) for doc in docs)


def test_a_branch_that_returns_new_documents_takes_away_no_tags_of_the_others() -> None:
    flow = Flow().add(name="same").add(name="new", uses=Replaces, needs="gateway").needs_all()
    with flow:
        [doc] = flow.post("/", Document(id="a", text="t", tags={"x": 1}, scores={"s": 2}))
    assert (doc.text, doc.tags, doc.scores["s"].value) == ("t", {"x": 1}, 2)
    assert list(doc.embedding) == [1.0]
