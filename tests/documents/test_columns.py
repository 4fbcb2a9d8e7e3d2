"""Columns: what is gathered comes back, and what is read and replaced leaves them as they are."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.documents.columns import Nested, gather, read, readable, replaced, scatter

WIDTH = 3


class TestGatherAndScatter:
    @pytest.mark.parametrize(
        ("rows", "columns"),
        [
            ([{"id": "a", "text": "x"}], {"id": ["a"], "text": ["x"]}),
            (
                [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}],
                {"id": ["a", "b"], "text": ["x", "y"]},
            ),
            (
                [{"id": "a", "text": "x"}, {"id": "b", "blob": b"y"}],
                {"text": ["x", ""], "blob": [None, b"y"]},
            ),
            (
                [{"id": "a", "granularity": 1}, {"id": "b"}],
                {"id": ["a", "b"], "granularity": [1, 0]},
            ),
            ([{"id": "a"}, {"id": "b", "weight": 0.5}], {"weight": [None, 0.5]}),
        ],
    )
    def test_a_list_for_each_field_in_use(
        self, rows: list[dict[str, Any]], columns: dict[str, Any]
    ) -> None:
        assert gather(rows) == {"id": [row["id"] for row in rows], **columns}

    @given(
        st.lists(
            st.fixed_dictionaries(
                {"id": st.text()},
                optional={
                    "text": st.text(),
                    "weight": st.floats(),
                    "tags": st.just({}),
                    "adjacency": st.integers(),
                },
            ),
            min_size=1,
        )
    )
    def test_what_was_gathered_is_scattered_again(self, rows: list[dict[str, Any]]) -> None:
        again: list[dict[str, Any]] = [{} for _ in rows]
        scatter(gather(rows), again)
        for row, same in zip(rows, again, strict=True):
            unset = {"text": "", "adjacency": 0}
            assert {**unset, **row} == {**unset, **same}

    def test_rows_of_an_array_are_scattered_as_views(self) -> None:
        matrix, rows = np.zeros((2, WIDTH)), [{}, {}]  # type: ignore[var-annotated]
        scatter({"id": ["a", "b"], "embedding": matrix}, rows)
        rows[1]["embedding"][0] = 5
        assert matrix[1, 0] == 5


class TestReadAndReplaced:
    def test_what_is_read_is_new_each_time(self) -> None:
        columns = {"id": ["a", "b"], "embedding": np.zeros((2, WIDTH))}
        read(columns, "id").append("c")
        read(columns, "embedding")[:] = 5
        assert len(columns["id"]) == 2
        assert not columns["embedding"].any()
        assert (read(columns, "text"), read(columns, "weight"), read(columns, "tensor")) == (
            ["", ""],
            [None, None],
            None,
        )

    def test_values_that_can_be_changed_in_place_are_not_readable(self) -> None:
        assert [
            name for name in ("tags", "scores", "matches", "chunks", "content") if readable(name)
        ] == []

    def test_replaced_leaves_the_old_columns_alone(self) -> None:
        columns: dict[str, Any] = {"id": ["a", "b"], "text": ["x", "y"]}
        texts = ["1", "2"]
        assert replaced(columns, "text", texts) == {"id": ["a", "b"], "text": ["1", "2"]}
        assert columns["text"] == ["x", "y"]

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            *(
                ("text", ["x"]),
                ("text", ["x", None]),
                ("text", [np.str_("x"), "y"]),
                ("text", ("x", "y")),
            ),
            *(("text", None), ("weight", [0.5, 0.5]), ("blob", [b"x", b"y"]), ("tags", [{}, {}])),
            *(
                ("embedding", np.zeros(2)),
                ("embedding", np.zeros((3, 2))),
                ("embedding", [[1], [2]]),
            ),
            *(
                ("embedding", np.ma.zeros((2, 2))),
                ("tensor", np.full((2, 2), None)),
                ("embedding", "ab"),
            ),
        ],
        ids=repr,
    )
    def test_values_that_have_to_be_looked_at_one_by_one(self, name: str, values: Any) -> None:
        assert replaced({"id": ["a", "b"]}, name, values) is None


class TestNested:
    """Three Documents with two, none and one of their own."""

    nested = Nested(
        dict, {"id": ["a", "b", "c"], "text": ["x", "y", "z"]}, array("q", [0, 2, 2, 3]), 1
    )

    def test_each_gets_its_part(self) -> None:
        rows: list[dict[str, Any]] = [{}, {}, {}]
        assert scatter({"id": ["1", "2", "3"], "matches": self.nested}, rows) == {}
        assert [row.get("matches") for row in rows] == [
            {"id": ["a", "b"], "text": ["x", "y"]},
            None,
            {"id": ["c"], "text": ["z"]},
        ]

    @pytest.mark.parametrize(("begin", "end"), [(0, 3), (0, 1), (1, 2), (1, 3), (2, 3), (2, 9)])
    def test_a_part_is_that_of_some(self, begin: int, end: int) -> None:
        part = self.nested[begin:end]
        assert len(part) == len(range(3)[begin:end])
        assert list(part) == list(self.nested)[begin:end]
        assert part.counts() == [2, 0, 1][begin:end]
        assert part.together()["id"] == [id for made in part if made for id in made["id"]]
