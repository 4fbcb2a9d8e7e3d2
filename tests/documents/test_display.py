"""How Documents and DocumentArrays look: in a prompt, in a notebook, and in a summary."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.documents import display
from zflow.documents.document import Document, DocumentArray, NamedScore


def letters(names: str) -> DocumentArray:
    return DocumentArray(Document(id=name, text=name * 2) for name in names)


class TestShowing:
    def test_short_repr(self) -> None:
        doc = Document(
            id="ab12cd34",
            text="hello",
            tensor=np.zeros((3, 4), "f4"),
            matches=DocumentArray.empty(2),
        )
        assert repr(doc) == "<Document id=ab12cd34 text='hello' tensor=float32(3, 4) matches=2>"
        assert repr(Document(id="ab" * 16)) == "<Document id=abababab>"
        assert (
            len(repr(Document(text="x" * 10**6, blob=b"y" * 10**6, tags={"t": "x" * 10**6}))) < 300
        )
        assert (
            repr(DocumentArray(doc)) == "<DocumentArray of 1 Document: id, text, tensor, matches>"
        )
        assert repr(DocumentArray()) == "<DocumentArray of 0 Documents>"

    def test_every_field_can_be_shown(self) -> None:
        doc = Document(
            tags={"a": np.zeros(3), "b": None, "c": {}},
            scores={"cos": 0.3},
            embedding=[1],
            weight=0.5,
        )
        assert "tags={'a': float64(3,), 'b': None, 'c': dict} scores={cos: 0.3}" in repr(doc)
        assert "embedding=list(1) weight=0.5" in repr(doc)
        assert repr(NamedScore(0.3, op_name="dot")) == "NamedScore(0.3, op_name='dot')"

    def test_html_is_escaped_and_has_the_first_rows(self) -> None:
        da = DocumentArray(
            Document(text=f"<b>{number}</b>", embedding=np.zeros(2)) for number in range(12)
        )
        page = da._repr_html_()
        assert page.count("<tr>") == 11
        assert "12 Documents, the first 10 shown" in page
        assert "&lt;b&gt;9&lt;/b&gt;" in page
        assert "<b>" not in page + da[0]._repr_html_()
        assert "float64(2,)" in page
        assert "<table>" in DocumentArray()._repr_html_()

    def test_summary(self, capsys: pytest.CaptureFixture[str]) -> None:
        da = letters("ab")
        da.append(Document(id="c", weight=0.5))
        da.summary()
        assert capsys.readouterr().out.splitlines() == [
            "<DocumentArray of 3 Documents: id, text, weight>",
            "  field   set in  first value",
            "  id      3 of 3  a",
            "  text    2 of 3  'aa'",
            "  weight  1 of 3  0.5",
        ]


class TestOneLine:
    def test_only_fields_that_are_set_are_shown_in_one_order(self) -> None:
        row = {
            "uri": "u",
            "tags": {},
            "blob": b"",
            "weight": 0.0,
            "text": "x",
            "id": "a",
            "granularity": 0,
        }
        assert display.document(row) == "<Document id=a text='x' uri='u' weight=0.0>"

    def test_only_ids_that_zflow_makes_are_cut(self) -> None:
        assert display.document({"id": "x" * 31}) == f"<Document id={'x' * 31}>"
        assert display.document({"id": "x" * 32}) == f"<Document id={'x' * 8}>"
        assert display.document({"id": "x" * 33}) == f"<Document id={'x' * 33}>"

    @pytest.mark.parametrize(
        ("fields", "shown"),
        [
            ({"text": "x" * 40}, f"text='{'x' * 40}'"),
            ({"text": "x" * 41}, f"text='{'x' * 40}'..."),
            ({"blob": b"x" * 40}, f"blob=b'{'x' * 40}'"),
            ({"blob": b"x" * 41}, f"blob=b'{'x' * 40}'..."),
            ({"text": "a\nb"}, r"text='a\nb'"),
            (
                {"tags": {"a": [1, 2], "b": "x", "c": True}},
                "tags={'a': list(2), 'b': 'x', 'c': True}",
            ),
            ({"tags": {"a": "x" * 100}}, f"tags={{'a': '{'x' * 33}..."),
            (
                {"scores": {"cos": NamedScore(0.5, "dot"), "new": NamedScore()}},
                "scores={cos: 0.5, new: None}",
            ),
            ({"matches": [1, 2, 3], "chunks": [1]}, "matches=3 chunks=1"),
            (
                {"tensor": np.zeros((2, 0), "i2"), "embedding": (1, 2)},
                "tensor=int16(2, 0) embedding=tuple(2)",
            ),
            ({"granularity": -1, "adjacency": 2}, "granularity=-1 adjacency=2"),
        ],
    )
    def test_values_are_short(self, fields: dict[str, object], shown: str) -> None:
        assert display.document({"id": "a", **fields}) == f"<Document id=a {shown}>"

    @settings(max_examples=40)
    @given(
        st.text(st.characters()),
        st.dictionaries(st.text(), st.text() | st.binary() | st.lists(st.integers())),
    )
    def test_a_document_of_any_content_is_one_short_line(
        self, text: str, tags: dict[str, object]
    ) -> None:
        shown = repr(Document(id="a", text=text, uri=text, tags=tags))
        assert len(shown.splitlines()) == 1
        # Three fields of 40 characters, each of which may be an escape of ten.
        assert len(shown) < 40 * 10 * 3 + 100

    def test_arrays_of_documents_name_the_fields_of_all(self) -> None:
        rows = [{"id": "a", "uri": "u"}, {"id": "b", "text": "x", "tags": {}}]
        assert display.array(rows) == "<DocumentArray of 2 Documents: id, text, uri>"
        assert display.array([]) == "<DocumentArray of 0 Documents>"


class TestSummary:
    def test_the_first_value_is_that_of_the_first_that_has_one(self) -> None:
        rows = [
            {"id": "a", "text": ""},
            {"id": "b", "text": "second"},
            {"id": "c", "text": "third"},
        ]
        assert display.summary(rows).splitlines()[-1] == "  text   2 of 3  'second'"

    def test_an_empty_array_has_no_fields(self) -> None:
        assert display.summary([]).splitlines() == [
            "<DocumentArray of 0 Documents>",
            "  field  set in  first value",
        ]


class TestHtml:
    def test_a_document_has_a_row_for_each_field_that_is_set(self) -> None:
        page = display.document_html({"id": "a", "text": '<i>"x" & y</i>', "uri": ""})
        assert page.splitlines() == [
            "<table>",
            "<caption>Document</caption>",
            "<tr><td>id</td><td>a</td></tr>",
            "<tr><td>text</td><td>&#x27;&lt;i&gt;&quot;x&quot; &amp; y&lt;/i&gt;&#x27;</td></tr>",
            "</table>",
        ]

    def test_an_array_has_a_column_for_each_field_in_use_and_gaps(self) -> None:
        page = display.array_html([{"id": "a", "text": "x"}, {"id": "b", "weight": 0.0}])
        assert page.splitlines() == [
            "<table>",
            "<caption>2 Documents</caption>",
            "<tr><th>id</th><th>text</th><th>weight</th></tr>",
            "<tr><td>a</td><td>&#x27;x&#x27;</td><td></td></tr>",
            "<tr><td>b</td><td></td><td>0.0</td></tr>",
            "</table>",
        ]

    def test_columns_are_those_in_use_in_all_rows_also_in_those_not_shown(self) -> None:
        rows: list[dict[str, object]] = [{"id": str(number)} for number in range(11)]
        rows[10]["uri"] = "u"
        assert "<th>uri</th>" in display.array_html(rows)
        assert "the first" not in display.array_html(rows[:10])


def test_showing_lists_of_numbers_imports_no_numpy() -> None:
    script = (
        "import sys; from zflow import Document, DocumentArray\n"
        "docs = DocumentArray([Document(id='a', embedding=[1, 2]), Document(id='b', tags={'x': "
        "(1,)})])\n"
        "docs.summary(); docs._repr_html_(); docs[0]._repr_html_(); print(repr(docs[0]))\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["<Document id=a embedding=list(2)>", "False"]


def test_it_never_raises_for_what_a_field_holds() -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

        def __hash__(self) -> int:
            return 1

    doc = Document(granularity=10**5000, tags={"n": 10**5000, Unprintable(): 1})
    for shown in (
        repr(doc),
        doc._repr_html_(),
        repr(DocumentArray(doc)),
        DocumentArray(doc)._repr_html_(),
    ):
        assert "Document" in shown
    assert "<int whose repr() fails>" in repr(doc)
