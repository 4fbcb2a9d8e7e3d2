"""Regions of shared memory: dealt out one by one,
and again when nothing that their owners left is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from zflow.devices.local import arena
from zflow.devices.local.arena import CLIENT, SHARED_FROM, Arena, Stale
from zflow.devices.local.regions import Regions
from zflow.devices.protocol.references import references

LIMIT = 16 * SHARED_FROM


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = arena.create()
    yield descriptor
    os.close(descriptor)


def block(letter: str, length: int = SHARED_FROM) -> bytes:
    return letter.encode() * length


def test_regions_are_dealt_out_again_when_nothing_of_them_is_needed(file: int) -> None:
    regions = Regions(Arena(file))
    first, second = regions.deal(), regions.deal()
    assert len({CLIENT, first, second}) == 3
    broker = Arena(file)
    held = references(Arena(file, first, LIMIT).share([b"", block("a")]))
    broker.accept(held)
    regions.ended(first, now=10.0)
    assert regions.deal() not in (CLIENT, first, second)
    regions.reclaim(now=10.5)
    assert regions.timers == [11.0]
    regions.reclaim(now=11.0)
    assert regions.timers == [12.0]  # somebody needs it still
    broker.release(held)
    regions.reclaim(now=12.0)
    assert regions.timers == []
    assert regions.deal() == first
    heir = Arena(file, first, LIMIT).share([b"", block("b")])
    with pytest.raises(Stale):
        broker.fetch([b"", held[0]])
    broker.release(held)
    assert broker.holds(references(heir))


def test_each_process_has_one_of_its_own_and_none_has_the_clients(file: int) -> None:
    regions = Regions(Arena(file))
    assert len({CLIENT, *(regions.deal() for _ in range(50))}) == 51


def test_the_first_that_is_free_is_dealt(file: int) -> None:
    regions = Regions(Arena(file))
    dealt = [regions.deal() for _ in range(4)]
    assert dealt == sorted(dealt)
    for region in (dealt[2], dealt[1]):
        regions.ended(region, now=0.0)
    regions.reclaim(now=Regions.AFTER)
    assert [regions.deal() for _ in range(3)] == [dealt[1], dealt[2], dealt[3] + 1]


def test_each_is_looked_at_when_its_time_has_come(file: int) -> None:
    regions = Regions(Arena(file))
    first, second = regions.deal(), regions.deal()
    assert regions.timers == []
    regions.ended(first, now=10.0)
    regions.ended(second, now=10.5)
    assert regions.timers == [10.0 + Regions.AFTER, 10.5 + Regions.AFTER]
    regions.reclaim(now=10.0 + Regions.AFTER)
    assert regions.timers == [10.5 + Regions.AFTER]
    assert regions.deal() == first


def test_one_that_is_needed_holds_up_no_other(file: int) -> None:
    regions, broker = Regions(Arena(file)), Arena(file)
    needed, free = regions.deal(), regions.deal()
    broker.accept(references(Arena(file, needed, LIMIT).share([b"", block("a")])))
    for region in (needed, free):
        regions.ended(region, now=0.0)
    regions.reclaim(now=Regions.AFTER)
    assert regions.timers == [2 * Regions.AFTER]
    assert regions.deal() == free


def test_what_never_reached_the_broker_is_not_needed(file: int) -> None:
    regions = Regions(Arena(file))
    region = regions.deal()
    Arena(file, region, LIMIT).share([b"", block("a")])
    regions.ended(region, now=0.0)
    regions.reclaim(now=Regions.AFTER)
    assert (regions.timers, regions.deal()) == ([], region)
