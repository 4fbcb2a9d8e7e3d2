"""Arrays: read as numpy, compared, described in a word, and turned into raw memory and back.

With `dtypes` the only module of the Document family that imports numpy, and only when an array is
met. It must not know Documents. A dtype that arrives from outside is checked before numpy sees it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard

from zflow.documents.dtypes import (
    MASKED,
    NO_UNIT,
    are_without_unit,
    has_no_unit,
    is_masked,
    refusal,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

#: What is said about the memory of arrays: dtype, shape, and order (`C`, or `F` for columns first).
Header = tuple[str, tuple[int, ...], Literal["C", "F"]]
Buffer = bytes | bytearray | memoryview

_DTYPE = re.compile(r"[<>|=]?[biufcSUmM][1-9]\d{0,8}(\[([1-9]\d{0,8})?[A-Za-z]{1,2}\])?", re.ASCII)
# numpy stops at 32 or 64 dimensions, depending on its version, and a stack has one more than its
# rows.
_MOST_DIMENSIONS = 64
_MOST_STACKABLE_DIMENSIONS = 16
#: Rows that an array may have although there is nothing in them: they cost nothing to send, but
#: much to go through.
MOST_EMPTY_ROWS = 2**20
# Dtypes that have no value for some patterns of bits, as numbers.
_PATTERNS = {"b": "u1", "U": "u4", "M": "i8"}
_LAST_CHARACTER = 0x10FFFF
_NOT_A_TIME = -(2**63)


def as_array(value: object) -> Array:
    """Return an array, a tensor of another library or nested lists of numbers as a numpy array,
    uncopied if possible.

    Raises:
        TypeError, ValueError: `value` is not an array of plain numbers, strings or times;
            the message has the way out.
    """
    import numpy as np

    array: Array
    if type(value) is np.ndarray:
        array = value
    else:
        if is_masked(value):
            raise TypeError(MASKED)
        # A torch tensor that requires grad, or lives on a GPU.
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{type(value).__name__} is not an array: {error}") from None
    dtype = array.dtype
    why = refusal(dtype)
    if why or are_without_unit(array):
        raise TypeError(why or NO_UNIT)
    # Of text no character wide, which numpy itself takes for one character when it copies.
    return array if dtype.itemsize else array.astype(f"{dtype.byteorder}{dtype.kind}1")


class Swapped:
    """An array of the other byte order, to be pickled: numpy's own pickles may change the order.

    What it is unpickled as is the array.
    """

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    def __reduce__(self) -> tuple[Callable[..., Array], tuple[object, ...]]:
        array = self._array
        return from_memory, (*header(array), bytearray(memory([array]).data))


def pickled(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be pickled for values, arrays or not."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return row
    return {
        name: Swapped(value)
        if type(value) is numpy.ndarray and not value.dtype.isnative and not refusal(value.dtype)
        else value
        for name, value in row.items()
    }


class _Shaped(Protocol):
    """What numpy's arrays have in common with those of other libraries."""

    @property
    def dtype(self) -> object: ...
    @property
    def shape(self) -> Sequence[int]: ...


def is_array(value: object) -> TypeGuard[_Shaped]:
    """Say whether `value` is an array rather than a plain value, without importing numpy."""
    return hasattr(value, "dtype") and hasattr(value, "shape")


