"""What a subscript of a DocumentArray picks, and what one that picks nothing says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.documents.document import Document, DocumentArray
from zflow.documents.subscript import is_single, position, positions, rows_and_fields

IDS = {"a": 0, "b": 1, "c": 2}


def index() -> Mapping[str, int]:
    return IDS


def no_index() -> Mapping[str, int]:
    raise AssertionError("there is no id to look up")


def letters(names: str) -> DocumentArray:
    return DocumentArray(Document(id=name, text=name * 2) for name in names)


class TestLookingUp:
    da = letters("abcd")

    def test_one(self) -> None:
        assert self.da[0].id == self.da["a"].id == self.da[-4].id == self.da[np.int64(0)].id == "a"

    def test_nothing_there(self) -> None:
        with pytest.raises(KeyError, match="no Document with id 'z' among 4"):
            self.da["z"]
        with pytest.raises(IndexError, match="no Document 4 in a DocumentArray of 4"):
            self.da[4]
        with pytest.raises(IndexError, match="no Document -5"):
            self.da[-5]
        with pytest.raises(KeyError, match="'z'"):
            self.da[["a", "z"]]
        with pytest.raises(TypeError, match="indexed by int, id, slice, list or mask, not float"):
            self.da[1.5]

    @pytest.mark.parametrize(
        ("key", "ids"),
        [
            (slice(1, 3), "bc"),
            (slice(None, None, -1), "dcba"),
            ([0, 2], "ac"),
            ([-1, "a", 0], "daa"),
            (np.array([3, 1]), "db"),
            (range(2), "ab"),
            ([], ""),
            ([True, False, False, True], "ad"),
            (np.array([False, True, False, False]), "b"),
        ],
    )
    def test_several(self, key: object, ids: str) -> None:
        picked = self.da[key]
        assert isinstance(picked, DocumentArray)
        assert picked.ids == list(ids)

    @pytest.mark.parametrize("mask", [[True], [True, False, True, 1], np.ones(5, bool)])
    def test_masks_must_fit(self, mask: object) -> None:
        with pytest.raises(IndexError, match="one bool for each of 4 Documents"):
            self.da[mask]

    def test_fields(self) -> None:
        assert self.da[:, "text"] == ["aa", "bb", "cc", "dd"]
        assert self.da[1:3, ["id", "text"]] == [["b", "c"], ["bb", "cc"]]
        assert self.da[0, "text"] == "aa"
        assert self.da["b", ["id", "text"]] == ["b", "bb"]
        assert self.da[[True, False, False, False], "content"] == ["aa"]
        for key in (("a", "b"), (slice(None), "txt"), (slice(None), 3), (0, 1, 2)):
            with pytest.raises(TypeError, match=r"expected da\[rows, field\].*da\[\[...\]\]"):
                self.da[key]


class TestOne:
    @pytest.mark.parametrize(
        "key", [0, -1, True, "a", "", np.int64(3), np.uint8(3), np.array(3), np.str_("a")]
    )
    def test_an_int_or_an_id_names_one(self, key: Any) -> None:
        assert is_single(key)

    @pytest.mark.parametrize(
        "key", [slice(None), [0], ["a"], range(1), np.array([0]), 1.0, None, b"a", (0, "text")]
    )
    def test_anything_else_does_not(self, key: Any) -> None:
        assert not is_single(key)

    @given(st.integers(1, 20), st.data())
    def test_ints_count_as_those_of_a_list(self, size: int, data: st.DataObject) -> None:
        key = data.draw(st.integers(-size, size - 1))
        assert (
            position(key, size, no_index)
            == position(np.int64(key), size, no_index)
            == range(size)[key]
        )

    @given(st.integers(0, 20), st.integers(0))
    def test_ints_beyond_either_end_are_refused(self, size: int, beyond: int) -> None:
        for key in (size + beyond, -size - 1 - beyond):
            with pytest.raises(
                IndexError, match=f"^there is no Document {key} in a DocumentArray of {size}$"
            ):
                position(key, size, no_index)

    def test_ids_are_looked_up(self) -> None:
        assert [position(name, 3, index) for name in "abc"] == [0, 1, 2]
        with pytest.raises(KeyError, match="no Document with id 'z' among 3"):
            position("z", 3, index)


class TestSeveral:
    @given(st.integers(0, 9), st.slices(9))
    def test_slices_pick_what_they_pick_of_a_list(self, size: int, key: slice) -> None:
        assert positions(key, size, no_index) == list(range(size))[key]

    @given(st.lists(st.booleans(), min_size=1))
    def test_masks_pick_what_they_pick_of_an_array(self, mask: list[bool]) -> None:
        wanted = np.arange(len(mask))[np.array(mask)].tolist()
        assert positions(mask, len(mask), no_index) == wanted
        assert positions(np.array(mask), len(mask), no_index) == wanted

    def test_ints_and_ids_go_together_in_the_order_given(self) -> None:
        assert positions(["c", -3, 0, "b", np.int64(-1)], 3, index) == [2, 0, 0, 1, 2]
        assert positions(np.array(["c", "a"]), 3, index) == [2, 0]
        assert positions([], 0, no_index) == positions(np.array([], int), 3, no_index) == []

    @pytest.mark.parametrize(
        "key", [None, 1.5, b"ab", {"a"}, {"a": 1}, ("a", "b"), iter("ab"), np.array(1.5)]
    )
    def test_what_is_no_key_is_refused(self, key: Any) -> None:
        with pytest.raises(
            TypeError, match=r"^a DocumentArray is indexed by int, id, slice, list or mask, not "
        ):
            positions(key, 3, index)

    @pytest.mark.parametrize("mask", [[True, False], [True] * 4, [True, 0, 1], [True, "a", "b"]])
    def test_a_mask_has_one_bool_for_each(self, mask: list[Any]) -> None:
        with pytest.raises(
            IndexError, match=r"^a mask needs one bool for each of 3 Documents, not "
        ):
            positions(mask, 3, index)

    def test_a_long_mask_is_cut_in_the_message(self) -> None:
        with pytest.raises(IndexError) as caught:
            positions([True] * 10_000, 3, index)
        assert len(str(caught.value)) < 150

    @pytest.mark.parametrize("key", [[1.0], [None], [[0]], np.array([0.5]), np.eye(2, dtype=int)])
    def test_a_list_holds_ints_and_ids(self, key: Any) -> None:
        with pytest.raises(TypeError):
            positions(key, 3, index)


class TestRowsAndFields:
    known = ("id", "text", "tags")

    def test_pairs_of_rows_and_fields(self) -> None:
        assert rows_and_fields((slice(None), "text"), self.known) == (slice(None), "text")
        assert rows_and_fields(("id", "id"), self.known) == ("id", "id")
        assert rows_and_fields(([0], ["text", "id"]), self.known) == ([0], ["text", "id"])
        assert rows_and_fields(([0], ("text", "id")), self.known) == ([0], ["text", "id"])
        assert rows_and_fields((0, []), self.known) == (0, [])

    @pytest.mark.parametrize(
        ("key", "shown"),
        [
            ((slice(None), "txt"), "da[:, 'txt']"),
            (("a", "b", "c"), "da['a', 'b', 'c']"),
            ((0, ["text", 1]), "da[0, ['text', 1]]"),
            ((), "da[]"),
            ((0,), "da[0]"),
            ((0, None), "da[0, None]"),
            ((0, "x" * 1000), f"da[0, '{'x' * 39}]"),
        ],
    )
    def test_anything_else_is_shown_with_the_way_out(
        self, key: tuple[Any, ...], shown: str
    ) -> None:
        with pytest.raises(TypeError) as caught:
            rows_and_fields(key, self.known)
        assert str(caught.value) == (
            f"{shown}: expected da[rows, field] or da[rows, [field, ...]] with fields of a "
            "Document (id, text, tags); "
            "several ids or positions go into a list: da[[...]]"
        )


def test_a_mask_may_be_a_list_of_numpys_booleans() -> None:
    docs = DocumentArray([Document(id="a"), Document(id="b")])
    assert docs[[np.True_, np.False_]].ids == ["a"]
    assert docs[[np.int64(1)]].ids == ["b"]
