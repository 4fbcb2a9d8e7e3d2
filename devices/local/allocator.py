"""Where in its region of shared memory a process puts its next block: pure logic,
it touches no memory.

A region is a range of offsets that only its owner allocates in. It is cut into slots of a few
sizes, which are never moved, split or joined: address space costs nothing, because a page that
nobody has written to does not exist. What counts is *resident* memory: slots that are in use, and
free ones that were, whose pages are still there (warm). Pages that the system has to make anew cost
several times what copying into them costs, so the warm slot freed last is taken first, and memory
is given back only where it has to be.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterator

PAGE = mmap.PAGESIZE
STEPS = 4  # sizes between a power of two and the next: a quarter of a slot is lost at most


def capacity_for(length: int) -> int:
    """Return the size of the slots that blocks of so many bytes are put in: whole pages.

    >>> capacity_for(2**20), capacity_for(2**20 + 1)
    (1048576, 1310720)
    """
    step = max(PAGE, (1 << (length - 1).bit_length()) // 2 // STEPS)
    return -(-length // step) * step


class Slot:
    """A place for one block.

    Args:
        index: its number in the region, from 0.
        offset: where it begins, from the beginning of the region.
        capacity: its bytes.

    Attributes:
        generation, epoch: what the owner notes about the block in it.
    """

    __slots__ = ("capacity", "epoch", "generation", "index", "offset")

    def __init__(self, index: int, offset: int, capacity: int) -> None:
        self.index = index
        self.offset = offset
        self.capacity = capacity
        self.generation = 0
        self.epoch = 0

    def __repr__(self) -> str:
        return f"Slot({self.index}, {self.offset}, {self.capacity})"


class Slots:
    """The slots of one region.

    Args:
        limit: the most bytes that may be resident.
        begin, end: the offsets between which slots may lie.
        most: the most slots there may be.
        window: a slot lies within one stretch of so many bytes, counted from offset 0.

    Example:
        >>> slots = Slots(limit=3 * PAGE, begin=0, end=2**40, most=100, window=2**30)
        >>> first, second = slots.take(100), slots.take(2 * PAGE)
        >>> slots.take(1) is None
        True
        >>> slots.free(first)
        >>> slots.take(50) is first
        True
    """

    def __init__(self, limit: int, begin: int, end: int, most: int, window: int) -> None:
        self.limit = limit
        self.used: deque[Slot] = deque()
        self.resident = 0  # bytes of slots in use and of warm ones
        self._warm: dict[int, list[Slot]] = {}  # free, by capacity, what was freed last at the end
        self._cold: dict[int, list[Slot]] = {}
        self._top = begin
        self._end = end
        self._count = 0
        self._most = most
        self._window = window

    def is_warm(self, length: int) -> bool:
        """Whether a warm slot for so many bytes is free."""
        return bool(self._warm.get(capacity_for(length)))

    def lacks(self, length: int) -> int:
        """How many bytes are to be given back before `take` can make a
        slot for `length` bytes resident.
        """
        return max(0, self.resident + capacity_for(length) - self.limit)

    def take(self, length: int) -> Slot | None:
        """Take a slot for a block of so many bytes, 1 or more; None if there is no room."""
        capacity = capacity_for(length)
        warm = self._warm.get(capacity)
        if warm:
            slot = warm.pop()
        elif self.resident + capacity > self.limit:
            return None
        else:
            cold = self._cold.get(capacity)
            found = cold.pop() if cold else self._new(capacity)
            if found is None:
                return None
            slot = found
            self.resident += capacity
        self.used.append(slot)
        return slot

    def _new(self, capacity: int) -> Slot | None:
        begin = self._top
        if begin // self._window < (begin + capacity - 1) // self._window:
            begin += -begin % self._window
        if self._count == self._most or capacity > self._window or begin + capacity > self._end:
            return None
        slot = Slot(self._count, begin, capacity)
        self._count += 1
        self._top = begin + capacity
        return slot

    def sweep(self, ended: Callable[[Slot], bool], count: int) -> None:
        """Free the slots whose blocks have ended, of at most `count`: those longest in use,
        or not looked at since.
        """
        used = self.used
        for _ in range(min(count, len(used))):
            slot = used.popleft()
            if ended(slot):
                self._keep_warm(slot)
            else:
                used.append(slot)

    def free(self, slot: Slot) -> None:
        """The block in the slot is of no use; its pages are kept for the next one."""
        self.used.remove(slot)
        self._keep_warm(slot)

    def _keep_warm(self, slot: Slot) -> None:
        slots = self._warm.pop(slot.capacity, [])
        slots.append(slot)
        self._warm[slot.capacity] = slots  # at the end: other sizes have not been used for longer

    def cool(self, keep: int = 0, lacking: int = 0) -> Iterator[Slot]:
        """Give memory back: yield the warm slots whose pages are to be dropped,
        first of sizes not used for longest.

        Args:
            keep: the bytes of warm slots that may stay as they are.
            lacking: more than so many bytes need not be given back; 0 for no such end.
        """
        warm = sum(capacity * len(slots) for capacity, slots in self._warm.items())
        given = 0
        for capacity, slots in self._warm.items():
            while slots and warm > keep and not 0 < lacking <= given:
                slot = slots.pop(0)
                self._cold.setdefault(capacity, []).append(slot)
                self.resident -= capacity
                warm -= capacity
                given += capacity
                yield slot
