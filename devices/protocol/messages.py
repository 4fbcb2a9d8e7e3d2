"""What is said between client, broker and replica: typed messages,
and the header that each travels as.

A header is a frame of msgpack, a flat array `[VERSION, kind, field, ...]`. Its fields are checked
here, once, when it is read, so that nobody behind this module meets a wrong type; they are read by
name, as attributes of a message.

    client -> broker
        Hello token                 are you there, and who are you?
        Request first endpoint targets parts timeout again docs + payload
                                    walk this through the graph; `again`: it may have been begun
        Cancel id                   nobody wants its answer any more
        Control id command arguments
                                    change something about the Flow
    broker -> client
        (an empty frame)            this connection is new: what was on its way is lost
        Welcome token info
        Reply first total parts notes took + payload
        Failed first took + error
        Controlled id result
    replica -> broker
        Hello token                 who are you?
        Ready executor endpoints slots shard replica batching
                                    take me into the pool
        Done first took docs + payload
        Error tasks took + error    several: these of a batch can't be done in one go
        Missed first last           these fan-outs never came, nor those between
        Leave                       I start nothing more; give my requests to others
    broker -> replica
        (an empty frame)            as to a client: say once more that you are ready
        Welcome token info
        Accepted number             you are in the pool; the last fan-out was this
        Refused reason              you are not, and will not be
        Task first total endpoint parts ticket + payload
                                    with a ticket: to be skipped unless you can take that
        Together total              do the next so many tasks in one go
        Recall task                 skip it if it has not started; 0: are you there?
    published to a group
        Fanout number base endpoint parts skip + payload
                                    the task of shard s is base + s; not for those to skip
        Beacon number               the last fan-out was this

Requests and tasks are said in lists, of one as a rule: `total` of them, whose ids follow one
another from `first` on, and that say the same otherwise. The payload of several is a frame for
each, and `docs` has a number for each.

How a payload travels is the last field of its header: a list of small frames that stand there
themselves; None where frames follow; a bit for each of those that follow and are references to
shared memory (`references`), between processes that share it.
A client that does has a routing id that begins with `MEMBER`.

Small messages that are said in one go travel as a bundle: one frame,
`[VERSION, BUNDLE, [[header, frame, ...], ...]]`.

A client keeps its routing id when it connects anew, and may then send again what was not answered:
a request is known by routing id and id. To an external Executor's front,
another broker is a client, whose routing id begins with `FLOW`.

The replicas of Executors with shards answer on a PUSH socket to the broker's collector, which
carries no identity: there the message begins with it, as it does where a ROUTER put it.

`parts` is None for a payload of one part. Where several branches of the graph meet, it is a list of
`[predecessor, [frames of part 0, frames of part 1, ...]]`, in the order of `needs`; whoever
receives them reduces them. A number below zero stands for so many bytes of the first frame, in
which small parts lie together. Where the result will itself be reduced with others, a last one is
called `/meets` and has no parts: the result is to say what has changed. `docs` is how many
Documents are in the payload. `timeout` is in ms, 0 for any time; `took` in us. `batching` is a dict
of endpoint to `[documents, timeout_us]`: so many may be given in one go, and so long a request may
wait for others. `info` is a dict, in msgpack, in the frame behind the header. `notes` is None, or
what the client is to know besides, by Executor.
`targets` is a list of Executor names or None for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from types import UnionType
from typing import (
    NamedTuple,
    TypeAlias,
    TypedDict,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgpack

from zflow.devices.protocol.references import Frame, Payload

VERSION = 2
MAX_HEADER = 64 * 1024  # bytes; a larger first frame is no header of ours
MAX_GREETING = 4 * 1024 * 1024  # bytes of what a Flow says about itself
MAX_ENDPOINT = 1024  # characters
SMALL = 4096  # bytes; a payload of one frame that is no larger stands in its header
MOST_TOGETHER = 64  # requests in one message, and messages in a bundle
MOST_SMALL = 32 * 1024  # bytes of payloads in a header, and in a bundle
MOST_ID = 2**63  # the ids of several are below it
MEMBER = b"\x02"  # what the routing ids of clients begin with that share the Flow's memory
STRANGER = b"\x01"  # and those of others
FLOW = b"\x03"  # and those of the brokers of other Flows

Frames: TypeAlias = list[Frame]  # of a message that is sent
Encode: TypeAlias = Callable[[object], bytes]  # makes a header a frame
Info: TypeAlias = dict[str, object]
Parts: TypeAlias = list[list[str | list[int]]]  # [[predecessor, [frame count or -size, ...]], ...]


class Note(TypedDict):
    """What the client is told of an ALL request of which some shards have failed."""

    shards: int
    succeeded: int
    failed: dict[str, str]  # why, by shard


class Hello(NamedTuple):
    token: int


class Request(NamedTuple):
    first: int
    endpoint: str
    targets: list[str] | None
    parts: Parts | None
    timeout: int
    again: bool
    docs: list[int]
    payload: Payload

    @property
    def total(self) -> int:
        return len(self.docs)


class Cancel(NamedTuple):
    id: int


class Control(NamedTuple):
    id: int
    command: str
    arguments: dict[str, object]


class Welcome(NamedTuple):
    token: int
    info: Info


class Reply(NamedTuple):
    first: int
    total: int
    parts: Parts | None
    notes: dict[str, Note] | None
    took: int
    payload: Payload


class Failed(NamedTuple):
    first: int
    took: int
    payload: Sequence[Frame]


class Controlled(NamedTuple):
    id: int
    result: dict[str, object]


class Ready(NamedTuple):
    executor: str
    endpoints: list[str] | None
    slots: int
    shard: int
    replica: int
    batching: dict[str, list[int]]


class Done(NamedTuple):
    first: int
    took: int
    docs: list[int]
    payload: Payload

    @property
    def total(self) -> int:
        return len(self.docs)


class Error(NamedTuple):
    tasks: list[int]
    took: int
    payload: Sequence[Frame]


class Missed(NamedTuple):
    first: int
    last: int


class Leave(NamedTuple):
    pass


class Accepted(NamedTuple):
    number: int


class Refused(NamedTuple):
    reason: str


class Task(NamedTuple):
    first: int
    total: int
    endpoint: str
    parts: Parts | None
    ticket: int
    payload: Payload


class Together(NamedTuple):
    total: int


class Recall(NamedTuple):
    task: int


class Fanout(NamedTuple):
    number: int
    base: int
    endpoint: str
    parts: Parts | None
    skip: list[int]
    payload: Payload


class Beacon(NamedTuple):
    number: int


Message: TypeAlias = (
    Hello
    | Request
    | Cancel
    | Control
    | Welcome
    | Reply
    | Failed
    | Controlled
    | Ready
    | Done
    | Error
    | Missed
    | Leave
    | Accepted
    | Refused
    | Task
    | Together
    | Recall
    | Fanout
    | Beacon
)

#: The number of each kind of message, as it stands in headers.
KINDS: dict[type[Message], int] = {
    Hello: 1,
    Request: 2,
    Cancel: 3,
    Control: 4,
    Welcome: 11,
    Reply: 12,
    Failed: 13,
    Controlled: 14,
    Ready: 21,
    Done: 22,
    Error: 23,
    Missed: 24,
    Leave: 25,
    Accepted: 31,
    Refused: 32,
    Task: 33,
    Together: 34,
    Recall: 35,
    Fanout: 36,
    Beacon: 37,
}
BUNDLE = 0

# By kind; and the types of its fields.
Direction = dict[int, tuple[type[Message], frozenset[tuple[type, ...]]]]


def _fields(kind: type[Message], last: tuple[type, ...]) -> frozenset[tuple[type, ...]]:
    """All types that the fields of its header may have;
    the last one's say how a payload may travel.
    """
    choices = []
    for name, hint in get_type_hints(kind).items():
        if name == "payload":
            choices.append(last)
        elif kind is not Welcome or name != "info":
            some = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            choices.append(tuple(get_origin(one) or one for one in some))
    return frozenset(product(*choices))


def _direction(*kinds: type[Message], last: tuple[type, ...] = (list, type(None))) -> Direction:
    return {KINDS[kind]: (kind, _fields(kind, last)) for kind in kinds}


_SHARED = (list, type(None), bytes)  # how payloads may travel where memory is shared
_FROM_CLIENT = (Hello, Request, Cancel, Control)
_TO_CLIENT = (Welcome, Reply, Failed, Controlled)
_FROM_REPLICA = (Hello, Ready, Done, Error, Missed, Leave)
_TO_REPLICA = (Welcome, Accepted, Refused, Task, Together, Recall, Fanout, Beacon)
FROM_CLIENT, FROM_MEMBER = _direction(*_FROM_CLIENT), _direction(*_FROM_CLIENT, last=_SHARED)
TO_CLIENT, TO_MEMBER = _direction(*_TO_CLIENT), _direction(*_TO_CLIENT, last=_SHARED)
FROM_REPLICA, FROM_LOCAL_REPLICA = (
    _direction(*_FROM_REPLICA),
    _direction(*_FROM_REPLICA, last=_SHARED),
)
TO_REPLICA, TO_LOCAL_REPLICA = _direction(*_TO_REPLICA), _direction(*_TO_REPLICA, last=_SHARED)

Listed: TypeAlias = Request | Reply | Done | Task  # what may be said of several requests in one
AnyListed = TypeVar("AnyListed", bound=Listed)
AnyMessage = TypeVar("AnyMessage", bound=Message)
LISTED = (Request, Reply, Done, Task)
#: Of those that are said in one: the fields that must be the same. Not how long each took, of Done.
COMMON: dict[type[Message], slice] = {
    Request: slice(1, 6),
    Reply: slice(2, 5),
    Done: slice(0),
    Task: slice(2, 5),
}
CARRIERS = frozenset({*LISTED, Failed, Error, Fanout})  # they have a payload

#: Makes a message of its fields, quicker than the classes' own.
make: Callable[[type[AnyMessage], Iterable[object]], AnyMessage] = tuple.__new__


class Malformed(Exception):
    """A frame that is no header of this protocol. `args[0]` is a fixed phrase, fit for counting."""


class Unexpected(Malformed):
    """A sound message from somebody unknown, as there may be some when a broker was started
    anew.
    """


class WrongVersion(Malformed):
    """A header of another version of the protocol."""


def encoder() -> Encode:
    """Return a function that makes a header a frame; one thread at a time may call it.

    >>> encoder()((VERSION, KINDS[Hello], 7))
    b'\\x93\\x02\\x01\\x07'
    """
    return msgpack.Packer(autoreset=True).pack  # type: ignore[no-any-return]


# -- lists -----------------------------------------------------------------------------------------


def can_be_listed(message: Listed) -> bool:
    """Whether it may be said in one with others that have the same in their `COMMON` fields."""
    if type(message) is Request:
        return message.parts is None and not message.again
    if type(message) is Task:
        return message.parts is None and not message.ticket
    if type(message) is Reply:
        return message.parts is None and message.notes is None
    return True


def singles(message: AnyListed) -> list[AnyListed]:
    """Return a message for each of its requests.

    >>> for single in singles(Done(7, 50, [1, 2], [b"a", b"b"])):
    ...     print(single)
    Done(first=7, took=50, docs=[1], payload=[b'a'])
    Done(first=8, took=50, docs=[2], payload=[b'b'])
    """
    if message.total == 1:
        return [message]
    each = enumerate(message.payload, message.first)
    # `_replace` would take three times as long, for each answer.
    if isinstance(message, (Request, Done)):
        before = message[1:-2]
        counts = zip(each, message.docs, strict=True)
        return [make(type(message), (id, *before, [docs], [frame])) for (id, frame), docs in counts]
    between = message[2:-1]
    return [make(type(message), (id, 1, *between, [frame])) for id, frame in each]


def topic(node: int, group: int) -> bytes:
    """What group `group` of node `node` subscribes to; no topic is the beginning of another."""
    return b"%d.%d." % (node, group)


def own_topic(identity: bytes) -> bytes:
    """What only one replica subscribes to: once the broker sees that,
    it can see all it has subscribed to before.
    """
    return b"@" + identity
