"""What of a post is tried again: requests that failed for a reason that may pass, and reaching the
Flow at all.

It says how long to pause, and knows no sockets; a failure's kind is all it goes by.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import uniform
from typing import TypeVar

from zflow import errors
from zflow.suggest import short

FIRST_PAUSE = 0.01  # seconds until what the Flow had no room for is sent again; doubled up to
LONGEST_PAUSE = 1.0  # seconds

# Defaults of a post.
ATTEMPTS = 1
INITIAL_BACKOFF = 0.5  # seconds
MAX_BACKOFF = 2.0  # seconds
BACKOFF_MULTIPLIER = 1.5

# What an Executor raised would be raised again; what took too long has no time left.
_MAY_PASS = (errors.Overloaded, errors.ReplicaCrashed, errors.FlowUnreachable)

Reached = TypeVar("Reached")


@dataclass(frozen=True, slots=True)
class Retrying:
    """When to try again.

    Args:
        wait: what the Flow has no room for is sent again however often that takes.
        attempts: how often anything else is tried in all.
        initial, longest: the first pause and the longest one, in seconds.
        multiplier: how much longer each pause is than the one before.
    """

    wait: bool = False
    attempts: int = ATTEMPTS
    initial: float = INITIAL_BACKOFF
    longest: float = MAX_BACKOFF
    multiplier: float = BACKOFF_MULTIPLIER

    def pause(self, failures: int, error: errors.ZflowError) -> float | None:
        """Return the seconds until another attempt after so many failures, or None if this one is
        final; the pauses of several clients differ.
        """
        if self.wait and isinstance(error, errors.Overloaded):
            return _grown(FIRST_PAUSE, LONGEST_PAUSE, 2, failures) * uniform(0.5, 1.5)
        if failures >= self.attempts or not isinstance(error, _MAY_PASS):
            return None
        return _grown(self.initial, self.longest, self.multiplier, failures) * uniform(0.5, 1)

    def reach(
        self, connect: Callable[[float | None], Reached], timeout: float | None = None
    ) -> Reached:
        """Return what `connect` returns, called again while no Flow is reached.

        Args:
            connect: gets the ms that are left.
            timeout: the ms that all attempts may take together; any time when left out.
        """
        reaching = _Reaching(self, timeout)
        while True:
            try:
                return connect(reaching.left)
            except errors.FlowUnreachable as error:
                pause = reaching.pause(error)
                if pause is None:
                    raise
                time.sleep(pause)

    async def reach_async(
        self, connect: Callable[[float | None], Awaitable[Reached]], timeout: float | None = None
    ) -> Reached:
        """As `reach`, on an event loop."""
        reaching = _Reaching(self, timeout)
        while True:
            try:
                return await connect(reaching.left)
            except errors.FlowUnreachable as error:
                pause = reaching.pause(error)
                if pause is None:
                    raise
                await asyncio.sleep(pause)


_AS_A_RULE = Retrying(), Retrying(wait=True)


class _Reaching:
    """Attempts to reach a Flow, and the time that they may take together."""

    def __init__(self, retrying: Retrying, timeout: float | None) -> None:
        self._retrying = retrying
        self._deadline = None if timeout is None else time.monotonic() + timeout / 1000
        self._failures = 0

    @property
    def left(self) -> float | None:
        """The ms that are left; None: any."""
        if self._deadline is None:
            return None
        return max(1.0, (self._deadline - time.monotonic()) * 1000)

    def pause(self, error: errors.ZflowError) -> float | None:
        """Return the seconds until the next attempt, or None if there is none."""
        self._failures += 1
        pause = self._retrying.pause(self._failures, error)
        left = self.left
        return None if pause is None or (left is not None and pause * 1000 >= left) else pause


def _grown(first: float, longest: float, multiplier: float, failures: int) -> float:
    try:
        return min(longest, first * multiplier ** (failures - 1))
    except OverflowError:
        return longest


def retrying_of(
    on_overload: str,
    max_attempts: int,
    initial_backoff: float,
    max_backoff: float,
    backoff_multiplier: float,
) -> Retrying:
    """Return what these arguments of a post mean.

    Raises:
        BadRequest: with the name of the argument, its value and what it may be.
    """
    if (
        max_attempts is ATTEMPTS
        and initial_backoff is INITIAL_BACKOFF
        and max_backoff is MAX_BACKOFF
        and backoff_multiplier is BACKOFF_MULTIPLIER
    ):
        return _AS_A_RULE[on_overload == "wait"]
    if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or max_attempts < 1:
        raise errors.BadRequest(
            f"max_attempts must be a whole number of 1 or more, not {short(max_attempts)}"
        )
    for name, seconds in (("initial_backoff", initial_backoff), ("max_backoff", max_backoff)):
        _check(name, seconds, 0, "a number of seconds")
    _check("backoff_multiplier", backoff_multiplier, 1, "a number")
    return Retrying(
        on_overload == "wait", max_attempts, initial_backoff, max_backoff, backoff_multiplier
    )


def _check(name: str, value: float, least: int, kind: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value < math.inf:
        raise errors.BadRequest(f"{name} must be {kind} of {least} or more, not {short(value)}")
