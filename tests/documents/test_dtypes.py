"""Every dtype that numpy has travels as it is, by every way there is; any other is refused where it
is set.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zflow import Document, DocumentArray
from zflow.documents.codec import pack, unpack

DTYPES = (
    *(">f2", ">f4", ">f8", ">i2", ">i8", ">u4", ">c8", ">c16", ">U5", ">M8[s]", ">m8[us]"),
    *("<f2", "<f4", "<g", ">g", "<i8", "?", "i1", "S5", "<U5", "<M8[ns]", "<m8[25s]"),
)
SHAPES = ((3,), (3, 2), (3, 5000))


def sent(docs: DocumentArray) -> DocumentArray:
    return unpack([memoryview(bytearray(frame)) for frame in pack(docs)])[0]


def each(block: Any) -> list[Any]:
    """The rows of an array, as arrays also where they are single numbers."""
    return [block[row, ...] for row in range(len(block))]


def set_together(block: Any) -> DocumentArray:
    docs = DocumentArray.empty(len(block))
    docs.tensors = block
    return docs


def set_with_documents_there(block: Any) -> DocumentArray:
    docs = DocumentArray.empty(len(block))
    docs[0].text = "made"
    docs[:, "tensor"] = block
    return docs


def set_one_by_one(block: Any) -> DocumentArray:
    return DocumentArray([Document(tensor=row) for row in each(block)])


def set_as_a_list(block: Any) -> DocumentArray:
    docs = DocumentArray.empty(len(block))
    docs.tensors = each(block)
    return docs


WAYS: list[Callable[[DocumentArray], DocumentArray]] = [
    lambda docs: docs,
    sent,
    lambda docs: sent(sent(docs)),
    lambda docs: sent(DocumentArray(Document(matches=docs)))[0].matches,
    copy.deepcopy,
    lambda docs: DocumentArray([copy.copy(doc) for doc in docs]),
    lambda docs: pickle.loads(pickle.dumps(docs)),
    lambda docs: pickle.loads(pickle.dumps(docs, 2)),
    lambda docs: DocumentArray([Document.from_dict(doc.to_dict()) for doc in docs]),
]


@pytest.mark.parametrize(
    "setting", [set_together, set_with_documents_there, set_one_by_one, set_as_a_list]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_is_kept_by_every_way(dtype: str, setting: Callable[[Any], DocumentArray]) -> None:
    for shape in SHAPES:
        block = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for way in WAYS:
            docs = way(setting(block))
            assert docs.tensors.dtype.str == block.dtype.str
            assert np.array_equal(docs.tensors, block)
            assert [doc.tensor.dtype.str for doc in docs] == [block.dtype.str] * 3
            docs[0].tensor[...] = block[1]  # what has arrived may be written to


class Dtype:
    """A dtype of a library that has some which numpy has not."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


class Tensor:
    """Looks like a tensor of such a library; one that numpy cannot read says so late."""

    shape = (2,)

    def __init__(self, dtype: str) -> None:
        self.dtype = Dtype(dtype)

    def __array__(self, dtype: object = None, copy: object = None) -> Any:
        if "float32" not in repr(self.dtype):
            raise TypeError("Got unsupported ScalarType")
        return np.zeros(2, "f4")


REFUSED = [
    (Tensor("torch.bfloat16"), "arrays of dtype torch.bfloat16 cannot be sent.*tensor.float()"),
    (Tensor("torch.float8_e4m3fn"), "torch.float8_e4m3fn cannot be sent.*tensor.float()"),
    (Tensor("torch.quint8"), "torch.quint8 cannot be sent"),
    (Tensor("torch.complex32"), "torch.complex32 cannot be sent"),
    (Tensor("<dtype: 'string'>"), "'string'> cannot be sent"),
    (np.array([None, 1]), "arrays of Python objects cannot be sent: convert it to numbers"),
    (np.zeros(2, [("a", "f4")]), "structured arrays cannot be sent.*one array per column"),
    (np.zeros(2, "V4"), r"arrays of dtype \|V4 cannot be sent: convert it"),
    (np.zeros(2, "M8"), r"a time without a unit.*astype\('M8\[ns\]'\)"),
    (np.ma.masked_array([1, 2], [False, True]), "masked array.*filled"),
]
if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
    REFUSED.append((np.array(["a"], np.dtypes.StringDType()), r"cannot be sent.*astype\('U'\)"))


@pytest.mark.parametrize(("value", "words"), REFUSED)
@pytest.mark.parametrize("field", ["tensor", "embedding"])
def test_others_are_refused_where_they_are_set(field: Any, value: Any, words: str) -> None:
    words = f"^Document.{field}: .*{words}"
    with pytest.raises(TypeError, match=words):
        Document(**{field: value})
    doc = Document()
    with pytest.raises(TypeError, match=words):
        setattr(doc, field, value)
    docs = DocumentArray.empty(2)
    with pytest.raises(TypeError, match=words):
        docs[:, field] = [np.zeros(1), value]
    assert docs[1] == Document(id=docs[1].id)


def test_what_numpy_can_read_of_other_libraries_is_welcome() -> None:
    for name in ("torch.float32", "<dtype: 'float32'>", "paddle.float32", "mylib.float32x"):
        assert sent(DocumentArray(Document(tensor=Tensor(name)))).tensors.dtype == "f4"


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4"])
def test_dtypes_that_other_packages_give_to_numpy_are_refused(name: str) -> None:
    extra = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match=rf"tensor: .*dtype {name} cannot.*astype\('float32'\)"):
        Document(tensor=np.zeros(2, getattr(extra, name)))
    docs = DocumentArray.empty(2)
    with pytest.raises(TypeError, match=f"dtype {name} cannot"):
        docs.embeddings = np.zeros((2, 3), getattr(extra, name))


def test_times_that_are_none_travel_without_a_unit() -> None:
    docs = DocumentArray(Document(tensor=np.array(["NaT"], "M8")))
    assert sent(docs) == docs
    docs[0].tags["x"] = np.zeros(1, "M8")
    with pytest.raises(TypeError, match=r"Document 0 .*tags\['x'\]: a time without a unit"):
        pack(docs)


def test_a_single_number_of_an_odd_dtype_is_named_with_the_way_out() -> None:
    extra = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match=r"tags\['x'\]: cannot send a single bfloat16; use float"):
        pack(DocumentArray(Document(tags={"x": extra.bfloat16(1)})))
    assert sent(DocumentArray(Document(scores={"a": extra.bfloat16(1)})))[0].scores["a"].value == 1


@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1", ">f4", "g"])
def test_scores_and_weights_take_numbers_of_every_dtype(kind: str) -> None:
    number = np.ones(1, kind)[0]
    doc = Document(scores={"a": number, "b": np.ones((), kind)}, weight=number)
    doc.scores["c"].value = number
    doc = sent(DocumentArray(doc))[0]
    assert [doc.scores[name].value for name in "abc"] == [1, 1, 1]
    assert doc.weight == 1


def test_a_blob_is_the_memory_of_an_array_as_it_lies() -> None:
    numbers = np.arange(3, dtype=">f4")
    assert Document(blob=numbers.data).blob == numbers.tobytes()
