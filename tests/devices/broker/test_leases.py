"""Which blocks are held by which request, and when they are free:
the broker's account of shared memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from zflow.devices.broker.leases import Leases
from zflow.devices.local import arena
from zflow.devices.local.arena import CLIENT, SHARED_FROM, Arena
from zflow.devices.protocol.messages import Malformed
from zflow.devices.protocol.references import Reference, references
from zflow.devices.routing.walk import Walk

NAME = b"work/rep-0#%d" % os.getpid()


class Flow:
    """A broker's account, and the replica whose results are in it."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.replica = Arena(file, 1, 100 * SHARED_FROM)
        self.leases = Leases(Arena(file), epoch=3)

    def result(self, letter: str = "a", blocks: int = 1) -> list[Any]:
        """A payload that the replica sends."""
        return self.replica.share([b"first", *[letter.encode() * SHARED_FROM] * blocks])

    def arrived(self, walk: Walk | None, payload: list[Any]) -> list[Reference]:
        """The payload has come in, for this walk."""
        blocks = self.leases.accept(NAME, payload)
        self.leases.keep(walk, blocks)
        return blocks

    def held(self, blocks: list[Reference]) -> list[bool]:
        return [self.replica.holds([block]) for block in blocks]


@pytest.fixture
def flow() -> Iterator[Flow]:
    file = arena.create()
    yield Flow(file)
    os.close(file)


def test_a_result_is_held_until_its_walk_ends(flow: Flow) -> None:
    walk = Walk("origin", "/")
    first, second = (flow.arrived(walk, flow.result(letter)) for letter in "ab")
    assert flow.held(first + second) == [True, True]
    flow.leases.end(walk)
    assert flow.held(first + second) == [False, False]


def test_what_nobody_waits_for_is_free_at_once(flow: Flow) -> None:
    over = Walk("origin", "/")
    over.over = True
    for walk in (None, over):
        assert flow.held(flow.arrived(walk, flow.result())) == [False]


def test_an_answers_blocks_are_the_clients_and_all_others_are_free(flow: Flow) -> None:
    walk = Walk("origin", "/")
    before = flow.arrived(walk, flow.result("a"))
    answer = flow.result("b", blocks=2)
    blocks = flow.arrived(walk, answer)
    assert flow.leases.answer(walk, answer, shared=True) == answer
    flow.leases.end(walk)
    assert flow.held(before) == [False]
    assert flow.held(blocks) == [True, True]
    flow.leases.unwanted("another")
    assert flow.held(blocks) == [True, True]
    flow.leases.unwanted("origin")
    assert flow.held(blocks) == [False, False]


def test_who_does_not_share_the_memory_gets_what_is_in_it(flow: Flow) -> None:
    walk = Walk("origin", "/")
    answer = flow.result("a")
    blocks = flow.arrived(walk, answer)
    assert flow.leases.answer(walk, answer, shared=False) == [b"first", b"a" * SHARED_FROM]
    flow.leases.end(walk)
    assert flow.held(blocks) == [False]
    flow.result("b")
    assert flow.leases.plain(answer) == [b""]  # of a request that has ended
    assert flow.leases.plain([b"first"]) == [b"first"]


def test_an_answer_that_was_asked_for_again_takes_the_place_of_the_first(flow: Flow) -> None:
    given = []
    for _ in range(2):
        walk = Walk("origin", "/")
        answer = flow.result()
        given += flow.arrived(walk, answer)
        flow.leases.answer(walk, answer, shared=True)
    assert flow.held(given) == [False, True]


def test_answers_that_were_copied_are_forgotten_also_behind_one_that_was_not(flow: Flow) -> None:
    def answer(origin: str) -> list[Reference]:
        walk, frames = Walk(origin, "/"), flow.result()
        blocks = flow.arrived(walk, frames)
        flow.leases.answer(walk, frames, shared=True)
        return blocks

    slow = answer("slow")
    for number in range(50):
        flow.replica.release(answer(str(number)))
    assert len(flow.leases._answered) < 4
    flow.leases.unwanted("slow")
    assert flow.held(slow) == [False]


def test_an_answer_that_comes_when_its_memory_is_gone_does_not_count(flow: Flow) -> None:
    late = flow.result()
    assert flow.replica.reclaim(1)
    with pytest.raises(Malformed, match="an answer whose memory is gone"):
        flow.leases.accept(NAME, late)


def test_of_an_answer_that_is_gone_in_part_the_rest_is_free(flow: Flow) -> None:
    gone, there = flow.result("a"), flow.result("b")
    flow.replica.release(references(gone))
    flow.replica.trim()
    with pytest.raises(Malformed):
        flow.leases.accept(NAME, [*gone, *there])
    assert flow.held(references(there)) == [False]


def test_what_a_replica_has_not_written_is_not_its_answer(flow: Flow) -> None:
    others = flow.result()
    for name in (b"work/rep-1#%d" % os.getppid(), b"work/rep-1", b"work#x"):
        with pytest.raises(Malformed, match="an answer whose memory is gone"):
            flow.leases.accept(name, others)
    assert flow.held(references(others)) == [True], "nor is it free to let go of that"


def test_a_request_refers_to_what_its_sender_has_written(flow: Flow) -> None:
    client = Arena(flow.file, CLIENT, 100 * SHARED_FROM)
    good = client.share([b"first", b"a" * SHARED_FROM])
    flow.leases.check(good)
    flow.leases.check([b"first"])
    (block,) = references(good)
    for bad in (
        replace(block, generation=3),
        replace(block, length=block.length + SHARED_FROM),
        *flow.result()[1:],
    ):
        with pytest.raises(Malformed, match="a request whose memory is gone"):
            flow.leases.check([b"first", bad])
    with pytest.raises(Malformed):
        Leases(None).check(good)


def test_a_flow_that_shares_no_memory_holds_nothing(flow: Flow) -> None:
    without = Leases(None)
    payload = flow.result()
    assert without.accept(NAME, payload) == []
    assert without.plain(payload) == payload
    without.unwanted("origin")
    assert references(payload)
