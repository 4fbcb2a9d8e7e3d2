"""When the broker has had nothing to do for a moment:
then what it has kept of memory is given back.

malloc keeps what was freed for the next request, and after a rush that is a lot.
It knows no requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Idle:
    """Whether there is nothing to do.

    Args:
        give_back: called once after each time that there was something to do.
    """

    AFTER = 1.0  # seconds

    def __init__(self, give_back: Callable[[], object]) -> None:
        self._give_back = give_back
        self._since: float | None = None
        self._given_back = True

    def turn(self, busy: bool) -> None:
        """The loop has turned; `busy`: there are requests under way."""
        if busy:
            self._since = None
            self._given_back = False
        elif not self._given_back:
            now = time.monotonic()
            if self._since is None:
                self._since = now
            elif now - self._since >= self.AFTER:
                self._given_back = True
                self._give_back()
