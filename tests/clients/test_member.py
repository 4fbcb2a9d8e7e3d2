"""What clients share with a Flow in their process: kept as long as a post is under way,
and only in this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sharing import SIZE

from zflow import errors
from zflow.clients import member
from zflow.clients.member import Membership
from zflow.devices.local import arena
from zflow.devices.protocol.references import references
from zflow.system import process


@pytest.fixture
def shared() -> Iterator[Membership]:
    file = arena.create()
    yield Membership("ipc://here", memory=arena.Arena(file, arena.CLIENT, 2**28))
    os.close(file)


def taken(shared: Membership) -> int:
    """The bytes of memory that are there."""
    assert shared.memory is not None
    return os.fstat(shared.memory._descriptor).st_blocks * 512


def test_a_flow_elsewhere_has_only_an_address() -> None:
    elsewhere = Membership("tcp://there:1")
    elsewhere.check()
    elsewhere.enter()
    elsewhere.leave()
    elsewhere.end()
    assert elsewhere.memory is None


def test_what_is_free_after_a_post_is_given_back_but_for_some(
    shared: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "KEPT", 8 * SIZE)
    shared.enter()
    assert shared.memory is not None
    frames = [shared.memory.share([b"", bytes(8 * SIZE)]) for _ in range(10)]
    for sent in frames:
        shared.memory.release(references(sent))
    before = taken(shared)
    shared.leave()
    assert before - taken(shared) == 9 * 8 * SIZE


def test_when_the_flow_is_over_memory_is_free_after_the_last_post(shared: Membership) -> None:
    assert shared.memory is not None
    for _ in range(2):
        shared.enter()
    shared.memory.share([b"", bytes(SIZE)])
    shared.end()
    shared.leave()
    assert taken(shared) > 0
    shared.leave()
    assert taken(shared) == 0


def test_nobody_begins_when_the_flow_is_over(shared: Membership) -> None:
    shared.end()
    assert taken(shared) == 0
    with pytest.raises(errors.FlowNotRunning, match="the Flow was closed"):
        shared.enter()


def test_a_fork_has_no_memory_and_does_not_wait_for_the_posts_of_the_other_process(
    shared: Membership,
) -> None:
    shared.enter()
    assert shared.memory is not None
    shared.memory.share([b"", bytes(SIZE)])
    before = taken(shared)

    def use() -> int:
        shared.enter()
        shared.end()
        shared.leave()
        return 0 if shared.memory is None else 1

    with shared._lock:  # as another thread may have it
        pid = process.fork(use)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert taken(shared) == before
