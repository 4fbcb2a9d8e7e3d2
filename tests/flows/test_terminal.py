"""A Flow on a terminal: Ctrl-C, closing the window, what a start and a long post show."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    ORPHANS_END,
    PATIENCE,
    TESTS,
    Script,
    alive,
    pid_of,
    replicas,
    socket_folders,
    wait_for,
)

from zflow import Client, Document, errors

HERE = str(TESTS)


class Terminal:
    """A script on a terminal of its own, where stderr may go to a file instead."""

    def __init__(self, source: str, folder: Path, *arguments: Any, err: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        settings = termios.tcgetattr(slave)
        settings[3] |= termios.NOFLSH  # Ctrl-C does not throw away what is not yet shown
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        self.shown = ""
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, slave)
            stderr = stack.enter_context(open(err, "w", encoding="utf-8")) if err else slave
            (folder / "script.py").write_text(source, encoding="utf-8")
            self.process = subprocess.Popen(
                [sys.executable, str(folder / "script.py"), *map(str, arguments)],
                stdin=slave,
                stdout=slave,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )

    def _read(self) -> bool:
        """Take in what is shown, if anything is; False at the end."""
        if select.select([self._master], [], [], 0.01)[0]:
            try:
                more = os.read(self._master, 4096)
            except OSError:  # nobody has the terminal open any more
                return False
            self.shown += more.decode()
            return bool(more)
        return True

    def wait_until(self, text: str) -> None:
        wait_for(
            lambda: text in self.shown or (self._read() and text in self.shown),
            what=f"{text!r} is shown",
        )

    def hang_up(self) -> None:
        """Close the terminal, as one closes a window."""
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDWR)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        """Wait until it has ended, and all who have the terminal open; the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, self.shown
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


GRACE = 90  # seconds that `timeout_close` grants in the scripts below
CTRL_C = b"\x03"
BLOCK = """
import contextlib, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers import Gate
from faulty import Start, Stuck
from zflow import Document, Flow, errors
way, folder = sys.argv[2:]

class Told:  # prints when block() has begun to look at it
    told = False

    def is_set(self):
        if not self.told:
            print("serving", flush=True)
        self.told = True
        return False

f = Flow(timeout_close=90_000)
f.add(name="encoder", uses=Gate, uses_with={"folder": folder}, replicas=3)
if way == "stuck":
    f.add(name="stuck", uses=Stuck, uses_with={"where": "work"})
if way == "closing":
    f.add(name="stuck", uses=Stuck, uses_with={"where": "close"})
if way == "starting":
    f.add(name="start", uses=Start, uses_with={"way": "hang"})
    print("about to start", flush=True)
with f:
    Path(folder, "port").write_text(str(f.port))
    if way == "held":
        held = lambda: print(f.post("/hold", Document(text="held")).texts, flush=True)
        threading.Thread(target=held).start()
    if way == "stuck":
        def post():
            with contextlib.suppress(errors.FlowNotRunning):
                f.post("/", None, {"begun": folder + "/begun"})
        threading.Thread(target=post).start()
        while not Path(folder, "begun").exists():
            time.sleep(0.001)
    if way == "posting":
        f.post("/hold", Document(text="held"))
    f.block(Told())
print("after", flush=True)
"""


@contextlib.contextmanager
def on_terminal(folder: Path, way: str, *, errors_apart: bool = True) -> Iterator[Terminal]:
    err = folder / "err"
    with Terminal(BLOCK, folder, HERE, way, folder, err=err if errors_apart else None) as terminal:
        yield terminal


def test_ctrl_c_ends_quietly(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "idle") as terminal:
        terminal.wait_until("serving\r\n")
        terminal.press(CTRL_C)
        assert terminal.end() == 0
    assert terminal.shown.splitlines() == ["serving", "^Cafter"]
    assert (tmp_path / "err").read_text() == ""
    assert len(list(tmp_path.glob("*.closed"))) == 3, "each Executor was closed"


def test_ctrl_c_lets_requests_in_flight_be_answered(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "held") as terminal:
        terminal.wait_until("serving\r\n")
        wait_for((tmp_path / "held.begun").exists)
        terminal.press(CTRL_C)
        terminal.wait_until("^C")
        (tmp_path / "held.go").touch()
        assert terminal.end() == 0
    assert terminal.shown.splitlines() == ["serving", "^C['held']", "after"]
    assert (tmp_path / "err").read_text() == ""


