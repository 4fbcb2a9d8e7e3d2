"""Documents and parameters as frames, and back.

Frame 0 is msgpack: `[version, parameters, columns]`, one list per field in use instead of one dict
per Document, and behind that `writes` where results of branches or shards are to be reduced. Arrays
of one field with one dtype and shape are one block of memory; small blocks and blobs lie in frame
0, every large one is a frame of its own, in the order in which frame 0 speaks of them. This module
must not know sockets. Nothing that arrives is trusted, unpickled or evaluated.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from zflow.documents import diagnosis, tensor, values
from zflow.documents.columns import Columns, Nested, gather
from zflow.documents.diagnosis import largest
from zflow.documents.document import DocumentArray
from zflow.documents.fields import ARRAYS, INTEGERS, NESTED, STRINGS, NamedScore, Row, Scores, plain
from zflow.documents.values import Parameters
from zflow.documents.writes import Writes
from zflow.errors import BadRequest, SerializationError
from zflow.suggest import short

if TYPE_CHECKING:
    from zflow.documents.tensor import Array

__all__ = ["INLINE", "WIRE_VERSION", "largest", "pack", "unpack"]

#: Changes with the format; both ends must have the same.
WIRE_VERSION = 1

#: Blobs and blocks of arrays up to so many bytes are copied into frame 0 instead of being frames of
#: their own. Over two ipc hops a frame of its own began to pay between 32 and 64 KiB.
INLINE = 16 * 1024

Frame = bytes | memoryview

_ALLOWED: dict[str, frozenset[type]] = {
    **dict.fromkeys(STRINGS, frozenset({str})),
    **dict.fromkeys(INTEGERS, frozenset({int})),
    "weight": frozenset({float, type(None)}),
    "tags": frozenset({dict, type(None)}),
    "scores": frozenset({dict, type(None)}),
    "blob": frozenset({bytes, type(None)}),
}
# Fields whose columns are packed as they are.
_PLAIN = frozenset((*STRINGS, *INTEGERS, "weight"))
# Fields whose values are what arrives.
_SIMPLE = {name: _ALLOWED[name] for name in (*_PLAIN, "tags")}
_SCORE_VALUES = (float, int, type(None))
# Where matches of matches begin: deeper, Documents that contain themselves would multiply with
# every level.
_CHECKED_DEPTH = 2
# Levels of which a single Document is made together with those that it belongs to: each is some
# calls deeper.
_MADE_AT_ONCE = 3


# -- packing


def pack(
    docs: DocumentArray | None, parameters: Parameters | None = None, writes: Writes | None = None
) -> list[Frame]:
    """Return Documents and parameters as frames, with writes of who has changed what in them;
    a small request is exactly one.

    Large arrays and blobs are not copied: their frames show the memory of the Documents, which must
    not be changed until the frames are sent.

    Raises:
        SerializationError: a value cannot be sent; the message names the Document and the field.

    >>> docs, parameters = unpack(pack(DocumentArray(Document(text="hello")), {"limit": 3}))
    >>> docs.texts, parameters
    (['hello'], {'limit': 3})
    """
    frames: list[Frame] = [b""]
    try:
        if parameters is not None and type(parameters) is not dict:
            parameters = _as_dict(parameters)
        columns = _pack_columns(docs._as_columns(), frames, 0) if docs is not None else {}
        told = [WIRE_VERSION, parameters or {}, columns]
        if writes is not None:
            told.append(writes.plain())
        frames[0] = values.dump(told)
    # Foreign tensors may raise anything; which value it was is searched only now.
    except Exception as error:
        raise SerializationError(diagnosis.explain(docs, parameters, error)) from error
    return frames


def _as_dict(parameters: Mapping[str, object]) -> Parameters:
    try:
        return dict(parameters)
    except (TypeError, ValueError):
        raise TypeError(f"parameters must be a dict, not {type(parameters).__name__}") from None


def _pack_columns(columns: Columns, frames: list[Frame], depth: int) -> Columns:
    """Return columns of what msgpack can pack, without those that are empty everywhere."""
    if _PLAIN.issuperset(columns):
        return columns
    packed = {}
    for name, column in columns.items():
        cells = column if name in _PLAIN else _pack_column(name, column, frames, depth)
        if cells is not None:
            packed[name] = cells
    return packed


def _pack_column(name: str, column: Any, frames: list[Frame], depth: int) -> list[object] | None:
    """Return the column of a field that is not a plain value, or None if it is empty everywhere."""
    if name in ARRAYS:
        return (
            _pack_arrays(column, frames) if type(column) is list else [_pack_block(column, frames)]
        )
    if type(column) is Nested:
        columns = column.together()
        return (
            [column.counts(), _pack_columns(columns, frames, depth + 1)] if columns["id"] else None
        )
    if not any(column):
        return None
    if name == "blob":
        return [_pack_blob(blob, frames) for blob in column]
    if name == "tags":
        return [tags or None for tags in column]
    if name == "scores":
        return [plain(scores) if scores else None for scores in column]
    return _pack_nested(column, frames, depth + 1)


def _pack_nested(
    column: list[DocumentArray | None], frames: list[Frame], depth: int
) -> list[object]:
    docs = [doc for nested in column if nested for doc in nested]
    if depth == _CHECKED_DEPTH:
        diagnosis.refuse_wrong_nesting(docs)
    counts = [len(nested) if nested else 0 for nested in column]
    return [counts, _pack_columns(gather([doc.__dict__ for doc in docs]), frames, depth)]


def _pack_blob(blob: bytes | None, frames: list[Frame]) -> bytes | None:
    """Return a small blob; None stands for the next frame."""
    if not blob or len(blob) <= INLINE:
        return blob or b""
    frames.append(blob)
    return None


def _pack_arrays(column: list[object], frames: list[Frame]) -> list[object] | None:
    """Return a list of
    `[positions or None for all, dtype, shape, order, memory or None for the next frame]`.
    """
    positions = [number for number, value in enumerate(column) if value is not None]
    if not positions:
        return None
    arrays = tensor.as_arrays(
        column if len(positions) == len(column) else [column[number] for number in positions]
    )
    packed: list[object] = []
    for numbers, header, memory in tensor.groups(positions, arrays):
        where = None if len(numbers) == len(column) else numbers
        packed.append([where, *header, _pack_memory(memory, frames)])
    return packed


def _pack_block(rows: Array, frames: list[Frame]) -> list[object]:
    """Return the same for an array with a row for each Document,
    as the only item of such a list.
    """
    first = tensor.rows(rows[:1])[0]
    return [None, *tensor.header(first), _pack_memory(tensor.block_memory(rows), frames)]


def _pack_memory(memory: Array, frames: list[Frame]) -> bytes | None:
    """Return a small array's bytes; None stands for the next frame."""
    if memory.nbytes <= INLINE:
        return memory.tobytes()
    frames.append(memory.data)
    return None


