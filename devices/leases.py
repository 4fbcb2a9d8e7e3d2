"""Which blocks of shared memory the requests at the broker hold, and when their owners get them back.

A block that a replica has put a result in is held by the request's walk, until that ends. If it is part of the answer,
the client has it from then on: it frees what it has copied, or says with CANCEL that it never will. Blocks of requests
are the client's own business from beginning to end. This module knows payloads and walks, and no sockets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from .arena import Arena, Reference, Stale, references
from .protocol import Malformed
from .router import Walk


class Leases:
    """What is held by whom.

    Args:
        arena: the broker's view of the Flow's shared memory.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        # Answers by origin, the oldest in front, that a client may not have copied yet.
        self._answered: OrderedDict[Any, list[Reference]] = OrderedDict()

    def accept(self, payload: Sequence[Any]) -> list[Reference]:
        """A replica has sent this; returns the blocks that the broker has to see to from now on.

        Raises:
            Malformed: some of them are gone: the replica is dead, and what it sent comes too late to count.
        """
        blocks = references(payload)
        if blocks and not self._arena.accept(blocks):
            raise Malformed("an answer whose memory is gone")
        return blocks

    def keep(self, walk: Walk | None, blocks: list[Reference]) -> None:
        """The walk goes on with these blocks; without one, or if it is over, nobody needs them."""
        if walk is None or walk.over:
            self._arena.release(blocks)
        elif walk.blocks is None:
            walk.blocks = blocks
        else:
            walk.blocks += blocks

    def end(self, walk: Walk) -> None:
        """The walk is over."""
        if walk.blocks:
            self._arena.release(walk.blocks)
            walk.blocks = None

    def answer(self, walk: Walk, frames: Sequence[Any], shared: bool) -> Sequence[Any]:
        """The walk ends with this answer; returns it as its client can read it, who may share the memory or not."""
        if not walk.blocks:
            return frames
        if not shared:
            return self.plain(frames)  # nothing else holds the blocks: they are free when the walk is over
        self._forget()
        answered = references(frames)
        self._arena.release(set(walk.blocks).difference(answered))
        walk.blocks = None
        self._answered[walk.origin] = answered
        return frames

    def _forget(self) -> None:
        """Forget answers that have been copied; they are, as a rule, in the order in which they were given."""
        while self._answered:
            origin = next(iter(self._answered))
            if self._arena.holds(self._answered[origin]):
                self._answered.move_to_end(origin)  # one that is slow must not hide the others
                return
            del self._answered[origin]

    def unwanted(self, origin: Any) -> None:
        """The client does not want the answer with this origin, if it has got one."""
        self._arena.release(self._answered.pop(origin, ()))

    def plain(self, frames: Sequence[Any]) -> Sequence[Any]:
        """Return the frames for somebody who does not share memory: blocks themselves in place of references.

        Of a request that has ended meanwhile there is nothing to be had; nobody will look at what is in its place.
        """
        if len(frames) == 1:
            return frames
        try:
            return self._arena.fetch(frames)
        except Stale:
            return [b""]