@pytest.mark.parametrize("way", ["stuck", "closing"])
def test_a_second_ctrl_c_does_not_wait_for_what_is_stuck(tmp_path: Path, way: str) -> None:
    with on_terminal(tmp_path, way) as terminal:
        terminal.wait_until("serving\r\n")
        terminal.press(CTRL_C)
        if way == "closing":
            wait_for(
                lambda: len(list(tmp_path.glob("*.closed"))) == 3, what="the others have closed"
            )
        else:
            with Client(port=(tmp_path / "port").read_text()) as client:
                wait_for(lambda: _closing(client), what="no more requests are taken")
        begin = time.monotonic()
        terminal.press(CTRL_C)
        assert terminal.end() == 0
        assert time.monotonic() - begin < GRACE, "and not all the time that timeout_close grants"
    assert terminal.shown.replace("^C", "").splitlines() == ["serving", "after"]
    assert (tmp_path / "err").read_text() == ""


def _closing(client: Client) -> bool:
    try:
        client.post("/", Document(), target_executor="encoder")
    except errors.FlowNotRunning:
        return True
    return False


@pytest.mark.parametrize("how", ["closed", "ctrl-backslash"])
def test_when_the_terminal_is_closed_nothing_is_left(tmp_path: Path, how: str) -> None:
    with on_terminal(tmp_path, "idle") as terminal:
        terminal.wait_until("serving\r\n")
        family = [*replicas("encoder").values(), pid_of("manager"), pid_of("broker")]
        if how == "closed":
            terminal.hang_up()
        else:
            terminal.press(b"\x1c")
        assert terminal.process.wait(PATIENCE) == -(
            signal.SIGHUP if how == "closed" else signal.SIGQUIT
        )
        wait_for(lambda: not any(map(alive, family)), ORPHANS_END, "all processes of the Flow end")
        wait_for(lambda: not socket_folders(), ORPHANS_END, "the folder of its sockets goes")
    assert len(list(tmp_path.glob("*.closed"))) == 3, "each Executor was closed"


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "starting") as terminal:
        terminal.wait_until("about to start")
        wait_for(lambda: replicas("start"), what="one hangs in its __init__")
        family = [*replicas("start").values(), *replicas("encoder").values(), pid_of("manager")]
        terminal.press(CTRL_C)
        assert terminal.end() == -signal.SIGINT
    assert "KeyboardInterrupt" in (tmp_path / "err").read_text().splitlines()[-1]
    assert (tmp_path / "err").read_text().count("Traceback") == 1
    assert not any(map(alive, family))


def test_ctrl_c_while_it_posts(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "posting") as terminal:
        wait_for((tmp_path / "held.begun").exists)
        terminal.press(CTRL_C)
        terminal.wait_until("^C")
        (tmp_path / "held.go").touch()  # close() lets it be answered
        assert terminal.end() == -signal.SIGINT
    assert "after" not in terminal.shown
    err = (tmp_path / "err").read_text()
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1


def test_the_start_shows_what_it_waits_for(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "idle", errors_apart=False) as terminal:
        terminal.wait_until("serving\r\n")
        terminal.press(CTRL_C)
        assert terminal.end() == 0
    assert re.findall(r"encoder \d/3 ready", terminal.shown) == [
        f"encoder {number}/3 ready" for number in range(4)
    ]
    assert (
        terminal.shown.count("\x1b[2A\x1b[2Kpayloads from 16 KiB by shared memory, up to ") == 3
    ), "over the one before"


def test_sigterm_ends_block_quietly(tmp_path: Path) -> None:
    with Script(BLOCK, tmp_path, HERE, "idle", tmp_path) as script:
        assert script.line() == "serving"
        script.process.terminate()
        assert script.end() == (0, "after\n", "")


SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers import Gate
from zflow import cli
with_folder = ["--uses-with", "folder=" + sys.argv[2]]
sys.exit(cli.main(["executor", "--uses", "Gate", "--replicas", "3", *with_folder]))
"""


def test_ctrl_c_ends_an_executor_that_is_served_alone(tmp_path: Path) -> None:
    with Terminal(SERVE, tmp_path, HERE, tmp_path, err=tmp_path / "err") as terminal:
        terminal.wait_until("until Ctrl-C\r\n")
        terminal.press(CTRL_C)
        assert terminal.end() == 0
    first, second, last = terminal.shown.splitlines()
    assert first == "Gate: 3 replicas"
    assert re.fullmatch(r"serving at 127.0.0.1:\d+, until Ctrl-C", second)
    assert last == "^C"
    assert (tmp_path / "err").read_text() == ""
    assert len(list(tmp_path.glob("*.closed"))) == 3, "each Executor was closed"


PROGRESS = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers import Upper
from zflow import Document, Flow
with Flow().add(uses=Upper) as flow:
    docs = flow.post("/", [Document(text="a")] * 250, request_size=50, show_progress=True)
print(len(docs))
"""


def test_progress_is_shown_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("tqdm")
    with Terminal(PROGRESS, tmp_path, HERE) as terminal:
        assert terminal.end() == 0
    assert "100%" in terminal.shown
    assert "250/250" in terminal.shown
    assert "doc/s" in terminal.shown
    assert terminal.shown.rstrip().endswith("250")