# -- unpacking


def unpack(frames: Sequence[Frame]) -> tuple[DocumentArray, Parameters]:
    """Return the Documents and the parameters that `pack` made into frames.

    Types are kept, but for tuples, which become lists, and numpy scalars, which become Python's.
    Large arrays are views of their frames, writable if the frame is;
    small ones are always writable.

    Raises:
        BadRequest: the frames are not what `pack` makes, or of another version of it.
    """
    try:
        if not frames:
            raise ValueError("no frames")
        version, *rest = values.load(frames[0])
        if version != WIRE_VERSION:
            raise ValueError(
                f"format version {short(version, 20)}, but this zflow speaks {WIRE_VERSION}"
            )
        parameters, columns, *more = rest
        if type(parameters) is not dict:
            raise ValueError(f"parameters are {type(parameters).__name__}, not dict")
        if len(frames) == 1 and (row := _only_row(columns)):
            docs = DocumentArray._of_row(row)
        else:
            blocks = iter(frames[1:])
            docs = DocumentArray._of(_columns(columns, blocks)) if columns else DocumentArray()
            if next(blocks, None) is not None:
                raise ValueError(f"{len(frames)} frames are more than the first one speaks of")
        if more:
            (writes,) = more
            docs._writes = Writes.read(writes)
    # Whatever malformed input sets off, in msgpack and numpy too, has one meaning.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadRequest(f"malformed Documents received: {reason[:300]}") from error
    return docs, parameters


