"""What clients know of a Flow: its address; and in the process that has started it,
its state and its memory, too.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from zflow import errors
from zflow.devices.local.arena import Arena

KEPT = 128 * 1024 * 1024  # bytes of shared memory that are kept for the next post


class Membership:
    """A Flow, for clients of threads and of asyncio;
    all in the process that has started it have the same one.

    Args:
        address: where its broker listens for them.
        check: raises if a Flow in this process has come down.
        memory: the memory shared with it, if there is any.

    Attributes:
        memory: None after a fork: only the process that started the
            Flow writes to its part of that.
    """

    def __init__(
        self, address: str, check: Callable[[], None] = lambda: None, memory: Arena | None = None
    ) -> None:
        self.address = address
        self.check = check
        self.memory = memory
        self._is_over = False
        self._begin()
        _memberships.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._posts = 0  # under way

    def enter(self) -> None:
        """A post begins: until `leave`, the memory is kept.

        Raises:
            FlowNotRunning: the Flow is over.
        """
        with self._lock:
            if self._is_over:
                raise errors.FlowNotRunning("the Flow was closed")
            self._posts += 1

    def leave(self) -> None:
        """A post has ended."""
        if self.memory is not None:
            self.memory.trim(KEPT)
        with self._lock:
            self._posts -= 1
        self._free()

    def end(self) -> None:
        """The Flow is over: its memory is free when no answer in it is needed any more.

        Processes that this one has forked may hold on to it for long.
        """
        with self._lock:
            self._is_over = True
        self._free()

    def _free(self) -> None:
        if self._is_over and not self._posts and self.memory is not None:
            self.memory.wipe()


_memberships: weakref.WeakSet[Membership] = weakref.WeakSet()


def _after_fork() -> None:
    """A thread of the other process may just have held a lock: begin anew."""
    for membership in list(_memberships):
        membership._begin()
        membership.memory = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
