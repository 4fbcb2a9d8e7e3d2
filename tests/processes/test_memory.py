"""Whether a Flow's processes share memory, and how much of it each one may take."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.local import arena
from zflow.devices.protocol.references import references
from zflow.processes import memory
from zflow.processes.memory import AUTOMATIC, PART, Sharing, limit
from zflow.system import process

BLOCK = bytes(range(256)) * 256


@pytest.fixture
def shared() -> Iterator[Sharing]:
    sharing = Sharing(limit=16 * len(BLOCK), replicas=2).made()
    yield sharing
    sharing.close()


# -- whether there is any --------------------------------------------------------------------------


def test_there_is_none_unless_it_is_made() -> None:
    sharing = Sharing(limit=2**20, replicas=1)
    assert (sharing.reader(), sharing.client(), sharing.replica(1)) == (None, None, None)
    assert str(sharing) == "payloads by frames: no memory is shared"
    sharing.close()


def test_a_limit_of_nothing_makes_none() -> None:
    sharing = Sharing(limit=0, replicas=1).made()
    assert sharing.descriptor is None
    assert str(sharing) == "payloads by frames: shared_memory=0"


def test_processes_of_limited_size_make_none() -> None:
    reader, writer = os.pipe()

    def make() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (2**40, resource.getrlimit(resource.RLIMIT_AS)[1]))
        os.write(writer, str(Sharing(limit=2**20, replicas=1).made()).encode())
        return 0

    assert os.waitpid(process.fork(make), 0)[1] == 0
    assert (
        os.read(reader, 1000).decode()
        == "payloads by frames: the size of processes is limited (ulimit -v)"
    )
    os.close(reader)
    os.close(writer)


def test_a_system_that_has_none_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    sharing = Sharing(limit=2**20, replicas=1).made()
    assert sharing.descriptor is None
    assert str(sharing) == "payloads by frames: this system has no memfd_create"


def test_making_it_leaves_the_plan_as_it_was(shared: Sharing) -> None:
    planned = Sharing(limit=2**20, replicas=3)
    made = planned.made()
    assert planned.descriptor is None
    assert (made.limit, made.replicas) == (2**20, 3)
    assert made.descriptor is not None
    made.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(made.descriptor)
    assert shared.descriptor is not None
    os.fstat(shared.descriptor)


# -- who may write how much ------------------------------------------------------------------------


def test_what_one_writes_all_others_can_read(shared: Sharing) -> None:
    views = [shared.client(), shared.replica(1), shared.replica(2)]
    for writer in views:
        assert writer is not None
        frames = writer.share([b"", BLOCK])
        assert len(references(frames)) == 1
        for reader in (*views, shared.reader()):
            assert reader is not None
            assert [bytes(frame) for frame in reader.fetch(frames)] == [b"", BLOCK]


def test_a_reader_sends_its_payloads_as_frames(shared: Sharing) -> None:
    reader = shared.reader()
    assert reader is not None
    assert reader.share([b"", BLOCK]) == [b"", BLOCK]


def test_half_of_it_is_for_requests_and_the_other_half_is_dealt_to_the_replicas(
    shared: Sharing,
) -> None:
    def room(writer: arena.Arena | None) -> int:
        assert writer is not None
        return len(references(writer.share([b"", *[BLOCK] * 20])))

    assert room(shared.client()) == 8
    assert room(shared.replica(1)) == room(shared.replica(2)) == 4


def test_a_client_that_cannot_map_it_does_without() -> None:
    sharing = Sharing(limit=2**20, replicas=1).made()
    sharing.close()
    assert sharing.client() is None


# -- how much --------------------------------------------------------------------------------------


@given(st.integers(0, 2**60))
def test_what_is_wanted_is_what_may_be_shared(wanted: int) -> None:
    assert limit(wanted) == wanted


def test_a_part_of_the_machines_memory_when_nothing_is_wanted() -> None:
    assert 0 < limit(AUTOMATIC) <= psutil.virtual_memory().total // PART + 1


@pytest.mark.parametrize(
    ("told", "counts"),
    [("80000\n", True), ("max\n", False), ("", False), (None, False), (str(2**70), False)],
)
def test_the_memory_of_a_container_counts_where_it_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, counts: bool
) -> None:
    path = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_LIMITS", ())
    whole = limit(AUTOMATIC)
    if told is not None:
        path.write_text(told)
    monkeypatch.setattr(memory, "_LIMITS", (str(path),))
    assert limit(AUTOMATIC) == (80000 // PART if counts else whole)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (500, "500 B"),
        (2**10, "1 KiB"),
        (2**20, "1 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**44 // 10, "1.6 TiB"),
        (2**52, "4.1e+03 TiB"),
    ],
)
def test_it_says_how_payloads_travel_in_units_that_people_read(size: int, words: str) -> None:
    assert (
        str(Sharing(limit=size, descriptor=0))
        == f"payloads from 16 KiB by shared memory, up to {words}"
    )
