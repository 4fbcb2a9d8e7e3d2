"""The process manager: starts that fail, deaths and restarts, and ends of every kind, after which
nothing is left.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from faulty import Start, Stuck
from helpers import (
    ORPHANS_END,
    PATIENCE,
    TESTS,
    Gate,
    Script,
    Upper,
    alive,
    awaited,
    begun,
    children,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    socket_folders,
    texts,
    title,
    wait_for,
)

from zflow import Client, Document, Executor, Flow, errors
from zflow.clients import wire
from zflow.replicas import worker

HERE = str(TESTS)


# -- a start that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (
            "raise",
            ["start/rep-1", "LookupError", "no model at this path", "Traceback", "in __init__"],
        ),
        ("odd", ["start/rep-1", "Odd"]),
        ("exit", ["start/rep-1", "SystemExit", "gives up"]),
        ("vanish", ["start/rep-1", "exit code 3"]),
        ("kill", ["start/rep-1", "SIGKILL"]),
        ("hang", ["start/rep-1", "timeout_ready=2000"]),
        ("busy", ["start/rep-1", "timeout_ready=2000"]),
    ],
)
def test_an_executor_that_does_not_start(tmp_path: Path, way: str, words: list[str]) -> None:
    closed = tmp_path / "closed"
    flow = Flow().add(name="before", uses=Start, uses_with={"closed": str(closed)})
    flow.add(
        name="start",
        uses=Start,
        replicas=3,
        uses_with={"way": way, "only": 1},
        timeout_ready=2000 if way in ("hang", "busy") else 60_000,
    )
    with pytest.raises(errors.StartupFailed) as caught:
        flow.start()
    assert all(word in str(caught.value) for word in words), caught.value
    assert children() == []
    assert socket_folders() == []
    with pytest.raises(errors.FlowNotRunning, match="not started"):
        flow.post("/")
    flow.close()


def test_the_error_of_a_failed_start_has_the_parts_of_the_remote_one() -> None:
    with pytest.raises(errors.StartupFailed) as caught:
        Flow().add(name="start", uses=Start, uses_with={"way": "raise"}).start()
    error = vars(caught.value)
    assert (error["executor"], error["exception"]) == ("start/rep-0", "LookupError")
    assert error["traceback"].rstrip().endswith("LookupError: no model at this path")


def test_a_flow_whose_start_failed_can_be_started_when_the_cause_is_gone(tmp_path: Path) -> None:
    cause = tmp_path / "cause"
    cause.touch()
    flow = Flow().add(uses=Start, uses_with={"way": "raise", "only_if": str(cause)})
    for _ in range(3):
        with pytest.raises(errors.StartupFailed):
            flow.start()
    cause.unlink()
    with flow:
        assert len(flow.post("/", Document())) == 1


@pytest.mark.parametrize(
    ("uses", "words"),
    [
        ("nosuch.py", ["nosuch.py"]),
        ("nosuch.py:Mine", ["nosuch.py"]),
        ("nosuch.module:Mine", ["nosuch"]),
        ("helpers:Mine", ["helpers", "Mine"]),
        ("NoSuchExecutor", ["NoSuchExecutor"]),
        ("nosuch.yml", ["nosuch.yml"]),
        ({"jtype": "Upper", "with": {"a": 1}, "py_modules": ["nosuch.py"]}, ["nosuch.py"]),
    ],
)
def test_uses_that_cannot_be_loaded(uses: Any, words: list[str]) -> None:
    with pytest.raises(errors.ZflowError) as caught:
        Flow().add(name="good", uses=Upper).add(name="bad", uses=uses).start()
    assert all(word in str(caught.value) for word in words), caught.value
    assert isinstance(caught.value, errors.InvalidExecutor | errors.StartupFailed)
    assert children() == []


def test_a_keyword_that_the_constructor_does_not_take() -> None:
    class Strict(Executor):
        def __init__(self, path: str) -> None:
            pass

    with pytest.raises(errors.InvalidExecutor, match=r"'pth'.*'path'"):
        Flow().add(uses=Strict, uses_with={"pth": "/"}).start()
    assert children() == []


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.PortInUse, match=rf"{port}.*port=") as caught:
            Flow(port=port).add(uses=Upper).start()
    assert isinstance(caught.value, errors.StartupFailed)
    assert (children(), socket_folders()) == ([], [])


def test_the_port_of_another_flow() -> None:
    with Flow().add(uses=Upper) as flow:
        with pytest.raises(errors.PortInUse, match=str(flow.port)):
            Flow(port=flow.port).add(uses=Upper).start()
        assert flow.post("/", Document(text="a")).texts == ["A"]


def test_a_host_that_is_none() -> None:
    with pytest.raises(errors.StartupFailed, match=r"no-such-host.*host="):
        Flow(host="no-such-host.invalid").add(uses=Upper).start()
    assert (children(), socket_folders()) == ([], [])


# -- deaths and restarts ---------------------------------------------------------------------------


def test_replicas_that_die_all_at_once_are_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        worker, "IDLE", 3_600_000
    )  # what awaits those that come back is begun at once, not at a tick
    with Flow().add(name="all", uses=Start, replicas=6) as flow:
        for _ in range(3):
            before = replicas("all")
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            assert len(flow.post("/", texts(20), request_size=1)) == 20
            wait_for(
                lambda before=before: replicas("all").keys() == before.keys(), what="all are back"
            )  # type: ignore[misc]
            assert not set(replicas("all").values()) & set(before.values())


RESTARTS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faulty import Start
from zflow import Flow
with Flow().add(name="start", uses=Start, replicas=2, timeout_ready=int(sys.argv[4]),
                uses_with={"way": sys.argv[2], "only_if": sys.argv[3]}) as flow:
    print(flow.port, flush=True)
    flow.block()
"""


