"""What `hello.py` prints with replicas and with shards, polled ALL and ANY, as a table.

python examples/polling/table.py
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

SCRIPT = str(Path(__file__).with_name("hello.py"))


def printed(scale: str, polling: str) -> list[str]:
    """Run the script, whose replicas print to the same output, and return its lines."""
    command = [sys.executable, SCRIPT, scale, polling]
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()


def show(*cells: str) -> None:
    """Print one line of the table."""
    print(
        " | ".join(
            cell.ljust(width) for cell, width in zip(cells, (10, 17, 17), strict=True)
        ).rstrip()
    )


show("", "polling='ALL'", "polling='ANY'")
for scale in ("replicas", "shards"):
    print("-----------+-------------------+------------------")
    answers = (printed(scale, polling) for polling in ("ALL", "ANY"))
    for name, *cells in itertools.zip_longest([f"{scale}=2"], *answers, fillvalue=""):
        show(name, *cells)
