"""Random numbers of a replica: its own, not those of the process that it was forked from,
nor of one before it.
"""

from __future__ import annotations

import random
import sys


def derived(seed: int, shard_id: int, replica_id: int) -> int:
    """Return the seed of one replica of an Executor with that seed: another one for each,
    and always the same.

    It lies below 2**32, as numpy's do.

    >>> derived(7, 0, 0) == derived(7, 0, 0) != derived(7, 0, 1)
    True
    """
    return random.Random(f"{seed}/{shard_id}/{replica_id}").getrandbits(32)


def fresh() -> int:
    """Return a seed that nobody has had, from the system's own random numbers."""
    return random.SystemRandom().getrandbits(32)


def begin(seed: int) -> None:
    """Set the global state of `random` and, where it is loaded, of numpy:
    what forked processes have in common.
    """
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)
