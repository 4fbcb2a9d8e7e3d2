"""Document and DocumentArray, the data that travels through a Flow.

A Document's `__dict__` holds only the fields that were set, so that a small one is cheap to make,
to compare and to send; classes and lazily made containers supply the rest. This module must not
know how Documents travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from zflow.documents import display, subscript
from zflow.documents import tensor as _tensor
from zflow.documents.dtypes import objection
from zflow.documents.fields import (
    ARRAYS,
    FIELDS,
    NESTED,
    TYPES,
    NamedScore,
    Scores,
    converted,
    is_empty,
    unknown_field,
)
from zflow.documents.ids import random_id
from zflow.documents.storage import Column, Storage, renamed
from zflow.suggest import short

if TYPE_CHECKING:
    from typing import TypedDict

    from _typeshed import SupportsRichComparison
    from numpy.typing import ArrayLike
    from typing_extensions import Self, Unpack

    from zflow.documents.fields import Row, Score
    from zflow.documents.subscript import Key, Rows

    class Fields(TypedDict, total=False):
        """The keywords of `Document(...)`, for type checkers; None leaves a field unset."""

        id: str | None
        parent_id: str | None
        text: str | None
        blob: bytes | bytearray | memoryview | None
        tensor: ArrayLike | None
        embedding: ArrayLike | None
        uri: str | None
        mime_type: str | None
        modality: str | None
        weight: float | None
        granularity: int | None
        adjacency: int | None
        tags: Mapping[Any, object] | None
        scores: Mapping[str, Score] | None
        matches: Iterable[Document] | None
        chunks: Iterable[Document] | None


__all__ = ["Document", "DocumentArray", "NamedScore"]

# What a column of a DocumentArray may be called.
_COLUMNS = (*FIELDS, "content")


class Document:
    """One item of data on its way through a Flow.

    Args:
        id: names the Document; 32 random hex digits when not given.
        text: a str, by default `''`.
        blob: bytes, by default `b''`.
        tensor: the content as an array: numpy, nested lists of numbers, or a tensor of another
            library (which arrives as numpy). By default None.
        embedding: a vector that stands for the content, as `tensor`.
        uri, mime_type, modality, parent_id: str, by default `''`.
        weight: a float, by default None.
        granularity, adjacency: int, how deep in `chunks` and in `matches` this Document belongs; by
            default 0.
        tags: a dict of your own values: None, bool, int, float, str, bytes, lists, dicts, arrays.
        scores: numbers by name; reading one gives a `NamedScore` with `.value`.
        matches, chunks: DocumentArrays, empty by default.

    Setting a field to None unsets it.

    Raises:
        TypeError: an unknown field, or a value of the wrong type; the message names the field.

    >>> doc = Document(text="hello", tags={"page": 3})
    >>> doc.scores["cos"] = 0.5
    >>> doc.text, doc.tags["page"], doc.scores["cos"].value
    ('hello', 3, 0.5)
    """

    __module__ = "zflow"

    id: str
    parent_id: str = ""
    text: str = ""
    blob: bytes = b""
    tensor: Any = None
    embedding: Any = None
    uri: str = ""
    mime_type: str = ""
    modality: str = ""
    weight: float | None = None
    granularity: int = 0
    adjacency: int = 0
    tags: dict[Any, Any]
    scores: Scores
    matches: DocumentArray
    chunks: DocumentArray

    def __init__(self, **fields: Unpack[Fields]) -> None:
        values = self.__dict__
        for name, value in fields.items():
            if type(value) is TYPES.get(name):
                values[name] = value
            else:
                _put(values, name, value)
        if "id" not in values:
            values["id"] = random_id()

    if not TYPE_CHECKING:  # a type checker would take these as leave for any attribute

        def __getattr__(self, name: str) -> object:
            # Only called for what is neither set nor has a default in the class.
            make = _LAZY.get(name)
            if make is None:
                raise AttributeError(
                    f"Document.{name}" if name.startswith("__") else unknown_field(name)
                )
            return self.__dict__.setdefault(name, make())

        def __setattr__(self, name: str, value: object) -> None:
            if type(value) is TYPES.get(name) and name != "id":
                self.__dict__[name] = value
                return
            if name == "content":
                object.__setattr__(self, name, value)
                return
            if name not in FIELDS:
                raise AttributeError(unknown_field(name))
            _put(self.__dict__, name, value)
            if name == "id":
                renamed()

    def __delattr__(self, name: str) -> None:
        setattr(self, name, None)

    @property
    def content(self) -> Any:
        """The first of `text`, `blob` and `tensor` that is set, or None;
        setting it sets one and unsets the others.
        """
        return self.text or self.blob or self.tensor

    @content.setter
    def content(self, value: ArrayLike | None) -> None:
        is_blob = isinstance(value, (bytes, bytearray, memoryview))
        field = "text" if isinstance(value, str) else "blob" if is_blob else "tensor"
        for name in ("text", "blob", "tensor"):
            setattr(self, name, value if name == field else None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set as a dict; `matches` and `chunks` as lists of dicts,
        scores as dicts.

        Arrays and bytes stay what they are, so `Document.from_dict` gives an equal Document.
        """
        shown: Row = {}
        for name in FIELDS:
            if is_empty(name, self.__dict__.get(name)):
                continue
            value = self.__dict__[name]
            if name in NESTED:
                value = [doc.to_dict() for doc in value]
            elif name == "scores":
                value = {key: asdict(score) for key, score in value.items()}
            shown[name] = value
        return shown

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make a Document of what `to_dict` returned.

        Raises:
            TypeError: an unknown field, or a value of the wrong type.
        """
        values = dict(fields)
        for name in NESTED:
            if values.get(name):
                values[name] = [Document.from_dict(nested) for nested in values[name]]
        return cls(**values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        if self is other:
            return True
        mine, theirs = self.__dict__, other.__dict__
        return all(
            _same_field(name, mine.get(name), theirs.get(name))
            for name in mine.keys() | theirs.keys()
        )

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        doc = object.__new__(type(self))
        doc.__dict__.update(self.__dict__)
        return doc

    def __getstate__(self) -> Row:
        return _tensor.pickled(self.__dict__)

    def __repr__(self) -> str:
        return display.document(self.__dict__)

    def _repr_html_(self) -> str:
        return display.document_html(self.__dict__)


def _put(values: Row, name: str, value: object) -> None:
    if name in NESTED:
        value = value if value is None else _nested(name, value)
    elif name in FIELDS:
        value = converted(name, value)
        if name in ARRAYS and (why := objection(value)):
            raise TypeError(f"Document.{name}: {why}")
    elif name == "content":
        raise TypeError("Document() takes text=, blob= or tensor=; content can be set afterwards")
    else:
        raise TypeError(unknown_field(name))
    if value is not None:
        values[name] = value
    elif name == "id":
        values["id"] = random_id()
    else:
        values.pop(name, None)


def _nested(name: str, value: object) -> DocumentArray:
    if isinstance(value, DocumentArray):
        return value
    try:
        return DocumentArray._of_documents(_documents(value))
    except TypeError as error:
        raise TypeError(f"Document.{name}: {error}") from None


def _same_field(name: str, left: object, right: object) -> bool:
    if is_empty(name, left) or is_empty(name, right):
        return is_empty(name, left) and is_empty(name, right)
    if name in ARRAYS:
        return left is right or _tensor.same(left, right)
    return _tensor.same_value(left, right)


class DocumentArray(Storage[Document], MutableSequence[Document]):
    """A list of Documents that can also be looked up by id.

    Args:
        docs: a Document, any iterable of Documents, or None for an empty one.

    `da[0]` and `da['some id']` give a Document; `da[1:3]`, `da[[0, 2]]`, `da[['id1', 'id2']]` and a
    mask of booleans give a DocumentArray; `da[:, 'text']` gives that field of each,
    `da[:, ['id', 'text']]` a list per field. All can be assigned to and deleted the same ways. Of
    several Documents with one id, the first is found.

    Raises:
        TypeError: something in `docs` is not a Document.
        KeyError, IndexError: nothing there; the message names what was looked for.

    >>> da = DocumentArray([Document(id="a", text="one"), Document(id="b", text="two")])
    >>> da["b"].text, da.texts, da[:, "id"], "a" in da
    ('two', ['one', 'two'], ['a', 'b'], True)
    """

    __module__ = "zflow"

    __slots__ = ()

    _item = Document

    ids = Column[list[str]](
        "id", "The ids; setting takes one value for each Document, or None to unset it everywhere."
    )
    texts = Column[list[str]]("text", "The texts, to read or to set.")
    blobs = Column[list[bytes]]("blob", "The blobs, to read or to set.")
    contents = Column[list[Any]]("content", "What `content` gives for each, to read or to set.")
    tensors = Column[Any](
        "tensor",
        "One new array if all tensors are set and have one dtype and shape, None if none is set, "
        "else a list.",
    )
    embeddings = Column[Any](
        "embedding",
        "One new array if all embeddings are set and have one dtype and shape, None if none is "
        "set, else a list.",
    )

    def __init__(self, docs: Iterable[Document] | Document | None = None) -> None:
        self._docs = _documents(docs)
        self._columns = self._blocks = self._offsets = None
        self._stamp = 0

    @classmethod
    def empty(cls, size: int = 0) -> Self:
        """Return a DocumentArray of `size` new, empty Documents."""
        return cls._of({"id": [random_id() for _ in range(size)]})

    # -- looking up

    def __contains__(self, item: object) -> bool:
        key = item.id if isinstance(item, Document) else item
        return isinstance(key, str) and key in self._index()

    @overload
    def __getitem__(self, key: Key) -> Document: ...
    @overload
    def __getitem__(self, key: Rows) -> DocumentArray: ...
    @overload
    def __getitem__(self, key: tuple[Key | Rows, str | Sequence[str]]) -> Any: ...
    def __getitem__(self, key: object) -> object:
        if isinstance(key, slice):
            return DocumentArray(self._docs[key])
        if isinstance(key, tuple):
            return self._cells(*subscript.rows_and_fields(key, _COLUMNS))
        if subscript.is_single(key):
            return self._docs[self._position(key)]
        return DocumentArray([self._docs[position] for position in self._positions(key)])

    def _cells(self, rows: Key | Rows, fields: str | list[str]) -> object:
        found = self[rows]
        read = found._column if isinstance(found, DocumentArray) else partial(getattr, found)
        return read(fields) if isinstance(fields, str) else [read(name) for name in fields]

    # -- changing

    @overload
    def __setitem__(self, key: Key, value: Document) -> None: ...
    @overload
    def __setitem__(self, key: Rows, value: Iterable[Document] | Document | None) -> None: ...
    @overload
    def __setitem__(self, key: tuple[Key | Rows, str | Sequence[str]], value: Any) -> None: ...
    def __setitem__(self, key: object, value: Any) -> None:
        if isinstance(key, tuple):
            self._set_cells(*subscript.rows_and_fields(key, _COLUMNS), value)
        elif isinstance(key, slice):
            self._docs[key] = _documents(value)
        elif subscript.is_single(key):
            self._docs[self._position(key)] = _document(value)
        else:
            positions, docs = self._positions(key), _documents(value)
            if len(positions) != len(docs):
                raise ValueError(f"{len(positions)} Documents to replace, but {len(docs)} given")
            for position, doc in zip(positions, docs, strict=True):
                self._docs[position] = doc
        self._offsets = None

    def _set_cells(self, rows: Key | Rows, fields: str | list[str], values: Any) -> None:
        docs = DocumentArray(self[rows])
        names = [fields] if isinstance(fields, str) else list(fields)
        columns = [values] if isinstance(fields, str) else list(values)
        if len(names) != len(columns):
            raise ValueError(
                f"{len(names)} fields to set ({', '.join(names)}), but {len(columns)} lists of "
                "values"
            )
        for name, column in zip(names, columns, strict=True):
            docs._set_column(name, [column] if subscript.is_single(rows) else column)

    def __delitem__(self, key: Key | Rows | tuple[Key | Rows, str | Sequence[str]]) -> None:
        if isinstance(key, tuple):
            rows, fields = subscript.rows_and_fields(key, _COLUMNS)
            docs = DocumentArray(self[rows])
            for name in [fields] if isinstance(fields, str) else fields:
                docs._set_column(name, None)
            return
        if subscript.is_single(key):
            del self._docs[self._position(key)]
        else:
            gone = set(self._positions(key))
            self._docs[:] = [doc for position, doc in enumerate(self._docs) if position not in gone]
        self._offsets = None

    def insert(self, index: int, value: Document) -> None:
        """Insert a Document before position `index`."""
        self._docs.insert(index, _document(value))
        self._offsets = None

    def append(self, value: Document) -> None:
        """Append a Document."""
        self._docs.append(_document(value))
        if self._offsets is not None:
            self._offsets.setdefault(value.id, len(self._docs) - 1)

    def extend(self, values: Iterable[Document] | Document | None) -> None:
        """Append every Document of `values`."""
        self._docs.extend(_documents(values))
        self._offsets = None

    def clear(self) -> None:
        """Remove every Document."""
        self._docs.clear()
        self._offsets = None

    def reverse(self) -> None:
        """Reverse the order in place."""
        self._docs.reverse()
        self._offsets = None

    def sort(
        self, *, key: Callable[[Document], SupportsRichComparison], reverse: bool = False
    ) -> None:
        """Sort in place by `key(doc)`; Documents with equal keys keep their order.

        >>> da = DocumentArray([Document(text="bb"), Document(text="a")])
        >>> da.sort(key=lambda doc: doc.text)
        >>> da.texts
        ['a', 'bb']
        """
        self._docs.sort(key=key, reverse=reverse)
        self._offsets = None

    def __add__(self, other: Iterable[Document]) -> DocumentArray:
        if not isinstance(other, (DocumentArray, list, tuple)):
            return NotImplemented
        return DocumentArray([*self._docs, *_documents(other)])

    def __eq__(self, other: object) -> bool:
        return self._docs == other._docs if isinstance(other, DocumentArray) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    # -- copying and showing

    def __copy__(self) -> DocumentArray:
        return DocumentArray(self._docs)

    def __getstate__(self) -> list[Document]:
        return self._docs

    def __setstate__(self, docs: list[Document]) -> None:
        DocumentArray.__init__(self, docs)

    def __repr__(self) -> str:
        return display.array(self._rows())

    def _repr_html_(self) -> str:
        return display.array_html(self._rows())

    def summary(self) -> None:
        """Print which fields are in use, in how many Documents, and an example of each."""
        print(display.summary(self._rows()))


def _document(value: object) -> Document:
    if not isinstance(value, Document):
        raise TypeError(
            f"a DocumentArray holds Documents, not {type(value).__name__} ({short(value, 40)})"
        )
    return value


def _documents(values: object) -> list[Document]:
    """Return a new list of the Documents in `values`: a Document, an iterable of them, or None."""
    if type(values) is not list:
        if values is None:
            return []
        if isinstance(values, Document):
            return [values]
        if type(values) is DocumentArray:
            return values._docs.copy()
        if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
            raise TypeError(
                f"expected Documents, not {type(values).__name__} ({short(values, 40)})"
            )
    docs = list(values)
    if not _DOCUMENT.issuperset(map(type, docs)):
        for number, doc in enumerate(docs):
            try:
                _document(doc)
            except TypeError as error:
                raise TypeError(f"{error}: item {number} of {len(docs)}") from None
    return docs


_DOCUMENT = frozenset({Document})
_LAZY: dict[str, Callable[[], object]] = {
    "tags": dict,
    "scores": Scores,
    "matches": DocumentArray,
    "chunks": DocumentArray,
}
