"""What stands in the way of a fork: threads of OpenMP, imports under way, greenlets,
clocks that stand still.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import run_script

from zflow.system import forking

PARALLEL = """
int work(void) {
    int threads = 0;
    #pragma omp parallel num_threads(3) reduction(+:threads)
    threads += 1;
    return threads;
}
"""


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with a function that works in three threads of GNU's OpenMP."""
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("there is no gcc to compile a library that uses OpenMP")
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "work.c").write_text(PARALLEL)
    command = [
        "gcc",
        "-fopenmp",
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "work.so"),
        str(folder / "work.c"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"gcc cannot compile what uses OpenMP: {done.stderr}")
    return folder / "work.so"


# -- OpenMP ----------------------------------------------------------------------------------------


def test_who_has_used_openmp_can_be_forked_all_the_same(parallel: Path, tmp_path: Path) -> None:
    source = """
import ctypes, sys
from zflow import Document, Executor, Flow, requests

work = ctypes.CDLL(sys.argv[1]).work

class Parallel(Executor):
    @requests
    def parallel(self, docs, **kwargs):
        docs.texts = [str(work())]

for _ in range(2):
    print(work())
    with Flow().add(name="parallel", uses=Parallel) as flow:
        print(flow.post("/", Document(), timeout=10_000).texts)
"""
    assert run_script(source, tmp_path, parallel) == (0, "3\n['3']\n" * 2, "")


def test_what_keeps_threads_is_named_where_they_cannot_be_ended(
    parallel: Path, tmp_path: Path
) -> None:
    source = """
import ctypes, sys
from zflow.system import forking

forking._pause = lambda path: False  # as of a library that is too old
library = ctypes.CDLL(sys.argv[1])
print(forking.keeps_openmp())
library.work()
print("libgomp" in forking.keeps_openmp())
"""
    assert run_script(source, tmp_path, parallel) == (0, "None\nTrue\n", "")


def test_threads_may_have_any_names(tmp_path: Path) -> None:
    source = """
import ctypes
from zflow.system import forking

ctypes.CDLL(None).prctl(15, b"caf\\xc3", 0, 0, 0)  # PR_SET_NAME; half a character
print(forking._other_threads())
"""
    assert run_script(source, tmp_path) == (0, "False\n", "")


# -- imports ---------------------------------------------------------------------------------------

SLOW = """
import pathlib, time
pathlib.Path("importing").touch()
while not pathlib.Path("go").exists():
    pause(0.001)
"""


def test_an_import_under_way_in_another_thread_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    source = """
import builtins, os, pathlib, threading, time
from zflow import Document, Executor, Flow, requests

builtins.pause = time.sleep

def waits(seconds):
    pathlib.Path("go").touch()
    pause(seconds)

time.sleep = waits  # whoever waits, may

class Slow(Executor):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        import slow

    @requests
    def nothing(self, **kwargs):
        pass

importing = threading.Thread(target=__import__, args=("slow",))
importing.start()
while not pathlib.Path("importing").exists():
    pause(0.001)
with Flow().add(uses=Slow, timeout_ready=5000) as flow:
    print(flow.post("/", Document(text="served")).texts)
"""
    assert run_script(source, tmp_path, cwd=tmp_path) == (0, "['served']\n", "")


def test_one_that_takes_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forking, "IMPORTING", 0.02)
    monkeypatch.setattr(forking, "_imported_elsewhere", lambda: "slow")
    with forking.no_import_under_way():
        pass
    assert "module 'slow' is still being imported in another thread" in caplog.text


# -- what others have replaced ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "asking"),
    [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")],
)
def test_who_has_put_greenlets_in_the_place_of_threads_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, asking: str
) -> None:
    patched: set[str] = set()
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asking: patched.__contains__}))
    assert forking.patched_by() is None
    patched.add("ssl")
    assert forking.patched_by() is None
    patched.add("socket")
    assert forking.patched_by() == module


def test_a_clock_that_stands_still_delays_nothing(tmp_path: Path) -> None:
    source = """
import os, signal, time
from zflow import Client, Document, Executor, Flow, errors, requests

class Pid(Executor):
    @requests
    def pid(self, docs, **kwargs):
        docs.texts = [str(os.getpid())]

now = time.monotonic()
time.monotonic = time.perf_counter = lambda: now
with Flow().add(uses=Pid) as flow:
    (first,) = flow.post("/", Document()).texts
    os.kill(int(first), signal.SIGKILL)
    print(flow.post("/", Document(), timeout=20_000).texts != [first])
try:
    Client(port=1).info(timeout=100)
except errors.FlowUnreachable:
    print("unreachable")
"""
    code, out, _ = run_script(source, tmp_path)
    assert (code, out) == (0, "True\nunreachable\n")
