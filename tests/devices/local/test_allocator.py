"""Where blocks go in a region: whatever is asked for, slots that are in use never overlap,
and the limit holds.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zflow.devices.local.allocator import PAGE, Slot, Slots, capacity_for

WINDOW = 64 * PAGE
BEGIN = 3 * PAGE
LIMIT = 200 * PAGE


def make(limit: int = LIMIT, end: int = 2**40, most: int = 1000) -> Slots:
    return Slots(limit, BEGIN, end, most, WINDOW)


def taken(slots: Slots, length: int) -> Slot:
    slot = slots.take(length)
    assert slot is not None
    return slot


@given(st.integers(1, 2**40))
def test_a_slot_is_whole_pages_and_at_most_a_quarter_of_it_is_lost(length: int) -> None:
    capacity = capacity_for(length)
    assert capacity >= length
    assert capacity % PAGE == 0
    assert capacity_for(capacity) == capacity
    assert capacity - length < max(PAGE, length / 4 + PAGE)


def test_the_one_freed_last_is_taken_first_for_its_pages_are_still_in_the_cache() -> None:
    slots = make()
    some = [taken(slots, PAGE) for _ in range(3)]
    for slot in some:
        slots.free(slot)
    assert slots.is_warm(1)
    assert [slots.take(PAGE), slots.take(PAGE)] == [some[2], some[1]]


def test_there_is_room_again_when_memory_was_given_back() -> None:
    slots = make(limit=4 * PAGE)
    small = [taken(slots, PAGE) for _ in range(4)]
    assert slots.take(1) is None
    for slot in small[:3]:
        slots.free(slot)
    assert slots.lacks(2 * PAGE) == 2 * PAGE
    assert slots.take(2 * PAGE) is None
    assert list(slots.cool(lacking=2 * PAGE)) == small[:2]
    assert slots.lacks(2 * PAGE) == 0
    assert taken(slots, 2 * PAGE).index == 4
    assert slots.resident == slots.limit


def test_what_is_given_back_first_are_sizes_that_have_not_been_used_for_longest() -> None:
    slots = make()
    small, large = taken(slots, PAGE), taken(slots, 4 * PAGE)
    slots.free(small)
    slots.free(large)
    assert taken(slots, PAGE) is small
    slots.free(small)
    assert list(slots.cool(keep=PAGE)) == [large]
    assert slots.is_warm(PAGE)


def test_what_is_in_use_is_not_given_back() -> None:
    slots = make()
    used, free = taken(slots, PAGE), taken(slots, 5 * PAGE)
    slots.free(free)
    assert list(slots.cool(keep=5 * PAGE)) == []
    assert list(slots.cool()) == [free]
    assert slots.resident == used.capacity
    assert taken(slots, 5 * PAGE) is free


@pytest.mark.parametrize(
    ("slots", "length"),
    [
        (make(), WINDOW + 1),
        (make(end=BEGIN + PAGE), 2 * PAGE),
        (make(most=0), 1),
        (make(limit=PAGE), PAGE + 1),
    ],
)
def test_no_room(slots: Slots, length: int) -> None:
    assert slots.take(length) is None
    assert slots.resident == 0


class AnyOrder(RuleBasedStateMachine):
    """Blocks of any size are taken and freed in any order, and memory is given back at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = make()
        self.held: list[Slot] = []
        self.resident: set[Slot] = set()

    @rule(length=st.integers(1, WINDOW))
    def take(self, length: int) -> None:
        warm = self.slots.is_warm(length)
        room = self.slots.lacks(length) == 0
        slot = self.slots.take(length)
        assert (slot is not None) == (warm or room)
        if slot is not None:
            assert slot.capacity >= length
            assert (slot in self.resident) == warm
            self.held.append(slot)
            self.resident.add(slot)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        slot = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.slots.free(slot)

    @rule(data=st.data(), count=st.integers(0, 30))
    def sweep(self, data: st.DataObject, count: int) -> None:
        looked_at, rest = list(self.slots.used)[:count], list(self.slots.used)[count:]
        ended = {slot for slot in looked_at if data.draw(st.booleans())}
        self.slots.sweep(lambda slot: slot in ended, count)
        self.held = [slot for slot in self.held if slot not in ended]
        assert list(self.slots.used) == [*rest, *(slot for slot in looked_at if slot not in ended)]

    @rule(keep=st.integers(0, LIMIT), lacking=st.integers(0, LIMIT))
    def cool(self, keep: int, lacking: int) -> None:
        dropped = set(self.slots.cool(keep, lacking))
        assert not dropped & set(self.held)
        assert dropped <= self.resident
        self.resident -= dropped
        warm = sum(slot.capacity for slot in self.resident - set(self.held))
        assert warm <= keep or (0 < lacking <= sum(slot.capacity for slot in dropped))

    @invariant()
    def nothing_overlaps(self) -> None:
        ends = BEGIN
        for slot in sorted(self.held, key=lambda slot: slot.offset):
            assert slot.offset >= ends
            assert slot.offset // WINDOW == (slot.offset + slot.capacity - 1) // WINDOW
            ends = slot.offset + slot.capacity

    @invariant()
    def what_is_resident_is_known_and_limited(self) -> None:
        assert self.slots.resident == sum(slot.capacity for slot in self.resident) <= LIMIT
        assert set(self.slots.used) == set(self.held)


TestAnyOrder = AnyOrder.TestCase
