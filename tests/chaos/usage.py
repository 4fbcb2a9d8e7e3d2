"""Memory and descriptors of all processes of a Flow, sampled now and then."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from helpers import children, title

from zflow.system.process import give_back_memory

USER = "user's process"
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """What one process uses: bytes of memory (its share of what it shares,
    and all it has mapped), descriptors.
    """

    pss: int
    rss: int
    descriptors: int


@dataclass
class History:
    """The samples of one process."""

    name: str
    at: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def growth(self) -> tuple[float, int]:
        """Bytes and descriptors in the last quarter of its samples more than in the second one,
        by their medians.

        The first quarter does not count: caches fill, and what was shared after the fork is copied.
        """
        quarter = max(1, len(self.samples) // 4)
        before, after = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        if not before:
            return 0.0, 0
        memory = median(sample.pss for sample in after) - median(sample.pss for sample in before)
        descriptors = median(sample.descriptors for sample in after) - median(
            s.descriptors for s in before
        )
        return memory, int(descriptors)


def processes() -> Iterator[tuple[str, int]]:
    """All processes of the Flow that this one has started, and this one, by name."""
    yield USER, os.getpid()
    for child in children():
        name = title(child.pid)
        if name.startswith("zflow: "):
            yield name.removeprefix("zflow: "), child.pid


def sample(pid: int) -> Sample | None:
    """What the process uses now; None if it is gone."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {row.split()[0]: int(row.split()[1]) * 1024 for row in rows[1:]}
        return Sample(sizes["Pss:"], sizes["Rss:"], len(os.listdir(f"/proc/{pid}/fd")))
    except (OSError, KeyError):
        return None


def _keep_no_arrays() -> None:
    """Have malloc (glibc's) return large arrays at once, as it does until the first one is freed.

    The harness's clients make and drop them in many threads. Kept, they are soon full of small
    pieces, and then others are needed: memory of theirs, not of zflow's.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD


class Watch:
    """Samples all processes every so many seconds until it is ended.

    Attributes:
        notes: the bytes of memory of this process that the harness itself needs for its notes;
            they do not count.
    """

    def __init__(self, every: float) -> None:
        self.notes: Callable[[], int] = lambda: 0
        self._every = every
        self._ended = threading.Event()
        self._histories: dict[int, History] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        _keep_no_arrays()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self.look()

    def look(self) -> None:
        """Take a sample of each.

        What malloc has at hand in this process, where the harness's clients run in many threads, is
        given back before: after a million requests that were some 8 MiB more,
        where what was in use had stayed the same.
        """
        now = time.monotonic()
        give_back_memory()
        for name, pid in processes():
            found = sample(pid)
            if found is not None and name == USER:
                notes = self.notes()
                found = replace(found, pss=found.pss - notes, rss=found.rss - notes)
            if found is not None:
                history = self._histories.setdefault(pid, History(name))
                history.name = name  # a process that was just forked bears its parent's title
                history.at.append(now)
                history.samples.append(found)

    def end(self) -> list[History]:
        """Stop, and return what was seen, by process."""
        self._ended.set()
        self._thread.join()
        self.look()
        return sorted(self._histories.values(), key=lambda history: history.name)