def _only_row(packed: object) -> Row | None:
    """Return the fields of a single Document of simple values;
    None if there is more to be looked at.
    """
    if type(packed) is not dict or "id" not in packed:
        return None
    row = {}
    for name, column in packed.items():
        allowed = _SIMPLE.get(name)
        if allowed is None or type(column) is not list or len(column) != 1:
            return None
        (value,) = column
        if type(value) not in allowed:
            return None
        if value is not None:
            row[name] = value
    return row


def _columns(packed: object, blocks: Iterator[Frame]) -> Columns:
    """Return the columns of Documents that were packed; nothing in them can fail later."""
    if type(packed) is not dict or type(ids := packed.get("id")) is not list:
        raise ValueError("Documents without a list of ids")
    size = len(ids)
    columns: Columns = {}
    for name, column in packed.items():
        allowed = _ALLOWED.get(name)
        if allowed is None:
            if name in ARRAYS:
                columns[name] = _unpack_arrays(name, column, size, blocks)
            elif name in NESTED:
                columns[name] = _unpack_nested(column, size, blocks)
            else:
                raise ValueError(f"a Document has no field {short(name, 40)}")
            continue
        if type(column) is not list or len(column) != size:
            raise ValueError(f"column {name!r} does not have {size} values")
        if not allowed.issuperset(map(type, column)):
            raise ValueError(f"column {name!r} holds values of a wrong type")
        if name == "blob":
            column = [bytes(_frame(blocks)) if blob is None else blob for blob in column]
        elif name == "scores":
            for number, scores in enumerate(column):  # in place: what is done with is freed at once
                column[number] = _unpack_scores(scores) if scores else None
        columns[name] = column
    return columns


def _frame(blocks: Iterator[Frame]) -> Frame:
    for frame in blocks:
        return frame
    raise ValueError("a frame is missing")


def _unpack_scores(packed: dict[str, list[Any]]) -> Scores:
    scores = Scores()
    for name, (value, op_name, description) in packed.items():
        if (
            type(value) not in _SCORE_VALUES
            or not type(name) is type(op_name) is type(description) is str
        ):
            raise ValueError(f"score {short(name, 40)} is malformed")
        dict.__setitem__(scores, name, NamedScore(value, op_name, description))
    return scores


def _unpack_nested(
    column: Any, size: int, blocks: Iterator[Frame]
) -> Nested | list[DocumentArray | None]:
    counts, packed = column
    columns = _columns(packed, blocks)
    if len(counts) != size or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("matches or chunks do not have a number for each Document")
    if sum(counts) != len(columns["id"]):
        raise ValueError("matches or chunks do not add up")
    if size == 1:
        return [DocumentArray._of(columns) if columns["id"] else None]
    levels = 1 + max(
        (inner.levels for inner in columns.values() if type(inner) is Nested), default=0
    )
    make = DocumentArray._of if levels <= _MADE_AT_ONCE else DocumentArray._put_off
    return Nested(make, columns, array("q", accumulate(counts, initial=0)), levels)


def _unpack_arrays(
    name: object, packed: Any, size: int, blocks: Iterator[Frame]
) -> Array | list[Array | None]:
    """Return a list of arrays and None, or one array with a row for each Document."""
    cells: list[Array | None] = [None] * size
    # Documents that may still be spoken of: else a few bytes could stand for any number of arrays.
    left = size
    for where, dtype, shape, order, inline in packed:
        if where is not None and not (
            type(where) is list
            and all(type(number) is int and 0 <= number < size for number in where)
        ):
            raise ValueError(f"column {name!r} speaks of Documents that are not there")
        count = size if where is None else len(where)
        left -= count
        if left < 0 or not count:
            raise ValueError(f"column {name!r} speaks of a Document twice, or of none")
        memory = memoryview(_frame(blocks)).cast("B") if inline is None else tensor.writable(inline)
        if count == 1:  # without a dimension more than it has
            arrays = [tensor.from_memory(dtype, shape, order, memory)]
        else:
            block = tensor.block_from_memory(count, dtype, shape, order, memory)
            if where is None and len(packed) == 1 and size:
                return block
            arrays = tensor.rows(block)
        for number, value in zip(range(size) if where is None else where, arrays, strict=True):
            cells[number] = value
    return cells
