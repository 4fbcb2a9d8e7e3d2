"""What a process does about itself: memory that messages need is kept while there is work, and given back after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import run_script

SOURCE = """
import resource
from zflow import process

def faults(size, times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        bytearray(b"x") * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

process.keep_memory()
first = faults(20 * 2 ** 20, 1)
kept = faults(20 * 2 ** 20, 10)
process.give_back_memory()
anew = faults(20 * 2 ** 20, 1)
print(first, kept, anew)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is told only there")
def test_memory_is_kept_until_it_is_given_back(tmp_path: Path) -> None:
    code, out, err = run_script(SOURCE, tmp_path)
    assert (code, err) == (0, "")
    first, kept, anew = map(int, out.split())
    assert kept < first / 10
    assert anew > first / 2
