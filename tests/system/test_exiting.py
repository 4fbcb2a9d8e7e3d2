"""The end of a forked process: what was begun in it is finished, and what its parent has to do is
left to that.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import run_script

SCRIPT = """
import atexit, gc, logging, logging.handlers, multiprocessing
import os, sys, tempfile, threading, time, weakref
from pathlib import Path
from zflow.system import exiting, process

folder = Path(sys.argv[1])
told = lambda name: (folder / name).open("a").write("x")

class Thing: pass

parents = Thing()
weakref.finalize(parents, told, "finalized by the parent")
atexit.register(told, "parent's exit")
theirs = logging.handlers.MemoryHandler(100, target=logging.FileHandler(folder / "parent's log"))
logging.getLogger("parent").addHandler(theirs)
logging.getLogger("parent").error("once")
{before}
def run():
    exiting.begin()
    child()
    exiting.end()
    return 0

def child():
{child}

gc.freeze()  # as the process manager does
pid = process.fork(run)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
mine = ("script.py", "parent's log")
print(sorted(path.name for path in folder.iterdir() if path.name not in mine))
"""


def _ended(folder: Path, child: str, before: str = "") -> str:
    """Run a process that is forked, does something and ends; what was there then, in one line."""
    lines = "\n".join(f"    {line}" for line in child.strip().splitlines())
    code, out, err = run_script(
        SCRIPT.replace("{before}", before).replace("{child}", lines), folder, folder
    )
    assert (code, err) == (0, ""), err
    assert (folder / "parent's log").read_text() == "once\n"
    assert (
        (folder / "parent's exit").read_text()
        == (folder / "finalized by the parent").read_text()
        == "x"
    )
    status, found = out.splitlines()
    assert status == "0"
    return found


@pytest.mark.parametrize(
    ("child", "found"),
    [
        ("atexit.register(told, 'mine')", "['mine']"),
        ("sys.mine = Thing()\nweakref.finalize(sys.mine, told, 'mine')", "['mine']"),
        ("sys.mine = tempfile.TemporaryDirectory(dir=folder)", "[]"),
        (
            "sys.stderr = None\natexit.register(told, 'mine')\natexit.register(sys.exit, 3)",
            "['mine']",
        ),
        (
            "handler = logging.handlers.MemoryHandler(9, target=logging.FileHandler(folder / "
            "'mine', delay=True))\n"
            "sys.mine = handler\nhandler.handle(logging.makeLogRecord({'msg': 'x', 'levelno': "
            "20}))",
            "['mine']",
        ),
        (
            "if os.fork() == 0:\n    exiting.end()\n    os._exit(0)\natexit.register(told, "
            "'mine')\nos.wait()",
            "['mine']",
        ),
    ],
)
def test_what_was_registered_in_it_is_done(tmp_path: Path, child: str, found: str) -> None:
    assert _ended(tmp_path, child) == found


def test_files_that_are_held_for_ever_are_written(tmp_path: Path) -> None:
    child = """
sys.mine = (folder / "mine").open("w")
sys.mine.write("all of it")
thing = [(folder / "cycle").open("w")]
thing.append(thing)
thing[0].write("all of it")
"""
    assert _ended(tmp_path, child) == "['cycle', 'mine']"
    assert (tmp_path / "mine").read_text() == (tmp_path / "cycle").read_text() == "all of it"


def test_no_thread_and_no_process_is_waited_for_but_daemon_processes_are_ended(
    tmp_path: Path,
) -> None:
    child = """
threading.Thread(target=time.sleep, args=(3600,)).start()
multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,), daemon=True).start()
mine = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
mine.start()
(folder / str(mine.pid)).touch()
sys.mine = multiprocessing.get_context("fork").Pool(2)
"""
    before = "process.adopt_orphans()\n"
    after = """
import psutil
def children():
    return [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
while len(left := children()) > 1:
    time.sleep(0.001)
print([each.pid for each in left])
left[0].kill()
"""
    code, out, err = run_script(
        SCRIPT.replace("{before}", before).replace(
            "{child}", "\n".join("    " + line for line in child.splitlines())
        )
        + after,
        tmp_path,
        tmp_path,
    )
    assert (code, err) == (0, "")
    status, found, left = out.splitlines()
    assert (status, found) == ("0", left.replace("[", "['").replace("]", "']")), (
        "only the one that is no daemon is left"
    )


def test_a_daemon_of_multiprocessing_may_fork_one_that_has_children_and_the_parents_are_let_alone(
    tmp_path: Path,
) -> None:
    before = """
fork = multiprocessing.get_context("fork")
multiprocessing.current_process()._config["daemon"] = True
theirs = fork.Event()
multiprocessing.current_process()._config["daemon"] = False
theirs_too = fork.Process(target=theirs.wait, daemon=True)
theirs_too.start()
multiprocessing.current_process()._config["daemon"] = True
"""
    child = """
mine = fork.Process(target=told, args=("mine",))
mine.start()
mine.join()
"""
    source = SCRIPT.replace("{before}", before).replace(
        "{child}", "\n".join("    " + line for line in child.splitlines())
    )
    code, out, err = run_script(source + "print(theirs_too.is_alive())\n", tmp_path, tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["0", "['mine']", "True"]
