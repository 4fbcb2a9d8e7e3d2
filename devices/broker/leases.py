"""Which blocks of shared memory the requests at the broker hold,
and when their owners get them back.

A block that a replica has put a result in is held by the request's walk, until that ends. If it is
part of the answer, the client has it from then on: it frees what it has copied, or says with Cancel
that it never will. Blocks of requests are the client's own business from beginning to end. This
module knows payloads and walks, and no sockets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from zflow.devices.local.arena import CLIENT, Arena, Stale
from zflow.devices.protocol.messages import Malformed
from zflow.devices.protocol.references import Payload, Reference, references
from zflow.devices.routing.walk import Origin, Walk


class Leases:
    """What is held by whom.

    Args:
        arena: the broker's view of the Flow's shared memory; None if there is none, and then
            nothing is held.
        epoch: how many brokers there were before.
    """

    def __init__(self, arena: Arena | None, epoch: int = 0) -> None:
        self._arena = arena
        if arena is not None:
            arena.epoch = epoch
        # Answers by origin, the oldest in front, that a client may not have copied yet.
        self._answered: OrderedDict[Origin, list[Reference]] = OrderedDict()

    def check(self, payload: Sequence[object]) -> None:
        """A client that shares the memory has sent this.

        Raises:
            Malformed: some of its blocks are gone, or not its own.
        """
        for block in references(payload):
            if self._arena is None or block.region != CLIENT or not self._arena.is_there(block):
                raise Malformed("a request whose memory is gone")

    def accept(self, replica: bytes, payload: Sequence[object]) -> list[Reference]:
        """A replica has sent this; returns the blocks that are to be kept or freed from now on.

        Raises:
            Malformed: some of them are gone: the replica has ended long ago, and its answer comes
                too late to count; or they are not its own.
        """
        blocks = references(payload)
        if not blocks or self._arena is None:
            return []
        process = replica.rpartition(b"#")[2]  # its identity ends with that
        owner = int(process) if process.isdigit() else 0
        own = [block for block in blocks if self._arena.owns(owner, block)]
        self._arena.accept(own)
        if len(own) < len(blocks):
            self._release(own)
            raise Malformed("an answer whose memory is gone")
        return blocks

    def unheard(self, replica: bytes, payload: Sequence[object]) -> None:
        """A replica of this machine that is in no pool has sent this: nobody will look at it.
        Raises as `accept`.
        """
        self._release(self.accept(replica, payload))

    def keep(self, walk: Walk | None, blocks: list[Reference]) -> None:
        """The walk goes on with these blocks; without one, or if it is over, nobody needs them."""
        if walk is None or walk.over:
            self._release(blocks)
        elif walk.blocks is None:
            walk.blocks = list(blocks)
        else:
            walk.blocks.extend(blocks)

    def end(self, walk: Walk) -> None:
        """The walk is over."""
        self._release(walk.blocks or ())
        walk.blocks = None

    def answer(self, walk: Walk, frames: Payload, shared: bool) -> Payload:
        """The walk ends with this answer; returns it as its client can read it,
        who may share the memory or not.
        """
        if not walk.blocks:
            return frames
        if not shared:
            # Nothing else holds the blocks: they are free when the walk is over.
            return self.plain(frames)
        self._forget()
        answered = references(frames)
        self._release(set(walk.blocks).difference(answered))
        walk.blocks = None
        # An answer that was lost with a connection, before it was asked for again.
        self.unwanted(walk.origin)
        if answered:
            self._answered[walk.origin] = answered
        return frames

    def unwanted(self, origin: Origin) -> None:
        """The client does not want the answer with this origin, if it was given one."""
        self._release(self._answered.pop(origin, ()))

    def plain(self, frames: Payload) -> Payload:
        """Return the frames for somebody who does not share memory:
        blocks themselves in place of references.

        Of a request that has ended meanwhile there is nothing to be had;
        nobody will look at what is in its place.
        """
        if self._arena is None or len(frames) == 1:
            return frames
        try:
            return self._arena.fetch(frames)
        except Stale:
            return [b""]

    def _release(self, blocks: Iterable[Reference]) -> None:
        if self._arena is not None:
            self._arena.release(blocks)

    def _forget(self) -> None:
        """Forget answers that were copied; as a rule they are in the
        order in which they were given.
        """
        while self._answered:
            origin, blocks = next(iter(self._answered.items()))
            if self._arena is not None and self._arena.holds(blocks):
                self._answered.move_to_end(origin)  # one that is slow must not hide the others
                return
            del self._answered[origin]
