"""The processes below one: which there are, whose they are, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import alive, run_script, wait_for

from zflow.system import family

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")

# A process that starts others: in its session, in one of its own without any environment, and a
# daemon.
STARTS = """
import os, subprocess, sys, time
from zflow.system import family

def start(number):
    family.mark(number)
    pids = [subprocess.Popen(["sleep", "3600"]).pid]
    pids.append(subprocess.Popen(["sleep", "3600"], start_new_session=True, env={}).pid)
    ours, theirs = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(theirs, b"%d" % os.getpid())
            time.sleep(3600)
        os._exit(0)
    os.wait()
    pids.append(int(os.read(ours, 20)))
    return pids

if __name__ == "__main__":
    print(*start(int(sys.argv[1])), flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def started(tmp_path: Path) -> tuple[int, int, list[int]]:
    """A process that has started others: its id, its mark, and the ids of the others."""
    path = tmp_path / "starts.py"
    path.write_text(STARTS)
    mark = family.new_mark()
    leader = subprocess.Popen([sys.executable, path, str(mark)], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    return leader.pid, mark, [int(pid) for pid in leader.stdout.readline().split()]


def test_what_a_dead_child_has_left_is_found_whatever_it_did(
    started: tuple[int, int, list[int]],
) -> None:
    pid, mark, others = started
    assert family.left_by(pid, mark, [pid]) == [others[2]], (
        "it was let go of, and is the child's all the same"
    )
    assert family.left_by(0, family.new_mark()) == []
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert set(family.left_by(pid, mark)) == set(others)
    assert set(family.left_by(pid, 0)) == {others[0]}, "where there are no marks, its session"
    assert family.left_by(pid, mark, others) == []
    family.kill(family.left_by(pid, mark))
    wait_for(lambda: not any(map(alive, others)))


def test_who_is_below_a_process(started: tuple[int, int, list[int]]) -> None:
    pid, _, others = started
    assert family.below(pid).keys() == set(others[:2])
    mine = family.below()
    assert set(mine[pid]) == {pid, *others[:2]}
    assert mine[others[2]] == [others[2]]
    assert family.parent_of(others[0]) == pid
    assert family.parent_of(0) is None
    for one in (pid, *others):
        os.kill(one, 9)


ALL = """
import os, subprocess, sys, time
from starts import start
from zflow.system import family, process

def run():
    for _ in range(3):
        start(family.new_mark())
    for name in ("resource_tracker", "zflow: watchdog"):
        subprocess.Popen(["sh", "-c", "read line; echo cleaned up", name], stdin=subprocess.PIPE)
    os.write(theirs, b"!")
    time.sleep(3600)

process.adopt_orphans()
ours, theirs = os.pipe()
process.fork(run)
os.read(ours, 1)
family.end_all()
print(family.below())
"""


def test_everything_below_a_process_ends_and_what_cleans_up_does_so_before(tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(STARTS)
    assert run_script(ALL, tmp_path) == (0, "cleaned up\ncleaned up\n{}\n", "")
