"""What keeps a process going when it fails at one message, or at one thing that it was time for.

That is a fault of ours: it is logged with its traceback, once for each kind, and counted;
what comes next is served.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MOST_KINDS = 100  # that are told apart
# Seconds after a turn of the loop that failed: what fails each time must not keep a core busy.
REST = 0.01


class Guard:
    """Calls what must not end a loop.

    Args:
        log: where failures are logged.

    Attributes:
        caught: how many there were, by what raised where.

    >>> guard = Guard(logging.getLogger("nobody.listens"))
    >>> guard.call(int, "7")
    7
    >>> guard.note(KeyError("x"))
    >>> guard.caught
    Counter({'KeyError': 1})
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self.caught: Counter[str] = Counter()
        self._failed = False  # in this turn of the loop

    def call(self, function: Callable[..., T], *arguments: object) -> T | None:
        """Call a function and return its result; None if it fails. What ends a process,
        such as Ctrl-C, passes.
        """
        try:
            return function(*arguments)
        except Exception as error:
            self.note(error)
            self._failed = True
            return None

    def note(self, error: Exception) -> None:
        """Something failed, and what it was about is left where it is."""
        kind = _kind(error)
        if kind in self.caught or len(self.caught) < MOST_KINDS:
            self.caught[kind] += 1
            if self.caught[kind] == 1:
                self._log.error(
                    "failed, and goes on; more of this kind are only counted", exc_info=error
                )

    def rest(self) -> None:
        """A turn of the loop is over: rest a little if anything failed in it by itself."""
        if self._failed:
            self._failed = False
            time.sleep(REST)


def _kind(error: Exception) -> str:
    """What raised, and where: without what the error says, of which there may be any number."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
