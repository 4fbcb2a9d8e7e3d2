"""Plain values <-> msgpack: what msgpack knows, and also integers of any size, numpy scalars and arrays.

It must not know Documents. Nothing that arrives is trusted, unpickled or evaluated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgpack

from zflow.documents import tensor

# Packers that no thread is using: making one takes as long as packing something small. One that has failed is not
# used again, nor is one that had to grow, for it never shrinks.
_idle: list[Any] = []
_KEPT = 64 * 1024  # bytes

_INTEGER, _ARRAY = 1, 2  # codes of the msgpack extension types


def dump(value: Any) -> bytes:
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
    except UnicodeEncodeError:  # half a surrogate pair, as os.listdir gives for names that are not UTF-8
        return msgpack.packb(value, default=_encode, unicode_errors="surrogatepass")  # type: ignore[no-any-return]
    if len(data) <= _KEPT:
        _idle.append(packer)
    return data


def load(data: bytes | bytearray | memoryview) -> Any:
    """Return what `dump` was given; tuples have become lists, except as keys, and numpy scalars Python's.

    Raises:
        ValueError, TypeError, or whatever else malformed data sets off.
    """
    try:
        return msgpack.unpackb(data, ext_hook=_decode, strict_map_key=False, unicode_errors="surrogatepass")
    except TypeError:  # a dict with a tuple as key, which came as a list
        return _with_lists(
            msgpack.unpackb(
                data, ext_hook=_decode, strict_map_key=False, unicode_errors="surrogatepass", use_list=False
            )
        )


def _with_lists(value: Any) -> Any:
    """Return a copy with lists for tuples, except those that are keys."""
    if isinstance(value, tuple):
        return [_with_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return value


def _encode(value: Any) -> Any:
    """Return what msgpack can pack instead of a value that it does not know."""
    if isinstance(value, int):
        return msgpack.ExtType(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if tensor.is_scalar(value):
        return tensor.plain(value)
    if tensor.is_array(value):
        array = tensor.as_array(value)
        return msgpack.ExtType(_ARRAY, msgpack.packb([*tensor.header(array), tensor.memory([array]).tobytes()]))
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot send a value of type {type(value).__qualname__}; {_way_out(value)}")


def _way_out(value: Any) -> str:
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


def _decode(code: int, data: bytes) -> Any:
    """Return the value of an extension type that `_encode` made."""
    if code == _INTEGER:
        return int.from_bytes(data, "little", signed=True)
    if code == _ARRAY:
        dtype, shape, order, memory = msgpack.unpackb(data)
        return tensor.from_memory(dtype, shape, order, tensor.writable(memory))
    raise ValueError(f"unknown msgpack extension type {code}")
