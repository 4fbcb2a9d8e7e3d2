"""Whether clients take turns at an Executor: kept from what waits and what is begun,
knowing nothing of the queue.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .ledger import Violation


class Turns:
    """Who waits at one Executor, and whose turn it was when.

    Nobody who waits may see another one served twice. What was sent before goes first,
    and does not count.
    """

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[Any, int] = {}  # requests, by client
        # Of those who wait: their last turn, or when it began.
        self._since: OrderedDict[Any, int] = OrderedDict()
        self._turn: dict[Any, int] = {}  # the number of each one's last turn

    def waits(self, client: Any, again: bool) -> None:
        """A request of that client waits from now on; `again` if it was sent before."""
        self._number += 1
        self._waiting[client] = self._waiting.get(client, 0) + 1
        self._since.setdefault(client, self._number)
        if again:
            self._turn.pop(client, None)

    def gone(self, client: Any) -> None:
        """A request that waited has ended."""
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client], self._since[client]

    def forget(self) -> None:
        """It is not known whose turn it was."""
        self._turn.clear()

    def served(self, client: Any, again: bool) -> None:
        """A request that waited is sent to a replica."""
        self._number += 1
        self.gone(client)
        if client in self._since:
            self._since[client] = self._number
            self._since.move_to_end(client)
        if again:
            return
        longest = next(iter(self._since), client)
        if self._since.get(longest, self._number) < self._turn.get(client, 0):
            raise Violation(
                f"it was the turn of client {client!r} twice while client {longest!r} was waiting"
            )
        self._turn[client] = self._number
