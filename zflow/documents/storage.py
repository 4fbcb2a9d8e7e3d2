"""What a DocumentArray holds: columns as they arrived, or, from when the first item is asked for, a
list of items; and where in it each id stands.

It makes the one into the other, once and never back. It must not know Documents, only that they
keep their fields in `__dict__`: what it makes items of is for the class above to say.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast, overload

from zflow.documents import subscript, tensor
from zflow.documents.columns import (
    Columns,
    cells,
    cut,
    gather,
    read,
    readable,
    replaced,
    restored,
    scatter,
)
from zflow.documents.fields import ARRAYS, Row

if TYPE_CHECKING:
    from typing_extensions import Self

    from zflow.documents.columns import Blocks
    from zflow.documents.subscript import Key

Item = TypeVar("Item")
Values = TypeVar("Values")

# How often the id of an existing item was changed: an index that is older than this may be wrong.
_renames = 0


def renamed() -> None:
    """Say that an item has got another id."""
    global _renames
    _renames += 1


# Held while columns turn into items, so that all threads get the same ones.
_changing_form = threading.RLock()


def _renew_lock() -> None:
    global _changing_form
    _changing_form = threading.RLock()


# The thread that holds it may be one that only the parent has.
os.register_at_fork(after_in_child=_renew_lock)


class Storage(Generic[Item]):
    """Items in one of two forms. It is most of what an array of Documents is,
    without what users call.

    Attributes:
        _item: the class of the items; what it sets up is up to the fields,
            so its `__init__` is not called.
    """

    __slots__ = ("_blocks", "_columns", "_docs", "_offsets", "_stamp")

    _item: ClassVar[type]
    _docs: list[Item]
    # What the items are made of, until the first of them is asked for; then None.
    _columns: Columns | None
    # Arrays whose rows the items have got, for as long as they still have them.
    _blocks: Blocks | None
    _offsets: dict[str, int] | None  # id -> position, made when it is first asked for
    _stamp: int  # how often ids had been changed when that was

    # -- making one --------------------------------------------------------------------------------

    @classmethod
    def _of(cls, columns: Columns) -> Self:
        """Return an array of these columns, which must hold what the fields of items can hold."""
        if len(columns["id"]) != 1:
            return cls._put_off(columns)
        row: Row = {}  # one item is made as quickly as it is put off
        for name, column in columns.items():
            (value,) = cells(column)
            if value is not None:
                row[name] = value
        return cls._of_row(row)

    @classmethod
    def _put_off(cls, columns: Columns) -> Self:
        """Return the same, without making even one item."""
        docs = cls.__new__(cls)
        docs._columns, docs._blocks, docs._offsets, docs._stamp = columns, None, None, 0
        return docs

    @classmethod
    def _of_row(cls, row: Row) -> Self:
        """Return an array of one item with these fields, as `_of` does of columns."""
        doc: Item = object.__new__(cls._item)
        doc.__dict__.update(row)
        return cls._of_documents([doc])

    @classmethod
    def _of_documents(cls, some: list[Item]) -> Self:
        """Return an array of this very list, in which there is nothing but items."""
        docs = cls.__new__(cls)
        docs._docs, docs._columns, docs._blocks, docs._offsets, docs._stamp = (
            some,
            None,
            None,
            None,
            0,
        )
        return docs

    def _part(self, begin: int, end: int) -> Self:
        """Return these items; of an array that still holds columns,
        without making any of the others.
        """
        columns = self._columns
        if columns is None:
            return self._of_documents(self._docs[begin:end])
        return self._of(cut(columns, begin, end))

    # -- the two forms -----------------------------------------------------------------------------

    def _as_columns(self) -> Columns:
        """Return the fields of the items as columns; nothing at all if there are no items."""
        columns = self._columns
        if columns is not None:
            return columns
        docs = self._docs
        if len(docs) == 1:
            columns = {}
            # Quicker than a comprehension, which is a call.
            for name, value in docs[0].__dict__.items():
                columns[name] = [value]
            return columns
        if not docs:
            return {}
        columns = gather(self._rows())
        return restored(columns, self._blocks) if self._blocks else columns

    def _rows(self) -> list[Row]:
        """The fields that each item has set: its own dict."""
        return [doc.__dict__ for doc in self._docs]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            # Only called for what is not there: the items, once, in an array that was made of
            # columns.
            if name != "_docs":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            with _changing_form:
                if self._columns is not None:
                    docs = list(map(object.__new__, repeat(self._item, len(self._columns["id"]))))
                    self._blocks = scatter(self._columns, [doc.__dict__ for doc in docs])
                    # Before the columns are gone: other threads look at those first.
                    self._docs = docs
                    self._columns = None
            return self._docs

    def __len__(self) -> int:
        columns = self._columns
        return len(self._docs) if columns is None else len(columns["id"])

    def __iter__(self) -> Iterator[Item]:
        return iter(self._docs)

    def __reversed__(self) -> Iterator[Item]:
        return reversed(self._docs)

    # -- by id -------------------------------------------------------------------------------------

    def _index(self) -> dict[str, int]:
        if self._offsets is None or self._stamp != _renames:
            self._stamp = _renames
            ids = cast("list[str]", self._column("id"))
            self._offsets = dict(
                zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True)
            )  # the first of an id wins
        return self._offsets

    def _position(self, key: Key) -> int:
        return subscript.position(key, len(self._docs), self._index)

    def _positions(self, key: object) -> list[int]:
        return subscript.positions(key, len(self._docs), self._index)

    # -- one field of all --------------------------------------------------------------------------

    def _column(self, name: str) -> object:
        columns = self._columns
        if columns is not None and readable(name):
            return read(columns, name)
        values = [getattr(doc, name) for doc in self._docs]
        return tensor.stacked(values) if name in ARRAYS else values

    def _set_column(self, name: str, values: object) -> None:
        """Set one field of every item; None unsets it everywhere."""
        if self._replace_column(name, values):
            return
        docs = self._docs
        if values is None:
            values = [None] * len(docs)
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise TypeError(
                f"{name!r} of {len(docs)} Documents: give one value each, not one "
                f"{type(values).__name__}"
            )
        rows = tensor.each(values) if name in ARRAYS else list(values)
        if len(rows) != len(docs):
            raise ValueError(
                f"{name!r} of {len(docs)} Documents: give one value each, not {len(rows)}"
            )
        if name in ARRAYS and tensor.is_block(values):
            scatter({name: rows}, self._rows())
            self._blocks = {**(self._blocks or {}), name: (rows, values[:])}
            return
        for doc, value in zip(docs, rows, strict=True):
            setattr(doc, name, value)

    def _replace_column(self, name: str, values: object) -> bool:
        """Set one field without making items, and say whether that was possible."""
        with _changing_form:
            columns = self._columns and replaced(self._columns, name, values)
            if columns is None:
                return False
            self._columns = columns
        if name == "id":
            self._offsets = None
        return True


class Column(Generic[Values]):
    """One field of every item of an array, to read and to set: what `docs.texts` is."""

    def __init__(self, field: str, doc: str) -> None:
        self._field = field
        self.__doc__ = doc

    @overload
    def __get__(self, docs: None, owner: object) -> Self: ...
    @overload
    def __get__(self, docs: Storage[Item], owner: object) -> Values: ...
    def __get__(self, docs: Storage[Item] | None, owner: object) -> object:
        return self if docs is None else docs._column(self._field)

    def __set__(self, docs: Storage[Item], values: Iterable[object] | None) -> None:
        docs._set_column(self._field, values)
