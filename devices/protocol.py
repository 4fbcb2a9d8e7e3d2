"""What is said between client, broker and replica: one msgpack header frame, then payload frames.

A header is a flat array `[VERSION, kind, ...]`. Its fields are checked here, once, when it is read, so that
nobody behind this module meets a wrong type. Payload frames are never looked into.

    client  -> broker    HELLO token                              are you there, and who are you?
                         REQUEST id endpoint targets parts timeout_ms docs
                                                      + payload   walk this through the graph; 0 ms: take your time
                         AGAIN ...                                a REQUEST that may have been begun before
                         CANCEL id                                nobody wants its answer any more
                         CONTROL id command arguments             change something about the Flow
    broker  -> client    (an empty frame)                         this connection is new: what was on its way is lost
                         WELCOME token info
                         REPLY id parts notes took_us + payload
                         FAILED id took_us            + error
                         CONTROLLED id result
    replica -> broker    HELLO token                              who are you?
                         READY executor endpoints slots shard replica batching
                                                                  take me into the pool
                         DONE task service_us docs    + payload
                         ERROR task service_us        + error
                         APART tasks service_us       + error     these tasks of a batch can't be done in one go
                         MISSED first last                        these fan-outs never came, nor those between
                         LEAVE                                    I start nothing more; give my requests to others
    broker  -> replica   (an empty frame)                         as to a client: say once more that you are ready
                         WELCOME token info
                         ACCEPTED number                          you are in the pool; the last fan-out was this
                         REFUSED reason                           you are not, and will not be
                         TASK task endpoint parts     + payload
                         AHEAD task endpoint parts ticket
                                                      + payload   a TASK to be skipped unless you can take its ticket
                         TOGETHER number                          do the next so many tasks in one go
                         RECALL task                              skip it if it has not started; 0: are you there?
    published to a group FANOUT number base endpoint parts skip
                                                      + payload   the task of shard s is base + s; not for those to skip
                         BEACON number                            the last fan-out was this

Small messages that are said in one go travel as a train: one frame, `[VERSION, TRAIN, [[header, frame, ...], ...]]`.
It says what its cars say, one after the other. Those whose ids follow one another and that say the same otherwise are a
single message, a convoy, with a list in place of each thing that differs, and no frames but the header:

    REQUESTS first endpoint targets timeout_ms [docs] [payload]   TASKS first endpoint [payload]
    DONES first service_us [docs] [payload]                       REPLIES first took_us [payload]

A client keeps its routing id when it connects anew, and may then send again what was not answered: a request is known
by routing id and id. To an external Executor's front, another broker is a client.

A client that shares the Flow's memory has a routing id that begins with `MEMBER`. In payloads from and to it, and from
and to the replicas of this machine, there may be references in place of frames (`arena`).

The replicas of Executors with shards answer on a PUSH socket to the broker's collector, which carries no identity:
there the message begins with it, as it does where a ROUTER put it.

`parts` is None for a payload of one part. Where several branches of the graph meet, it is a list of
`[predecessor, [frames of part 0, frames of part 1, ...]]`, in the order of `needs`; whoever receives them
reduces them. A number below zero stands for so many bytes of the first frame, in which small parts lie together.
`docs` is how many Documents are in the payload. `batching` is a dict of endpoint to `[documents, timeout_us]`: so many
may be given in one go, and so long a request may wait for others. `notes` is None, or what the client is to know
besides, by Executor. `targets` is a list of Executor names or None for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgpack
import zmq

VERSION = 1
MAX_HEADER = 64 * 1024  # bytes; a larger first frame is no header of ours
MAX_ENDPOINT = 1024  # characters
BATCH = 64  # messages taken from one socket before anything else is looked at
BUNDLED = 4096  # bytes; a part of one frame that is no larger travels in one frame with others like it
MEMBER = b"\x02"  # what the routing ids of clients begin with that share the Flow's memory
STRANGER = b"\x01"  # and those of others
LARGE = 64 * 1024  # bytes from which copying a frame costs more than not copying it
CARS = 64  # messages in a train, at most
CARGO = 32 * 1024  # bytes of payload in a train, at most
MOST_ID = 2**63  # in a convoy, where others follow it

TRAIN = 0
HELLO, REQUEST, CANCEL, AGAIN, CONTROL, REQUESTS = 1, 2, 3, 4, 5, 6
WELCOME, REPLY, FAILED, CONTROLLED, REPLIES = 11, 12, 13, 14, 15
READY, DONE, ERROR, LEAVE, MISSED, APART, DONES = 21, 22, 23, 24, 25, 26, 27
ACCEPTED, TASK, RECALL, FANOUT, BEACON, REFUSED, TOGETHER, TASKS, AHEAD = 31, 32, 33, 34, 35, 36, 37, 38, 39

# As plain numbers: each use of an enum would cost a conversion.
_EVENTS, _POLLIN, _SNDMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.SNDMORE)
_NONE = type(None)
_Shapes = dict[int, set[tuple[Any, ...]]]  # of the types of the fields

_LISTS = (_NONE, list)
_REQUEST = {(int, int, int, str, targets, parts, int, int) for targets in _LISTS for parts in _LISTS}
FROM_CLIENT: _Shapes = {
    HELLO: {(int, int, int)},
    REQUEST: _REQUEST,
    AGAIN: _REQUEST,
    CONTROL: {(int, int, int, str, dict)},
    CANCEL: {(int, int, int)},
    REQUESTS: {(int, int, int, str, targets, int, list, list) for targets in _LISTS},
}
FROM_REPLICA: _Shapes = {
    HELLO: {(int, int, int)},
    READY: {(int, int, str, endpoints, int, int, int, dict) for endpoints in _LISTS},
    DONE: {(int, int, int, int, int)},
    ERROR: {(int, int, int, int)},
    LEAVE: {(int, int)},
    MISSED: {(int, int, int, int)},
    APART: {(int, int, list, int)},
    DONES: {(int, int, int, int, list, list)},
}
TO_CLIENT: _Shapes = {
    WELCOME: {(int, int, int, dict)},
    REPLY: {(int, int, int, parts, notes, int) for parts in _LISTS for notes in (_NONE, dict)},
    FAILED: {(int, int, int, int)},
    CONTROLLED: {(int, int, int, dict)},
    REPLIES: {(int, int, int, int, list)},
}
TO_REPLICA: _Shapes = {
    WELCOME: {(int, int, int, dict)},
    ACCEPTED: {(int, int, int)},
    REFUSED: {(int, int, str)},
    TASK: {(int, int, int, str, parts) for parts in _LISTS},
    RECALL: {(int, int, int)},
    FANOUT: {(int, int, int, int, str, parts, list) for parts in _LISTS},
    BEACON: {(int, int, int)},
    TOGETHER: {(int, int, int)},
    TASKS: {(int, int, int, str, list)},
    AHEAD: {(int, int, int, str, parts, int) for parts in _LISTS},
}


_unpack = msgpack.unpackb
_TRAIN_BEGINS = bytes((0x93, VERSION, TRAIN))  # msgpack of three elements, and the first two of them


class Malformed(Exception):
    """A frame that is no header of this protocol. `args[0]` is a fixed phrase, fit for counting."""


class Unexpected(Malformed):
    """A sound message from somebody unknown, as there may be some when a broker was started anew."""


class WrongVersion(Malformed):
    """A header of another version of the protocol."""


Frames = list[Any]  # of bytes, memoryview or zmq.Frame
Message = tuple[Sequence[Any], Sequence[Any]]  # the header's fields, and the payload's frames
Parts = list[list[Any]]  # [[predecessor, [frame count or -size, ...]], ...]


def encoder() -> Callable[[Any], bytes]:
    """Return a function that makes a header's fields a frame; one thread at a time may call it.

    >>> encoder()((VERSION, HELLO, 7))
    b'\\x93\\x01\\x01\\x07'
    """
    return msgpack.Packer(autoreset=True).pack  # type: ignore[no-any-return]


def decode(frame: bytes, shapes: _Shapes) -> list[Any]:
    """Return the header's fields, `[VERSION, kind, ...]`, checked against what may be said in this direction.

    Raises:
        WrongVersion: it is a header, but of another version.
        Malformed: it is anything else.
    """
    return _checked(_fields(frame), shapes)


def _fields(frame: bytes) -> Any:
    if len(frame) > MAX_HEADER:
        raise Malformed("header too long")
    try:
        return _unpack(frame)
    except Exception:
        raise Malformed("header is not msgpack") from None


def _checked(header: Any, shapes: _Shapes) -> list[Any]:
    if type(header) is not list or len(header) < 2:
        raise Malformed("header is not an array")
    if header[0] != VERSION:
        raise WrongVersion("another version of the protocol")
    kind = header[1]
    if type(kind) is not int or kind not in shapes:
        raise Malformed("unknown kind of message")
    if tuple(map(type, header)) not in shapes[kind]:
        raise Malformed("wrong fields in header")
    return header


Heard = tuple[list[Any], Sequence[Any]]  # as `Message`


def read(frames: Sequence[Any], at: int, shapes: _Shapes) -> list[Heard]:
    """Return what a message says: its header, which is the frame `at`, and its payload; of a train, each car's.

    Of convoys, REQUESTS and DONES are returned as they are, for the broker, and TASKS and REPLIES taken apart.

    Raises: as `decode`. Of a train, either all of it is right or nothing.
    """
    first = frames[at]
    if first[:3] != _TRAIN_BEGINS:
        header = decode(first, shapes)
        if header[1] in _CONVOYS:
            return _of_convoy(header, frames[at + 1 :])
        return [(header, frames[at + 1 :])]
    cars = _fields(first)[2]
    if len(frames) > at + 1 or type(cars) is not list or not 0 < len(cars) <= CARS:
        raise Malformed("a train that is none")
    messages: list[Heard] = []
    for car in cars:
        payload = car[1:] if type(car) is list else None
        if not car or payload is None or not _plain(payload):
            raise Malformed("a car of a train that is none")
        header = _checked(car[0], shapes)
        if header[1] in _CONVOYS:
            messages += _of_convoy(header, payload)
        else:
            messages.append((header, payload))
    return messages


def _of_convoy(header: list[Any], frames: Sequence[Any]) -> list[Heard]:
    """Check a convoy, and take it apart if it is not for the broker."""
    kind, first, payloads = header[1], header[2], header[-1]
    if frames or not 1 < len(payloads) <= CARS or not _all(bytes, payloads):
        raise Malformed("a convoy that is none")
    if not all(payloads) or sum(map(len, payloads)) > CARGO or not 0 <= first < MOST_ID:
        raise Malformed("a convoy that is none")
    if kind == TASKS:
        endpoint = header[3]
        return [([VERSION, TASK, first + at, endpoint, None], [frame]) for at, frame in enumerate(payloads)]
    if kind == REPLIES:
        took = header[3]
        return [([VERSION, REPLY, first + at, None, None, took], [frame]) for at, frame in enumerate(payloads)]
    docs = header[-2]
    if len(docs) != len(payloads) or not _all(int, docs):
        raise Malformed("a convoy that is none")
    return [(header, ())]


def _all(kind: type, values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {kind}


def _plain(payload: Sequence[Any]) -> bool:
    """Whether all frames are bytes; one is the usual case."""
    return type(payload[0]) is bytes if len(payload) == 1 else all(type(frame) is bytes for frame in payload)


def fold(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages, with convoys in place of what can be one: small payloads, for ids that follow one another.

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
        if same is None or len(payload) != 1 or type(frame := payload[0]) is not bytes or not 0 < len(frame) <= BUNDLED:
            if run:
                folded += _convoy(run)
                run = []
            folded.append(message)
            continue
        this = header[1], header[same]
        cargo += len(frame)
        if not run or header[2] != next_id or this != like or cargo > CARGO or len(run) == CARS:
            if run:
                folded += _convoy(run)
            run, like, cargo = [], this, len(frame)
        run.append(message)
        next_id = header[2] + 1
    if run:
        folded += _convoy(run)
    return folded


def _convoy(run: list[Message]) -> list[Message]:
    """Return a convoy for messages that are alike, if there are several and none has parts or notes."""
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


_CONVOYS = {REQUESTS, TASKS, DONES, REPLIES}
# By kind, what of the header must be the same in all, and which fields must be None.
_SAME = {REQUEST: slice(3, 7), TASK: slice(3, 5), DONE: slice(0, 0), REPLY: slice(3, 5)}
_NOTHING = {REQUEST: (5,), TASK: (4,), DONE: (), REPLY: (3, 4)}


def couple(messages: Sequence[Message], encode: Callable[[Any], bytes]) -> Iterable[Frames]:
    """Give the frames of each message to be sent; small ones that follow one another are made convoys and trains.

    >>> said = list(couple([((VERSION, HELLO, 7), ()), ((VERSION, HELLO, 8), ())], encoder()))
    >>> [header for header, payload in read(said[0], 0, FROM_CLIENT)]
    [[1, 1, 7], [1, 1, 8]]
    """
    if len(messages) == 1:  # as a rule where there is little to do, and then each thing that is done counts
        header, payload = messages[0]
        return ([encode(header), *payload],)
    return _trains(fold(messages), encode)


def _trains(messages: Sequence[Message], encode: Callable[[Any], bytes]) -> Iterator[Frames]:
    begin = cargo = 0
    for at, (_, payload) in enumerate(messages):
        size = len(payload[0]) if len(payload) == 1 else sum(map(len, payload))
        small = size <= BUNDLED and _plain(payload)
        cargo += size
        if not small or cargo > CARGO or at - begin == CARS:
            yield from _train(messages[begin:at], encode)
            begin, cargo = at, size
            if not small:
                yield [encode(messages[at][0]), *payload]
                begin, cargo = at + 1, 0
    yield from _train(messages[begin:], encode)


def _train(messages: Sequence[Message], encode: Callable[[Any], bytes]) -> Iterator[Frames]:
    if len(messages) > 1:
        train = encode((VERSION, TRAIN, [(header, *payload) for header, payload in messages]))
        if len(train) <= MAX_HEADER:
            yield [train]
            return
    for header, payload in messages:
        yield [encode(header), *payload]


def topic(node: int, group: int) -> bytes:
    """What group `group` of node `node` subscribes to; no topic is the beginning of another."""
    return b"%d.%d." % (node, group)


def own_topic(identity: bytes) -> bytes:
    """What only one replica subscribes to: once the broker sees that, it can see all it has subscribed to before."""
    return b"@" + identity


def split(parts: Any, frames: Sequence[Any]) -> list[tuple[str, list[Sequence[Any]]]]:
    """Cut `frames` into `(predecessor, [payload, ...])` as `parts` says.

    Raises:
        Malformed: the counts do not add up to the frames that are there.
    """
    result: list[tuple[str, list[Sequence[Any]]]] = []
    try:
        bundled = any(type(count) is int and count < 0 for _, counts in parts for count in counts)
        bundle = bytes(frames[0]) if bundled and frames else b""
        at, offset = int(bundled), 0
        for name, counts in parts:
            payloads: list[Sequence[Any]] = []
            for count in counts:
                if type(count) is not int or not count or at + count > len(frames):
                    raise Malformed("parts do not fit the frames")
                if count > 0:
                    payloads.append(frames[at : at + count])
                    at += count
                else:
                    payloads.append([bundle[offset : offset - count]])
                    offset -= count
            if type(name) is not str:
                raise Malformed("parts are not a list of pairs")
            result.append((name, payloads))
    except (TypeError, ValueError):
        raise Malformed("parts are not a list of pairs") from None
    if at != len(frames) or offset != len(bundle):
        raise Malformed("parts do not fit the frames")
    return result


class Port:
    """A socket with the few calls that are made for each message looked up once.

    Args:
        socket: a ROUTER or DEALER.
        small: how many frames in front are received as bytes, whatever their size. Identity, header and the first
            payload frame are small as a rule, and for small ones bytes are cheaper; arrays are not copied.
    """

    __slots__ = ("_events", "_receive", "_send", "_small", "socket")

    def __init__(self, socket: zmq.Socket[bytes], small: int) -> None:
        self.socket = socket
        self._small = small
        # The bound methods of the class below pyzmq's convenience layer; a plain attribute look-up on a socket
        # goes through a Python __getattr__ hook.
        self._receive = zmq.backend.Socket.recv.__get__(socket)
        self._send = zmq.backend.Socket.send.__get__(socket)
        self._events = zmq.backend.Socket.get.__get__(socket)

    def readable(self) -> bool:
        """Whether a message can be received without waiting; cheaper than the exception that says there is none."""
        return bool(self._events(_EVENTS) & _POLLIN)

    def receive(self, flags: int = 0) -> Frames:
        """Receive one message; large frames after the small ones are `zmq.Frame`, uncopied.

        Raises:
            zmq.Again: nothing came within the socket's RCVTIMEO; with NOBLOCK in `flags`, nothing is there.
        """
        receive = self._receive
        small = self._small
        frame = receive(flags, False)
        frames: Frames = [frame.bytes]
        while frame.more:
            frame = receive(0, False)
            frames.append(frame.bytes if len(frames) < small or len(frame) <= BUNDLED else frame)
        return frames

    def receive_some(self, limit: int) -> list[Frames]:
        """Receive what has arrived, `limit` messages at most, and at least one; raises as `receive`."""
        messages = [self.receive()]
        while len(messages) < limit and self.readable():  # cheaper than the exception that says there is none
            messages.append(self.receive())
        return messages

    def send(self, frames: Sequence[Any]) -> None:
        """Send one message; large frames, and those that are not bytes, go without being copied.

        Raises:
            zmq.ZMQError: EHOSTUNREACH, from a ROUTER whose peer is gone (nothing was sent then).
        """
        send = self._send
        more = len(frames)
        for frame in frames:
            more -= 1
            if type(frame) is bytes and len(frame) < LARGE:
                send(frame, _SNDMORE if more else 0)
            else:
                self.socket.send(frame, _SNDMORE if more else 0, copy=False)

    def say(self, messages: Sequence[Message], encode: Callable[[Any], bytes]) -> list[zmq.MessageTracker]:
        """Send these messages, with `encode` for the headers, in as few as possible; returns as `send_tracked`."""
        trackers: list[zmq.MessageTracker] = []
        for frames in couple(messages, encode):
            trackers += self.send_tracked(frames)
        return trackers

    def send_tracked(self, frames: Sequence[Any]) -> list[zmq.MessageTracker]:
        """Like `send`; the trackers returned tell when libzmq has let go of each frame that was not copied.

        Whoever hands out the memory of user code waits for them before that code runs again: it may write there.
        """
        send = self._send
        trackers = []
        more = len(frames)
        for frame in frames:
            more -= 1
            flags = _SNDMORE if more else 0
            if type(frame) is not bytes:
                tracker = self.socket.send(frame, flags, copy=False, track=True)
                if tracker is not None:
                    trackers.append(tracker)
            elif len(frame) < LARGE:
                send(frame, flags)
            else:
                self.socket.send(frame, flags, copy=False)  # nobody can write to it
        return trackers


def buffers(frames: Sequence[Any]) -> Sequence[Any]:
    """Payload frames as bytes and memoryviews, for whoever decodes them."""
    if len(frames) == 1 and type(frames[0]) is bytes:
        return frames
    return [frame.buffer if isinstance(frame, zmq.Frame) else frame for frame in frames]
