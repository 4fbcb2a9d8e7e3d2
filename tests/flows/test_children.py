"""What Executors start: it ends by signals as any process does, and with the replica, however that
ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    TESTS,
    Gate,
    Script,
    alive,
    joined,
    kill,
    pid_of,
    replicas,
    socket_folders,
    texts,
    title,
    wait_for,
)

from zflow import Document, DocumentArray, Executor, Flow, requests

POOLS = 30


def be_busy(path: str) -> None:
    Path(path).touch()
    time.sleep(3600)


class Forks(Executor):
    """Forks as user code does."""

    @requests(on="/pool")
    def pool(self, parameters: dict[str, Any], **kwargs: Any) -> None:
        with multiprocessing.Pool(2) as pool:
            assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
            if "busy" in parameters:
                pool.apply_async(be_busy, [parameters["busy"]])
                wait_for(Path(parameters["busy"]).exists)

    @requests(on="/exit")
    def exit(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        child = os.fork()
        if not child and parameters["how"] == "exit":
            sys.exit(3)
        if not child and parameters["how"] == "raise":
            raise KeyError("in the child")
        status = (
            os.waitpid(child, 0)[1] if child else -1
        )  # or it returns, as if it were the replica
        return {"status": status, "pid": os.getpid()}

    @requests
    def pid(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].tags["pid"] = os.getpid()


class AsyncForks(Forks):
    """The same on an event loop."""

    @requests(on="/terminate")
    async def terminate(self, **kwargs: Any) -> dict[str, Any]:
        child = multiprocessing.Process(target=time.sleep, args=(3600,))
        child.start()
        child.terminate()
        while child.is_alive():
            time.sleep(0.001)
        return {"status": child.exitcode}

    @requests(on="/exit")
    async def exit(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return Forks.exit(self, parameters)


@pytest.fixture(scope="module", params=[Forks, AsyncForks])
def forking(request: pytest.FixtureRequest) -> Iterator[Flow]:
    with Flow().add(name="forks", uses=request.param) as flow:
        yield flow


def results(flow: Flow, endpoint: str, **parameters: Any) -> Any:
    found = flow.post(endpoint, None, parameters, return_responses=True, timeout=20_000)
    (result,) = found[0].parameters["__results__"].values()
    return result


# -- signals ---------------------------------------------------------------------------------------


def test_pools_end(forking: Flow) -> None:
    for _ in range(POOLS):
        forking.post("/pool", timeout=20_000)


def test_a_pool_ends_while_its_workers_are_busy(forking: Flow, tmp_path: Path) -> None:
    forking.post("/pool", None, {"busy": str(tmp_path / "busy")}, timeout=20_000)


@pytest.mark.parametrize("how", ["exit", "raise", "return"])
def test_a_forked_process_that_leaves_the_handler_is_no_second_replica(
    forking: Flow, how: str
) -> None:
    before = pid_of("forks/rep-0")
    found = results(forking, "/exit", how=how)
    assert found == {"status": {"exit": 3, "raise": 1, "return": 0}[how] << 8, "pid": before}
    assert replicas("forks") == {"forks/rep-0": before}
    assert forking.post("/", Document())[0].tags["pid"] == before


def test_a_child_of_an_async_executor_ends_alone() -> None:
    with Flow().add(name="alone", uses=AsyncForks) as flow:
        before = pid_of("alone/rep-0")
        assert results(flow, "/terminate") == {"status": -signal.SIGTERM}
        assert flow.post("/", Document())[0].tags["pid"] == before
        assert replicas("alone") == {"alone/rep-0": before}


# -- what is left ----------------------------------------------------------------------------------


def sleep_in_a_session_of_its_own(folder: str, name: str) -> None:
    """Be a daemon: of another session, and of a parent that has ended."""
    os.setsid()
    if not os.fork():
        Path(folder, name).write_text(str(os.getpid()))
        time.sleep(3600)
    os._exit(0)


class Leaves(Executor):
    """Has started processes of every kind, which do not end by themselves."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        context = multiprocessing.get_context("fork")
        started = [
            subprocess.Popen(["sleep", "3600"]).pid,
            subprocess.Popen(["sleep", "3600"], start_new_session=True, env={}).pid,
        ]
        daemon = context.Process(target=time.sleep, args=(3600,), daemon=True)
        daemon.start()
        started.append(daemon.pid or 0)
        name = f"{os.getpid()}.daemon"
        context.Process(target=sleep_in_a_session_of_its_own, args=(folder, name)).start()
        started.append(
            int(
                wait_for(
                    lambda: (Path(folder) / name).exists() and (Path(folder) / name).read_text()
                )
            )
        )
        self.started = started

    @requests
    def tell(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tags["by"] = self.runtime_args.name
            doc.tags["pid"] = os.getpid()
            doc.tags["started"] = self.started


def started(flow: Flow, count: int = 1) -> dict[str, list[int]]:
    """By replica, its process and what each of so many has started."""
    found: dict[str, list[int]] = {}

    def all_of_them() -> bool:
        for doc in flow.post("/", texts(20), request_size=1):
            found[doc.tags["by"]] = [int(pid) for pid in (doc.tags["pid"], *doc.tags["started"])]
        return len(found) == count

    wait_for(all_of_them)
    assert all(alive(pid) for pids in found.values() for pid in pids)
    return found


def all_end(pids: list[int]) -> None:
    wait_for(lambda: not any(map(alive, pids)), what="what the replica has started ends")


@pytest.mark.parametrize("how", ["killed", "told", "restarted", "scaled"])
def test_what_a_replica_has_started_ends_with_it_and_nothing_of_others(
    tmp_path: Path, how: str
) -> None:
    mine = subprocess.Popen(["sleep", "3600"])
    with Flow().add(
        name="leaves", uses=Leaves, uses_with={"folder": str(tmp_path)}, replicas=2
    ) as flow:
        before = started(flow, 2)
        if how == "restarted":
            flow.restart("leaves")
            all_end(before["leaves/rep-0"])
        elif how == "scaled":
            flow.scale("leaves", 1)
        else:
            kill(before["leaves/rep-1"][0], signal.SIGKILL if how == "killed" else signal.SIGTERM)
        all_end(before["leaves/rep-1"])
        if how != "restarted":
            assert all(map(alive, before["leaves/rep-0"]))
        last = [pid for pids in started(flow, 1 if how == "scaled" else 2).values() for pid in pids]
    assert not any(map(alive, last))
    assert mine.poll() is None, "it is the user's own"
    mine.kill()
    mine.wait()


OWNER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/flows"]
from test_children import Leaves
from zflow import Document, Flow
if __name__ == "__main__":
    flow = Flow(start_method=sys.argv[3])
    with flow.add(name="leaves", uses=Leaves, uses_with={"folder": sys.argv[2]}):
        print(*(int(pid) for pid in flow.post("/", Document())[0].tags["started"]), flush=True)
        flow.block()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("victim", ["manager", "user"])
def test_nothing_is_left_when_manager_or_user_is_killed(
    tmp_path: Path, victim: str, method: str
) -> None:
    others = socket_folders()
    with Script(OWNER, tmp_path, TESTS, tmp_path, method) as script:
        family = [int(pid) for pid in script.line().split()] + script.family()
        (manager,) = [pid for pid in family if title(pid) == "zflow: manager"]
        kill(manager if victim == "manager" else script.pid)
        all_end(family)
        wait_for(lambda: socket_folders() == others, what="the folder of its sockets goes")
        if victim == "manager":
            assert "its process manager died" in script.end()[2]


class Nested(Executor):
    """Has a Flow of its own."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        self.flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": folder}).start()

    @requests
    def tell(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].tags["inner"] = self.flow.post("/", Document())[0].tags["pid"]
        docs[0].tags["outer"] = os.getpid()

    def close(self) -> None:
        self.flow.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_flow_within_an_executor_ends_with_the_replica_and_in_order(
    tmp_path: Path, how: signal.Signals
) -> None:
    others = socket_folders()
    with Flow().add(name="nested", uses=Nested, uses_with={"folder": str(tmp_path)}) as flow:
        tags = flow.post("/", Document())[0].tags
        kill(int(tags["outer"]), how)
        wait_for(
            (tmp_path / f"{int(tags['inner'])}.closed").exists, what="the inner Executor closes"
        )
        wait_for(lambda: not alive(int(tags["inner"])))
        assert flow.post("/", Document())[0].tags["outer"] != tags["outer"]
        wait_for(
            lambda: len(socket_folders()) == len(others) + 2,
            what="the folder of the inner Flow goes",
        )
    assert socket_folders() == others


def test_a_flow_within_an_executor_leaves_no_folder_after_restarts(tmp_path: Path) -> None:
    others = socket_folders()
    with Flow().add(name="nested", uses=Nested, uses_with={"folder": str(tmp_path)}) as flow:
        for _ in range(3):
            flow.restart("nested")
    assert socket_folders() == others


REMOTE = """
import sys
sys.path[:0] = {path!r}
from test_children import Leaves
"""


def test_what_a_replica_on_another_machine_has_started_ends_with_it(tmp_path: Path) -> None:
    source = tmp_path / "leaves.py"
    source.write_text(REMOTE.format(path=[str(TESTS), str(TESTS / "flows")]))
    with (
        Flow(replica_port=0).add(
            name="work", uses=Leaves, uses_with={"folder": str(tmp_path)}
        ) as flow,
        joined(flow, tmp_path, f"--uses={source}:Leaves", f"--uses-with=folder={tmp_path}"),
    ):
        before = started(flow, 2)
        (name,) = before.keys() - {"work/rep-0"}
        kill(before[name][0])
        all_end(before[name])
        assert all(map(alive, before["work/rep-0"]))
