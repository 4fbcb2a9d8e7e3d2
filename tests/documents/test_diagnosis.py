"""Which Document and which field is to blame: for what cannot be sent,
and for what is too large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zflow.documents.codec import largest, pack, unpack
from zflow.documents.diagnosis import DEEPEST_DOCUMENTS, WrongNesting, explain, refuse_wrong_nesting
from zflow.documents.document import Document, DocumentArray
from zflow.errors import SerializationError

LOST = ValueError("lost")


def nested(levels: int, field: str = "matches") -> Document:
    """A Document with so many levels of others in it."""
    doc = Document(id="deepest")
    for level in range(levels, 0, -1):
        doc = Document(id=f"above {level}", **{field: [doc]})  # type: ignore[arg-type]
    return doc


class TestWhatCannotBeSent:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.array([None, 1]), "arrays of Python objects cannot be sent"),
            (
                np.zeros(2, [("a", "f4"), ("b", "i4")]),
                "structured arrays cannot be sent .*one array per column",
            ),
            (np.zeros(2, "V4"), r"arrays of dtype \|V4 cannot be sent: convert it"),
            (np.ma.masked_array([1, 2], [False, True]), r"a masked array.*filled"),
            ([[1], [2, 3]], "list is not an array: .*inhomogeneous|arrays of Python objects"),
            (object(), "arrays of Python objects cannot be sent"),
        ],
    )
    def test_others_are_refused_by_document_and_field(self, value: Any, message: str) -> None:
        docs = DocumentArray([Document(), Document(id="ab12")])
        # As it would be if a dtype was changed in place: most are refused where they are set.
        docs[1].__dict__["embedding"] = value
        with pytest.raises(
            SerializationError, match=f"^Document 1 \\(id 'ab12'\\) field embedding: ({message})"
        ):
            pack(docs)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({1, 2}, "cannot send a value of type set; use a list"),
            (1j, "cannot send a value of type complex; use .value.real"),
            (np.complex64(1), "cannot send a single complex64"),
            (object(), "cannot send a value of type object; use None, bool, int"),
            (np.array([None]), "arrays of Python objects"),
            (Document(), r"cannot send a value of type Document; use value.to_dict\(\)"),
        ],
    )
    def test_others_are_refused_with_their_place(self, value: Any, message: str) -> None:
        docs = DocumentArray([Document(), Document(id="ab12", tags={"x": [0, {"y": value}]})])
        with pytest.raises(
            SerializationError,
            match=r"^Document 1 \(id 'ab12'\) field tags\['x'\]\[1\]\['y'\]: " + message,
        ):
            pack(docs)
        with pytest.raises(SerializationError, match=r"^parameters\['x'\]: " + message):
            pack(None, {"x": value})
        nested = DocumentArray(Document(id="q", matches=[Document(id="m", chunks=docs)]))
        with pytest.raises(
            SerializationError,
            match=r"^Document 0 \(id 'q'\) matches\[0\] \(id 'm'\) chunks\[1\] \(id 'ab",
        ):
            pack(nested)

    def test_keys_and_scores_are_named_too(self) -> None:
        with pytest.raises(
            SerializationError,
            match=r"field tags key frozenset\(.*: cannot send a value of type froz",
        ):
            pack(DocumentArray(Document(tags={frozenset(): 1})))
        doc = Document()
        doc.scores["cos"].value = {1}  # type: ignore[assignment]
        with pytest.raises(
            SerializationError, match=r"field scores\['cos'\]\[0\]: cannot send a value of type set"
        ):
            pack(DocumentArray(doc))

    def test_endless_values_are_refused(self) -> None:
        endless: dict[str, Any] = {}
        endless["again"] = [endless]
        with pytest.raises(
            SerializationError,
            match=r"Document 0 .*tags\['again'\].*nested too deeply, or contains",
        ):
            pack(DocumentArray(Document(tags=endless)))

    def test_parameters_come_first_and_then_documents_in_their_order(self) -> None:
        docs = [
            Document(id="a"),
            Document(id="b", tags={"x": {1}}),
            Document(id="c", tags={"x": 1j}),
        ]
        assert explain(docs, {"y": 1j}, LOST).startswith(
            "parameters['y']: cannot send a value of type complex"
        )
        assert explain(docs, {"y": 1}, LOST).startswith(
            "Document 1 (id 'b') field tags['x']: cannot send a value of"
        )
        assert explain(docs[2:], None, LOST).startswith("Document 0 (id 'c') field tags['x']: ")

    def test_where_nothing_is_found_the_error_itself_is_told(self) -> None:
        docs = [
            Document(
                text="x",
                tags={"a": [1]},
                tensor=np.zeros(3),
                scores={"cos": 0.3},
                matches=[Document()],
            )
        ]
        assert explain(docs, {"limit": 3}, LOST) == "these Documents cannot be sent: lost"
        assert explain(None, None, LOST) == "these Documents cannot be sent: lost"

    def test_a_wrong_nesting_speaks_for_itself(self) -> None:
        docs = [Document(tags={"x": {1}})]
        assert explain(docs, None, WrongNesting("it contains itself")) == "it contains itself"

    def test_long_ids_keys_and_places_are_cut(self) -> None:
        found = explain([Document(id="i" * 10_000, tags={"t" * 10_000: {1}})], None, LOST)
        assert len(found) < 300
        assert "use a list" in found
        endless: list[Any] = []
        endless.append(endless)
        assert len(explain([], {"x": endless}, LOST)) < 200

    def test_an_object_whose_repr_fails_is_named_by_its_type(self) -> None:
        class Shy:
            def __repr__(self) -> str:
                raise RuntimeError("not now")

        assert explain([Document(id="a", tags={Shy(): 1})], None, LOST).startswith(
            "Document 0 (id 'a') field tags key <Shy whose repr() fails>: cannot send a value of "
            "type "
        )

    def test_a_foreign_tensor_may_raise_anything(self) -> None:
        class Broken:
            dtype, shape = "float32", (2,)

            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                raise MemoryError("the device is gone")

        found = explain([Document(id="a", tensor=Broken())], None, LOST)
        assert found == "Document 0 (id 'a') field tensor: the device is gone"
        found = explain([Document(id="a", tags={"x": Broken()})], None, LOST)
        assert found == "Document 0 (id 'a') field tags['x']: the device is gone"


class TestNesting:
    @pytest.mark.parametrize("field", ["matches", "chunks"])
    def test_documents_that_contain_themselves_are_refused(self, field: str) -> None:
        docs = DocumentArray(Document(id=f"d{number}") for number in range(20))
        for doc in docs:
            setattr(doc, field, docs)
        with pytest.raises(
            SerializationError, match="Document 'd0' contains itself through its matches or chunks"
        ):
            pack(docs)

    def test_shared_documents_are_no_cycle(self) -> None:
        shared = Document(matches=[Document(text="deep")])
        docs = DocumentArray(Document(matches=[shared, shared], chunks=[shared]) for _ in range(2))
        assert unpack(pack(docs))[0] == docs

    @pytest.mark.parametrize(
        ("levels", "fits"), [(100, True), (103, False), (400, False), (5000, False)]
    )
    def test_depth_ends_somewhere(self, levels: int, fits: bool) -> None:
        doc = Document()
        for _ in range(levels):
            doc = Document(matches=[doc])
        if fits:
            assert unpack(pack(DocumentArray(doc)))[0][0] == doc
        else:
            with pytest.raises(SerializationError, match="nested too deeply"):
                pack(DocumentArray(doc))
        # Taken apart level by level: freeing a deep chain at once is deep as well.
        while doc.matches:
            doc = doc.matches.pop()

    @pytest.mark.parametrize("field", ["matches", "chunks"])
    def test_so_many_levels_can_be_sent_and_no_more(self, field: str) -> None:
        refuse_wrong_nesting([nested(DEEPEST_DOCUMENTS, field)])
        with pytest.raises(
            WrongNesting, match=f"nested too deeply: at most {DEEPEST_DOCUMENTS} levels can be sent"
        ):
            refuse_wrong_nesting([Document(), nested(DEEPEST_DOCUMENTS + 1, field)])

    def test_the_document_that_contains_itself_is_named_however_deep_it_is(self) -> None:
        inner = Document(id="inner")
        inner.chunks = DocumentArray(Document(id="between", matches=[inner]))
        with pytest.raises(
            WrongNesting, match=r"^Document 'inner' contains itself through its matches or chunks"
        ):
            refuse_wrong_nesting(
                [Document(), Document(id="outer", chunks=[Document(matches=[inner])])]
            )

    def test_documents_shared_in_every_level_are_walked_once(self) -> None:
        doc = Document()
        for _ in range(60):  # in 2 ** 60 ways
            doc = Document(matches=[doc, doc], chunks=[doc])
        refuse_wrong_nesting([doc, doc])

    def test_reading_a_lazy_field_changes_nothing(self) -> None:
        doc = Document(id="a")
        refuse_wrong_nesting([doc])
        assert set(doc.__dict__) == {"id"}


def test_largest_names_document_and_field() -> None:
    docs = DocumentArray(
        [Document(id="a", text="x" * 50), Document(id="ab12", tensor=np.zeros(15_000_000))]
    )
    assert largest(docs) == "Document 'ab12' (field 'tensor', 120.0 MB)"
    docs.append(Document(id="q", matches=[docs[1], docs[1]], tags={"x": 1}))
    assert largest(docs) == "Document 'q' (field 'matches', 240.0 MB)"
    assert (
        largest(DocumentArray(Document(id="b", tags={"x": "y" * 2000})))
        == "Document 'b' (field 'tags', 2.0 kB)"
    )
    assert largest(DocumentArray(Document(id="c", tags={"x": object()}))).startswith(
        "Document 'c' (field 'id', 1 b"
    )
    assert largest(DocumentArray()) == "no Document"


class TestLargest:
    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            *((999, "999 bytes"), (1000, "1.0 kB"), (1_500, "1.5 kB"), (2_340_000, "2.3 MB")),
        ],
    )
    def test_sizes_are_in_a_unit_that_can_be_read(self, size: int, shown: str) -> None:
        assert (
            largest(DocumentArray(Document(id="a", blob=bytes(size))))
            == f"Document 'a' (field 'blob', {shown})"
        )

    def test_gigabytes(self) -> None:
        zeros = np.broadcast_to(np.zeros(1), (250_000_000,))  # which takes no memory
        assert (
            largest(DocumentArray(Document(id="a", tensor=zeros)))
            == "Document 'a' (field 'tensor', 2.0 GB)"
        )

    def test_it_is_the_sum_of_all_fields_that_counts(self) -> None:
        many = Document(id="many", text="x" * 600, uri="y" * 601, blob=b"z" * 599)
        assert largest(DocumentArray([Document(id="one", text="x" * 1000), many])).startswith(
            "Document 'many' (fie"
        )
        assert "(field 'uri', 601 bytes)" in largest(DocumentArray(many))

    def test_texts_count_as_what_they_take_on_the_wire(self) -> None:
        docs = DocumentArray(
            [Document(id="a", text="x" * 150), Document(id="b", text="\U0001f600" * 50 + "\udcff")]
        )
        assert largest(docs) == "Document 'b' (field 'text', 203 bytes)"

    def test_what_cannot_be_sent_counts_nothing(self) -> None:
        docs = DocumentArray(
            [Document(id="a", tensor=[[1], [2, 3]], text="xyz"), Document(id="b", text="x")]
        )
        assert largest(docs) == "Document 'a' (field 'text', 3 bytes)"

    def test_a_long_id_is_cut(self) -> None:
        assert len(largest(DocumentArray(Document(id="i" * 10_000)))) < 100


def test_levels_are_counted_also_where_documents_stand_in_several_places() -> None:
    docs: list[Document] = []
    for _ in range(150):
        docs.append(Document(matches=docs[-1:] or None))
    with pytest.raises(SerializationError, match="nested too deeply: at most 100 levels"):
        pack(DocumentArray(docs))
    assert len(unpack(pack(DocumentArray(docs[:100])))[0]) == 100