def is_scalar(value: object) -> TypeGuard[np.generic]:
    """Say whether `value` is a single number of numpy's, without importing numpy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def plain(value: np.generic) -> bool | int | float:
    """Return a single number of numpy's as Python's.

    Raises:
        TypeError: it is not a bool, an integer or a float; the message has the way out.
    """
    if value.dtype.kind not in "biuf":
        way = "float(value)" if value.dtype.isbuiltin == 2 else "str(value) or an array"
        raise TypeError(f"cannot send a single {type(value).__name__}; use {way}")
    number: bool | int | float = value.item()
    # Numpy's widest floats are their own items.
    return float(number) if value.dtype.kind == "f" else number


def same(left: object, right: object) -> bool:
    """Compare two arrays by dtype, shape and values; NaN equals NaN.
    What is no array equals only itself.
    """
    import numpy as np

    try:
        one, other = as_array(left), as_array(right)
    except Exception:  # a foreign tensor may raise anything while it is converted
        return left is right
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fcmM"))


def same_value(left: object, right: object) -> bool:
    """Compare two plain values, with whatever arrays are in them; NaN equals NaN."""
    if left is right:
        return True
    if is_array(left) or is_array(right):
        return same(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            same_value(left[key], right[key]) for key in left
        )
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same_value, left, right))
    return bool(left == right or (left != left and right != right))


def describe(value: object) -> str:
    """Return a few characters about an array: `float32(3, 4)`."""
    if is_array(value):
        return f"{value.dtype}({', '.join(map(str, value.shape))}{',' * (len(value.shape) == 1)})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({len(value)})"
    return type(value).__name__


def stacked(values: Sequence[object]) -> Array | list[object] | None:
    """Return one new array if all values have one dtype and shape, None if all are None,
    else the values as a list.
    """
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        return list(values)
    try:
        arrays = as_arrays(values)
    except Exception:  # ragged, or a tensor that numpy cannot read: then it is simply not stackable
        return list(values)
    try:
        return _block(arrays)
    except (TypeError, ValueError):  # they differ
        return list(values)


def _block(arrays: Sequence[Array]) -> Array:
    """Return a new array that has these as its rows.

    Raises:
        TypeError, ValueError: they differ in dtype or shape.
    """
    import numpy as np

    shape = arrays[0].shape
    if not shape:
        arrays = [array[np.newaxis] for array in arrays]
    length, *rest = arrays[0].shape
    if set(map(len, arrays)) != {length}:
        raise ValueError("arrays of different lengths")
    block = np.empty((len(arrays), *shape), arrays[0].dtype)
    # It compares all else, and takes less than numpy.stack or a look at each array would.
    np.concatenate(arrays, out=block.reshape((len(arrays) * length, *rest)), casting="no")
    return block


def is_block(value: Any) -> TypeGuard[Array]:
    """Say whether `value` is an array whose rows are arrays that can be sent."""
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and type(value) is numpy.ndarray
        and 1 < value.ndim <= _MOST_STACKABLE_DIMENSIONS
        and _is_sendable(value.dtype)
    )


def rows(block: Array) -> list[Array]:
    """Return the rows of an array as views; those of an array with one dimension have none."""
    return (
        list(block)
        if block.ndim > 1
        else [block[row : row + 1].reshape(()) for row in range(len(block))]
    )


def each(values: Any) -> list[Any]:
    """Return values as a list; of an array its rows, for a single number that is taken out of it
    has lost the byte order, and a text the width.
    """
    numpy = sys.modules.get("numpy")
    is_row = numpy is not None and type(values) is numpy.ndarray and values.ndim == 1
    return rows(values) if is_row else list(values)


def are_rows(views: Sequence[Array], block: Array) -> bool:
    """Say whether views that `rows` has returned still are rows: dtype,
    shape and strides can be changed in place.
    """
    if not views:
        return False
    row = rows(block[:1])[0]
    return all(
        set(map(attrgetter(name), views)) == {getattr(row, name)}
        for name in ("shape", "dtype", "strides")
    )


def as_arrays(values: Sequence[Any]) -> Sequence[Array]:
    """Return `as_array` of each value, fast where all are numpy arrays already.

    Raises:
        TypeError, ValueError: one of them is not an array of plain numbers, strings or times.
    """
    import numpy as np

    if set(map(type, values)) == {np.ndarray} and all(map(_is_sendable, {a.dtype for a in values})):
        return values
    return [as_array(value) for value in values]


def _is_sendable(dtype: np.dtype[np.generic]) -> bool:
    """Say whether all arrays of this dtype can be sent as they are."""
    return dtype.itemsize > 0 and not refusal(dtype) and not has_no_unit(dtype)


def groups(
    numbers: list[int], arrays: Sequence[Array]
) -> Iterator[tuple[list[int], Header, Array]]:
    """Split numbered arrays into those that can travel as one block of memory, and yield numbers,
    header and memory.
    """
    try:
        whole = memory(arrays)
    except (TypeError, ValueError):  # they differ
        pass
    else:
        yield numbers, header(arrays[0]), whole
        return
    found: dict[object, tuple[list[int], list[Array]]] = {}
    for number, array in zip(numbers, arrays, strict=True):
        key = (
            number
            if array.ndim >= _MOST_STACKABLE_DIMENSIONS
            else (array.dtype, array.shape, _is_fortran(array))
        )
        in_group, group = found.setdefault(key, ([], []))
        in_group.append(number)
        group.append(array)
    for in_group, group in found.values():
        yield in_group, header(group[0]), memory(group)


def _is_fortran(array: Array) -> bool:
    return bool(array.flags.fnc)


def header(array: Array) -> Header:
    """Return what `from_memory` needs to know.

    Raises:
        ValueError: it has too many rows with nothing in them.
    """
    if not array.size:
        _check_empty(array.shape)
    return array.dtype.str, array.shape, "F" if _is_fortran(array) else "C"


def memory(arrays: Sequence[Array]) -> Array:
    """Return the memory of alike arrays, one after the other, as flat bytes:
    a view if there is only one, else a copy.

    A single array that is not contiguous is copied too.

    Raises:
        TypeError, ValueError: they are not alike, in dtype, shape and order.
    """
    first = arrays[0]
    fortran = _is_fortran(first)
    if len(arrays) == 1:
        return _flat(first.T if fortran else first)
    if first.ndim >= _MOST_STACKABLE_DIMENSIONS or (
        first.ndim > 1 and set(map(_is_fortran, arrays)) != {fortran}
    ):
        raise ValueError("arrays that cannot be stacked")
    return _flat(_block([array.T for array in arrays] if fortran else arrays))


def block_memory(block: Array) -> Array:
    """Return the memory of the rows of an array as `memory` does,
    a view if they lie one after the other.
    """
    return _flat(_mirrored(block) if _is_fortran(rows(block[:1])[0]) else block)


def _mirrored(block: Array) -> Array:
    """Return a view with each row transposed."""
    return block.transpose(0, *range(block.ndim - 1, 0, -1))


def _flat(array: Array) -> Array:
    import numpy as np

    return np.ascontiguousarray(array).reshape(-1).view("u1") if array.nbytes else np.empty(0, "u1")


def writable(data: object) -> bytearray:
    """Return a copy of received bytes that an array may change.

    Raises:
        ValueError: it is not bytes, where a number would mean that many.
    """
    if type(data) is not bytes:
        raise ValueError(f"the memory of an array is bytes, not {type(data).__name__}")
    return bytearray(data)


def from_memory(dtype: str, shape: Sequence[int], order: Literal["C", "F"], data: Buffer) -> Array:
    """Return an array as a view of `data`, writable if it is.

    Raises:
        ValueError: what is said about the memory is malformed, or does not fit its length.
    """
    import numpy as np

    plain = _checked(1, dtype, shape, order, data)
    return _aligned(np.ndarray(shape, plain, data or bytearray(), order=order))


def block_from_memory(
    count: int, dtype: str, shape: Sequence[int], order: Literal["C", "F"], data: Buffer
) -> Array:
    """Return an array whose rows are `count` arrays of that shape, as a view of `data`,
    writable if it is.

    Raises:
        ValueError: what is said about the memory is malformed, or does not fit its length.
    """
    import numpy as np

    plain = _checked(count, dtype, shape, order, data)
    shape = shape if order == "C" else shape[::-1]
    block = _aligned(np.ndarray((count, *shape), plain, data or bytearray()))
    return block if order == "C" else _mirrored(block)


def _checked(
    count: int, dtype: str, shape: Sequence[int], order: str, data: Buffer
) -> np.dtype[np.generic]:
    import numpy as np

    if not (isinstance(dtype, str) and _DTYPE.fullmatch(dtype)) or order not in ("C", "F"):
        raise ValueError(f"an array cannot have dtype {dtype!r:.40} and order {order!r:.40}")
    if not (isinstance(shape, (list, tuple)) and len(shape) <= _MOST_DIMENSIONS):
        raise ValueError(f"an array cannot have more than {_MOST_DIMENSIONS} dimensions")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"an array cannot have shape {shape!r:.80}")
    plain = np.dtype(dtype)
    if count * math.prod(shape) * plain.itemsize != len(data):
        raise ValueError(
            f"{len(data)} bytes cannot be {count} arrays of dtype {dtype} and shape {shape!r:.80}"
        )
    if not len(data):
        _check_empty(shape)
    elif plain.kind in _PATTERNS:
        _check_values(plain, data)
    return plain


def _check_empty(shape: Sequence[int]) -> None:
    """Refuse shapes such as (10**18, 0)."""
    if 0 in shape and math.prod(shape[: shape.index(0)]) > MOST_EMPTY_ROWS:
        raise ValueError(
            f"an array of shape {shape!r:.80} has more than {MOST_EMPTY_ROWS} rows with nothing in "
            "them"
        )


def _check_values(dtype: np.dtype[np.generic], data: Buffer) -> None:
    """Refuse what is no value of a dtype of which not every pattern of bits is one:
    numpy fails at it, or worse, later.

    Takes as long as a look at the memory does, which is little beside having received it.
    """
    import numpy as np

    numbers = np.frombuffer(data, np.dtype(_PATTERNS[dtype.kind]).newbyteorder(dtype.byteorder))
    if dtype.kind == "b" and numbers.max() > 1:
        raise ValueError("a bool is 0 or 1")
    if dtype.kind == "U" and numbers.max() > _LAST_CHARACTER:
        raise ValueError("text has characters that are none")
    if (
        dtype.kind == "M"
        and np.datetime_data(dtype.str)[0] == "generic"
        and (numbers != _NOT_A_TIME).any()
    ):
        raise ValueError("a time without a unit is none")


def _aligned(array: Array) -> Array:
    # A small frame may begin at any address of ZeroMQ's receive buffer; not every library reads
    # that.
    return array if array.flags.aligned else array.copy(order="K")
