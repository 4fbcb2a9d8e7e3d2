"""reduce: several DocumentArrays become one, the left has priority, at every level."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.documents import codec, fields
from zflow.documents.document import Document, DocumentArray
from zflow.documents.merging import changed, gather, reduce
from zflow.documents.writes import Writes
from zflow.errors import BadRequest


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


def test_what_is_set_on_the_left_stays() -> None:
    left = DocumentArray(Document(id="a", text="1", weight=0.0, tensor=np.zeros(2)))
    right = DocumentArray(Document(id="a", text="2", weight=1.0, tensor=np.ones(3)))
    expected = copy.deepcopy(left)
    assert reduce([left, right]) == expected


def test_tags_and_scores_are_put_together_key_by_key() -> None:
    left = Document(id="a", tags={"x": 1, "in": {"l": 1}}, scores={"cos": 0.5})
    right = Document(
        id="a", tags={"y": 2, "x": 3, "in": {"r": 2, "l": 3}}, scores={"dot": 2, "cos": 3}
    )
    doc = reduce([DocumentArray(left), DocumentArray(right), DocumentArray()])["a"]
    assert doc.tags == {"x": 1, "y": 2, "in": {"l": 1, "r": 2}}
    assert {name: score.value for name, score in doc.scores.items()} == {"cos": 0.5, "dot": 2}
    assert right.tags["in"] == {"r": 2, "l": 3}  # what is not the first is left alone


FIELDS: dict[str, tuple[Any, Any, Any]] = {
    "text": ("l", "r", "l"),
    "blob": (b"l", b"r", b"l"),
    "uri": ("l", "r", "l"),
    "mime_type": ("l", "r", "l"),
    "modality": ("l", "r", "l"),
    "parent_id": ("l", "r", "l"),
    "weight": (1.0, 2.0, 1.0),
    "granularity": (1, 2, 1),
    "adjacency": (1, 2, 1),
    "tensor": (np.ones(2), np.zeros(3), np.ones(2)),
    "embedding": (np.ones(2), np.zeros(3), np.ones(2)),
    "tags": ({"l": 1, "b": 1}, {"r": 2, "b": 2}, {"l": 1, "b": 1, "r": 2}),
    "scores": ({"l": 1, "b": 1}, {"r": 2, "b": 2}, {"l": 1, "b": 1, "r": 2}),
    "matches": ([Document(id="l")], [Document(id="r")], [Document(id="l"), Document(id="r")]),
    "chunks": ([Document(id="l")], [Document(id="r")], [Document(id="l"), Document(id="r")]),
}


@pytest.mark.parametrize("name", sorted(set(fields.FIELDS) - {"id"}))
def test_every_field_of_which_both_have_something(name: str) -> None:
    left, right, both = (Document(id="a", **{name: copy.deepcopy(value)}) for value in FIELDS[name])
    assert reduce([DocumentArray(left), DocumentArray(right)])["a"] == both


def branches(*changes: Any) -> DocumentArray:
    """Reduce what several branches make of a Document with tag and score `x`."""
    start = codec.pack(
        DocumentArray(Document(id="a", tags={"x": 0}, scores={"x": 0})), {"x": 0, "in": {}}
    )
    payloads = []
    for change in changes:
        came = [("gateway", [start])]
        docs, parameters = codec.unpack(start)
        change(docs[0], parameters)
        payloads.append(codec.pack(docs, parameters, changed(came, docs, docs, parameters)))
    found = gather([("all", payloads)])
    docs = reduce(list(found.docs.values()))
    docs[0].tags["parameters"] = found.parameters
    return docs


def nothing(doc: Document, parameters: dict[str, Any]) -> None: ...


def other(doc: Document, parameters: dict[str, Any]) -> None:
    doc.tags["x"] = parameters["x"] = 1
    doc.scores["x"] = 1.0


def third(doc: Document, parameters: dict[str, Any]) -> None:
    doc.tags["x"] = parameters["x"] = 2
    doc.scores["x"] = 2.0


def removal(doc: Document, parameters: dict[str, Any]) -> None:
    del doc.tags["x"], doc.scores["x"], parameters["x"]


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ([nothing, nothing], 0),
        ([nothing, other], 1),
        ([other, nothing], 1),
        ([nothing, other, third], 1),
        ([third, nothing, other], 2),
        ([nothing, removal], None),
        ([removal, nothing], None),
        ([removal, other], 1),
        ([other, removal], 1),
    ],
)
def test_a_change_of_what_came_in_counts_over_none(changes: list[Any], value: int | None) -> None:
    doc = branches(*changes)[0]
    assert doc.tags.get("x") == doc.tags["parameters"].get("x") == value
    assert (doc.scores["x"].value if "x" in doc.scores else None) == value


def test_an_array_still_in_columns_is_not_looked_at() -> None:
    start = codec.pack(DocumentArray(Document(tags={"x": 0}) for _ in range(3)))
    docs, parameters = codec.unpack(start)
    docs.texts = ["a", "b", "c"]
    assert not changed([("gateway", [start])], docs, docs, parameters).all()
    assert docs._columns is not None


@pytest.mark.parametrize("where", ["tags", "parameters", "writes"])
def test_keys_that_were_chosen_to_collide_are_refused_also_when_they_come_apart(where: str) -> None:
    """Each payload has few of them; 250 kB in 200 payloads took 8 seconds."""
    payloads = []
    for part in range(5):
        keys = {(part * 60 + at) * (2**61 - 1): at for at in range(1, 61)}
        writes = Writes()
        for key in keys if where == "writes" else ():
            writes.at("docs", "a", "tags", key).by = frozenset({1})
        tags = keys if where == "tags" else {"x": {}}
        docs = DocumentArray(Document(id="a", tags=tags))
        payloads.append(codec.pack(docs, keys if where == "parameters" else {}, writes))
    with pytest.raises(BadRequest, match="more than 100 keys of one dict have the hash"):
        gather([("branch", payloads)])


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
