"""Small messages that are sent together: one message for several requests,
and one frame for several messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zflow.devices.protocol.headers import fields_of, parsed, written
from zflow.devices.protocol.messages import (
    BUNDLE,
    COMMON,
    LISTED,
    MAX_HEADER,
    MOST_ID,
    MOST_SMALL,
    MOST_TOGETHER,
    SMALL,
    VERSION,
    Direction,
    Done,
    Encode,
    Frames,
    Malformed,
    Message,
    Reply,
    Request,
    Task,
    can_be_listed,
    make,
    singles,
)
from zflow.devices.protocol.references import Frame, Payload

# msgpack of three elements, and the first two of them.
_BUNDLE_BEGINS = bytes((0x93, VERSION, BUNDLE))
_BYTES = {bytes}


def read(frames: Sequence[Any], at: int, direction: Direction) -> list[Message]:
    """Return the messages in these frames: the frame `at` is a bundle,
    or a header with its payload behind it.

    Raises: as `headers.parsed`. Of a bundle, either all of it is right or nothing.
    """
    first = frames[at]
    if first[:3] != _BUNDLE_BEGINS:
        return [parsed(fields_of(first), frames[at + 1 :], direction)]
    entries = fields_of(first)[2]
    if len(frames) > at + 1 or type(entries) is not list or not 0 < len(entries) <= MOST_TOGETHER:
        raise Malformed("a bundle that is none")
    if not all(type(entry) is list and entry and _plain(entry[1:]) for entry in entries):
        raise Malformed("a message in a bundle that is none")
    return [parsed(entry[0], entry[1:], direction) for entry in entries]


def _plain(frames: Payload) -> bool:
    return {*map(type, frames)} <= _BYTES


def frames_of(messages: Sequence[Message], encode: Encode) -> Iterable[Frames]:
    """Give the frames of each message to be sent;
    small ones that follow one another are made lists and bundles.

    >>> from zflow.devices.protocol.messages import FROM_CLIENT, Hello, encoder
    >>> [frames] = frames_of([Hello(7), Hello(8)], encoder())
    >>> read(frames, 0, FROM_CLIENT)
    [Hello(token=7), Hello(token=8)]
    """
    # As a rule where there is little to do, and then each thing that is done counts.
    folded = messages if len(messages) == 1 else fold(messages)
    return _alone(folded[0], encode) if len(folded) == 1 else _bundles(folded, encode)


def message(said: Message, encode: Encode) -> Frames:
    """Return the frames of one message."""
    header, frames = written(said, encode)
    return [encode(header), *frames]


def _alone(said: Message, encode: Encode) -> Sequence[Frames]:
    frames = message(said, encode)
    if len(frames[0]) <= MAX_HEADER or len(frames) > 1 or not isinstance(said, LISTED):
        return (frames,)
    return [_with_frames(one, encode) for one in singles(said)]


def _with_frames(said: Message, encode: Encode) -> Frames:
    """Return the frames of a message whose payload does not stand in its header."""
    header, _ = written(said, encode)
    return [encode((*header[:-1], None)), *header[-1]]


def _bundles(messages: Sequence[Message], encode: Encode) -> Iterator[Frames]:
    together: list[tuple[Message, tuple[object, ...], Sequence[Frame]]] = []
    cargo = 0
    for said in messages:
        header, frames = written(said, encode)
        held = header[-1] if type(header[-1]) is list else frames
        size = sum(map(len, held))
        small = (size <= SMALL or held is not frames) and _plain(held)
        if together and (not small or cargo + size > MOST_SMALL or len(together) == MOST_TOGETHER):
            yield from _bundle(together, encode)
            together, cargo = [], 0
        if small:
            together.append((said, header, frames))
            cargo += size
        else:
            yield [encode(header), *frames]
    yield from _bundle(together, encode)


def _bundle(
    together: Sequence[tuple[Message, tuple[object, ...], Sequence[Frame]]], encode: Encode
) -> Iterator[Frames]:
    if len(together) > 1:
        bundle = encode((VERSION, BUNDLE, [(header, *frames) for _, header, frames in together]))
        if len(bundle) <= MAX_HEADER:
            yield [bundle]
            return
    for said, _, _ in together:
        yield from _alone(said, encode)


# -- lists -----------------------------------------------------------------------------------------


def fold(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages, with one in place of several that are alike,
    whose ids follow one another.

    >>> from zflow.devices.protocol.messages import Task
    >>> fold([Task(id, 1, "/", None, 0, [b"."]) for id in (7, 8, 9, 11)])
    ... # doctest: +NORMALIZE_WHITESPACE
    [Task(first=7, total=3, endpoint='/', parts=None, ticket=0, payload=[b'.', b'.', b'.']),
     Task(first=11, total=1, endpoint='/', parts=None, ticket=0, payload=[b'.'])]
    """
    folded: list[Message] = []
    at = 0
    while at < len(messages):
        end = _end_of_run(messages, at)
        folded.append(messages[at] if end == at + 1 else _list_of(messages[at:end]))
        at = end
    return folded


def _end_of_run(messages: Sequence[Message], begin: int) -> int:
    """Return where those end that can be said in one with the first one, which is at `begin`."""
    end = begin + 1
    first: Any = messages[begin]  # of one kind, as `COMMON` says: this is done for each request,
    kind = type(first)  # in each process, and asking each for its kind would double it
    common = COMMON.get(kind)
    if common is None or end == len(messages) or not can_be_listed(first):
        return end
    next_id, like, cargo = first[0], first[common], 0
    if not 0 <= next_id <= MOST_ID - MOST_TOGETHER:
        return end
    for at in range(begin, len(messages)):
        said: Any = messages[at]
        if type(said) is not kind or said[0] != next_id or said[common] != like:
            break
        # Of what is a list already the payload is several frames.
        payload = said[-1]
        if len(payload) != 1 or type(frame := payload[0]) is not bytes:
            break
        cargo += len(frame)
        if not 0 < len(frame) <= SMALL or cargo > MOST_SMALL or at - begin == MOST_TOGETHER:
            break
        next_id += 1
        end = at + 1
    return end


def _list_of(run: Sequence[Message]) -> Message:
    """Return one message for several that can be said in one."""
    first: Any = run[0]
    some: Any = run
    kind = type(first)
    payload = [one[-1][0] for one in some]
    if kind is Reply or kind is Task:
        made: Message = make(kind, (first.first, len(run), *first[2:-1], payload))
        return made
    docs = [one.docs[0] for one in some]
    if kind is Request:
        return make(Request, (*first[:-2], docs, payload))
    # An interrupted one is no slower.
    took = sorted(one.took for one in some)[len(run) // 2]
    return Done(first.first, took, docs, payload)
