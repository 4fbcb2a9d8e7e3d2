"""The fields of a Document: what may be put into each, what is stored then,
and what counts as unset.
"""

from __future__ import annotations

import copy
import enum
import pickle
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from zflow.documents.document import Document, DocumentArray, NamedScore
from zflow.documents.fields import (
    ARRAYS,
    FIELDS,
    NESTED,
    TYPES,
    Scores,
    converted,
    is_empty,
    unknown_field,
)


class TestTable:
    def test_it_has_every_field_of_a_document_once(self) -> None:
        assert len(set(FIELDS)) == len(FIELDS)
        assert set(FIELDS) == set(Document.__annotations__)
        assert set(TYPES) | set(ARRAYS) | set(NESTED) == set(FIELDS)


class TestSetting:
    @pytest.mark.parametrize(
        ("name", "value", "stored"),
        [
            ("text", np.str_("x"), "x"),
            ("blob", bytearray(b"x"), b"x"),
            ("blob", memoryview(b"x"), b"x"),
            ("weight", 1, 1.0),
            ("weight", np.float32(0.5), 0.5),
            ("granularity", np.int64(2), 2),
            ("tags", {}.items().mapping, {}),
            ("matches", Document(id="m"), DocumentArray(Document(id="m"))),
        ],
    )
    def test_values_are_stored_as_one_type(self, name: str, value: Any, stored: Any) -> None:
        doc = Document(**{name: value})
        assert getattr(doc, name) == stored
        assert type(getattr(doc, name)) is type(stored)
        other = Document()
        setattr(other, name, value)
        assert type(getattr(other, name)) is type(stored)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("text", 3, r"Document.text must be str, not int \(3\)"),
            ("id", 7, r"Document.id must be str, not int \(7\)"),
            ("blob", "x", "Document.blob must be bytes, not str"),
            ("blob", 3, "Document.blob must be bytes, not int"),
            ("weight", "heavy", "Document.weight must be float or None, not str"),
            ("weight", True, "Document.weight must be float or None, not bool"),
            ("granularity", 1.5, "Document.granularity must be int, not float"),
            ("adjacency", True, "Document.adjacency must be int, not bool"),
            ("tags", [1], "Document.tags must be a dict, not list"),
            ("scores", [1], "Document.scores must be a dict of numbers by name, not list"),
            ("scores", {"cos": "high"}, "score 'cos' must be a number or a NamedScore, not str"),
            ("tensor", "abc", "Document.tensor must be an array, not str"),
            ("embedding", {1: 2}, "Document.embedding must be an array, not dict"),
            ("matches", 3, "Document.matches: expected Documents, not int"),
            (
                "chunks",
                ["x"],
                "Document.chunks: a DocumentArray holds Documents, not str .*: item 0 of 1",
            ),
        ],
    )
    def test_wrong_types_are_refused(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            Document(**{name: value})
        with pytest.raises(TypeError, match=message):
            setattr(Document(), name, value)

    @pytest.mark.parametrize("name", sorted(set(FIELDS) - set(NESTED)))
    def test_none_stays_none(self, name: str) -> None:
        assert converted(name, None) is None

    @pytest.mark.parametrize("name", ["text", "id", "uri", "mime_type", "modality", "parent_id"])
    def test_of_a_subclass_of_str_only_the_text_is_stored(self, name: str) -> None:
        kind = enum.Enum("kind", {"PAGE": "page"}, type=str)
        stored = converted(name, kind["PAGE"])
        assert (stored, type(stored)) == ("page", str)

    def test_dicts_are_stored_as_they_are_and_other_mappings_as_dicts(self) -> None:
        tags: dict[str, Any] = {"a": [1]}
        assert converted("tags", tags) is tags
        other = converted("tags", MappingProxyType(tags))
        assert (other, type(other)) == (tags, dict)
        scores = Scores({"a": 1})
        assert Document(scores=scores).scores is scores

    def test_arrays_are_stored_as_they_are(self) -> None:
        for value in (np.zeros(3), [1, 2], (1, 2), np.str_("x"), 3.5):
            assert converted("tensor", value) is value

    @pytest.mark.parametrize("value", ["abc", b"abc", bytearray(2), {}, {1}, frozenset()])
    @pytest.mark.parametrize("name", ARRAYS)
    def test_what_is_no_array_is_refused(self, name: str, value: Any) -> None:
        with pytest.raises(
            TypeError, match=f"^Document.{name} must be an array, not {type(value).__name__} "
        ):
            converted(name, value)

    def test_a_long_value_is_cut_in_the_message(self) -> None:
        with pytest.raises(TypeError) as caught:
            converted("blob", "x" * 10**6)
        assert len(str(caught.value)) < 100


class TestEmpty:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("text", ""),
            ("blob", b""),
            ("tags", {}),
            ("scores", Scores()),
            ("granularity", 0),
            ("matches", []),
        ],
    )
    def test_what_counts_as_unset(self, name: str, value: Any) -> None:
        assert is_empty(name, value)
        assert is_empty(name, None)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(
                ("weight", 0.0),
                ("tensor", np.zeros(0)),
                ("tensor", np.zeros(3)),
                ("embedding", []),
                ("text", " "),
            ),
            *(("tags", {"": None}), ("adjacency", -1), ("matches", [Document(id="a")])),
        ],
        ids=repr,
    )
    def test_what_does_not(self, name: str, value: Any) -> None:
        assert not is_empty(name, value)


