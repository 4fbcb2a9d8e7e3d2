"""Document and DocumentArray: fields, looking up, setting, comparing, copying."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.documents.document import Document, DocumentArray


def letters(names: str) -> DocumentArray:
    return DocumentArray(Document(id=name, text=name * 2) for name in names)


class TestFields:
    def test_unset_fields_have_empty_values(self) -> None:
        doc = Document()
        assert (doc.text, doc.blob, doc.uri, doc.mime_type, doc.modality, doc.parent_id) == (
            "",
            b"",
            "",
            "",
            "",
            "",
        )
        assert (doc.tensor, doc.embedding, doc.weight, doc.content) == (None, None, None, None)
        assert (doc.granularity, doc.adjacency, doc.tags, doc.scores) == (0, 0, {}, {})
        assert len(doc.matches) == len(doc.chunks) == 0

    def test_ids_are_random_hex_unless_given(self) -> None:
        ids = {Document().id for _ in range(1000)}
        assert len(ids) == 1000
        assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)
        assert Document(id="mine").id == "mine"

    def test_ids_differ_after_a_fork(self) -> None:
        script = (
            "import os; from zflow.documents.document import Document; Document()\n"
            "if not os.fork(): print(Document().id, flush=True); os._exit(0)\n"
            "os.wait(); print(Document().id)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert len(set(done.stdout.split())) == 2

    def test_lazy_fields_stay_when_changed(self) -> None:
        doc = Document()
        doc.tags["a"] = 1
        doc.matches.append(Document(id="m"))
        doc.chunks.append(Document(id="c"))
        assert (doc.tags, doc.matches.ids, doc.chunks.ids) == ({"a": 1}, ["m"], ["c"])

    def test_none_unsets(self) -> None:
        doc = Document(id="a", text="x", blob=None, tags={"a": 1}, weight=0.5, tensor=[1])
        for name in ("text", "tags", "weight", "tensor", "matches"):
            setattr(doc, name, None)
        assert doc == Document(id="a")
        doc.text = "y"
        del doc.text
        assert doc == Document(id="a")
        doc.id = None  # type: ignore[assignment]
        assert len(doc.id) == 32

    def test_unknown_fields_are_refused_with_the_nearest(self) -> None:
        message = "no field 'txet'; did you mean 'text'.*tags="
        with pytest.raises(TypeError, match=message):
            Document(txet="x")  # type: ignore[call-arg]
        with pytest.raises(AttributeError, match=message):
            Document().txet = "x"  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match=message):
            print(Document().txet)  # type: ignore[attr-defined]

    def test_content_is_whatever_is_set(self) -> None:
        doc = Document(text="x")
        assert doc.content == "x"
        doc.content = b"y"
        assert (doc.text, doc.blob, doc.content) == ("", b"y", b"y")
        doc.content = np.zeros(3)
        assert doc.content is doc.tensor
        assert doc.blob == b""
        doc.content = None
        assert doc.content is None

    def test_content_is_given_as_what_it_is(self) -> None:
        tensor = np.zeros(3)
        for content, field in (("x", "text"), (b"x", "blob"), (tensor, "tensor"), ([1], "tensor")):
            doc = Document(content=content)
            assert getattr(doc, field) is content is doc.content
            assert doc.content_type == field
        assert Document(id="a", content=None) == Document(id="a")
        assert Document(content="").content_type is None
        for fields in ({"content": "x", "text": "y"}, {"tensor": tensor, "content": "x"}):
            with pytest.raises(TypeError, match=r"Document\(content=...\) is its text"):
                Document(**fields)  # type: ignore[arg-type]

    def test_all_contents_are_set_and_read_together(self) -> None:
        docs = letters("ab")
        docs.contents = [b"x", "y"]
        assert docs.contents == [b"x", "y"]
        assert docs.texts == ["", "y"]


class TestComparing:
    def test_all_fields_count(self) -> None:
        assert Document(id="a") == Document(id="a")
        assert Document(id="a") != Document(id="b")
        assert Document(id="a", text="x") != Document(id="a")
        assert Document(id="a", scores={"c": 1}) != Document(id="a", scores={"c": 2})
        assert Document(id="a", matches=letters("m")) != Document(id="a", matches=letters("n"))
        assert Document(id="a", matches=letters("m")) == Document(id="a", matches=letters("m"))
        assert Document(id="a") != "a"

    def test_reading_a_lazy_field_or_setting_an_empty_value_changes_nothing(self) -> None:
        doc = Document(id="a", text="", granularity=0)
        assert not any((doc.tags, doc.matches, doc.scores))
        assert doc == Document(id="a")
        assert Document(id="a", weight=0.0) != Document(id="a")


class TestCopying:
    @pytest.fixture
    def doc(self) -> Document:
        fields: dict[str, Any] = {
            "text": "x",
            "tags": {"n": [1]},
            "tensor": np.arange(3),
            "scores": {"cos": 0.3},
            "weight": 0.5,
        }
        return Document(id="a", blob=b"y", matches=letters("mn"), **fields)

    @pytest.mark.parametrize(
        "again", [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))]
    )
    def test_copies_are_equal(self, doc: Document, again: object) -> None:
        other = again(doc)  # type: ignore[operator]
        assert other == doc
        other.text = "changed"
        assert doc.text == "x"

    def test_deep_copies_share_nothing(self, doc: Document) -> None:
        other = copy.deepcopy(doc)
        other.tags["n"].append(2)
        other.tensor[0] = 9
        other.matches[0].text = "changed"
        assert (doc.tags, doc.tensor[0], doc.matches[0].text) == ({"n": [1]}, 0, "mm")

    def test_dicts_there_and_back(self, doc: Document) -> None:
        fields = doc.to_dict()
        assert list(fields) == [
            "id",
            "text",
            "blob",
            "tensor",
            "weight",
            "tags",
            "scores",
            "matches",
        ]
        assert fields["matches"] == [{"id": "m", "text": "mm"}, {"id": "n", "text": "nn"}]
        assert fields["scores"] == {"cos": {"value": 0.3, "op_name": "", "description": ""}}
        assert Document.from_dict(fields) == doc
        with pytest.raises(TypeError, match="did you mean 'text'"):
            Document.from_dict({"matches": [{"txt": "x"}]})

    def test_arrays_of_documents(self) -> None:
        da = letters("ab")
        assert "a" in da
        for again in (copy.copy(da), copy.deepcopy(da), pickle.loads(pickle.dumps(da))):
            assert again == da
            again.append(Document(id="c"))
            assert "c" in again
        assert len(da) == 2
        assert copy.copy(da)[0] is da[0]


class TestMakingArrays:
    def test_from_nothing_one_or_many(self) -> None:
        doc = Document()
        assert len(DocumentArray()) == len(DocumentArray(None)) == len(DocumentArray([])) == 0
        assert DocumentArray(doc)[0] is doc
        assert len(DocumentArray(Document() for _ in range(3))) == 3
        assert len(DocumentArray.empty(2)) == 2
        assert len(DocumentArray.empty()) == 0
        assert DocumentArray(letters("ab")).ids == ["a", "b"]

    @pytest.mark.parametrize("wrong", [3, "abc", b"x", {"a": 1}, ["x"], [Document(), None]])
    def test_only_documents(self, wrong: object) -> None:
        with pytest.raises(TypeError, match="Documents, not"):
            DocumentArray(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="Documents, not"):
            DocumentArray().append(wrong)  # type: ignore[arg-type]

    def test_subclasses_are_documents(self) -> None:
        class Page(Document):
            pass

        assert len(DocumentArray([Page(text="x"), Document()])) == 2


class TestLookingUp:
    da = letters("abcd")

    def test_in_is_by_id(self) -> None:
        assert "a" in self.da
        assert Document(id="a") in self.da
        assert "z" not in self.da
        assert 3 not in self.da

    def test_the_first_of_an_id_is_found(self) -> None:
        da = DocumentArray([Document(id="a", text="1"), Document(id="a", text="2")])
        assert da["a"].text == "1"
        del da[0]
        assert da["a"].text == "2"

    def test_a_changed_id_is_found(self) -> None:
        da = letters("ab")
        assert "a" in da
        da[0].id = "c"
        assert "a" not in da
        assert da["c"].text == "aa"

    def test_sequence_methods(self) -> None:
        assert [doc.id for doc in reversed(self.da)] == list("dcba")
        assert self.da.index(self.da[2]) == 2
        assert self.da.count(self.da[0]) == 1


class TestChanging:
    def test_replace_one(self) -> None:
        da = letters("abc")
        da[0] = Document(id="x")
        da["b"] = Document(id="y")
        assert da.ids == ["x", "y", "c"]
        with pytest.raises(KeyError, match="'b'"):
            da["b"] = Document()
        with pytest.raises(TypeError, match="holds Documents, not str"):
            da[0] = "x"

    def test_replace_several(self) -> None:
        da = letters("abcd")
        da[1:3] = letters("x")
        assert da.ids == ["a", "x", "d"]
        da[[0, 2]] = letters("yz")
        assert da.ids == ["y", "x", "z"]
        da[[False, True, False]] = Document(id="w")
        assert da.ids == ["y", "w", "z"]
        with pytest.raises(ValueError, match="2 Documents to replace, but 1 given"):
            da[[0, 1]] = letters("q")

    def test_set_fields(self) -> None:
        da = letters("abc")
        da[:, "text"] = ["1", "2", "3"]
        da[[0, 2], ["text", "weight"]] = [["x", "y"], [0.5, 1.5]]
        da["b", "uri"] = "u"
        assert da.texts == ["x", "2", "y"]
        assert [doc.weight for doc in da] == [0.5, None, 1.5]
        assert da[1].uri == "u"
        da[:, "weight"] = None
        del da[0, "text"]
        assert da[:, ["text", "weight"]] == [["", "2", "y"], [None] * 3]

    def test_set_fields_wrongly(self) -> None:
        da = letters("abc")
        with pytest.raises(ValueError, match="'text' of 3 Documents: give one value each, not 2"):
            da.texts = ["x", "y"]
        with pytest.raises(
            TypeError, match="'text' of 3 Documents: give one value each, not one str"
        ):
            da[:, "text"] = "abc"
        with pytest.raises(TypeError, match="give one value each, not one int"):
            da.ids = 3
        with pytest.raises(
            ValueError, match=r"2 fields to set \(id, text\), but 1 lists of values"
        ):
            da[:, ["id", "text"]] = [["x", "y", "z"]]
        assert da == letters("abc")

    def test_delete(self) -> None:
        da = letters("abcdefgh")
        del da[0]
        del da["c"]
        del da[-1]
        assert da.ids == list("bdefg")
        del da[1:3]
        assert da.ids == list("bfg")
        del da[["g", 0]]
        assert da.ids == ["f"]
        del da[[True]]
        assert da.ids == []

    def test_grow_and_shrink(self) -> None:
        da = DocumentArray()
        da.append(Document(id="b"))
        da.insert(0, Document(id="a"))
        da.extend(Document(id=name) for name in "cd")
        da += letters("e")
        assert da.ids == list("abcde")
        assert (da + letters("f")).ids == list("abcdef")
        more = [Document(id="g")]
        assert (da + more).ids == list("abcdeg")
        assert da.pop().id == "e"
        da.remove(da["b"])
        da.reverse()
        assert da.ids == list("dca")
        da.sort(key=lambda doc: doc.id)
        assert da.ids == list("acd")
        da.extend(da)
        assert da.ids == list("acdacd")
        da.clear()
        assert da == DocumentArray()
        with pytest.raises(TypeError):
            da + 3  # type: ignore[operator]

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["append", "insert", "del", "set", "rename", "reverse"]),
                st.integers(0),
            )
        )
    )
    def test_looking_up_is_right_after_any_change(self, steps: list[tuple[str, int]]) -> None:
        da = letters("ab")
        for step, number in steps:
            size, name = len(da), str(number % 5)
            assert all(da[name] is next(doc for doc in da if doc.id == name) for name in da.ids)
            if step == "append":
                da.append(Document(id=name))
            elif step == "insert":
                da.insert(number % (size + 1), Document(id=name))
            elif step == "reverse":
                da.reverse()
            elif size and step == "set":
                da[number % size] = Document(id=name)
            elif size and step == "rename":
                da[number % size].id = name
            elif size:
                del da[number % size]
        assert all((name in da) == (name in da.ids) for name in "ab01234")


def test_numpy_is_imported_only_for_arrays() -> None:
    script = (
        "import sys; from zflow import Document, DocumentArray; from zflow.documents.codec import "
        "pack, unpack\n"
        "doc = Document(text='x', tags={'a': 2**70}, matches=[Document()]); "
        "unpack(pack(DocumentArray(doc)))\n"
        "assert doc == Document(id=doc.id, text='x', tags={'a': 2**70}, matches=doc.matches); "
        "repr(doc)\n"
        "print(sorted({'numpy', 'yaml', 'asyncio', 'html'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
