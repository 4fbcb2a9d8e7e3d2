"""Plain values <-> msgpack: what msgpack knows, and also integers of any size,
numpy scalars and arrays.

It must not know Documents. Nothing that arrives is trusted, unpickled or evaluated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any

import msgpack

from zflow.documents import tensor

#: What goes with Documents: by name, anything that `dump` takes.
Parameters = dict[str, Any]

# Packers that no thread is using: making one takes as long as packing something small. One that has
# failed is not used again, nor is one that had to grow, for it never shrinks.
_idle: list[msgpack.Packer] = []
_KEPT = 64 * 1024  # bytes

_FEW = 100  # keys that may collide
_SMALL = 4096  # bytes, in which there can't be so many that it takes long
_READ: dict[str, object] = {
    "strict_map_key": False,
    "unicode_errors": "surrogatepass",
    # As a number: `dump` makes none, and msgpack's own type has hashes that can be chosen.
    "timestamp": 1,
}

_INTEGER, _ARRAY = 1, 2  # codes of the msgpack extension types


def dump(value: object) -> bytes:
    """Return the value as msgpack.

    Raises:
        TypeError, ValueError, OverflowError: something in it cannot be sent.
    """
    try:
        packer = _idle.pop()
    except IndexError:
        packer = msgpack.Packer(default=_encode)
    try:
        data: bytes = packer.pack(value)
    # Half a surrogate pair, as os.listdir gives for names that are not UTF-8.
    except UnicodeEncodeError:
        return msgpack.packb(value, default=_encode, unicode_errors="surrogatepass")  # type: ignore[no-any-return]
    if len(data) <= _KEPT:
        _idle.append(packer)
    return data


def load(data: bytes | bytearray | memoryview) -> Any:
    """Return what `dump` was given; tuples have become lists, except as keys,
    and numpy scalars Python's.

    Raises:
        ValueError, TypeError, or whatever else malformed data sets off.
    """
    try:
        # As `_READ`: a dict of keywords would take as long as half of this.
        hook = _decode if len(data) <= _SMALL else _counting()
        return msgpack.unpackb(
            data, ext_hook=hook, strict_map_key=False, unicode_errors="surrogatepass", timestamp=1
        )
    # A dict with a tuple as key, which came as a list, or maybe with large integers.
    except (TypeError, _Many):
        pass
    try:
        return msgpack.unpackb(data, ext_hook=_decode, object_pairs_hook=_dict, **_READ)
    except TypeError:
        return _with_lists(
            msgpack.unpackb(
                data, ext_hook=_decode, object_pairs_hook=_dict, use_list=False, **_READ
            )
        )


class _Many(Exception):
    """There are more large integers than may be keys of one dict unseen."""


def _counting() -> Callable[[int, bytes], object]:
    """Return a `_decode` for one message, which may raise `_Many`."""
    integers = 0

    def decode(code: int, data: bytes) -> object:
        nonlocal integers
        integers += code == _INTEGER
        if integers > _FEW:
            raise _Many
        return _decode(code, data)

    return decode


def _dict(pairs: list[tuple[Hashable, object]]) -> dict[Hashable, object]:
    """Make a dict, unless its keys are chosen so that they collide:
    that takes a time that goes by their square.

    Whoever sends them can choose the hashes of large integers and of tuples,
    not those of texts and bytes.
    """
    if len(pairs) > _FEW:
        _refuse_colliding([key for key, _ in pairs])
    return dict(pairs)


def refuse_colliding(together: Collection[Hashable], before: int, new: Iterable[object]) -> None:
    """Raise ValueError if too many keys of a dict that was put together collide: those of each that
    has arrived were few.

    Args:
        together: all keys.
        before: how many of them there were before others came to them.
        new: those.
    """
    # Looked at once for each hundred, and not where they are texts: else putting many dicts
    # together would take as long as what this is to prevent.
    if len(together) // _FEW != before // _FEW and not {str}.issuperset(map(type, new)):
        _refuse_colliding(together)


def _refuse_colliding(keys: Collection[Hashable]) -> None:
    if len(keys) - len({hash(key) for key in keys}) > _FEW:
        raise ValueError(f"more than {_FEW} keys of one dict have the hash of another one")


def _with_lists(value: object) -> object:
    """Return a copy with lists for tuples, except those that are keys."""
    if isinstance(value, tuple):
        return [_with_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return value


def _encode(value: object) -> object:
    """Return what msgpack can pack instead of a value that it does not know."""
    if isinstance(value, int):
        return msgpack.ExtType(
            _INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        )
    if tensor.is_scalar(value):
        return tensor.plain(value)
    if tensor.is_array(value):
        array = tensor.as_array(value)
        return msgpack.ExtType(
            _ARRAY, msgpack.packb([*tensor.header(array), tensor.memory([array]).tobytes()])
        )
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot send a value of type {type(value).__qualname__}; {_way_out(value)}")


def _way_out(value: object) -> str:
    if isinstance(value, (set, frozenset)):
        return "use a list"
    if isinstance(value, complex):
        return "use [value.real, value.imag]"
    if isinstance(value, os.PathLike):
        return "use str(value)"
    if hasattr(value, "isoformat"):
        return "use value.isoformat()"
    if hasattr(value, "to_dict"):
        return "use value.to_dict()"
    return "use None, bool, int, float, str, bytes, list, dict or an array"


def _decode(code: int, data: bytes) -> object:
    """Return the value of an extension type that `_encode` made."""
    if code == _INTEGER:
        return int.from_bytes(data, "little", signed=True)
    if code == _ARRAY:
        dtype, shape, order, memory = msgpack.unpackb(data)
        return tensor.from_memory(dtype, shape, order, tensor.writable(memory))
    raise ValueError(f"unknown msgpack extension type {code}")
