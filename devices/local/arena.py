"""Shared memory for the large frames of a Flow's processes on one machine: one copy in,
one copy out, no socket.

It knows frames, never Documents, and no sockets. How it works:

- One *arena* per Flow: a file in memory without a name (memfd), made before the first process is
  forked and inherited by all of them. The system frees it when the last one has ended, so no crash
  can leave anything behind.
- Each process that writes has a *region* of it, a range of offsets in which it alone allocates; so
  processes need no locks between them.
- A large frame is copied into a block of the sender's region, and a *reference* travels in its
  place (`references`). The receiver copies the block out, so a block lives exactly as long as the
  request needs it, and nobody's code ever sees shared pages.
- Each block has an entry in its region's table. The owner writes a *generation* there that is never
  used again; whoever frees the block notes that generation as released, and the owner may use the
  memory for another block. Who reads a block looks afterwards whether the generation is still the
  one in the reference: if not, the request has ended meanwhile and what was read is of no use. So
  freeing is one word written, needs no message, and is never too early.
- The *epoch* counts the brokers. What was written for a broker that is gone, nobody will ask for:
  its successor has the requests sent again. So blocks of an earlier epoch are free, but for those
  of region 0, the client's: it sends its requests again as they are.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
import weakref
from collections.abc import Iterable, Sequence

from zflow.devices.local.allocator import PAGE, Slot, Slots
from zflow.devices.protocol.references import (
    MOST_SLOTS,
    REGION,
    REGIONS,
    WINDOW,
    Frame,
    Payload,
    Reference,
)

# Bytes from which a frame is worth it: from 20 KiB up it took half the time of the socket.
SHARED_FROM = 16 * 1024
CLIENT = 0  # the region of the process that has started the Flow
# Blocks that may have been released, for each new one: not all of them, there may be thousands.
LOOKED_AT = 8
HUGE = 2 << 20  # bytes of a huge page

_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_ENTRY = 8  # words of a table's entry, a cache line
_GENERATION, _RELEASED, _TAKEN, _EPOCH, _OFFSET, _CAPACITY = range(6)
_TABLE = _ENTRY * 8 * (MOST_SLOTS + 1)  # bytes; entry 0 is the region's own:
_ENTRIES, _OWNER = range(2)  # how many were ever in use, and the owner's process
_FIRST = REGION  # where region 0 begins; before it lies the word that holds the epoch


class Stale(Exception):
    """What a reference names is not there any more: the request that it was for has ended."""


def create() -> int:
    """Make an arena; return its file descriptor, which processes started with exec do not inherit.

    Raises:
        OSError: this system has no such files, or does not let this process have one.
    """
    if not hasattr(os, "memfd_create") or not hasattr(mmap, "MADV_REMOVE"):
        raise OSError("this system has no memfd_create")
    descriptor = os.memfd_create("zflow", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _FIRST + REGION * REGIONS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class _Window:
    """A stretch of the file, mapped."""

    __slots__ = ("bytes", "map", "words")

    def __init__(self, descriptor: int, offset: int) -> None:
        self.map = mmap.mmap(descriptor, WINDOW, offset=offset)
        if hasattr(mmap, "MADV_DONTDUMP"):
            self.map.madvise(mmap.MADV_DONTDUMP)
        self.bytes = memoryview(self.map)
        self.words = self.bytes.cast("Q")


def _huge(length: int) -> memoryview:
    """Return memory of huge pages, as far as it fills some and the system has them."""
    # Only what is a whole number of huge pages is sure to begin with one.
    memory = mmap.mmap(-1, -(-length // HUGE) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, 0, length // HUGE * HUGE)
    return memoryview(memory)[:length]


class Arena:
    """One process's view of a Flow's arena. Threads may share it;
    a process forked from this one makes its own.

    Args:
        descriptor: the arena's file descriptor; whoever has made it closes it, at any time.
        region: the region to write to; None for a process that only reads.
        limit: the most bytes that its blocks may take; what has no room there travels as plain
            frames.
        huge_from: the bytes from which a copy gets memory of huge pages: it costs less than new
            small pages, and more than memory that malloc has kept.

    Raises:
        OSError: it cannot be mapped.
    """

    def __init__(
        self, descriptor: int, region: int | None = None, limit: int = 0, huge_from: int = HUGE
    ) -> None:
        self._huge_from = huge_from
        # Of its own: the one that it was given may be closed, and its number be another file's,
        # while a thread is here.
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        self._region = region
        self._windows: dict[tuple[int, int], _Window] = {}  # by region and number
        self._head = memoryview(mmap.mmap(descriptor, PAGE)).cast("Q")
        self._lock = threading.Lock()
        self._slots = Slots(limit, _TABLE, REGION, MOST_SLOTS, WINDOW)
        # A region may have had another owner, whose generations must not come again.
        self._generation = time.monotonic_ns()
        if region is not None:
            self._window(region, 0).words[_OWNER] = os.getpid()

    # -- sending and receiving ---------------------------------------------------------------------

    def share(self, frames: Sequence[Frame]) -> list[Frame | Reference]:
        """Return a payload with references in place of its large frames but the first,
        as far as there is room.
        """
        first, *blocks = frames
        return [
            first,
            *(frame if len(frame) < SHARED_FROM else self._put(frame) for frame in blocks),
        ]

    def fetch(self, frames: Payload) -> list[Frame]:
        """Return the frames with copies of blocks, writable, in place of references.

        Raises:
            Stale: a block is not there any more.
            OSError, MemoryError: there is no memory for a copy.
        """
        return [self._copy(frame) if type(frame) is Reference else frame for frame in frames]

    def release(self, blocks: Iterable[Reference]) -> None:
        """Nobody needs these blocks any more; those that are gone already do not matter."""
        for block in blocks:
            words, entry = self._entry(block.region, block.slot)
            if words[entry + _GENERATION] == block.generation:
                words[entry + _RELEASED] = block.generation

    def holds(self, blocks: Iterable[Reference]) -> bool:
        """Whether any of these blocks is still to be released."""
        for block in blocks:
            words, entry = self._entry(block.region, block.slot)
            if words[entry + _GENERATION] == block.generation != words[entry + _RELEASED]:
                return True
        return False

    def owns(self, process: int, block: Reference) -> bool:
        """Whether the block, which that process says to have written,
        is there and in its region.
        """
        return self._window(block.region, 0).words[_OWNER] == process and self.is_there(block)

    def is_there(self, block: Reference) -> bool:
        """Whether the block has not been freed, and is all that the reference says."""
        words, entry = self._entry(block.region, block.slot)
        return (
            words[entry + _GENERATION] == block.generation
            and words[entry + _OFFSET] == block.offset
            and words[entry + _CAPACITY] >= block.length
        )

    def accept(self, blocks: Iterable[Reference]) -> None:
        """The broker has got these blocks, which are there, and will release them."""
        for block in blocks:
            words, entry = self._entry(block.region, block.slot)
            words[entry + _TAKEN] = block.generation

    def _copy(self, block: Reference) -> bytearray | memoryview:
        if not self.is_there(block):  # to read where no memory is any more would make some
            raise Stale("the request has ended meanwhile")
        words, entry = self._entry(block.region, block.slot)
        window, begin = self._place(block.region, block.offset)
        shared = window.bytes[begin : begin + block.length]
        copy: bytearray | memoryview
        if block.length < self._huge_from:
            copy = bytearray(shared)
        else:
            copy = _huge(block.length)
            copy[:] = shared
        if words[entry + _GENERATION] != block.generation:
            raise Stale("the request has ended meanwhile")
        return copy

    def _put(self, frame: Frame) -> Frame | Reference:
        """Return a reference to a copy of the frame,
        or the frame itself if there is no room for it.
        """
        length = len(frame)
        with self._lock:
            slot = self._take(length)
        if slot is None or self._region is None:
            return frame
        try:
            window, begin = self._place(self._region, slot.offset)
        except OSError:  # there are too many files or mappings in this process
            with self._lock:
                self._slots.free(slot)
            return frame
        window.bytes[begin : begin + length] = frame
        return Reference(self._region, slot.index, slot.offset, length, slot.generation)

    def _entry(self, region: int, slot: int) -> tuple[memoryview, int]:
        """The words in which a slot's entry lies, and where it begins there."""
        return self._window(region, 0).words, (slot + 1) * _ENTRY

    def _place(self, region: int, offset: int) -> tuple[_Window, int]:
        return self._window(region, offset // WINDOW), offset % WINDOW

    def _window(self, region: int, number: int) -> _Window:
        window = self._windows.get((region, number))
        if window is None:
            begin = _FIRST + region * REGION + number * WINDOW
            window = self._windows[region, number] = _Window(self._descriptor, begin)
        return window

    # -- the own region ----------------------------------------------------------------------------

    def _take(self, length: int) -> Slot | None:
        """Take a slot and make its entry."""
        slots = self._slots
        if not slots.is_warm(length):
            self._sweep(LOOKED_AT)
            if not slots.is_warm(length) and (lacking := slots.lacks(length)):
                self._drop(lacking=lacking)
        slot = slots.take(length)
        if slot is not None and self._region is not None:
            self._generation += 1
            slot.generation, slot.epoch = self._generation, self.epoch
            words, entry = self._entry(self._region, slot.index)
            words[entry + _GENERATION] = slot.generation
            words[entry + _EPOCH] = slot.epoch
            words[entry + _OFFSET] = slot.offset
            words[entry + _CAPACITY] = slot.capacity
            words[_ENTRIES] = max(words[_ENTRIES], slot.index + 1)
        return slot

    def _sweep(self, count: int) -> None:
        """Look whether blocks were released, the longest not looked at first."""
        if self._region is not None:
            epoch = 0 if self._region == CLIENT else self.epoch
            words, _ = self._entry(self._region, 0)

            def released(slot: Slot) -> bool:
                return (
                    words[(slot.index + 1) * _ENTRY + _RELEASED] == slot.generation
                    or slot.epoch < epoch
                )

            self._slots.sweep(released, count)

    def _drop(self, keep: int = 0, lacking: int = 0) -> None:
        if self._region is not None:
            for slot in self._slots.cool(keep, lacking):
                words, entry = self._entry(self._region, slot.index)
                # Who still reads there must not take what is no more for the block.
                words[entry + _GENERATION] = 0
                self._punch(self._region, slot.offset, slot.capacity)

    def _punch(self, region: int, offset: int, length: int) -> None:
        """Give the memory of whole pages back to the system; they are zero from now on."""
        window, begin = self._place(region, offset)
        window.map.madvise(mmap.MADV_REMOVE, begin, length)

    def trim(self, keep: int = 0) -> None:
        """Give back what memory is free, but for `keep` bytes."""
        if self._slots.resident:
            with self._lock:
                self._sweep(MOST_SLOTS)
                self._drop(keep)

    def wipe(self) -> None:
        """Give back the memory of all regions, whoever still has the arena:
        nobody needs anything in it any more.
        """
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            size = os.fstat(self._descriptor).st_size
            ctypes.CDLL(None).fallocate(
                self._descriptor, _PUNCH_HOLE, ctypes.c_longlong(0), ctypes.c_longlong(size)
            )

    # -- for the broker and the process manager ----------------------------------------------------

    @property
    def epoch(self) -> int:
        """How many brokers there were before this one."""
        return self._head[0]

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._head[0] = number

    def reclaim(self, region: int) -> bool:
        """Free what the owner of a region, which has ended, has left there;
        whether all of it is free.

        Its blocks are free when they are released, of an earlier epoch,
        or have never reached the broker.
        """
        epoch = self.epoch
        words, _ = self._entry(region, 0)
        left = False
        for slot in range(words[_ENTRIES]):
            entry = (slot + 1) * _ENTRY
            generation = words[entry + _GENERATION]
            free = words[entry + _RELEASED] == generation or words[entry + _TAKEN] != generation
            if not generation:
                continue
            if free or words[entry + _EPOCH] < epoch:
                words[entry + _GENERATION] = 0
                self._punch(region, words[entry + _OFFSET], words[entry + _CAPACITY])
            else:
                left = True
        if not left:
            self._punch(region, 0, _TABLE)
            for key in [key for key in self._windows if key[0] == region]:
                del self._windows[key]
        return not left
