"""What a process does about itself: the memory that messages need,
and the cores that it may use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_script

from zflow.system import process

SOURCE = """
import resource
from zflow.system import process

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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_that_may_use_one_core_knows_it() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from zflow.system import process; print(process.cores())"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert 0 < float(found.stdout) <= 1
    assert process.cores() >= float(found.stdout)


def test_children_that_have_ended_are_told_with_their_statuses() -> None:
    script = """
import os
from zflow.system import process
assert process.reaped() == {}
children = [os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], {}) for code in (0, 3)]
found = {}
while len(found) < 2:
    found |= process.reaped()
print([os.waitstatus_to_exitcode(found[child]) for child in children])
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        == "[0, 3]\n"
    )
