"""What a user sees: what Executors print and log, names of processes, a terminal with Ctrl-C, and plain scripts."""

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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    ORPHANS_END,
    PATIENCE,
    Script,
    Upper,
    alive,
    pid_of,
    replicas,
    run_script,
    socket_folders,
    title,
    wait_for,
)

from zflow import Client, Document, Flow, errors

HERE = str(Path(__file__).parent)

# -- printing ---------------------------------------------------------------------------------------------------------

CHATTER = """
import sys
from zflow import Document, Executor, Flow, requests

class Chatter(Executor):
    @requests
    def talk(self, docs, **kwargs):
        for doc in docs:
            name = self.runtime_args.name
            print(name, doc.text, "x" * 500, sep=" ")
            sys.stderr.write(f"{name} {doc.text} ")
            sys.stderr.write("y" * 500 + "\\n")

with Flow().add(name="chatter", uses=Chatter, replicas=4, retries=0) as flow:
    flow.post("/", (Document(text=str(number)) for number in range(400)), request_size=1)
print("end")
"""


@pytest.mark.parametrize("where", ["pipe", "file", "unbuffered pipe"])
def test_replicas_print_in_whole_lines(tmp_path: Path, where: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": "1"} if where.startswith("unbuffered") else None
    if where == "file":
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            code = run_script(CHATTER, tmp_path, stdout=out, stderr=err)[0]
        texts = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    else:
        code, *streams = run_script(CHATTER, tmp_path, env=env)
        texts = (streams[0], streams[1])
    assert code == 0
    assert texts[0].endswith("\nend\n")
    for text, letter in zip(texts, "xy", strict=True):
        found = re.findall(rf"^chatter/rep-([0-3]) (\d+) {letter}{{500}}$", text, re.MULTILINE)
        assert Counter(number for _, number in found) == Counter(map(str, range(400)))
        assert len(text.splitlines()) == 400 + (letter == "x")
        assert {replica for replica, _ in found} == set("0123")


LIVE = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers import Gate
from zflow import Document, Executor, Flow, requests

class Loud(Gate):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        print("initialised")

    @requests(on="/hold")
    def hold(self, docs, **kwargs):
        print("begun")
        super().hold(docs)
        print("ended without a newline", end="")

    def close(self):
        print(", closed", end="")

print("not yet flushed", end=" ")
with Flow().add(uses=Loud, uses_with={"folder": sys.argv[2]}) as flow:
    flow.post("/hold", Document(text="held"))
"""


def test_what_is_printed_appears_at_once_and_once(tmp_path: Path) -> None:
    with Script(LIVE, tmp_path, HERE, tmp_path) as script:
        assert [script.line(), script.line()] == ["not yet flushed initialised", "begun"]
        (tmp_path / "held.go").touch()
        assert script.end() == (0, "ended without a newline, closed", "")


LOGS = """
import logging, sys
from zflow import Document, Executor, Flow, requests

if sys.argv[1] == "configured":
    logging.basicConfig(format="%(levelname)s|%(name)s|%(message)s", level=logging.INFO)

class Logger(Executor):
    @requests
    def log(self, docs, **kwargs):
        self.logger.info("by self.logger")
        logging.getLogger("mine").error("by its own")

with Flow().add(name="logger", uses=Logger) as flow:
    flow.post("/", Document())
    logging.getLogger("mine").error("from the user's process")
"""


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("plain", ["logger/rep-0: ERROR by its own", "from the user's process"]),
        (
            "configured",
            [
                "logger/rep-0: INFO|zflow.logger/rep-0|by self.logger",
                "logger/rep-0: ERROR|mine|by its own",
                "ERROR|mine|from the user's process",
            ],
        ),
    ],
)
def test_log_lines_bear_the_name_of_the_replica(tmp_path: Path, way: str, expected: list[str]) -> None:
    assert run_script(LOGS, tmp_path, way) == (0, "", "".join(f"{line}\n" for line in expected))


UNBOUND = """
from zflow import Document, Executor, Flow, requests

class Only(Executor):
    @requests(on="/index")
    def index(self, docs, **kwargs):
        raise ValueError("told to the caller, and not printed")

with Flow().add(uses=Only, replicas=2) as flow:
    for _ in range(3):
        print(flow.post("/indx", Document(text="as it was")).texts)
        flow.post("/index", Document(), on_error=lambda response: None)
"""


def test_an_endpoint_that_nobody_binds_is_passed_through_with_a_warning(tmp_path: Path) -> None:
    code, out, err = run_script(UNBOUND, tmp_path)
    assert (code, out) == (0, "['as it was']\n" * 3)
    assert err.count("\n") == 1
    assert "zflow: broker: WARNING" in err
    assert "'/indx'" in err


def test_a_host_for_everybody_is_warned_about(tmp_path: Path) -> None:
    code, _, err = run_script("from zflow import Flow\nwith Flow(host='0.0.0.0'):\n    pass\n", tmp_path)
    assert code == 0
    assert "listening on 0.0.0.0" in err


# -- names ------------------------------------------------------------------------------------------------------------


def test_processes_have_telling_names() -> None:
    with Flow().add(name="encoder", uses=Upper, replicas=2).add(name="an-executor-with-a-long-name", uses=Upper):
        names = {"manager", "broker", "encoder/rep-0", "encoder/rep-1", "an-executor-with-a-long-name/rep-0"}
        pids = {name: pid_of(name) for name in names}
        commands = {name: Path(f"/proc/{pid}/comm").read_text().strip() for name, pid in pids.items()}
        assert commands == {
            "manager": "zflow: manager",
            "broker": "zflow: broker",
            "encoder/rep-0": "encoder/rep-0",
            "encoder/rep-1": "encoder/rep-1",
            "an-executor-with-a-long-name/rep-0": "long-name/rep-0",  # 15 characters are shown: those that tell most
        }
    assert not title(os.getpid()).startswith("zflow")


NAMES = """
import os, sys
sys.path.insert(0, sys.argv[1])
from helpers import Upper
from zflow import Document, Flow
with Flow().add(name="e", uses=Upper, env={"ADDED": "1"}) as flow:
    pid = flow.post("/", Document())[0].tags["pid"]
    print(open(f"/proc/{pid}/cmdline").read().rstrip("\\0"))
"""


def test_names_fit_where_there_is_hardly_room(tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    assert run_script(NAMES, tmp_path, HERE, env=kept) == (0, "zflow: e/rep-0\n", "")


# -- a terminal -------------------------------------------------------------------------------------------------------


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
        wait_for(lambda: text in self.shown or (self._read() and text in self.shown), what=f"{text!r} is shown")

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


CTRL_C = b"\x03"
BLOCK = """
import contextlib, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers import Gate
from test_manager import Start, Stuck
from zflow import Document, Flow, errors
way, folder = sys.argv[2:]

class Told:  # prints when block() has begun to look at it
    told = False

    def is_set(self):
        if not self.told:
            print("serving", flush=True)
        self.told = True
        return False

f = Flow(timeout_close=60_000).add(name="encoder", uses=Gate, uses_with={"folder": folder}, replicas=3)
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
        threading.Thread(target=lambda: print(f.post("/hold", Document(text="held")).texts, flush=True)).start()
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
            wait_for(lambda: len(list(tmp_path.glob("*.closed"))) == 3, what="the others have closed")
        else:
            with Client(port=(tmp_path / "port").read_text()) as client:
                wait_for(lambda: _closing(client), what="no more requests are taken")
        begin = time.monotonic()
        terminal.press(CTRL_C)
        assert terminal.end() == 0
        assert time.monotonic() - begin < 20, "and not the minute that timeout_close grants"
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
        assert terminal.process.wait(PATIENCE) == -(signal.SIGHUP if how == "closed" else signal.SIGQUIT)
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
    assert re.findall(r"encoder \d/3 ready", terminal.shown) == [f"encoder {number}/3 ready" for number in range(4)]
    assert terminal.shown.count("\x1b[1A") == 3, "each over the one before"


def test_sigterm_ends_block_quietly(tmp_path: Path) -> None:
    with Script(BLOCK, tmp_path, HERE, "idle", tmp_path) as script:
        assert script.line() == "serving"
        script.process.terminate()
        assert script.end() == (0, "after\n", "")


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


# -- plain scripts ----------------------------------------------------------------------------------------------------

INSIDE = """
from zflow import Flow, Document, Executor, requests


class MyExec(Executor):

    @requests
    def foo(self, docs, **kwargs):
        print(f'inside: {docs.texts}')


f = (
    Flow()
    .add(uses=MyExec, replicas=2, polling='%s')
    .needs_all()
)

with f:
    r = f.post('/', Document(text='hello'))
    print(f'return: {r.texts}')
"""


@pytest.mark.parametrize("polling", ["ANY", "ALL"])
def test_the_example_of_replicas_and_polling(tmp_path: Path, polling: str) -> None:
    expected = (0, "inside: ['hello']\nreturn: ['hello']\n", "")
    assert run_script(INSIDE % polling, tmp_path) == expected


REPLICAS = """
from zflow import Flow

f = Flow().add(name='slow_encoder', replicas=3).add(name='fast_indexer')
"""
REAL = """
import time

from zflow import Document, Executor, Flow, requests


class Encoder(Executor):
    @requests
    def encode(self, docs, **kwargs):
        time.sleep(0.02)
        for doc in docs:
            doc.embedding = [float(len(doc.text))]
            doc.tags['by'] = self.runtime_args.name


class Indexer(Executor):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.found = {}

    @requests(on='/index')
    def index(self, docs, **kwargs):
        for doc in docs:
            self.found[doc.text] = doc.tags['by']

    @requests(on='/stats')
    def stats(self, **kwargs):
        return {'texts': len(self.found), 'encoders': sorted(set(self.found.values()))}


f = Flow().add(name='slow_encoder', uses=Encoder, replicas=3).add(name='fast_indexer', uses=Indexer)

with f:
    f.index((Document(text=str(number)) for number in range(60)), request_size=1)
    response = f.post('/stats', return_responses=True)[0]
    print(response.parameters['__results__']['fast_indexer/rep-0'])
"""


def test_the_example_of_replicas(tmp_path: Path) -> None:
    run = "\nfrom zflow import Document\nwith f:\n    print(f.post('/', Document(text='hello')).texts)\n"
    code, out, err = run_script(REPLICAS + run, tmp_path)
    assert (code, out) == (0, "['hello']\n")
    assert len(err.splitlines()) == 1, "no Executor binds an endpoint here, which is worth a warning"
    assert "'/'" in err
    encoders = ["slow_encoder/rep-0", "slow_encoder/rep-1", "slow_encoder/rep-2"]
    assert run_script(REAL, tmp_path) == (0, f"{ {'texts': 60, 'encoders': encoders} }\n", "")


def test_a_script_without_standard_streams(tmp_path: Path) -> None:
    source = (
        f"import sys\nsys.path.insert(0, {HERE!r})\nfrom helpers import Upper\nfrom zflow import Document, Flow\n"
        "with Flow().add(uses=Upper, replicas=2) as flow:\n    found = flow.post('/', Document(text='a')).texts\n"
        f"open({str(tmp_path / 'found')!r}, 'w').write(str(found))\n"
    )
    (tmp_path / "script.py").write_text(source)
    command = f"exec {sys.executable} {tmp_path}/script.py <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], check=True, timeout=PATIENCE)
    assert (tmp_path / "found").read_text() == "['A']"
