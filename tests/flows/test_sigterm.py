"""SIGTERM and its like, sent to all processes of a Flow at once: the user's closes it in order, the
others serve on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import (
    ORPHANS_END,
    PATIENCE,
    TESTS,
    Script,
    Upper,
    alive,
    begun,
    in_background,
    kill,
    launched,
    let_go,
    pid_of,
    replicas,
    socket_folders,
    texts,
    wait_for,
)

from zflow import Client, Document, Flow, errors

FLOW = """
jtype: Flow
executors:
- {{name: gate, uses: '{tests}/helpers.py:Gate', uses_with: {{folder: '{folder}'}}, replicas: 2}}
- {{name: free, needs: gateway, uses: '{tests}/helpers.py:Upper'}}
"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`zflow-run flow.yaml` in a session of its own; and the port."""
    (folder / "flow.yaml").write_text(FLOW.format(tests=TESTS, folder=folder))
    command = [sys.executable, "-m", "zflow", str(folder / "flow.yaml")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with launched(command, text=True, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("serving at "))
            yield process, int(line.partition(",")[0].rpartition(":")[2])
        finally:
            process.kill()


def send(to: str, leader: int, number: signal.Signals) -> None:
    """Send a signal to the group, as `timeout` does; or to each process, as systemd does, whatever
    its group.
    """
    if to == "group":
        os.killpg(leader, number)
        return
    family = [leader, *(child.pid for child in psutil.Process(leader).children(recursive=True))]
    for pid in reversed(family) if to == "all, the youngest first" else family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def closing(client: Client) -> bool:
    try:
        client.post("/", Document(), target_executor="free")
    except errors.FlowNotRunning as error:
        return "closing" in str(error)
    return False


ALL = "all"
YOUNGEST = "all, the youngest first"
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("to", "numbers"),
    [
        ("group", [TERM]),
        (ALL, [TERM]),
        (YOUNGEST, [TERM]),
        (ALL, [TERM, TERM]),
        ("group", [TERM, TERM]),
        (ALL, [INT]),
    ],
)
def test_what_is_sent_to_all_at_once_lets_requests_under_way_be_answered(
    tmp_path: Path, to: str, numbers: list[signal.Signals]
) -> None:
    with served(tmp_path) as (process, port), Client(port=port) as client:
        held = in_background(
            client.post, "/hold", [Document(text=text) for text in "abc"], request_size=1
        )
        pids = begun(tmp_path, "a", "b")
        for number in numbers:
            send(to, process.pid, number)
            wait_for(lambda: closing(client), what="no more requests are taken")
        let_go(tmp_path, "a", "b", "c")
        answered = held.result(PATIENCE)
        assert answered.texts == ["a", "b", "c"]
        assert {doc.tags["pid"] for doc in answered} == set(pids), "by those who were there"
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert {path.name for path in tmp_path.glob("*.closed")} == {
            f"{pid}.closed" for pid in pids
        }
    assert not socket_folders()


def test_sigkill_after_sigterm_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zflow.clients.wire.SILENCE", 1.0)
    with served(tmp_path) as (process, port), Client(port=port) as client:
        held = in_background(client.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        send("group", process.pid, signal.SIGTERM)
        wait_for(lambda: closing(client), what="it closes")
        send("group", process.pid, signal.SIGKILL)
        wait_for(
            lambda: not any(map(alive, family)), ORPHANS_END + 1, "all processes of the Flow end"
        )
        wait_for(lambda: not socket_folders(), what="the folder of its sockets goes")
        assert isinstance(held.exception(PATIENCE), errors.ZflowError)


SCRIPT = """
import signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faulty import Start
from helpers import Gate, Upper
from zflow import Document, Flow
way, folder = sys.argv[2:]
told = []
if way == "own handler":
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": folder})
if way == "starting":
    flow.add(name="start", uses=Start, uses_with={"way": "hang"})
try:
    with flow:
        if way == "own handler":  # such as that of a web server, which has to answer what it has
            print("serving", flush=True)
            while not told:
                time.sleep(0.001)
            pids, end = set(), time.monotonic() + 1
            while time.monotonic() < end:
                pids.add(flow.post("/", Document())[0].tags["pid"])
            print(len(pids))
        held = lambda: print(flow.post("/hold", Document(text="held")).texts)
        threading.Thread(target=held).start()
        # A request that comes after the end of the block is refused.
        while not Path(folder, "held.begun").exists():
            time.sleep(0.001)
        if way == "working":
            print("serving", flush=True)
            time.sleep(3600)
finally:
    print("closed")
"""


@pytest.mark.parametrize("to", ["group", ALL])
def test_a_script_that_is_at_something_else_closes_its_flow_and_ends_with_143(
    tmp_path: Path, to: str
) -> None:
    with Script(SCRIPT, tmp_path, TESTS, "working", tmp_path, start_new_session=True) as script:
        assert script.line() == "serving"
        (pid,) = begun(tmp_path, "held")
        for _ in range(2):
            send(to, script.pid, signal.SIGTERM)
        let_go(tmp_path, "held")
        assert script.end() == (143, "['held']\nclosed\n", "")
        assert (tmp_path / f"{pid}.closed").exists()


def test_with_a_handler_of_the_users_the_flow_serves_until_it_is_closed(tmp_path: Path) -> None:
    with Script(SCRIPT, tmp_path, TESTS, "own handler", tmp_path, start_new_session=True) as script:
        assert script.line() == "serving"
        send(ALL, script.pid, signal.SIGTERM)
        begun(tmp_path, "held")
        let_go(tmp_path, "held")
        assert script.end() == (0, "1\n['held']\nclosed\n", "")


def test_a_script_that_starts_a_flow_ends_with_143_and_leaves_nothing(tmp_path: Path) -> None:
    with Script(SCRIPT, tmp_path, TESTS, "starting", tmp_path, start_new_session=True) as script:
        wait_for(lambda: replicas("start"), what="one hangs in its __init__")
        send(ALL, script.pid, signal.SIGTERM)
        assert script.end() == (143, "closed\n", "")
    assert not socket_folders()


def test_sigterm_ends_nobody_alone_but_a_replica(tmp_path: Path) -> None:
    with Flow().add(name="up", uses=Upper, replicas=2) as flow:
        others = {name: pid_of(name) for name in ("watchdog", "manager", "broker", "up/rep-1")}
        for name in ("watchdog", "broker"):
            os.kill(others[name], signal.SIGTERM)
        kill(pid_of("up/rep-0"), signal.SIGTERM)
        wait_for(lambda: len(replicas("up")) == 2, what="another one takes its place")
        assert len(flow.post("/", texts(50), request_size=1)) == 50
        os.kill(others["manager"], signal.SIGTERM)
        assert len(flow.post("/", texts(50), request_size=1)) == 50
        assert {name: pid_of(name) for name in others} == others
