"""References: said with a message, never by what is in a frame."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.protocol import bundles, messages, references
from zflow.devices.protocol.messages import (
    KINDS,
    MOST_SMALL,
    VERSION,
    Done,
    Malformed,
    Message,
    Request,
)
from zflow.devices.protocol.references import REGION, REGIONS, WINDOW, Reference, heard, said

REFERENCE = Reference(1, 2, 3, 400, 5)
HEADER = [VERSION, KINDS[Done], 7, 1, [1]]


def done(*payload: Any) -> Done:
    return Done(7, 1, [1], list(payload))


@given(st.lists(st.binary(min_size=1, max_size=3) | st.just(REFERENCE), max_size=40))
def test_what_is_said_is_heard(frames: list[Any]) -> None:
    payload = [b"first", *frames]
    places, travels = said(payload)
    assert all(type(frame) is bytes for frame in travels)
    assert (heard(places, travels) if places else travels) == payload


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": 0},
        {"length": 0},
        {"length": WINDOW + 1},
        {"offset": WINDOW - 1, "length": 2},
        {"offset": REGION},
        {"region": REGIONS},
        {"slot": 2**32 - 1},
    ],
)
def test_what_cannot_be_a_block_is_no_reference(changes: dict[str, int]) -> None:
    fields = {"region": 0, "slot": 1, "offset": 2, "length": 3, "generation": 4}
    packed = references._PACKED.pack(*{**fields, **changes}.values())
    with pytest.raises(ValueError, match="no block of shared memory"):
        Reference.unpack(packed)
    header = msgpack.packb([*HEADER, b"\2"])
    with pytest.raises(Malformed, match="a reference that is none"):
        bundles.read([header, b"first", packed], 0, messages.FROM_LOCAL_REPLICA)


@pytest.mark.parametrize(
    ("places", "frames"),
    [
        (b"\1", [REFERENCE.pack()]),
        (b"\3", [REFERENCE.pack(), REFERENCE.pack()]),
        (b"\4", [b"a", REFERENCE.pack()]),
        (b"\2" + bytes(50_000) + b"\1", [b"a", REFERENCE.pack()]),
        (b"\2", [b"a", b"too short"]),
        (b"\2", [b"a", REFERENCE.pack() + b"x"]),
        (b"\2", []),
    ],
)
def test_a_place_without_a_reference_is_malformed(places: bytes, frames: list[bytes]) -> None:
    with pytest.raises(Malformed, match="a reference that is none"):
        bundles.read([msgpack.packb([*HEADER, places]), *frames], 0, messages.FROM_LOCAL_REPLICA)


def test_a_message_has_its_references_again_where_it_comes_in() -> None:
    said = done(b"first", b"x" * 50, REFERENCE, b"y")
    frames = bundles.message(said, messages.encoder())
    assert REFERENCE not in frames
    assert bundles.read(frames, 0, messages.FROM_LOCAL_REPLICA) == [said]


def test_a_reference_is_as_small_as_it_travels_and_so_goes_with_others() -> None:
    said = [done(b"a"), done(b"first", Reference(1, 2, 3, 20_000, 5)), done(b"b", b"c")]
    (frames,) = bundles.frames_of(said, messages.encoder())
    assert len(frames) == 1
    assert bundles.read(frames, 0, messages.FROM_LOCAL_REPLICA) == said
    with pytest.raises(Malformed):
        bundles.read(frames, 0, messages.FROM_REPLICA)


def test_one_that_is_too_large_for_a_bundle_has_its_references_too() -> None:
    said = [done(b"a"), done(bytes(MOST_SMALL), REFERENCE), done(b"b")]
    sent = list(bundles.frames_of(said, messages.encoder()))
    assert [len(frames) for frames in sent] == [1, 3, 1]
    assert [
        one for frames in sent for one in bundles.read(frames, 0, messages.FROM_LOCAL_REPLICA)
    ] == said


@pytest.mark.parametrize("name", ["FROM_CLIENT", "FROM_REPLICA", "TO_CLIENT", "TO_REPLICA"])
def test_no_message_to_or_from_elsewhere_can_have_one(name: str) -> None:
    direction = getattr(messages, name)
    for number, (_, shapes) in direction.items():
        for shape in shapes:
            assert bytes not in shape
            header = [VERSION, number, *([0] * (len(shape) - 1)), b"\2"]
            with pytest.raises(Malformed):
                bundles.read([msgpack.packb(header), b"first", REFERENCE.pack()], 0, direction)


def test_what_looks_like_one_is_a_frame_like_any_other() -> None:
    said: Message = Request(1, "/", None, None, 0, False, [1], [b"first", REFERENCE.pack()])
    frames = bundles.message(said, messages.encoder())
    for direction in (messages.FROM_CLIENT, messages.FROM_MEMBER):
        assert bundles.read(frames, 0, direction) == [said]


def test_who_may_write_there_again() -> None:
    assert references.is_fixed([b"a", REFERENCE])
    assert not references.is_fixed([b"a", bytearray(b"b")])
    assert not references.is_fixed([memoryview(b"a")])
