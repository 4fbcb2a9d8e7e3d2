"""Small messages that are sent together: one frame for several messages, and one message for several requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from zflow.devices.protocol import references
from zflow.devices.protocol.messages import (
    DONE,
    DONES,
    MAX_GREETING,
    MAX_HEADER,
    PLAIN,
    REPLIES,
    REPLY,
    REQUEST,
    REQUESTS,
    SMALL,
    TASK,
    TASKS,
    VERSION,
    WELCOME,
    Frames,
    Malformed,
    Message,
    Shapes,
    checked,
    decode,
    fields_of,
    unpacked,
)

MAX_ENTRIES = 64  # messages in a bundle, at most
MAX_BYTES = 32 * 1024  # bytes of payload in a bundle, at most
MOST_ID = 2**63  # in a bulk, where others follow it
BUNDLE = 0
_BUNDLE_BEGINS = bytes((0x93, VERSION, BUNDLE))  # msgpack of three elements, and the first two of them
Heard = tuple[list[Any], Sequence[Any]]  # as `Message`


def read(frames: Sequence[Any], at: int, shapes: Shapes) -> list[Heard]:
    """Return what a message says: its header, which is the frame `at`, and its payload; of a bundle, each one's in it.

    Of bulks, REQUESTS and DONES are returned as they are, for the broker, and TASKS and REPLIES taken apart. What a
    WELCOME has as payload is returned as the last field of its header.

    Raises: as `decode`. Of a bundle, either all of it is right or nothing.
    """
    first = frames[at]
    if first[:3] != _BUNDLE_BEGINS:
        header = decode(first, shapes)
        if header[1] in _OPENED:
            return _opened(header, frames[at + 1 :])
        return [(header, _payload(header, frames[at + 1 :]))]
    entries = fields_of(first)[2]
    if len(frames) > at + 1 or type(entries) is not list or not 0 < len(entries) <= MAX_ENTRIES:
        raise Malformed("a bundle that is none")
    messages: list[Heard] = []
    for entry in entries:
        payload = entry[1:] if type(entry) is list else None
        if not entry or payload is None or not _plain(payload):
            raise Malformed("a message in a bundle that is none")
        header = checked(entry[0], shapes)
        if header[1] in _OPENED:
            messages += _opened(header, payload)
        else:
            messages.append((header, _payload(header, payload)))
    return messages


def _payload(header: list[Any], frames: Sequence[Any]) -> Sequence[Any]:
    """Return the payload with its references; the header's field that tells of them is gone then."""
    if len(header) <= PLAIN.get(header[1], len(header)):
        return frames
    try:
        return references.heard(header.pop(), frames)
    except ValueError:
        raise Malformed("a reference that is none") from None


def message(header: Sequence[Any], payload: Sequence[Any], encode: Callable[[Any], bytes]) -> Frames:
    """Return the frames of one message."""
    header, payload = _as_it_travels((header, payload))
    return [encode(header), *payload]


def _as_it_travels(message: Message) -> Message:
    """Return it with what stands in the place of references; a message without any is returned as it is."""
    header, payload = message
    if len(payload) > 1:
        places, payload = references.said(payload)
        if places:
            return (*header, places), payload
    return message


def _opened(header: list[Any], frames: Sequence[Any]) -> list[Heard]:
    if header[1] != WELCOME:
        return _of_bulk(header, frames)
    if len(frames) != 1 or len(frames[0]) > MAX_GREETING or type(info := unpacked(bytes(frames[0]))) is not dict:
        raise Malformed("a greeting that is none")
    return [([*header, info], [])]


def _of_bulk(header: list[Any], frames: Sequence[Any]) -> list[Heard]:
    """Check a bulk, and take it apart if it is not for the broker."""
    kind, first, payloads = header[1], header[2], header[-1]
    if frames or not 1 < len(payloads) <= MAX_ENTRIES or not _all(bytes, payloads):
        raise Malformed("a bulk that is none")
    if not all(payloads) or sum(map(len, payloads)) > MAX_BYTES or not 0 <= first < MOST_ID:
        raise Malformed("a bulk that is none")
    if kind == TASKS:
        endpoint = header[3]
        return [([VERSION, TASK, first + at, endpoint, None], [frame]) for at, frame in enumerate(payloads)]
    if kind == REPLIES:
        took = header[3]
        return [([VERSION, REPLY, first + at, None, None, took], [frame]) for at, frame in enumerate(payloads)]
    docs = header[-2]
    if len(docs) != len(payloads) or not _all(int, docs):
        raise Malformed("a bulk that is none")
    return [(header, ())]


