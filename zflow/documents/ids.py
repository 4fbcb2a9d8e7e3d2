"""Random ids for Documents that are given none. It must not know Documents."""

from __future__ import annotations

import os
from collections.abc import Iterator

_DRAWN = 256  # ids at once: asking the kernel takes much longer than it takes to make an id
_BYTES = 16

_left: Iterator[str] = iter(())


def random_id() -> str:
    """Return 32 random hex digits."""
    return next(_left, None) or _draw()


def _draw() -> str:
    global _left
    digits = os.urandom(_DRAWN * _BYTES).hex()
    step = 2 * _BYTES
    drawn = iter([digits[at : at + step] for at in range(0, len(digits), step)])
    first = next(drawn)
    _left = drawn
    return first


def _forget() -> None:
    global _left
    _left = iter(())


os.register_at_fork(after_in_child=_forget)  # two processes must never have the same ids to come
