"""Signals: which a process handles, and that nothing forked from it does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from helpers import run_script

SOURCE = """
import json, os, signal, sys, threading
from zflow.system import process, signals

came = []

def note(number, _):
    came.append(number)

def state():
    return {
        "handled": [
            signal.getsignal(number) is note
            for number in (signal.SIGTERM, signals.END, signal.SIGUSR1)
        ],
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "wakes": signal.set_wakeup_fd(-1) != -1,
    }

def in_child(fork):
    ours, theirs = os.pipe()
    if not fork():
        os.write(theirs, json.dumps(state()).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(ours, 1000))

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(in_child(os.fork)))
    thread.start()
    thread.join()
    return found[0]

wake = os.pipe()
os.set_blocking(wake[1], False)
before = in_child(os.fork)
for number in (signal.SIGTERM, signals.END):
    signals.handle(number, note)
signal.signal(signal.SIGUSR1, note)  # the user's own
signal.set_wakeup_fd(wake[1])
children = in_child(os.fork), in_thread()
os.kill(os.getpid(), signal.SIGTERM)
print(json.dumps([before, *children, state(), came]))
"""


def test_what_is_forked_handles_nothing_and_is_not_deaf_either(tmp_path: Path) -> None:
    code, out, err = run_script(SOURCE, tmp_path)
    assert (code, err) == (0, "")
    before, child, child_of_a_thread, parent, came = json.loads(out)
    assert before == {"handled": [False] * 3, "blocked": 0, "wakes": False}
    assert (
        child
        == child_of_a_thread
        == {"handled": [False, False, True], "blocked": 0, "wakes": False}
    )
    assert parent == {"handled": [True] * 3, "blocked": 0, "wakes": True}
    assert came == [signal.SIGTERM]


LOST = """
import os, signal, sys
from zflow.system import signals

signals.handle(signal.SIGTERM, lambda *_: None)
for _ in range(300):
    child = os.fork()
    if not child:
        signal.pause()
    os.kill(child, signal.SIGTERM)  # maybe before it has done anything
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
"""


def test_no_signal_is_lost_on_its_way_into_a_child(tmp_path: Path) -> None:
    assert run_script(LOST, tmp_path) == (0, "", "")


OURS = """
import os, signal, time
from zflow.system import process, signals

def run():
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.kill(os.getpid(), signals.END)
    time.sleep(3600)

for number in (signal.SIGTERM, signals.END, signal.SIGALRM):
    signal.signal(number, lambda *_: print("the user's"))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
assert os.waitpid(process.fork(run), 0)[1] == signals.END
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGTERM}
"""


def test_a_process_of_ours_is_ended_by_its_own_signal_alone(tmp_path: Path) -> None:
    assert run_script(OURS, tmp_path) == (0, "", "")


@pytest.mark.parametrize(("code", "status"), [("3", 3), ("None", 0), ("'gone'", 1)])
def test_a_process_that_leaves_ends_as_python_ends(tmp_path: Path, code: str, status: int) -> None:
    source = (
        "from zflow.system import process\nprint('said', "
        f"end='')\nprocess.leave(SystemExit({code}))"
    )
    assert run_script(source, tmp_path) == (status, "said", "gone\n" if status == 1 else "")
    assert os.getpid() > 0