class TestScores:
    def test_scores_become_named_scores(self) -> None:
        doc = Document(scores={"a": 1, "b": NamedScore(2.0, op_name="dot"), "c": {"value": 3.0}})
        doc.scores["cos"] = 0.3
        doc.scores["new"].value = 4.0
        doc.scores.setdefault("new", 5.0)
        doc.scores.update(d=np.float64(6))
        assert list(doc.scores) == ["a", "b", "c", "cos", "new", "d"]
        assert [score.value for score in doc.scores.values()] == [1, 2.0, 3.0, 0.3, 4.0, 6.0]
        with pytest.raises(TypeError, match="name of a score must be str"):
            doc.scores[1] = 0.3  # type: ignore[index]

    def test_a_plain_number_keeps_its_type_and_numpys_becomes_pythons(self) -> None:
        scores = Scores({"int": 1, "float": 0.5, "numpy": np.float32(0.5), "array": np.array(0.5)})
        assert [type(score.value) for score in scores.values()] == [int, float, float, float]

    @pytest.mark.parametrize("value", ["1", b"1", True, None, [1], {"val": 1}, 1j])
    def test_what_is_no_number_is_refused_by_name(self, value: Any) -> None:
        scores = Scores({"a": 1})
        with pytest.raises(
            TypeError,
            match=rf"^score 'b' must be a number or a NamedScore, not {type(value).__name__}",
        ):
            scores["b"] = value
        with pytest.raises(TypeError, match=r"^score 'b' must be a number"):
            Scores([("b", value)])
        with pytest.raises(TypeError, match=r"^score 'b' must be a number"):
            scores.update(b=value)
        assert list(scores) == ["a"]

    def test_a_mapping_sets_the_parts(self) -> None:
        scores = Scores({"a": {"value": 1.0, "op_name": "dot", "description": "by hand"}})
        assert scores["a"] == NamedScore(1.0, "dot", "by hand")

    def test_setdefault_sets_only_what_is_not_there(self) -> None:
        scores = Scores({"a": 1})
        assert scores.setdefault("a", 2) is scores["a"]
        assert scores.setdefault("b", 2) == NamedScore(2)
        assert scores.setdefault("c") == NamedScore()
        assert [score.value for score in scores.values()] == [1, 2, None]

    def test_get_and_in_make_no_score(self) -> None:
        scores = Scores()
        assert scores.get("a") is None
        assert "a" not in scores
        assert len(scores) == 0

    @pytest.mark.parametrize(
        "again", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))]
    )
    def test_copies_are_scores_too(self, again: Any) -> None:
        scores = Scores({"a": NamedScore(1.0, op_name="dot")})
        other = again(scores)
        assert (other, type(other)) == (scores, Scores)
        other["a"].value = 2.0
        other["b"] = 3
        assert scores == Scores({"a": NamedScore(1.0, op_name="dot")})


class TestNamedScore:
    def test_all_parts_count(self) -> None:
        score = NamedScore(1.0, "dot", "by hand")
        assert score == NamedScore(1.0, "dot", "by hand")
        assert score not in (
            NamedScore(2.0, "dot", "by hand"),
            NamedScore(1.0),
            NamedScore(1.0, "dot"),
            1.0,
        )

    def test_it_is_shown_as_it_is_written(self) -> None:
        for score in (
            NamedScore(),
            NamedScore(0.5),
            NamedScore(1, "dot"),
            NamedScore(1, description="it's"),
        ):
            assert eval(repr(score)) == score
        assert repr(NamedScore(0.5)) == "NamedScore(0.5)"

    def test_it_can_be_changed_and_so_not_be_hashed(self) -> None:
        with pytest.raises(TypeError, match="unhashable"):
            hash(NamedScore())
        with pytest.raises(AttributeError):
            NamedScore().vaule = 1  # type: ignore[attr-defined]


def test_an_unknown_field_is_named_with_the_nearest_and_with_tags() -> None:
    assert unknown_field("txet") == (
        "a Document has no field 'txet'; did you mean 'text'? (your own values go into "
        "tags={'txet': ...})"
    )
    assert unknown_field("contents").startswith(
        "a Document has no field 'contents'; did you mean 'content'? "
    )
    assert (
        unknown_field("zzz")
        == "a Document has no field 'zzz' (your own values go into tags={'zzz': ...})"
    )


def test_scores_put_in_by_an_update_in_place_are_converted_too() -> None:
    doc = Document()
    doc.scores |= {"cos": 0.3}
    assert doc.scores["cos"].value == 0.3
    assert repr(doc).endswith("scores={cos: 0.3}>")


def test_a_weight_that_no_float_can_hold_is_refused_like_other_wrong_values() -> None:
    with pytest.raises(TypeError, match="weight must be float or None"):
        Document(weight=10**400)
