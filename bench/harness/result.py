"""What a benchmark returns: ratios above all, and tables and plots of figures. Plain data,
to JSON and back.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Cell = str | int | float


@dataclass(frozen=True)
class Ratio:
    """One figure of zflow's divided by the same figure of what it is compared with.

    Args:
        value: the median over the rounds.
        lowest: of all rounds.
        highest: of all rounds.
        better: which direction is an improvement.
        aim: what is to be reached: at most or at least this, as `better` says;
            None where nothing was set.
    """

    value: float
    lowest: float
    highest: float
    better: Literal["lower", "higher"] = "lower"
    aim: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None if there is none."""
        if self.aim is None:
            return None
        return self.value <= self.aim if self.better == "lower" else self.value >= self.aim


def ratio(
    left: Sequence[float],
    right: Sequence[float],
    better: Literal["lower", "higher"] = "lower",
    aim: float | None = None,
) -> Ratio:
    """Return the ratio `left / right` of neighbouring rounds.

    >>> ratio([2.0, 6.0, 10.0], [1.0, 2.0, 4.0]).value
    2.5
    """
    each = [a / b for a, b in zip(left, right, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), better, aim)


@dataclass(frozen=True)
class Table:
    """Figures. Units are in the header; numbers stay numbers until they are shown."""

    title: str
    header: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Plot:
    """Lines over one axis: `lines` has `[[x, y], ...]` by name.
    Both axes are logarithmic where `log` says so.
    """

    title: str
    x: str
    y: str
    lines: dict[str, list[list[float]]]
    log: Literal["", "x", "y", "xy"] = "xy"


@dataclass(frozen=True)
class Result:
    """What one run of a benchmark has found out."""

    ratios: dict[str, Ratio]
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return this as JSON has it."""
        return asdict(self)


def from_dict(data: dict[str, Any]) -> Result:
    """Return what `Result.as_dict` was called on."""
    return Result(
        ratios={name: Ratio(**fields) for name, fields in data["ratios"].items()},
        tables=[Table(**fields) for fields in data["tables"]],
        plots=[Plot(**fields) for fields in data["plots"]],
        notes=list(data["notes"]),
    )