def _all(kind: type, values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {kind}


def _plain(payload: Sequence[Any]) -> bool:
    """Whether all frames are bytes; one is the usual case."""
    return type(payload[0]) is bytes if len(payload) == 1 else all(type(frame) is bytes for frame in payload)


def fold(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages, with bulks in place of what can be one: small payloads, for ids that follow one another.

    >>> said = [((VERSION, TASK, id, "/", None), [b"."]) for id in (7, 8, 9, 11)]
    >>> fold(said)
    [((1, 38, 7, '/', [b'.', b'.', b'.']), ()), ((1, 32, 11, '/', None), [b'.'])]
    """
    folded: list[Message] = []
    run: list[Message] = []  # that can be one
    next_id, like, cargo = 0, None, 0
    for message in messages:
        header, payload = message
        same = _SAME.get(header[1])
        if same is None or len(payload) != 1 or type(frame := payload[0]) is not bytes or not 0 < len(frame) <= SMALL:
            if run:
                folded += _bulk(run)
                run = []
            folded.append(message)
            continue
        this = header[1], header[same]
        cargo += len(frame)
        if not run or header[2] != next_id or this != like or cargo > MAX_BYTES or len(run) == MAX_ENTRIES:
            if run:
                folded += _bulk(run)
            run, like, cargo = [], this, len(frame)
        run.append(message)
        next_id = header[2] + 1
    if run:
        folded += _bulk(run)
    return folded


def _bulk(run: list[Message]) -> list[Message]:
    """Return a bulk for messages that are alike, if there are several and none has parts or notes."""
    header = run[0][0]
    kind, first = header[1], header[2]
    if len(run) == 1 or not 0 <= first < MOST_ID or any(header[at] is not None for at in _NOTHING[kind]):
        return run
    payloads = [payload[0] for _, payload in run]
    if kind == TASK:
        return [((VERSION, TASKS, first, header[3], payloads), ())]
    if kind == REPLY:
        return [((VERSION, REPLIES, first, header[5], payloads), ())]
    docs = [one[-1] for one, _ in run]
    if kind == DONE:
        took = sorted(one[3] for one, _ in run)[len(run) // 2]  # a process that is interrupted is no slower
        return [((VERSION, DONES, first, took, docs, payloads), ())]
    return [((VERSION, REQUESTS, first, header[3], header[4], header[6], docs, payloads), ())]


_OPENED = {REQUESTS, TASKS, DONES, REPLIES, WELCOME}

# By kind, what of the header must be the same in all, and which fields must be None.
_SAME = {REQUEST: slice(3, 7), TASK: slice(3, 5), DONE: slice(0, 0), REPLY: slice(3, 5)}
_NOTHING = {REQUEST: (5,), TASK: (4,), DONE: (), REPLY: (3, 4)}


def frames_of(messages: Sequence[Message], encode: Callable[[Any], bytes]) -> Iterable[Frames]:
    """Give the frames of each message to be sent; small ones that follow one another are made bulks and bundles.

    >>> from zflow.devices.protocol.messages import FROM_CLIENT, HELLO, encoder
    >>> said = list(frames_of([((VERSION, HELLO, 7), ()), ((VERSION, HELLO, 8), ())], encoder()))
    >>> [header for header, payload in read(said[0], 0, FROM_CLIENT)]
    [[1, 1, 7], [1, 1, 8]]
    """
    if len(messages) == 1:  # as a rule where there is little to do, and then each thing that is done counts
        return (message(*messages[0], encode),)
    return _bundles([_as_it_travels(message) for message in fold(messages)], encode)


def _bundles(messages: Sequence[Message], encode: Callable[[Any], bytes]) -> Iterator[Frames]:
    begin = cargo = 0
    for at, (_, payload) in enumerate(messages):
        size = len(payload[0]) if len(payload) == 1 else sum(map(len, payload))
        small = size <= SMALL and _plain(payload)
        cargo += size
        if not small or cargo > MAX_BYTES or at - begin == MAX_ENTRIES:
            yield from _bundle(messages[begin:at], encode)
            begin, cargo = at, size
            if not small:
                yield [encode(messages[at][0]), *payload]
                begin, cargo = at + 1, 0
    yield from _bundle(messages[begin:], encode)


def _bundle(messages: Sequence[Message], encode: Callable[[Any], bytes]) -> Iterator[Frames]:
    if len(messages) > 1:
        bundle = encode((VERSION, BUNDLE, [(header, *payload) for header, payload in messages]))
        if len(bundle) <= MAX_HEADER:
            yield [bundle]
            return
    for header, payload in messages:
        yield [encode(header), *payload]
