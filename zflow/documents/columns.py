"""Documents as columns: one list of values for each field in use,
or one array whose rows are the values.

Matches and chunks are the columns of all of them, and where the part of each Document ends.

Columns are how Documents travel, and what a DocumentArray holds of those that arrived until one of
them is asked for. They are never changed in place once they are made, so whoever has them may go on
reading. This module must not know Documents, only the dicts of their fields, and no frames.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

from zflow.documents import tensor
from zflow.documents.fields import ARRAYS, FIELDS, INTEGERS, STRINGS, Row, is_empty

if TYPE_CHECKING:
    from zflow.documents.tensor import Array

    #: By field, the rows of an array as views, in the order in which Documents have got them, and
    #: the array.
    Blocks = dict[str, tuple[list[Array], Array]]

#: By field a list, an array or a `Nested`. `id` is always there, and its length is the number of
#: Documents; None stands for a value that is not set.
Columns = dict[str, Any]

# What those Documents get that have not set a field which others have; None for all other fields.
_UNSET: dict[str, object] = {**dict.fromkeys(STRINGS, ""), **dict.fromkeys(INTEGERS, 0)}
# What can be read without making Documents, and what is read where nothing is set; the values of
# the other fields can be changed in place, so they have to belong to a Document.
_DEFAULTS: dict[str, object] = {**_UNSET, "blob": b"", "weight": None, **dict.fromkeys(ARRAYS)}


class Nested:
    """The matches or chunks of Documents that arrived: the columns of all,
    cut up only where they are asked for.

    A Document can be sent in three bytes, with one match; an array of its own takes hundreds.

    Args:
        make: makes an array of what belongs to one Document.
        columns: those of all.
        bounds: where in them the part of each Document begins, and where that of the last one ends.
        levels: how many there are, with this one.
    """

    __slots__ = ("_bounds", "_columns", "_make", "levels")

    def __init__(
        self, make: Callable[[Columns], object], columns: Columns, bounds: array[int], levels: int
    ) -> None:
        self._make, self._columns, self._bounds, self.levels = make, columns, bounds, levels

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, part: slice) -> Nested:
        return Nested(
            self._make, self._columns, self._bounds[part.start : part.stop + 1], self.levels
        )

    def __iter__(self) -> Iterator[object]:
        """Make the array of each Document; None where there is nothing."""
        for begin, end in pairwise(self._bounds):
            yield self._make(cut(self._columns, begin, end)) if begin < end else None

    def counts(self) -> list[int]:
        """Return how many each Document has."""
        return [end - begin for begin, end in pairwise(self._bounds)]

    def together(self) -> Columns:
        """Return the columns of all."""
        return cut(self._columns, self._bounds[0], self._bounds[-1])


def cut(columns: Columns, begin: int, end: int) -> Columns:
    """Return the columns of some of the Documents."""
    return {name: column[begin:end] for name, column in columns.items()}


def cells(column: Any) -> Any:
    """Return the values of a column, one for each Document, to go through once."""
    return column if type(column) in (list, Nested) else tensor.rows(column)


def same(left: Row, right: Row) -> bool:
    """Say whether the fields of two Documents are equal; what is empty counts as unset."""
    for name in left.keys() | right.keys():  # a generator would take a frame for each level
        if not _same_field(name, left.get(name), right.get(name)):
            return False
    return True


def _same_field(name: str, left: object, right: object) -> bool:
    if is_empty(name, left) or is_empty(name, right):
        return is_empty(name, left) and is_empty(name, right)
    if name in ARRAYS:
        return left is right or tensor.same(left, right)
    return tensor.same_value(left, right)


def gather(rows: Sequence[Row]) -> Columns:
    """Return the fields of one or more Documents as columns."""
    used: Collection[str] = rows[0].keys() if len(set(map(len, rows))) == 1 else set().union(*rows)
    try:  # the usual case: all have set the same fields
        return {name: list(map(itemgetter(name), rows)) for name in used}
    except KeyError:
        used = set().union(*rows)
    return {name: _column(name, rows) for name in FIELDS if name in used}


def _column(name: str, rows: Sequence[Row]) -> list[object]:
    unset = _UNSET.get(name)
    return [row.get(name, unset) for row in rows]


def scatter(columns: Columns, rows: Sequence[Row]) -> Blocks:
    """Put the values of columns into as many rows as there are Documents,
    and return the arrays among them.
    """
    blocks: Blocks = {}
    for name, column in columns.items():
        values = cells(column)
        if type(column) not in (list, Nested):
            blocks[name] = values, column
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = value
    return blocks


def restored(columns: Columns, blocks: Blocks) -> Columns:
    """Return columns with arrays instead of their rows,
    where each Document still has the very row it has got.

    So arrays need not be put together, and copied, only because somebody looked at a Document.
    """
    return columns | {
        name: block
        for name, (rows, block) in blocks.items()
        if len(column := columns.get(name, ())) == len(rows)
        and all(map(is_, column, rows))
        and tensor.are_rows(rows, block)
    }


def read(columns: Columns, name: str) -> Array | list[object] | None:
    """Return the values of a field that `readable` names: a new list, a new array,
    or None if no array is set.
    """
    column = columns.get(name)
    if name not in ARRAYS:
        return [_DEFAULTS[name]] * len(columns["id"]) if column is None else column.copy()
    if type(column) is list:
        return tensor.stacked(column)
    return None if column is None else column.copy()


def readable(name: str) -> bool:
    """Say whether a field can be read from columns: nothing but arrays can be changed in place."""
    return name in _DEFAULTS


def replaced(columns: Columns, name: str, values: object) -> Columns | None:
    """Return columns with other values for one field: a list of str,
    or one array with a row for each Document.

    None: these values have to be looked at one by one.
    """
    size = len(columns["id"])
    if (
        name in STRINGS
        and type(values) is list
        and set(map(type, values)) == {str}
        and len(values) == size
    ):
        return {**columns, name: values.copy()}
    if name in ARRAYS and tensor.is_block(values) and len(values) == size > 0:
        return {**columns, name: values[:]}  # a view of their own: its shape stays what it is
    return None
