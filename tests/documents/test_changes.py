"""What an Executor has changed in what it got."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from zflow.documents import changes
from zflow.documents.document import Document, DocumentArray
from zflow.documents.writes import Writes


def paths(writes: Writes) -> set[tuple[Any, ...]]:
    own = {(key,) for key, inner in writes.below.items() if inner.by}
    return own | {(key, *path) for key, inner in writes.below.items() for path in paths(inner)}


def changed(before: dict[str, Any], **after: Any) -> set[tuple[Any, ...]]:
    """What has changed in a Document of such fields; the first two steps are the same for all."""
    writes = Writes()
    docs = DocumentArray(Document(id="a", **copy.deepcopy(before)))
    changes.add(writes, (DocumentArray(Document(id="a", **before)), {}), (docs, {}))
    assert not writes.all()
    for name, value in after.items():
        setattr(docs[0], name, value)
    changes.add(writes, (DocumentArray(Document(id="a", **before)), {}), (docs, {}))
    assert len(writes.all()) <= 1
    return {path[2:] for path in paths(writes)}


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}, {"b", "c"}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b"}),
        ({"a": 1, "b": [1], "c": 0}, {"a": 1.0, "b": [2], "c": False}, {"a", "b", "c"}),
        ({"a": np.ones(2), "n": float("nan")}, {"a": np.ones(2), "n": float("nan")}, set()),
        ({"a": np.ones(2)}, {"a": np.zeros(2)}, {"a"}),
        ({"a": 1}, {}, {"a"}),
        ({"a": 1}, None, set()),  # unset, as in a new Document: that says nothing about its keys
    ],
)
def test_keys_of_tags(before: Any, after: Any, keys: set[str]) -> None:
    assert changed({"tags": before}, tags=after) == {("tags", key) for key in keys}


def test_keys_of_dicts_in_tags() -> None:
    before = {"in": {"a": 1, "b": 2}, "flat": 1, "gone": {"x": 1}}
    after = {"in": {"a": 1, "b": 3}, "flat": {"y": 1}}
    found = {("in", "b"), ("flat",), ("flat", "y"), ("gone",), ("gone", "x")}
    assert changed({"tags": before}, tags=after) == {("tags", *path) for path in found}


def test_dicts_are_looked_into_only_so_deep() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(200):
        deep = {"a": deep}
    (path,) = changed({"tags": copy.deepcopy(deep)}, tags={**deep, "b": 1})
    assert path == ("tags", "b")
    assert max(map(len, changed({}, tags=deep))) <= changes.DEEPEST


def test_scores_and_what_matches_have() -> None:
    before = {"scores": {"cos": 1, "nan": float("nan")}, "matches": [Document(id="m")]}
    new = [Document(id="m", tags={"x": 1}), Document(id="n", scores={"cos": 1})]
    assert changed(before, scores={"cos": 2, "nan": float("nan")}, matches=new) == {
        ("scores", "cos"),
        ("matches", "m", "tags", "x"),
        ("matches", "n", "scores", "cos"),
    }


def test_parameters() -> None:
    writes = Writes()
    changes.add(writes, (DocumentArray(), {"a": 1, "b": 1}), (DocumentArray(), {"a": 2, "b": 1}))
    assert paths(writes) == {("parameters", "a")}


def test_documents_of_one_id_are_told_apart() -> None:
    names = [name for name, _ in changes.numbered([Document(id="a") for _ in range(3)])]
    assert names == ["a", b"1:a", b"2:a"]
