"""The form of messages: what each is as a header and frames, and how what comes in is checked.

`bundles` puts headers and frames together; nobody else meets a header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from zflow.devices.protocol import references
from zflow.devices.protocol.messages import (
    CARRIERS,
    COMMON,
    KINDS,
    MAX_GREETING,
    MAX_HEADER,
    MOST_ID,
    MOST_SMALL,
    MOST_TOGETHER,
    SMALL,
    VERSION,
    Direction,
    Done,
    Encode,
    Error,
    Info,
    Malformed,
    Message,
    Request,
    Welcome,
    WrongVersion,
    can_be_listed,
    make,
)
from zflow.devices.protocol.references import Frame, Payload

_unpack = msgpack.unpackb


# -- out -------------------------------------------------------------------------------------------


def written(message: Message, encode: Encode) -> tuple[tuple[Any, ...], Sequence[Frame]]:
    """Return the header's fields, and the frames that follow it."""
    kind = type(message)
    number = KINDS[kind]
    if kind in CARRIERS:
        said: Any = message
        payload: Payload = said.payload
        if is_small(payload) or (kind in COMMON and said.total > 1):
            return (VERSION, number, *said), ()
        places, frames = references.said(payload)
        return (VERSION, number, *said[:-1], places or None), frames
    if isinstance(message, Welcome):
        return (VERSION, number, message.token), [encode(message.info)]
    return (VERSION, number, *message), ()


def is_small(payload: Payload) -> bool:
    """Whether a payload may stand in its header."""
    return len(payload) == 1 and type(frame := payload[0]) is bytes and 0 < len(frame) <= SMALL


# -- in --------------------------------------------------------------------------------------------


def unpacked(frame: bytes) -> object:
    """Return what a frame of msgpack says; raises Malformed if it is none."""
    try:
        return _unpack(frame)
    except Exception:
        raise Malformed("header is not msgpack") from None


def fields_of(frame: bytes) -> Any:
    """Return the fields of a header, not checked. Raises Malformed: it is too long,
    or no msgpack.
    """
    if len(frame) > MAX_HEADER:
        raise Malformed("header too long")
    return unpacked(frame)


def parsed(header: object, frames: Sequence[Frame], direction: Direction) -> Message:
    """Return the message with this header, and these frames behind it,
    checked against what may be said there.

    Raises:
        WrongVersion: it is a header, but of another version.
        Malformed: it is anything else.
    """
    if type(header) is not list or len(header) < 2:
        raise Malformed("header is not an array")
    version, number, *fields = header
    if version != VERSION or type(version) is not int:
        raise WrongVersion("another version of the protocol")
    if type(number) is not int or number not in direction:
        raise Malformed("unknown kind of message")
    kind, types = direction[number]
    if tuple(map(type, fields)) not in types:
        raise Malformed("wrong fields in header")
    if kind in CARRIERS:
        return _carrier(kind, fields, frames)
    if kind is Welcome:
        return Welcome(fields[0], _info(frames))
    return make(kind, fields)


def _carrier(kind: type[Message], fields: list[Any], frames: Sequence[Frame]) -> Message:
    held = fields[-1]
    count = 1
    if type(held) is list:
        count = len(held)
        if count != 1 or type(held[0]) is not bytes or not held[0] or frames:
            _check_held(held, frames)
    else:
        fields[-1] = frames if held is None else _with_references(held, frames)
    message: Any = make(kind, fields)
    if kind in COMMON:
        if kind is Request or kind is Done:
            fits = len(message.docs) == count and _all(int, message.docs)
        else:
            fits = message.total == count
        if count > 1:
            fits = fits and can_be_listed(message) and 0 <= message.first <= MOST_ID - count
        if not fits:
            raise Malformed("a list that is none")
    elif count > 1 or (kind is Error and not _all(int, message.tasks)):
        raise Malformed("an answer that is none")
    if kind is Request and message.targets and not _all(str, message.targets):
        raise Malformed("targets are not text")
    made: Message = message
    return made


def _check_held(payload: list[bytes], frames: Sequence[Frame]) -> None:
    """Check a payload that stands in its header."""
    if frames or not 0 < len(payload) <= MOST_TOGETHER or not _all(bytes, payload):
        raise Malformed("a payload that is none")
    if not all(payload) or (len(payload) > 1 and sum(map(len, payload)) > MOST_SMALL):
        raise Malformed("a payload that is none")


def _with_references(places: bytes, frames: Sequence[Frame]) -> Payload:
    try:
        return references.heard(places, frames)
    except ValueError:
        raise Malformed("a reference that is none") from None


def _info(frames: Sequence[Frame]) -> Info:
    if (
        len(frames) != 1
        or len(frames[0]) > MAX_GREETING
        or type(info := unpacked(bytes(frames[0]))) is not dict
    ):
        raise Malformed("a greeting that is none")
    return info


def _all(kind: type, values: Sequence[object]) -> bool:
    """Whether there are some, and all are of that type."""
    return type(values[0]) is kind if len(values) == 1 else set(map(type, values)) == {kind}