@pytest.mark.parametrize("way", ["raise", "vanish", "hang"])
def test_a_replica_that_fails_to_come_back_is_tried_again_ever_more_seldom(
    tmp_path: Path, way: str
) -> None:
    cause, log = tmp_path / "cause", tmp_path / "log"
    timeout = 200 if way == "hang" else 60_000
    with (
        open(log, "w", encoding="utf-8") as err,
        Script(RESTARTS, tmp_path, HERE, way, cause, timeout, stderr=err) as script,
    ):
        with Client(port=script.line()) as outer:
            cause.touch()
            kill(pid_of("start/rep-0"))
            assert wait_for(lambda: _pauses(log, 3)) == [0.1, 0.2, 0.4]
            assert {doc.tags["pid"] for doc in outer.post("/", texts(20), request_size=1)} == {
                pid_of("start/rep-1")
            }
            cause.unlink()
            wait_for(
                lambda: "start/rep-0 is back" in log.read_text(), what="back when the cause is gone"
            )
            assert pid_of("start/rep-0") in {
                doc.tags["pid"] for doc in outer.post("/", texts(100), request_size=1)
            }
        script.process.send_signal(signal.SIGINT)
        assert script.end()[0] == 0
    words = {
        "raise": "LookupError: no model at this path",
        "vanish": "exit code 3",
        "hang": "timeout_ready=200",
    }
    assert words[way] in log.read_text()


def _pauses(log: Path, count: int) -> list[float]:
    lines = re.findall(
        r"start/rep-0[^;]*?; restarting it in ([\d.]+) s", log.read_text(), re.DOTALL
    )
    found = [float(pause) for pause in lines]
    return found[:count] if len(found) >= count else []


# -- the user's process ends -----------------------------------------------------------------------

OWNER = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
from helpers import Gate, texts
from faulty import Parent, Stuck
from zflow import Document, Flow
folder, way = sys.argv[2], sys.argv[3]
if way.endswith("old Python"):
    way = "fork"
    del os.pidfd_open
flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": folder}, replicas=2)
flow.add(name="stuck", uses=Stuck, uses_with={"where": "work"}, needs="gateway")
flow.add(uses=Parent, needs="gateway")
flow.start()
sleep = flow.post("/", Document(), target_executor="executor2")[0].tags["pid"]
if way == "load":
    options = {"request_size": 1, "target_executor": "gate"}
    load = ("/", texts(10**6))
    threading.Thread(target=flow.post, args=load, kwargs=options, daemon=True).start()
if way == "work":
    threading.Thread(target=flow.post, args=("/", None, {"begun": folder + "/begun"}),
                     kwargs={"target_executor": "stuck"}, daemon=True).start()
    while not os.path.exists(folder + "/begun"):
        time.sleep(0.001)
if way == "fork" and not os.fork():
    time.sleep(3600)  # has all descriptors of the parent, and lives on
print(sleep, flush=True)
sys.stdin.readline()
if way == "end":
    sys.exit(0)
if way == "raise":
    raise ZeroDivisionError
if way == "_exit":
    os._exit(5)
"""


@pytest.mark.parametrize(
    "way", ["idle", "load", "work", "fork", "fork, old Python", "end", "raise", "_exit"]
)
def test_nothing_is_left_when_the_users_process_ends(tmp_path: Path, way: str) -> None:
    with Script(OWNER, tmp_path, HERE, tmp_path, way, stdin=subprocess.PIPE) as script:
        assert script.process.stdin is not None
        sleep = int(script.line())
        names = {pid: title(pid) for pid in script.family()}
        assert sleep in names
        # The watchdog, the manager, the broker, five replicas, and what one of them has started.
        family = [pid for pid, name in names.items() if name.startswith("zflow: ") or pid == sleep]
        assert len(family) == 8
        if way in ("idle", "load", "work", "fork", "fork, old Python"):
            script.process.kill()
        else:
            script.process.stdin.close()
        script.process.wait(PATIENCE)
        wait_for(lambda: not any(map(alive, family)), ORPHANS_END, "all processes of the Flow end")
        wait_for(lambda: not socket_folders(), ORPHANS_END, "the folder of its sockets goes")
        for pid in names:
            if alive(pid):
                kill(pid)  # the fork


# -- the manager dies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "words"), [("manager", "process manager died"), ("watchdog", "its watchdog died")]
)
def test_the_death_of_manager_or_watchdog_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, words: str
) -> None:
    monkeypatch.setattr(wire, "PING_AFTER", 100)
    flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=3)
    with flow:
        held = in_background(flow.post, "/hold", Document(text="held"))
        client = flow.async_client()
        held_async = in_background(
            asyncio.run, awaited(client.post("/hold", Document(text="held async")))
        )
        streaming = in_background(
            flow.post, "/", texts(10**6), request_size=1, on_done=lambda response: None
        )
        blocking = in_background(flow.block)
        begun(tmp_path, "held", "held async")
        kill(pid_of(who))
        for waiting in (held, held_async, streaming, blocking):
            error = waiting.exception(PATIENCE)
            assert isinstance(error, errors.FlowNotRunning), error
            assert re.search(words, str(error)), error
        with pytest.raises(errors.FlowNotRunning, match=words):
            flow.post("/", Document())
    # The manager sees by itself that its watchdog is gone.
    wait_for(lambda: (children(), socket_folders()) == ([], []), what="all of it ends")
    with flow:
        assert flow.post("/", Document(text="again")).texts == ["again"]


# -- close -----------------------------------------------------------------------------------------


def test_close_lets_requests_in_flight_be_answered_and_takes_no_more(tmp_path: Path) -> None:
    flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2)
    flow.add(name="free", uses=Upper, needs="gateway").start()
    outer = Client(port=flow.port)
    held = in_background(
        flow.post, "/hold", [Document(text=text) for text in ("a", "b", "c")], request_size=1
    )
    pids = begun(tmp_path, "a", "b")
    outside = in_background(outer.post, "/hold", Document(text="d"))
    wait_for(lambda: outer.info()["requests"] == 4, what="all have arrived")
    closing = in_background(flow.close)
    wait_for(lambda: _refused(outer), what="no more requests are taken")
    with pytest.raises(errors.FlowNotRunning, match="closed"):
        flow.post("/", Document())
    assert not closing.done()
    let_go(tmp_path, "a", "b", "c", "d")
    assert held.result(PATIENCE).texts == ["a", "b", "c"]
    assert outside.result(PATIENCE).texts == ["d"]
    closing.result(PATIENCE)
    assert {path.name for path in tmp_path.glob("*.closed")} == {f"{pid}.closed" for pid in pids}
    outer.close()


def _refused(outer: Client) -> bool:
    try:
        outer.post("/", Document(), target_executor="free")
    except errors.FlowNotRunning as error:
        return "closing" in str(error)
    return False


def test_answers_that_come_late_in_the_closing_are_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits looks after the Flow now and then; that it is closing is no reason to give up."""
    monkeypatch.setattr(wire, "PING_AFTER", 50)
    flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}).start()
    held = in_background(flow.post, "/hold", Document(text="held"))
    begun(tmp_path, "held")
    closing = in_background(flow.close)
    with pytest.raises(concurrent.futures.TimeoutError):
        held.result(0.3)
    assert not closing.done()
    let_go(tmp_path, "held")
    assert held.result(PATIENCE).texts == ["held"]
    closing.result(PATIENCE)


