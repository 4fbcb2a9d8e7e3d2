"""`RESULTS.md` from the stored results: each benchmark's ratios, tables and plots, and on what it
was measured.
"""

from __future__ import annotations

from pathlib import Path

from bench.harness import plots, store, suite, text
from bench.harness.store import Record
from bench.peers import NAME as PEERS

INTRODUCTION = """# Results of the benchmarks

Written by `python -m bench report` from `results/`. A ratio is the median over rounds in which
zflow and what it is compared with took turns; "rounds" has the least and the most. Figures of
different benchmarks were measured at different times, maybe while the machine had other things to
do: ratios hold, figures are what they are.
"""


def write(folder: Path) -> Path:
    """Write RESULTS.md and the plots into the folder, and return the path of the page.

    Raises:
        MissingExtra: matplotlib is not installed.
        FileNotFoundError: there are no results.
    """
    records = stored(folder / "results")
    if not records:
        raise FileNotFoundError(
            f"no results in {folder / 'results'}: run `python -m bench run` first"
        )
    page = folder / "RESULTS.md"
    page.write_text(
        "\n".join([INTRODUCTION, *(section(record, folder) for record in records)]),
        encoding="utf-8",
    )
    return page


def stored(folder: Path) -> list[Record]:
    """Return the results that are there, in the order of the suite."""
    found = (store.read(folder, name) for name in (*suite.NAMES, PEERS))
    return [record for record in found if record is not None]


def section(record: Record, folder: Path) -> str:
    """Return a benchmark's part of the page."""
    about = "The same jobs on other systems." if record.name == PEERS else suite.about(record.name)
    parts = [f"## {record.name}", about]
    if record.quick:
        parts.append("From a quick run: the figures mean little.")
    parts += [text.markdown(table) for table in text.tables(record.result)]
    parts += record.result.notes
    parts += [
        f"![{path.stem}]({path.relative_to(folder)})"
        for path in plots.draw(record, folder / "plots")
    ]
    parts.append(f"Measured {store.described(record.environment)}.")
    return "\n\n".join(parts) + "\n"
