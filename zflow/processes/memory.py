"""Whether a Flow's processes share memory, and how much: decided once,
before the first of them is forked.

What is done with it is the business of `zflow.devices.local.arena`.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass, replace

from zflow.devices.local import arena
from zflow.devices.local.arena import Arena
from zflow.system import process

AUTOMATIC = -1
PART = 8  # of the machine's memory may be shared by a Flow that does not say how much
# Of a container.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Sharing:
    """What a Flow's processes need to know of the memory that they share.

    Args:
        limit: the bytes that all of them may take there; 0 for none.
        replicas: how many of them there may be.
        descriptor: the file descriptor of the arena, once it is made.
        why_not: why there is none.
    """

    limit: int = 0
    replicas: int = 0
    descriptor: int | None = None
    why_not: str = "no memory is shared"

    def made(self) -> Sharing:
        """Return the same with an arena, if one can be had;
        `close` it in the process that has called this.
        """
        if not self.limit:
            return replace(self, why_not="shared_memory=0")
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            return replace(self, why_not="the size of processes is limited (ulimit -v)")
        try:
            return replace(self, descriptor=arena.create())
        except OSError as error:
            return replace(self, why_not=error.strerror or str(error))

    def close(self) -> None:
        """Let go of the arena here; its memory is freed when no process has it any more."""
        if self.descriptor is not None:
            os.close(self.descriptor)

    def reader(self) -> Arena | None:
        """Return a view that only reads, for the broker and the process manager."""
        return None if self.descriptor is None else Arena(self.descriptor)

    def client(self) -> Arena | None:
        """Return the view of the process that has started the Flow:
        half of the memory is for requests.
        """
        with contextlib.suppress(OSError):  # then its requests travel as frames
            return (
                None
                if self.descriptor is None
                else Arena(self.descriptor, arena.CLIENT, self.limit // 2)
            )
        return None

    def replica(self, region: int) -> Arena | None:
        """Return a replica's view: the other half is for results."""
        if self.descriptor is None:
            return None
        return Arena(
            self.descriptor, region, self.limit // 2 // max(1, self.replicas), process.KEPT_BLOCK
        )

    def __str__(self) -> str:
        if self.descriptor is None:
            return f"payloads by frames: {self.why_not}"
        return (
            f"payloads from {_bytes(arena.SHARED_FROM)} by shared memory, up to "
            f"{_bytes(self.limit)}"
        )


def limit(wanted: int) -> int:
    """Return how many bytes a Flow may share: what is wanted,
    or for `AUTOMATIC` a part of the machine's memory.
    """
    return _memory() // PART if wanted == AUTOMATIC else wanted


def _memory() -> int:
    """The bytes of memory that this machine, or the container that this is, has."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _LIMITS:
        # No limit: 'max'.
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            found = min(found, int(file.read()))
    return found


def _bytes(number: int) -> str:
    """Say how many bytes, for people.

    >>> _bytes(65536), _bytes(3 * 2**30 // 2)
    ('64 KiB', '1.5 GiB')
    """
    unit, size = max(
        (pair for pair in _UNITS.items() if pair[1] <= number),
        key=lambda pair: pair[1],
        default=("B", 1),
    )
    return f"{number / size:.3g} {unit}"


_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
