"""Levels: who holds fewest tasks gets the next one, and how many are parked with all together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import MAX_WINDOW, Replica, Task


def levels_of(*replicas: Replica) -> Levels:
    levels = Levels()
    for replica in replicas:
        levels.widen(replica)
        levels.place(replica)
    return levels


def wide(name: str, window: int = 4, slots: int = 1, shard: int = 0) -> Replica:
    """A replica that may hold so many tasks."""
    replica = Replica(name, slots, shard)
    replica.window = window
    return replica


def give(levels: Levels, replica: Replica, *ids: int, count: int = 1) -> None:
    for id in ids:
        replica.held[id] = Task(id, count=count)
        replica.more += count - 1
    levels.place(replica)


def end(levels: Levels, replica: Replica, *ids: int) -> None:
    for id in ids:
        del replica.held[id]
    levels.place(replica)


class TestLeast:
    def test_without_replicas_there_is_none(self) -> None:
        assert Levels().least() is None
        assert not Levels().empty

    def test_the_one_that_has_been_idle_longest(self) -> None:
        a, b = wide("a"), wide("b")
        levels = levels_of(a, b)
        assert levels.least() is a
        give(levels, a, 1)
        assert levels.least() is b
        end(levels, a, 1)
        assert levels.least() is b  # it got there first
        assert list(levels.empty) == [b, a]

    def test_the_one_that_holds_fewest_of_those_with_room(self) -> None:
        a, b, c = wide("a"), wide("b"), wide("c", window=1)
        levels = levels_of(a, b, c)
        give(levels, a, 1, 2, 3)
        give(levels, b, 4, 5)
        give(levels, c, 6)  # holds fewest, and has no room
        assert levels.least() is b
        give(levels, b, 7, 8)
        assert levels.least() is a
        give(levels, a, 9)
        assert levels.least() is None
        end(levels, c, 6)
        assert levels.least() is c

    def test_a_bulk_counts_as_what_it_is(self) -> None:
        a, b = wide("a"), wide("b")
        levels = levels_of(a, b)
        give(levels, a, 1, count=3)
        give(levels, b, 4, 5)
        assert levels.least() is b
        give(levels, a, 6)
        give(levels, b, 7, 8)
        assert levels.least() is None

    def test_what_it_may_hold_may_change(self) -> None:
        a = wide("a", window=1)
        levels = levels_of(a)
        give(levels, a, 1)
        assert levels.least() is None
        a.window = 2
        levels.place(a)
        assert levels.least() is a

    def test_one_that_may_hold_more_than_any_before_it(self) -> None:
        a = wide("a", window=3 * MAX_WINDOW, slots=3 * MAX_WINDOW)
        levels = levels_of(Replica("small"), a)
        give(levels, a, *range(2 * MAX_WINDOW))
        assert levels.least() is not a
        assert levels.peers(a) == 1
        assert a.level == 2 * MAX_WINDOW


class TestNoRoom:
    def test_has_who_is_lost(self) -> None:
        a = wide("a")
        levels = levels_of(a)
        a.lost = True
        levels.place(a)
        assert levels.least() is None
        a.lost = False
        levels.place(a)
        assert levels.least() is a

    @pytest.mark.parametrize("alone", [True, False])
    def test_has_who_holds_a_suspect_or_a_batch_until_it_holds_nothing(self, alone: bool) -> None:
        a = wide("a")
        levels = levels_of(a)
        a.alone = alone
        a.batch = set() if alone else {1}
        give(levels, a, 1)
        assert levels.least() is None
        end(levels, a, 1)
        assert levels.least() is a

    def test_has_who_is_dropped(self) -> None:
        a, b = wide("a"), wide("b")
        levels = levels_of(a, b)
        levels.drop(a)
        assert (levels.least(), levels.room) == (b, 1)
        levels.drop(b)
        assert (levels.least(), levels.room) == (None, 0)


class TestShards:
    def test_the_one_of_the_shard_that_holds_fewest(self) -> None:
        a, b, other = wide("a", shard=1), wide("b", shard=1), wide("other", shard=0)
        levels = levels_of(a, b, other)
        assert levels.of_shard(1) is a
        give(levels, a, 1)
        assert levels.of_shard(1) is b
        assert levels.of_shard(0) is other
        assert levels.of_shard(2) is None

    def test_none_if_it_has_no_room(self) -> None:
        a, other = wide("a", window=1, shard=1), wide("other", shard=0)
        levels = levels_of(a, other)
        give(levels, a, 1)
        assert levels.of_shard(1) is None


class TestPeers:
    def test_those_that_hold_as_many(self) -> None:
        a, b, c = wide("a"), wide("b"), wide("c")
        levels = levels_of(a, b, c)
        assert levels.peers(a) == 3
        give(levels, a, 1)
        give(levels, b, 2)
        assert (levels.peers(a), levels.peers(c)) == (2, 1)


class TestParked:
    def test_what_is_beyond_the_slots(self) -> None:
        a, b = wide("a", slots=2), wide("b")
        levels = levels_of(a, b)
        give(levels, a, 1, 2)
        assert levels.parked == 0
        give(levels, a, 3, 4)
        give(levels, b, 5, 6)
        assert (levels.parked, a.parked, b.parked) == (3, 2, 1)
        end(levels, a, 1, 2, 3)
        assert levels.parked == 1
        levels.drop(b)
        assert levels.parked == 0

    def test_nothing_of_a_batch_is(self) -> None:
        a = wide("a")
        levels = levels_of(a)
        a.batch = {1, 2, 3}
        give(levels, a, 1, 2, 3)
        assert levels.parked == 0
        give(levels, a, 4)
        assert levels.parked == 1


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_whatever_happens_it_says_what_looking_at_each_replica_would(data: st.DataObject) -> None:
    replicas = [
        wide(
            name,
            window=data.draw(st.integers(0, 5)),
            slots=data.draw(st.integers(1, 3)),
            shard=at % 2,
        )
        for at, name in enumerate("abcd")
    ]
    levels, there = levels_of(*replicas), list(replicas)
    steps = st.sampled_from(["give", "end", "window", "lost", "alone", "drop"])
    for number in range(data.draw(st.integers(0, 25))):
        if not there:
            break
        step, replica = data.draw(steps), data.draw(st.sampled_from(there))
        if step == "give":
            give(levels, replica, number, count=data.draw(st.integers(1, 3)))
        elif step == "end" and replica.held:
            task: Any = replica.held.pop(data.draw(st.sampled_from(sorted(replica.held))))
            replica.more -= task.count - 1
        elif step == "window":
            replica.window = data.draw(st.integers(0, 6))
        elif step == "lost":
            replica.lost = not replica.lost
        elif step == "alone":
            replica.alone = not replica.alone
        elif step == "drop":
            levels.drop(replica)
            there.remove(replica)
            continue
        levels.place(replica)
        free = [
            one for one in there if not one.lost and one.load < (1 if one.alone else one.window)
        ]
        least = levels.least()
        assert levels.room == len(free)
        assert (least is None) == (not free)
        assert least is None or (least in free and least.load == min(one.load for one in free))
        assert set(levels.empty) == {one for one in free if not one.held}
        assert levels.parked == sum(max(0, one.load - one.slots) for one in there)
        for shard in (0, 1):
            some, found = [one for one in free if one.shard == shard], levels.of_shard(shard)
            assert (found is None) == (not some)
            assert found is None or (found in some and found.load == min(one.load for one in some))
