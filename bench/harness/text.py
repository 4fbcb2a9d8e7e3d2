"""Results as text: for a terminal and for a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness.result import Cell, Ratio, Result, Table
from bench.harness.store import Record, described


def shown(cell: Cell) -> str:
    """Return a number with three digits that count, or all of them if it has more before the point.

    >>> [shown(value) for value in (12345, 1234.5, 12.345, 0.00123, "x")]
    ['12,345', '1,234', '12.3', '0.00123', 'x']
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:#.3g}" if cell else "0"


def ratio_table(ratios: dict[str, Ratio]) -> Table:
    """Return the ratios as a table, with what was to be reached."""
    words = {"lower": "at most", "higher": "at least"}
    rows: list[list[Cell]] = []
    for name, ratio in ratios.items():
        aim = "" if ratio.aim is None else f"{words[ratio.better]} {ratio.aim:g}"
        reached = {None: "", True: "yes", False: "no"}[ratio.reached]
        rows.append(
            [
                name,
                float(ratio.value),
                f"{shown(ratio.lowest)} to {shown(ratio.highest)}",
                aim,
                reached,
            ]
        )
    return Table("Ratios", ["ratio", "median", "rounds", "aim", "reached"], rows)


def tables(result: Result) -> list[Table]:
    """Return the tables of a result, the one of its ratios first."""
    return [*([ratio_table(result.ratios)] if result.ratios else []), *result.tables]


def plain(table: Table) -> str:
    """Return a table for a terminal: the first column to the left, the others to the right."""
    cells = [table.header, *([shown(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.header))]
    lines = [_aligned(row, widths) for row in cells]
    return "\n".join(
        [table.title, lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()


def markdown(table: Table) -> str:
    """Return a table for a Markdown page."""
    lines = [table.header, ["---"] + ["---:"] * (len(table.header) - 1)]
    lines += [[shown(cell) for cell in row] for row in table.rows]
    return "\n".join([f"{table.title}:", "", *("| " + " | ".join(line) + " |" for line in lines)])


def record(record: Record) -> str:
    """Return all of a result for a terminal."""
    parts = [
        described(record.environment),
        *map(plain, tables(record.result)),
        *record.result.notes,
    ]
    return "\n\n".join(parts)
