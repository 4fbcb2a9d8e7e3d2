"""What a subscript of a DocumentArray picks: positions, and fields if it is a pair.

Pure functions over the key, the number of Documents and their positions by id; it must not know
Documents.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, SupportsIndex, TypeGuard

from zflow.documents import paths

Index = Callable[[], Mapping[str, int]]
Key = SupportsIndex | str


class Array(Protocol):
    """Positions, ids or a mask of booleans as an array of numpy, torch and the like."""

    def tolist(self) -> object:
        """Return them as a list."""


Rows = slice | range | list[int] | list[str] | list[bool] | Array


def is_single(key: object) -> TypeGuard[Key]:
    """Say whether the key names one Document (an int or an id) rather than several."""
    return (
        type(key) is int
        or isinstance(key, str)
        or (hasattr(key, "__index__") and not getattr(key, "shape", ()))
    )


def position(key: Key, size: int, index: Index) -> int:
    """Return the position, from 0, of the one Document that an int or an id names.

    Raises:
        KeyError, IndexError: there is none; the message names what was looked for.
    """
    if isinstance(key, str):
        try:
            return index()[key]
        except KeyError:
            raise KeyError(f"no Document with id {key!r} among {size}") from None
    number = operator.index(key)
    if not -size <= number < size:
        raise IndexError(f"there is no Document {number} in a DocumentArray of {size}")
    return number % size


def positions(key: object, size: int, index: Index) -> list[int]:
    """Return the positions that a slice, a list of ints or ids, or a mask of booleans picks,
    in its order.

    Raises:
        TypeError: not a key at all.
        KeyError, IndexError: an id or a position that is not there, or a mask of another length.
    """
    if isinstance(key, slice):
        return list(range(*key.indices(size)))
    keys = key.tolist() if hasattr(key, "tolist") else key
    if not isinstance(keys, (list, range)):
        raise TypeError(
            f"a DocumentArray is indexed by int, id, slice, list or mask, not {type(key).__name__}"
        )
    # Numpy's bools and numbers.
    keys = [item.tolist() if hasattr(item, "tolist") else item for item in keys]
    if not any(type(item) is bool for item in keys):
        return [position(item, size, index) for item in keys]
    if len(keys) != size or not all(type(item) is bool for item in keys):
        raise IndexError(f"a mask needs one bool for each of {size} Documents, not {keys!r:.80}")
    return [number for number, wanted in enumerate(keys) if wanted]


def rows_and_fields(
    key: tuple[Any, ...], known: Sequence[str]
) -> tuple[Key | Rows, str | list[str]]:
    """Split `rows, fields` of `da[rows, fields]`; `fields` is one name or a list of names,
    which may be paths within fields.

    Raises:
        TypeError: not a pair, or no names of fields.
    """
    if len(key) == 2:
        rows, fields = key
        names = [fields] if isinstance(fields, str) else fields
        if isinstance(names, (list, tuple)) and all(
            name in known or (isinstance(name, str) and paths.is_inner(name)) for name in names
        ):
            return rows, fields if isinstance(fields, str) else list(names)
    raise TypeError(
        f"da[{', '.join(map(_shown, key))}]: expected da[rows, field] or da[rows, [field, ...]] "
        "with fields of a "
        f"Document ({', '.join(known)}); several ids or positions go into a list: da[[...]]"
    )


def _shown(part: object) -> str:
    return ":" if part == slice(None) else repr(part)[:40]
