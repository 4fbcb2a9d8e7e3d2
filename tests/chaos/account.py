"""What came of a run: the account, and what is wrong with it. It reads what the Executors have
noted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import executors
from .load import ANSWERED, FAILED, LOST, Ledger, unexpected
from .usage import MIB, History

LEAST_SAMPLES = 8  # of a process, to judge whether it grows
# What a process may grow in a soak, in its last quarter against its second: what malloc drifts.
GROWTH_MEMORY = 4 * MIB
GROWTH_DESCRIPTORS = 2


class Begun:
    """How often each Executor, or shard of one, has begun each request."""

    def __init__(self, folder: Path, requests: int) -> None:
        self._counts: dict[str, bytearray] = {}
        for path in sorted((folder / "begun").iterdir()):
            name = path.name.partition("+")[0].replace(".", "/")
            counts = self._counts.setdefault(name, bytearray(requests))
            for line in path.read_bytes().split():
                counts[int(line)] = min(255, counts[int(line)] + 1)

    def times(self, who: str, number: int) -> int:
        """How often `who` has begun the request, where any shard counts as one if that is who."""
        names = executors.SHARD_NAMES if who == executors.ANY_SHARD else (who,)
        return sum(self._counts[name][number] for name in names if name in self._counts)


@dataclass
class Account:
    """What came of a run.

    Attributes:
        wrong: what must not be; the run is good if this is empty.
    """

    title: str
    ledger: Ledger
    seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    histories: list[History] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    # Requests begun more than once, by Executor or shard.
    again: Counter[str] = field(default_factory=Counter)
    forged: int = 0  # requests answered whose Executors have never begun them
    once_again: int = 0  # requests begun more than once that were to be begun once at most

    def count(self, folder: Path) -> None:
        """Read what was begun, and say what is wrong."""
        ledger = self.ledger
        begun = Begun(folder, len(ledger.state))
        for number, (endpoint, state) in enumerate(zip(ledger.endpoint, ledger.state, strict=True)):
            signers = executors.SIGNERS[ledger.endpoints[endpoint]]
            times = [begun.times(who, number) for who in signers]
            self.again.update(who for who, count in zip(signers, times, strict=True) if count > 1)
            self.forged += state == ANSWERED and not all(times)
        self.once_again = self.again["once"]
        self._judge()

    def _judge(self) -> None:
        ledger = self.ledger
        musts = {
            "lost": ledger.count(LOST),
            "answered twice": len(ledger.twice),
            "answered wrongly": ledger.wrong_count,
            "answered and never begun": self.forged,
            "begun more than once by an Executor with retries=0": self.once_again,
        }
        self.wrong += [f"{count} requests were {what}" for what, count in musts.items() if count]
        self.wrong += ledger.wrong
        for (client, error), count in unexpected(ledger.failures).items():
            message = ledger.examples[client, error]
            self.wrong.append(
                f"{count} requests of client {client!r} failed with {error}: {message}"
            )
        if not ledger.count(ANSWERED):
            self.wrong.append("no request was answered")

    def judge_growth(self) -> None:
        """In a soak, nothing grows."""
        for history in self.histories:
            memory, descriptors = history.growth()
            if len(history.samples) >= LEAST_SAMPLES and memory > GROWTH_MEMORY:
                self.wrong.append(f"{history.name} grew by {memory / MIB:.1f} MiB")
            if len(history.samples) >= LEAST_SAMPLES and descriptors > GROWTH_DESCRIPTORS:
                self.wrong.append(f"{history.name} has {descriptors} descriptors more")

    # -- for people --------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The account, for people."""
        ledger, sent = self.ledger, len(self.ledger.state)
        rate = sent / self.seconds if self.seconds else 0.0
        lines = [
            self.title,
            f"  sent                 {sent}, {rate:.0f} a second for {self.seconds:.0f} s",
            f"  answered             {ledger.count(ANSWERED)}",
            f"  failed               {ledger.count(FAILED)}",
        ]
        lines += [
            f"    {count:6} {error} ({client})"
            for (client, error), count in sorted(ledger.failures.items())
        ]
        lines += [
            f"  lost                 {ledger.count(LOST)}",
            f"  wrong                {ledger.wrong_count}",
            f"  answered twice       {len(ledger.twice)}",
            f"  answered, not begun  {self.forged}",
            f"  begun more than once {_listed(self.again)}; with retries=0: {self.once_again}",
            *(f"  longest wait         {wait}" for wait in ledger.waits[:3]),
            f"  injected             {_listed(self.events)}",
            *self._usage(),
            *(f"  {remark}" for remark in self.remarks),
            *(f"WRONG: {complaint}" for complaint in self.wrong),
            "good" if not self.wrong else "NOT GOOD",
        ]
        return lines

    def _usage(self) -> list[str]:
        rows = [
            f"  {'memory (MiB) and descriptors':<30}"
            f"{'PSS first':>11}{'last':>8}{'RSS':>8}{'fds first':>11}{'last':>6}"
        ]
        for name, histories in _by_kind(self.histories).items():
            first, last = histories[0].samples[0], histories[-1].samples[-1]
            sizes = f"{first.pss / MIB:>11.1f}{last.pss / MIB:>8.1f}{last.rss / MIB:>8.1f}"
            count = f" ({len(histories)} processes)" if len(histories) > 1 else ""
            rows.append(f"    {name:<28}{sizes}{first.descriptors:>11}{last.descriptors:>6}{count}")
        return rows


def _by_kind(histories: list[History]) -> dict[str, list[History]]:
    """The histories by name, each one's in the order in which they began."""
    found: dict[str, list[History]] = {}
    for history in sorted(histories, key=lambda history: history.at[0]):
        found.setdefault(history.name, []).append(history)
    return dict(sorted(found.items()))


def _listed(counts: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "none"