@pytest.mark.parametrize("where", ["work", "close"])
def test_close_ends_within_its_grace(tmp_path: Path, where: str) -> None:
    flow = Flow(timeout_close=400).add(
        name="stuck", uses=Stuck, uses_with={"where": where}, replicas=2
    )
    flow.add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, needs="gateway").start()
    gate = pid_of("gate/rep-0")
    parameters = {"begun": str(tmp_path / "begun")}
    stuck = in_background(flow.post, "/", None, parameters, target_executor="stuck")
    wait_for((tmp_path / "begun").exists)
    in_background(flow.close).result(PATIENCE)  # what is stuck would be so for an hour
    assert (tmp_path / f"{gate}.closed").exists(), "others could close"
    if where == "work":
        assert isinstance(stuck.exception(PATIENCE), errors.FlowNotRunning)
    else:
        assert len(stuck.result(PATIENCE)) == 0
    assert (children(), socket_folders()) == ([], [])


@pytest.mark.parametrize("prepare", ["stop", "restarting", "no grace"])
def test_close_ends_in_any_state(tmp_path: Path, prepare: str) -> None:
    cause = tmp_path / "cause"
    flow = Flow(timeout_close={"no grace": 0, "stop": 400, "restarting": 60_000}[prepare])
    flow.add(
        name="start", uses=Start, uses_with={"way": "hang", "only_if": str(cause)}, replicas=2
    ).start()
    if prepare == "stop":
        os.kill(pid_of("start/rep-0"), signal.SIGSTOP)
    if prepare == "restarting":
        cause.touch()
        before = pid_of("start/rep-0")
        kill(before)
        wait_for(
            lambda: replicas("start").get("start/rep-0", before) != before,
            what="it restarts, and hangs",
        )
    closing = in_background(flow.close)
    closing.result(PATIENCE)
    assert (children(), socket_folders()) == ([], [])


def test_flows_in_many_places_at_once() -> None:
    def cycle(number: int) -> list[str]:
        with Flow().add(uses=Upper, replicas=2) as flow:
            return list(flow.post("/", Document(text=f"a{number}")).texts)

    running = [in_background(cycle, number) for number in range(6)]
    assert [each.result(PATIENCE) for each in running] == [[f"A{number}"] for number in range(6)]
