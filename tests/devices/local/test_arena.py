"""Shared memory: what one process puts there another one reads, and what is freed comes back."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.local import arena
from zflow.devices.local.arena import CLIENT, SHARED_FROM, Arena, Stale
from zflow.devices.protocol.references import Reference, references

LIMIT = 16 * SHARED_FROM
OTHER = 1  # a replica's region


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = arena.create()
    yield descriptor
    os.close(descriptor)


def block(letter: str, length: int = SHARED_FROM) -> bytes:
    return letter.encode() * length


def resident(file: int) -> int:
    """The bytes of memory that the arena takes."""
    return os.fstat(file).st_blocks * 512


def test_large_frames_but_the_first_travel_as_references_and_are_copied_out(file: int) -> None:
    payload = [block("a"), block("b"), block("c", SHARED_FROM - 1), block("d", 5 * SHARED_FROM + 3)]
    sent = Arena(file, CLIENT, LIMIT).share(payload)
    assert [frame is original for frame, original in zip(sent, payload, strict=True)] == [
        True,
        False,
        True,
        False,
    ]
    assert [type(frame) is Reference for frame in sent] == [False, True, False, True]
    assert [len(frame) for frame in sent] == [len(frame) for frame in payload]
    assert Arena(file).fetch(sent) == payload


def test_what_was_read_is_the_readers_own(file: int) -> None:
    writer, reader = Arena(file, CLIENT, LIMIT), Arena(file)
    sent = writer.share([b"", block("a")])
    for _ in range(2):
        _, copy = reader.fetch(sent)
        assert copy == block("a")
        memoryview(copy)[:3] = b"xyz"


@pytest.mark.parametrize("length", [arena.HUGE - 1, arena.HUGE, 3 * arena.HUGE + 1])
def test_copies_with_and_without_huge_pages(file: int, length: int) -> None:
    sent = Arena(file, CLIENT, 2 * length).share([b"", os.urandom(length)])
    left, right = (Arena(file).fetch(sent)[1] for _ in range(2))
    assert len(left) == length
    assert left == right
    assert not memoryview(left).readonly


def test_what_is_not_all_that_a_reference_says_is_not_there(file: int) -> None:
    sent = Arena(file, CLIENT, LIMIT).share([b"", block("a", 2 * SHARED_FROM), block("b")])
    (first, second), reader = references(sent), Arena(file)
    assert reader.is_there(first)
    forged = [
        replace(first, generation=first.generation + 1),
        replace(first, generation=second.generation),
        replace(first, slot=second.slot),
        replace(first, slot=1000),
        replace(first, region=OTHER),
        replace(first, offset=second.offset),
        replace(first, offset=first.offset - 1),
        replace(first, length=first.length + os.sysconf("SC_PAGESIZE")),
    ]
    before = resident(file)
    for block_of_none in forged:
        assert not reader.is_there(block_of_none)
        with pytest.raises(Stale):
            reader.fetch([b"", block_of_none])
    assert resident(file) <= before + 3 * os.sysconf("SC_PAGESIZE"), (
        "of tables; what is no block is not read"
    )


def test_a_block_is_its_regions_owners(file: int) -> None:
    (own,) = references(Arena(file, OTHER, LIMIT).share([b"", block("a")]))
    broker = Arena(file)
    assert broker.owns(os.getpid(), own)
    assert not broker.owns(os.getppid(), own)
    assert not broker.owns(os.getpid(), replace(own, generation=7))
    assert not broker.owns(os.getpid(), replace(own, region=OTHER + 1))


def test_memory_is_used_again_when_it_was_released(file: int) -> None:
    writer, reader = Arena(file, CLIENT, LIMIT), Arena(file)
    for letter in "abcdefghijklmnopqrstuvwxyz":
        sent = writer.share([b"", block(letter, 5 * SHARED_FROM)])
        assert reader.fetch(sent)[1] == block(letter, 5 * SHARED_FROM)
        reader.release(references(sent))
    assert resident(file) <= 7 * SHARED_FROM


def test_without_room_frames_stay_as_they_are_and_room_comes_back(file: int) -> None:
    writer = Arena(file, CLIENT, 2 * SHARED_FROM)
    frames = [b"", block("a"), block("b"), block("c")]
    sent = writer.share(frames)
    assert sent[3] is frames[3]
    writer.release(references(sent))
    # Of another size: the memory has to be given back first.
    other = writer.share([b"", block("d", 2 * SHARED_FROM)])
    assert len(references(other)) == 1
    assert resident(file) <= 2 * SHARED_FROM + 3 * os.sysconf("SC_PAGESIZE")


def test_what_is_larger_than_any_block_may_be(file: int) -> None:
    class Giant:
        def __len__(self) -> int:
            return arena.WINDOW + 1

    giant = Giant()
    assert Arena(file, CLIENT, 2**50).share([b"", giant]) == [b"", giant]


def test_a_block_that_was_freed_and_used_again_is_not_taken_for_the_first_one(file: int) -> None:
    writer, reader = Arena(file, CLIENT, LIMIT), Arena(file)
    old = writer.share([b"", block("a")])
    writer.release(references(old))
    assert reader.fetch(old)[1] == block("a")  # nobody has written there yet
    new = writer.share([b"", block("b")])
    with pytest.raises(Stale):
        reader.fetch(old)
    reader.release(references(old))  # late, and without effect
    writer.share([b"", block("c")])
    assert reader.fetch(new)[1] == block("b")


def test_holds(file: int) -> None:
    writer = Arena(file, CLIENT, LIMIT)
    blocks = references(writer.share([b"", block("a"), block("b")]))
    assert writer.holds(blocks)
    writer.release(blocks[:1])
    assert writer.holds(blocks)
    writer.release(blocks[1:])
    assert not writer.holds(blocks)
    assert not writer.holds([])


def test_trim_gives_back_what_is_free_and_nothing_else(file: int) -> None:
    writer = Arena(file, CLIENT, LIMIT)
    sent = [writer.share([b"", block(letter)]) for letter in "abcd"]
    for frames in sent[1:]:
        writer.release(references(frames))
    writer.trim(keep=SHARED_FROM)
    table = os.sysconf("SC_PAGESIZE") * 2
    assert 2 * SHARED_FROM <= resident(file) <= 2 * SHARED_FROM + table
    writer.trim()
    assert SHARED_FROM <= resident(file) <= SHARED_FROM + table
    assert writer.fetch(sent[0])[1] == block("a")


def test_the_next_broker_does_not_need_what_replicas_have_written_for_the_one_before(
    file: int,
) -> None:
    client, replica, broker = Arena(file, CLIENT, LIMIT), Arena(file, OTHER, LIMIT), Arena(file)
    broker.epoch = 1
    request, result = client.share([b"", block("a")]), replica.share([b"", block("b")])
    broker.epoch = 2
    assert replica.epoch == 2
    for process in (client, replica):
        for _ in range(LIMIT // SHARED_FROM):
            process.share([b"", block("x")])
    assert broker.fetch(request)[1] == block("a")
    with pytest.raises(Stale):
        broker.fetch(result)


# -- regions whose owners have ended ---------------------------------------------------------------


def test_a_dead_owners_blocks_stay_as_long_as_requests_need_them(file: int) -> None:
    replica, broker, manager = Arena(file, OTHER, LIMIT), Arena(file), Arena(file)
    needed, released, unheard = (replica.share([b"", block(letter)]) for letter in "abc")
    broker.accept([*references(needed), *references(released)])
    broker.release(references(released))
    assert not manager.reclaim(OTHER)
    assert SHARED_FROM <= resident(file) < 2 * SHARED_FROM
    assert broker.fetch(needed)[1] == block("a")
    for frames in (released, unheard):
        with pytest.raises(Stale):
            broker.fetch(frames)
        assert not any(map(broker.is_there, references(frames)))
    broker.release(references(needed))
    assert manager.reclaim(OTHER)
    assert resident(file) <= os.sysconf("SC_PAGESIZE")


def test_a_dead_owners_blocks_are_of_no_use_to_the_next_broker(file: int) -> None:
    replica, broker = Arena(file, OTHER, LIMIT), Arena(file)
    broker.accept(references(replica.share([b"", block("a")])))
    assert not broker.reclaim(OTHER)
    broker.epoch += 1
    assert broker.reclaim(OTHER)


# -- where there is none ---------------------------------------------------------------------------


def test_a_system_without_such_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="memfd_create"):
        arena.create()


def test_a_process_that_must_not_make_large_files_leaves_no_descriptor() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match="large"):
            arena.create()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- whatever happens ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 3, 5]), st.booleans()), max_size=30
    )
)
def test_a_reader_gets_what_was_written_or_nothing(steps: list[tuple[int, int, bool]]) -> None:
    file = arena.create()
    try:
        writer, reader = Arena(file, CLIENT, 6 * SHARED_FROM), Arena(file)
        live: dict[int, tuple[bytes, list[Any]]] = {}
        gone: list[tuple[bytes, list[Any]]] = []
        for number, (victim, times, release) in enumerate(steps):
            written = bytes([number]) * (times * SHARED_FROM)
            live[number] = written, writer.share([b"", written])
            if release and live:
                key = sorted(live)[victim % len(live)]
                reader.release(references(live[key][1]))
                gone.append(live.pop(key))
            for data, sent in live.values():
                assert reader.fetch(sent)[1] == data
            for data, sent in gone:
                try:
                    assert reader.fetch(sent)[1] == data
                except Stale:
                    pass
    finally:
        os.close(file)
