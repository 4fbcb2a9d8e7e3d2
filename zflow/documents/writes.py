"""Writes: which visits have changed which keys of tags, scores and parameters, so that whoever
reduces the results of branches or shards can tell what has changed since they were one.

They travel beside the Documents, as plain data. This module must not know Documents.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from zflow.documents.values import refuse_colliding

#: The numbers of visits are below this.
BEYOND: Final = 2**56


class Writes:
    """Which visits have changed something, and which have changed what is in it.

    Attributes:
        by: the visits, each a random number.
        below: the writes of what is in it, by key, field, or Document.
    """

    __slots__ = ("below", "by")

    def __init__(
        self, by: frozenset[int] = frozenset(), below: dict[Hashable, Writes] | None = None
    ) -> None:
        self.by = by
        self.below: dict[Hashable, Writes] = {} if below is None else below

    def of(self, key: Hashable) -> Writes:
        """Return the writes of what has this key."""
        return self.below.get(key, NONE)

    def all(self) -> frozenset[int]:
        """Return the visits that have changed it or anything in it."""
        if not self.below:
            return self.by
        found, inner = set(self.by), list(self.below.values())
        while inner:
            writes = inner.pop()
            found |= writes.by
            inner += writes.below.values()
        return frozenset(found)

    def at(self, *keys: Hashable) -> Writes:
        """Return the writes of what has these keys, one in the other, to be added to."""
        writes = self
        for key in keys:
            found = writes.of(key)
            if found is NONE:  # which is everybody's
                found = writes.below[key] = Writes()
            writes = found
        return writes

    def joined(self, other: Writes) -> Writes:
        """Return both.

        Raises:
            ValueError: keys that were chosen to collide.
        """
        if self is NONE or other is NONE:
            return other if self is NONE else self
        below = {key: self.of(key).joined(other.of(key)) for key in self.below.keys() | other.below}
        refuse_colliding(below.keys(), len(self.below), other.below)
        return Writes(self.by | other.by, below)

    def plain(self) -> list[object]:
        """Return them as they are sent."""
        return [list(self.by), {key: writes.plain() for key, writes in self.below.items()}]

    @classmethod
    def read(cls, value: object) -> Writes:
        """Return what `plain` returned.

        Raises:
            ValueError: it is something else.
        """
        if type(value) is not list or len(value) != 2:
            raise ValueError("writes are malformed")
        by, below = value
        if type(by) is not list or type(below) is not dict or not {int}.issuperset(map(type, by)):
            raise ValueError("writes are malformed")
        # The hashes of larger numbers can be chosen, and as many as are equal take their square.
        if by and not 0 <= min(by) <= max(by) < BEYOND:
            raise ValueError("writes are malformed")
        return cls(frozenset(by), {key: cls.read(writes) for key, writes in below.items()})


#: Those of what nobody has changed; nothing is added to it.
NONE = Writes()
