"""What a piece of a train of tiny frames looks like, and what only looks so."""

from __future__ import annotations

import os
import random

import pytest

from zflow.devices.sockets.trains import PIECE, SAMPLE, Pieces, frames_in, may_be


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01\x00",
        b"\x01\x03abc",
        b"\x03" + bytes(8),
        b"\x03" + bytes(7) + b"\x02ab",
        b"\x01\x0b" + bytes(11),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 7])
def test_frames_that_say_that_more_follow_are_counted_wherever_the_piece_begins(
    frame: bytes, at: int
) -> None:
    sample = (frame * SAMPLE)[at:][:SAMPLE]
    assert may_be(sample)
    assert abs(frames_in(sample) - SAMPLE / len(frame)) < 10


def test_whole_messages_and_data_are_none() -> None:
    whole = b"\x01\x00\x01\x00\x00\x02ab" * SAMPLE
    assert frames_in(whole[:SAMPLE]) == 0
    for sample in (bytes(SAMPLE), os.urandom(SAMPLE), b"text " * SAMPLE):
        assert not may_be(sample[:SAMPLE])


def test_nothing_takes_long_to_look_through() -> None:
    hard = bytes(random.Random(1).choices(b"\x01\x00\x03", k=SAMPLE))
    assert frames_in(hard) == 0


def test_it_is_known_whether_all_of_a_sample_was_read_in_pieces() -> None:
    pieces = Pieces()
    assert pieces.saw(100_000, 80_000) is None
    assert pieces.saw(100_000, 80_000) is None
    assert pieces.saw(100_000, 80_000 - PIECE) is None
    assert pieces.saw(150_000, 130_000 - 2 * PIECE) is None
    assert pieces.saw(150_000, 130_000 - 3 * PIECE) is True


@pytest.mark.parametrize("left", [0, 80_000 - PIECE - 1, 1])
def test_what_is_read_as_it_comes_is_not(left: int) -> None:
    pieces = Pieces()
    pieces.saw(100_000, 80_000)
    assert pieces.saw(100_000, left) is False
