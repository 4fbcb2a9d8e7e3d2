"""Results as pictures, one SVG for each plot. It needs matplotlib,
which the extra `bench` brings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness.result import Plot
from bench.harness.store import Record


class MissingExtra(Exception):
    """A package is not installed."""


def draw(record: Record, folder: Path) -> list[Path]:
    """Write the plots of a result into the folder and return their paths.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    if not record.result.plots:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for number, plot in enumerate(record.result.plots):
        path = folder / f"{record.name}{f'-{number + 1}' if number else ''}.svg"
        _draw(plot, path)
        drawn.append(path)
    return drawn


def _draw(plot: Plot, path: Path) -> None:
    figure = _figure()
    axes = figure.add_subplot()
    for name, points in plot.lines.items():
        axes.plot(
            [x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name
        )
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    if "x" in plot.log:
        axes.set_xscale("log")
    if "y" in plot.log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def _figure() -> Any:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            f"plots need matplotlib ({error}); install it with: pip install -e '.[bench]'"
        ) from None
    matplotlib.rcParams["svg.hashsalt"] = "zflow"  # the same picture from the same figures
    matplotlib.rcParams["svg.fonttype"] = "none"  # text, not outlines: small files
    return Figure(figsize=(7, 4.2), layout="constrained")
