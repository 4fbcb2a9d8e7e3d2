"""The form of messages: what each is as a header and frames, and how what comes in is checked.

`bundles` puts headers and frames together; nobody else meets a header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from zflow.devices.protocol import references
from zflow.devices.protocol.messages import (
    CARRIERS,
    KINDS,
    LISTED,
    MAX_GREETING,
    MAX_HEADER,
    MOST_ID,
    MOST_SMALL,
    MOST_TOGETHER,
    SMALL,
    VERSION,
    Direction,
    Done,
    Error,
    Info,
    Malformed,
    Message,
    Payload,
    Request,
    Welcome,
    WrongVersion,
    can_be_listed,
)

_unpack = msgpack.unpackb
_new: Callable[..., Any] = tuple.__new__  # quicker than the classes' own


# -- out -------------------------------------------------------------------------------------------


def written(message: Message, encode: Callable[[Any], bytes]) -> tuple[tuple[Any, ...], Payload]:
    """Return the header's fields, and the frames that follow it."""
    number = KINDS[type(message)]
    if isinstance(message, CARRIERS):
        fields, payload = message[:-1], message.payload
        if is_small(payload) or (isinstance(message, LISTED) and message.total > 1):
            return (VERSION, number, *fields, payload), ()
        places, frames = references.said(payload)
        return (VERSION, number, *fields, places or None), frames
    if isinstance(message, Welcome):
        return (VERSION, number, message.token), [encode(message.info)]
    return (VERSION, number, *message), ()


def is_small(payload: Payload) -> bool:
    """Whether a payload may stand in its header."""
    return len(payload) == 1 and type(frame := payload[0]) is bytes and 0 < len(frame) <= SMALL


# -- in --------------------------------------------------------------------------------------------


def unpacked(frame: bytes) -> Any:
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


def parsed(header: Any, frames: Payload, direction: Direction) -> Message:
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
    made: Message = _new(kind, fields)
    return made


def _carrier(kind: type[Message], fields: list[Any], frames: Payload) -> Message:
    held = fields[-1]
    count = 1
    if type(held) is list:
        count = len(held)
        if count != 1 or type(held[0]) is not bytes or not held[0] or frames:
            _check_held(held, frames)
    else:
        fields[-1] = frames if held is None else _with_references(held, frames)
    message: Message = _new(kind, fields)
    if isinstance(message, LISTED):
        if message.total != count or (
            isinstance(message, (Request, Done)) and not _all(int, message.docs)
        ):
            raise Malformed("a list that is none")
        if count > 1 and not (can_be_listed(message) and 0 <= message.first <= MOST_ID - count):
            raise Malformed("a list that is none")
    elif count > 1 or (isinstance(message, Error) and not _all(int, message.tasks)):
        raise Malformed("an answer that is none")
    return message


def _check_held(payload: list[Any], frames: Payload) -> None:
    """Check a payload that stands in its header."""
    if frames or not 0 < len(payload) <= MOST_TOGETHER or not _all(bytes, payload):
        raise Malformed("a payload that is none")
    if not all(payload) or (len(payload) > 1 and sum(map(len, payload)) > MOST_SMALL):
        raise Malformed("a payload that is none")


def _with_references(places: bytes, frames: Payload) -> Payload:
    try:
        return references.heard(places, frames)
    except ValueError:
        raise Malformed("a reference that is none") from None


def _info(frames: Payload) -> Info:
    if (
        len(frames) != 1
        or len(frames[0]) > MAX_GREETING
        or type(info := unpacked(bytes(frames[0]))) is not dict
    ):
        raise Malformed("a greeting that is none")
    return info


def _all(kind: type, values: Sequence[Any]) -> bool:
    """Whether there are some, and all are of that type."""
    return type(values[0]) is kind if len(values) == 1 else set(map(type, values)) == {kind}
