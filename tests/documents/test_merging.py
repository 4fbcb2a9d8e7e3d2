"""reduce: several DocumentArrays become one, the left has priority, at every level."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.documents.document import Document, DocumentArray
from zflow.documents.merging import reduce


def test_the_document_of_one_id_is_one() -> None:
    left = DocumentArray([Document(id="a", text="left"), Document(id="b")])
    right = DocumentArray(
        [Document(id="b", text="right"), Document(id="c"), Document(id="a", text="no", uri="u")]
    )
    result = reduce([left, right])
    assert result is left
    assert result == DocumentArray(
        [Document(id="a", text="left", uri="u"), Document(id="b", text="right"), Document(id="c")]
    )


@pytest.mark.parametrize(
    ("field", "empty", "value"),
    [
        ("text", "", "x"),
        ("blob", b"", b"x"),
        ("uri", "", "x"),
        ("weight", None, 0.0),
        ("granularity", 0, 2),
        ("tags", {}, {"a": 1}),
        ("scores", {}, {"a": 1}),
        ("tensor", None, np.zeros(0)),
        ("embedding", None, [0.0]),
        ("matches", [], [Document(id="m")]),
    ],
)
def test_a_field_that_is_empty_takes_the_others_value(field: str, empty: Any, value: Any) -> None:
    whole = Document(id="a", **{field: value})
    for left, right in ((empty, value), (value, empty), (value, value)):
        arrays = [DocumentArray(Document(id="a", **{field: part})) for part in (left, right)]
        assert reduce(arrays) == DocumentArray(whole)


def test_what_is_set_on_the_left_stays_whole() -> None:
    left = DocumentArray(Document(id="a", tags={"x": 1}, weight=0.0, tensor=np.zeros(2)))
    right = DocumentArray(Document(id="a", tags={"y": 2}, weight=1.0, tensor=np.ones(3)))
    expected = copy.deepcopy(left)
    assert reduce([left, right]) == expected


def test_matches_and_chunks_reduce_at_every_level() -> None:
    def query(*matches: Document) -> DocumentArray:
        return DocumentArray(Document(id="q", chunks=[Document(id="c", matches=matches)]))

    result = reduce(
        [
            query(Document(id="m1", text="1")),
            query(Document(id="m2"), Document(id="m1", text="no", scores={"cos": 0.5})),
            query(Document(id="m3")),
        ]
    )
    matches = result["q"].chunks["c"].matches
    assert matches.ids == ["m1", "m2", "m3"]
    assert (matches["m1"].text, matches["m1"].scores["cos"].value) == ("1", 0.5)


def test_an_id_twice_in_one_array_stays_twice() -> None:
    def twice(**fields: Any) -> DocumentArray:
        return DocumentArray(
            [Document(id="a", text="1", **fields), Document(id="a", text="2", **fields)]
        )

    assert reduce([twice(), twice(uri="u")]) == twice(uri="u")
    assert len(reduce([DocumentArray(Document(id="a")), twice()])) == 2


def test_one_array_or_shared_documents_are_left_alone() -> None:
    docs = DocumentArray([Document(id="a"), Document(id="a"), Document(id="b")])
    assert reduce([docs]) is docs
    assert reduce([docs, docs, copy.copy(docs)]).ids == ["a", "a", "b"]
    with pytest.raises(ValueError, match="at least one"):
        reduce([])


def documents(levels: int = 2) -> st.SearchStrategy[DocumentArray]:
    fields: dict[str, st.SearchStrategy[object]] = {
        "text": st.sampled_from(["", "x", "y"]),
        "weight": st.sampled_from([None, 0.0, 1.0]),
        "tags": st.sampled_from([{}, {"a": 1}, {"b": 2}]),
        "tensor": st.sampled_from([None, np.zeros(0), np.ones(2)]),
    }
    if levels:
        fields["matches"] = fields["chunks"] = documents(levels - 1)
    one = st.builds(
        lambda name, kept: Document(id=name, **kept),
        st.sampled_from("abc"),
        st.fixed_dictionaries({}, optional=fields),
    )
    return st.lists(one, max_size=3).map(DocumentArray)


def reduced(*arrays: DocumentArray) -> DocumentArray:
    return reduce([copy.deepcopy(array) for array in arrays])


@settings(max_examples=150, deadline=None)
@given(documents(), documents(), documents())
def test_grouping_does_not_matter(a: DocumentArray, b: DocumentArray, c: DocumentArray) -> None:
    assert reduced(a, b, c) == reduced(reduced(a, b), c) == reduced(a, reduced(b, c))


@settings(max_examples=100, deadline=None)
@given(documents(), documents())
def test_order_priority_and_nothing_lost(a: DocumentArray, b: DocumentArray) -> None:
    result = reduced(a, b)
    assert result.ids[: len(a)] == a.ids
    assert all(
        result.ids.count(name) == max(a.ids.count(name), b.ids.count(name)) for name in "abc"
    )
    appended, rest = result.ids[len(a) :], iter(b.ids)
    assert all(name in rest for name in appended)  # in the order of the right
    for mine, whole in zip(a, result, strict=False):
        assert whole.text == mine.text or not mine.text
        assert mine.weight is None or whole.weight == mine.weight
    assert reduced(a, a) == a
    assert reduced(a, DocumentArray()) == a == reduced(DocumentArray(), a)
