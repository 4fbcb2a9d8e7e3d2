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
                         WELCOME token                + info
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
                         WELCOME token                + info
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

Small messages that are said in one go travel as a bundle: one frame, `[VERSION, BUNDLE, [[header, frame, ...], ...]]`.
It says what those in it say, one after the other. Those whose ids follow one another and that say the same otherwise
are a single message, a *bulk*, with a list in place of each thing that differs, and no frames but the header:

    REQUESTS first endpoint targets timeout_ms [docs] [payload]   TASKS first endpoint [payload]
    DONES first service_us [docs] [payload]                       REPLIES first took_us [payload]

A client keeps its routing id when it connects anew, and may then send again what was not answered: a request is known
by routing id and id. To an external Executor's front, another broker is a client.

A client that shares the Flow's memory has a routing id that begins with `MEMBER`. In payloads from and to it, and from
and to the replicas of this machine, there may be references in place of frames (`references`). Such a message has one
more field at the end of its header, a bit for each frame; elsewhere a header with that field is malformed.

The replicas of Executors with shards answer on a PUSH socket to the broker's collector, which carries no identity:
there the message begins with it, as it does where a ROUTER put it.

`parts` is None for a payload of one part. Where several branches of the graph meet, it is a list of
`[predecessor, [frames of part 0, frames of part 1, ...]]`, in the order of `needs`; whoever receives them
reduces them. A number below zero stands for so many bytes of the first frame, in which small parts lie together.
`docs` is how many Documents are in the payload. `batching` is a dict of endpoint to `[documents, timeout_us]`: so many
may be given in one go, and so long a request may wait for others. `info` is a dict in msgpack; `bundles.read` puts it
behind the fields of the header. `notes` is None, or what the client is to know
besides, by Executor. `targets` is a list of Executor names or None for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

VERSION = 1
MAX_HEADER = 64 * 1024  # bytes; a larger first frame is no header of ours
MAX_GREETING = 4 * 1024 * 1024  # bytes of what a Flow says about itself
MAX_ENDPOINT = 1024  # characters
SMALL = 4096  # bytes; a part of one frame that is no larger travels in one frame with others like it
MEMBER = b"\x02"  # what the routing ids of clients begin with that share the Flow's memory
STRANGER = b"\x01"  # and those of others

HELLO, REQUEST, CANCEL, AGAIN, CONTROL, REQUESTS = 1, 2, 3, 4, 5, 6
WELCOME, REPLY, FAILED, CONTROLLED, REPLIES = 11, 12, 13, 14, 15
READY, DONE, ERROR, LEAVE, MISSED, APART, DONES = 21, 22, 23, 24, 25, 26, 27
ACCEPTED, TASK, RECALL, FANOUT, BEACON, REFUSED, TOGETHER, TASKS, AHEAD = 31, 32, 33, 34, 35, 36, 37, 38, 39

_NONE = type(None)
Shapes = dict[int, set[tuple[Any, ...]]]  # of the types of the fields

_LISTS = (_NONE, list)
_REQUEST = {(int, int, int, str, targets, parts, int, int) for targets in _LISTS for parts in _LISTS}
FROM_CLIENT: Shapes = {
    HELLO: {(int, int, int)},
    REQUEST: _REQUEST,
    AGAIN: _REQUEST,
    CONTROL: {(int, int, int, str, dict)},
    CANCEL: {(int, int, int)},
    REQUESTS: {(int, int, int, str, targets, int, list, list) for targets in _LISTS},
}
FROM_REPLICA: Shapes = {
    HELLO: {(int, int, int)},
    READY: {(int, int, str, endpoints, int, int, int, dict) for endpoints in _LISTS},
    DONE: {(int, int, int, int, int)},
    ERROR: {(int, int, int, int)},
    LEAVE: {(int, int)},
    MISSED: {(int, int, int, int)},
    APART: {(int, int, list, int)},
    DONES: {(int, int, int, int, list, list)},
}
TO_CLIENT: Shapes = {
    WELCOME: {(int, int, int)},
    REPLY: {(int, int, int, parts, notes, int) for parts in _LISTS for notes in (_NONE, dict)},
    FAILED: {(int, int, int, int)},
    CONTROLLED: {(int, int, int, dict)},
    REPLIES: {(int, int, int, int, list)},
}
TO_REPLICA: Shapes = {
    WELCOME: {(int, int, int)},
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

# How many fields these have where no frame of the payload is a reference.
PLAIN = {REQUEST: 8, AGAIN: 8, REPLY: 6, DONE: 5, TASK: 5, AHEAD: 6, FANOUT: 7}


def _shared(shapes: Shapes) -> Shapes:
    """The same between processes that share memory."""
    return {kind: some | {(*one, bytes) for one in some if kind in PLAIN} for kind, some in shapes.items()}


FROM_MEMBER, TO_MEMBER = _shared(FROM_CLIENT), _shared(TO_CLIENT)
FROM_LOCAL_REPLICA, TO_LOCAL_REPLICA = _shared(FROM_REPLICA), _shared(TO_REPLICA)

_unpack = msgpack.unpackb


class Malformed(Exception):
    """A frame that is no header of this protocol. `args[0]` is a fixed phrase, fit for counting."""


class Unexpected(Malformed):
    """A sound message from somebody unknown, as there may be some when a broker was started anew."""


class WrongVersion(Malformed):
    """A header of another version of the protocol."""


Frames = list[Any]  # of bytes, memoryview or zmq.Frame
Message = tuple[Sequence[Any], Sequence[Any]]  # the header's fields, and the payload's frames


def encoder() -> Callable[[Any], bytes]:
    """Return a function that makes a header's fields a frame; one thread at a time may call it.

    >>> encoder()((VERSION, HELLO, 7))
    b'\\x93\\x01\\x01\\x07'
    """
    return msgpack.Packer(autoreset=True).pack  # type: ignore[no-any-return]


def decode(frame: bytes, shapes: Shapes) -> list[Any]:
    """Return the header's fields, `[VERSION, kind, ...]`, checked against what may be said in this direction.

    Raises:
        WrongVersion: it is a header, but of another version.
        Malformed: it is anything else.
    """
    return checked(fields_of(frame), shapes)


def fields_of(frame: bytes) -> Any:
    if len(frame) > MAX_HEADER:
        raise Malformed("header too long")
    return unpacked(frame)


def unpacked(frame: bytes) -> Any:
    try:
        return _unpack(frame)
    except Exception:
        raise Malformed("header is not msgpack") from None


def checked(header: Any, shapes: Shapes) -> list[Any]:
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


def topic(node: int, group: int) -> bytes:
    """What group `group` of node `node` subscribes to; no topic is the beginning of another."""
    return b"%d.%d." % (node, group)


def own_topic(identity: bytes) -> bytes:
    """What only one replica subscribes to: once the broker sees that, it can see all it has subscribed to before."""
    return b"@" + identity
