"""Tickets without shared memory, for tests of what gives and reclaims them."""

from __future__ import annotations


class Tickets:
    """Tickets in a list: the replica takes one by removing it."""

    def __init__(self) -> None:
        self.out: list[int] = []

    def give(self, task: int) -> int:
        self.out.append(task)
        return len(self.out)

    def reclaim(self) -> int | None:
        return self.out.pop(0) if self.out else None
