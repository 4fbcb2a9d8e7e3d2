"""Messages that are nearly right, for each port of a Flow, drawn from a seed. Pure logic; sends
nothing.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from zflow import DocumentArray
from zflow.devices.protocol.headers import written
from zflow.devices.protocol.messages import (
    BUNDLE,
    VERSION,
    Cancel,
    Control,
    Done,
    Error,
    Hello,
    Leave,
    Message,
    Missed,
    Ready,
    Request,
)
from zflow.documents import codec

FRONT, REPLICAS = "front", "replicas"
OWN = "/own"  # an endpoint whose answers are no secret
JOINABLE = "own"  # an Executor of which nobody uses anything
NOTHING = bytes(codec.pack(DocumentArray())[0])
DEEP = b"\x91" * 1000 + b"\xc0"

# What no field expects, or only some do.
NASTY: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    7,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 2000,
    "line\nanother\x1b[2J",
    "\ud800".encode("utf-8", "surrogatepass"),
    b"",
    b"\xc1" * 40,
    b"\xff" * 3000,
    [],
    [[]],
    [None] * 1100,
    [1, 1],
    [b"x", b"y"],
    [b""],
    [b"x" * 5000] * 10,
    [b"x"] * 100,
    [["gateway", [1]]],
    [["gateway", [-40, -40]]],
    [["gateway", [-(2**63), 1]]],
    [["gateway/shard-*", [1, 1]]],
    [[["a"]]],
    {},
    {"": None},
    {"/": [1, 2**63]},
    {"/": [0, -1]},
    {1: {2: {3: {}}}},
    msgpack.ExtType(5, b"x"),
    msgpack.Timestamp(1, 2),
)
# References as they travel, and as something that has once been one.
REFERENCES = (
    struct.pack("<IIQQQ", 0, 0, 2**22, 20_000, 0),
    struct.pack("<IIQQQ", 1, 0, 2**22, 20_000, 0),
    struct.pack("<IIQQQ", 2**22, 2**32 - 1, 2**63, 2**63, 1),
    struct.pack("<8sIIQQQ", b"\xc1zflow\0\1", 1, 0, 2**22, 20_000, 0),
)
PAYLOADS = (NOTHING, b"", b"\xc1", b"\x00" * 40, DEEP, b"x" * 5000, *REFERENCES)


def front(luck: random.Random) -> Message:
    """What a client may say."""
    id = luck.randrange(1, 1000)
    kind = luck.randrange(8)
    if kind == 0:
        return Hello(id)
    if kind == 1:
        return Cancel(id)
    if kind == 2:
        command = luck.choice(("scale", "restart", "drain", "undrain", "stop", "info"))
        return Control(id, command, {"name": "nobody", "replica": "nobody/rep-0", "replicas": 2})
    if kind == 3:
        count = luck.randrange(2, 6)
        return Request(id, OWN, None, None, 0, False, [0] * count, [NOTHING] * count)
    if kind == 4:
        return Request(id, OWN, None, None, 1000, True, [0], [NOTHING])
    targets, timeout = luck.choice((None, [JOINABLE])), luck.choice((0, 1, 1000))
    return Request(id, OWN, targets, None, timeout, False, [0], [NOTHING])


def replicas(luck: random.Random) -> Message:
    """What a replica may say."""
    id = luck.randrange(1, 2**40)
    said: list[Message] = [
        Hello(id),
        Ready(JOINABLE, [OWN], 1, 0, 0, {}),
        Ready("nobody", [OWN], 1, 0, 0, {}),
        Done(id, 1, [0], [NOTHING]),
        Error([id], 1, [NOTHING]),
        Error([id, id + 1], 1, [NOTHING]),
        Missed(id, id + 3),
        Done(id, 1, [0, 0], [NOTHING, NOTHING]),
        Leave(),
    ]
    return luck.choice(said)


PORTS: dict[str, Callable[[random.Random], Message]] = {FRONT: front, REPLICAS: replicas}


def stream(seed: int, where: str) -> Iterator[list[bytes]]:
    """Messages without end for that port; the same seed gives the same ones."""
    luck = random.Random(f"{seed}/{where}")
    make = PORTS[where]
    while True:
        yield _message(luck, make)


def _message(luck: random.Random, make: Callable[[random.Random], Message]) -> list[bytes]:
    if luck.random() < 0.15:
        entries = [
            [fields, *frames]
            for fields, frames in (_said(luck, make) for _ in range(luck.randrange(1, 5)))
        ]
        return [
            _bytes(luck, _packed([VERSION, BUNDLE, entries])),
            *_payload(luck)[: luck.random() < 0.05],
        ]
    fields, frames = _said(luck, make)
    return [_bytes(luck, _packed(fields)), *frames]


def _said(
    luck: random.Random, make: Callable[[random.Random], Message]
) -> tuple[list[Any], list[bytes]]:
    """A message's header and the frames behind it, of which as a rule something is not what it
    should be.
    """
    message = make(luck)
    fields, frames = list(written(message, _packed)[0]), _payload(luck)
    if isinstance(message, (Request, Done, Error)):
        if luck.random() < 0.5:
            fields[-1] = luck.choice((None, None, None, b"\1", b"\2", b"\xff" * 100))
        else:
            fields[-1] = [luck.choice(PAYLOADS) for _ in fields[-1]]
            frames = frames[: luck.random() < 0.05]
    return _wrong(luck, fields), frames


def _wrong(luck: random.Random, fields: list[Any]) -> list[Any]:
    """A header's fields, of which one as a rule is not what it should be; sometimes some are
    missing or too many.
    """
    chance = luck.random()
    if chance < 0.6:
        # Neither whose Executor it is nor what it binds: whoever says both rightly is a replica by
        # right.
        at = luck.randrange(len(fields))
        fields[at] = luck.choice(NASTY)
    elif chance < 0.7:
        del fields[luck.randrange(len(fields)) :]
    elif chance < 0.8:
        fields.append(luck.choice((b"\2", b"\1", b"\xff" * 100, *NASTY)))
    return fields


def _payload(luck: random.Random) -> list[bytes]:
    return [luck.choice(PAYLOADS) for _ in range(luck.choice((0, 1, 1, 1, 2, 3, 12)))]


def _packed(fields: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def _bytes(luck: random.Random, frame: bytes) -> bytes:
    """The frame, sometimes with a bit turned over, cut off, with more behind it, or with something
    deep in it.
    """
    chance = luck.random()
    if chance < 0.8 or not frame:
        return frame
    at = luck.randrange(len(frame))
    if chance < 0.88:
        return frame[:at] + bytes([frame[at] ^ (1 << luck.randrange(8))]) + frame[at + 1 :]
    if chance < 0.93:
        return frame[:at]
    return frame + luck.randbytes(3) if chance < 0.96 else frame[:at] + DEEP
