"""Regressions: ratios measured now against those of `baseline.json`.
Pure but for reading and writing that file.

The baseline has, for each benchmark, each ratio's value in a quick run, which direction is better,
and its tolerance: the part of the value by which it may be worse. A ratio only counts as worse if
it was so in every one of some runs: one bad moment of the machine is no regression.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.result import Cell, Ratio, Table

TOLERANCE = 0.5  # of a ratio that is new to the baseline
RUNS = 3  # of a benchmark until what seems worse is believed

Ratios = dict[str, Ratio]
# Benchmark -> ratio -> {"ratio", "better", "tolerance"}.
Baseline = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Verdict:
    """How one ratio compares with the baseline; `measured` or `known` is
    None if it is only in one of them.
    """

    benchmark: str
    name: str
    known: float | None
    limit: float | None
    measured: float | None
    worse: bool

    @property
    def word(self) -> str:
        """Return the verdict in a word."""
        if self.measured is None:
            return "not measured"
        if self.known is None:
            return "new"
        return "WORSE" if self.worse else "ok"


def compare(benchmark: str, baseline: Baseline, measured: Ratios) -> list[Verdict]:
    """Return a verdict for each ratio that is in the baseline or was measured.

    A ratio of the baseline that was not measured is worse: else a new name would hide a regression.
    """
    verdicts = []
    known = baseline.get(benchmark, {})
    for name in dict.fromkeys((*known, *measured)):
        value = measured[name].value if name in measured else None
        if name not in known:
            verdicts.append(Verdict(benchmark, name, None, None, value, worse=False))
            continue
        limit = _limit(known[name])
        lower = known[name]["better"] == "lower"
        worse = value is None or (value > limit if lower else value < limit)
        verdicts.append(Verdict(benchmark, name, known[name]["ratio"], limit, value, worse))
    return verdicts


def _limit(entry: dict[str, Any]) -> float:
    """Return the worst value that is taken for no regression."""
    factor = 1 + entry["tolerance"]
    return float(entry["ratio"] * factor if entry["better"] == "lower" else entry["ratio"] / factor)


def measured(benchmark: str, baseline: Baseline, measure: Callable[[], Ratios]) -> Ratios:
    """Measure a benchmark, and again as long as something seems worse;
    return the best value of each ratio.
    """
    best: Ratios = {}
    for _ in range(RUNS):
        for name, ratio in measure().items():
            before = best.get(name)
            better = before is None or (
                ratio.value < before.value
                if ratio.better == "lower"
                else ratio.value > before.value
            )
            if better:
                best[name] = ratio
        verdicts = compare(benchmark, baseline, best)
        if not any(verdict.worse and verdict.measured is not None for verdict in verdicts):
            break
    return best


def accepted(baseline: Baseline, benchmark: str, ratios: Ratios) -> Baseline:
    """Return the baseline with what was measured now;
    a ratio that was known keeps its tolerance.
    """
    known = baseline.get(benchmark, {})
    entries = {
        name: {
            "ratio": round(ratio.value, 3),
            "better": ratio.better,
            "tolerance": known.get(name, {}).get("tolerance", TOLERANCE),
        }
        for name, ratio in ratios.items()
    }
    return {**baseline, benchmark: entries}


def table(verdicts: Sequence[Verdict]) -> Table:
    """Return the verdicts as a table."""
    rows: list[list[Cell]] = []
    for verdict in verdicts:
        figures = (
            "" if value is None else value
            for value in (verdict.known, verdict.limit, verdict.measured)
        )
        rows.append([f"{verdict.benchmark}: {verdict.name}", *figures, verdict.word])
    return Table(
        "Ratios against the baseline",
        ["ratio", "baseline", "worst allowed", "now", "verdict"],
        rows,
    )


def read(path: Path) -> Baseline:
    """Return the baseline; an empty one if there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write(path: Path, baseline: Baseline) -> None:
    """Write the baseline."""
    path.write_text(json.dumps(baseline, indent=1) + "\n", encoding="utf-8")
