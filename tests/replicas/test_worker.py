"""Replicas: what an Executor finds in its process, sync and async endpoints,
and how its process ends.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import (
    PATIENCE,
    TESTS,
    Upper,
    alive,
    few_descriptors,
    in_background,
    kill,
    pid_of,
    replicas,
    run_script,
    texts,
    wait_for,
)

from zflow import Document, DocumentArray, Executor, Flow, errors, requests


class Greedy(Executor):
    """Leaves its process no file descriptor."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limits = few_descriptors(left=0)
        self.limits.__enter__()

    @requests
    def work(self, **kwargs: Any) -> None: ...


class Tell(Executor):
    """Tells about itself and its process."""

    def __init__(self, more: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.at_init = dict(vars(self.runtime_args))
        self.more = more
        self.count = 0

    @requests
    def tell(self, **kwargs: Any) -> dict[str, Any]:
        self.count += 1
        return {
            "args": vars(self.runtime_args),
            "at_init": self.at_init,
            "metas": vars(self.metas),
            "endpoints": sorted(self.requests),
            "workspace": self.workspace,
            "logger": self.logger.name,
            "more": self.more,
            "count": self.count,
            "pid": os.getpid(),
            "env": {name: os.environ.get(name) for name in ("ZF_ONE", "ZF_TWO", "ZF_OUTER")},
            "child_env": subprocess.check_output(["sh", "-c", "echo $ZF_ONE"], text=True).strip(),
            "thread": threading.current_thread() is threading.main_thread(),
            "stdin": os.read(0, 100).decode(),
        }

    @requests(on="/interrupt")
    def interrupt(self, **kwargs: Any) -> dict[str, Any]:
        """Ctrl-C reaches all processes of a terminal;
        programs that are started here take it as usual.
        """
        os.kill(os.getpid(), signal.SIGINT)
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        return {"child": subprocess.check_output([sys.executable, "-c", code], text=True).strip()}

    def by_name(self, docs: DocumentArray) -> None:
        """Bound by `uses_requests`."""


class Arrays(Executor):
    """Works on arrays in place, in memory of its own, and reuses that for the next request."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.buffer = np.zeros(200_000)

    @requests
    def fill(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            self.buffer[:] = float(doc.text)
            doc.embedding = self.buffer

    @requests(on="/in-place")
    def in_place(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tensor += 1


class Together(Executor):
    """Its requests wait for each other: they end only if they are all under way at once."""

    def __init__(self, closed: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.closed = closed
        self.arrived = 0
        self.all: asyncio.Event | None = None

    @requests
    async def meet(
        self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        self.all = self.all or asyncio.Event()
        self.arrived += 1
        if self.arrived == parameters["n"]:
            self.all.set()
            self.arrived = 0
        await self.all.wait()
        if self.arrived == 0:
            self.all.clear()
        docs.texts = [f"{text}!" for text in docs.texts]
        return {"pid": os.getpid()}

    @requests(on="/sync")
    def sync(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs.texts = [f"{text}?" for text in docs.texts]

    @requests(on="/raise")
    async def fail(self, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        raise KeyError("async")

    @requests(on="/exit")
    async def leave(self, **kwargs: Any) -> None:
        raise SystemExit(3)

    @requests(on="/cancel")
    async def cancel(self, **kwargs: Any) -> None:
        raise asyncio.CancelledError

    @requests(on="/type")
    async def wrong_type(self, **kwargs: Any) -> Any:
        return 42

    @requests(on="/background")
    async def background(self, **kwargs: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))

    async def close(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        if self.closed:
            Path(self.closed).write_text("closed")


class Closing(Executor):
    """Writes a file when it is closed, after whatever it is told to do wrong."""

    def __init__(self, folder: str, wrong: str = "", **kwargs: Any) -> None:
        self.file = Path(folder) / self.runtime_args.name.replace("/", "-")
        self.wrong = wrong
        self.started: Any = None
        if wrong == "thread":
            threading.Thread(target=time.sleep, args=(3600,)).start()
        if wrong == "process":
            self.started = subprocess.Popen(["sleep", "3600"], start_new_session=True)

    @requests
    def pid(self, docs: DocumentArray, **kwargs: Any) -> dict[str, Any]:
        return {"pid": self.started.pid if self.started else 0}

    def close(self) -> None:
        self.file.write_text(str(os.getpid()))
        if self.wrong == "raise":
            raise ValueError("cannot close")
        if self.wrong == "exit":
            sys.exit(9)


def told(
    flow: Flow, endpoint: str = "/", parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What one replica of each Executor returned as a dict, by replica."""
    return dict(
        flow.post(endpoint, None, parameters, return_responses=True)[0].parameters["__results__"]
    )


# -- what an Executor finds ------------------------------------------------------------------------


def test_what_an_executor_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZF_OUTER", "outer")
    flow = Flow(workspace=str(tmp_path)).add(
        name="tell",
        uses=Tell,
        uses_with={"more": {"a": [1, None, 2.5]}},
        uses_metas={"colour": "red"},
        uses_requests={"/named": "by_name"},
        env={"ZF_ONE": "1", "ZF_TWO": 2},
        replicas=1,
    )
    with flow.add(name="other", uses=Tell):
        found = told(flow)
    tell, other = found["tell/rep-0"], found["other/rep-0"]
    args = {"name": "tell/rep-0", "shard_id": 0, "shards": 1, "replica_id": 0, "replicas": 1}
    args["workspace"] = str(tmp_path)
    args["cuda_visible_devices"] = args["seed"] = None
    assert tell["args"] == tell["at_init"] == args
    assert tell["metas"] == {"colour": "red"}
    assert tell["endpoints"] == ["/default", "/interrupt", "/named"]
    assert tell["workspace"] == str(tmp_path / "tell" / "0")
    assert (tmp_path / "tell" / "0").is_dir()
    assert tell["logger"] == "zflow.tell/rep-0"
    assert tell["more"] == {"a": [1, None, 2.5]}
    assert tell["env"] == {"ZF_ONE": "1", "ZF_TWO": "2", "ZF_OUTER": "outer"}
    assert (tell["child_env"], tell["thread"], tell["stdin"]) == ("1", True, "")
    assert other["env"] == {"ZF_ONE": None, "ZF_TWO": None, "ZF_OUTER": "outer"}, (
        "an Executor's env is its own"
    )
    assert "ZF_ONE" not in os.environ
    assert (other["metas"], other["more"], other["pid"] == tell["pid"]) == ({}, None, False)


def test_each_replica_is_a_process_and_an_instance_of_its_own() -> None:
    with Flow().add(name="tell", uses=Tell, replicas=3) as flow:
        pids = replicas("tell")
        found: dict[str, list[Any]] = {}
        for response in flow.post("/", texts(60), request_size=1, return_responses=True):
            for name, result in response.parameters["__results__"].items():
                found.setdefault(name, []).append(result)
    assert sorted(pids) == ["tell/rep-0", "tell/rep-1", "tell/rep-2"]
    assert len(set(pids.values())) == 3
    assert set(found) == set(pids), "all of them get their share"
    for name, results in found.items():
        assert {result["pid"] for result in results} == {pids[name]}
        # On a busy machine a request may be taken back although it has begun: then a number is left
        # out.
        assert len({result["count"] for result in results}) == len(results)
        seats = {(result["args"]["replica_id"], result["args"]["replicas"]) for result in results}
        assert seats == {(int(name[-1]), 3)}


def test_an_interrupt_is_not_for_replicas() -> None:
    with Flow().add(name="tell", uses=Tell) as flow:
        before = replicas("tell")
        assert told(flow, "/interrupt")["tell/rep-0"] == {"child": "True"}
        assert replicas("tell") == before


def test_executors_from_files_and_yaml(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("suffix = ' from a file'\n")
    (tmp_path / "mine.py").write_text(
        "import parts\nfrom zflow import Executor, requests\n\nclass Mine(Executor):\n"
        "    def __init__(self, end='', **kwargs):\n        self.end = end\n"
        "    @requests\n    def add(self, docs, **kwargs):\n"
        "        docs.texts = [text + parts.suffix + self.end for text in docs.texts]\n"
    )
    (tmp_path / "mine.yml").write_text(
        "jtype: Mine\nwith:\n  end: '!'\npy_modules:\n- parts.py\n- mine.py\n"
    )
    with Flow().add(uses=str(tmp_path / "mine.yml")) as flow:
        assert flow.post("/", Document(text="a")).texts == ["a from a file!"]
    with Flow().add(
        uses=f"{tmp_path}/mine.py:Mine", py_modules=[str(tmp_path / "parts.py")]
    ) as flow:
        assert flow.post("/", Document(text="a")).texts == ["a from a file"]
    with Flow().add(uses={"jtype": "Upper"}).add(uses="Upper") as flow:
        assert flow.post("/", Document(text="a")).texts == ["A"]


def test_an_executor_that_is_defined_in_a_function() -> None:
    offset = 3

    class Local(Executor):
        @requests
        def add(self, docs: DocumentArray, **kwargs: Any) -> None:
            docs[0].tags["n"] += offset

    with Flow().add(uses=Local, replicas=2) as flow:
        assert flow.post("/", Document(tags={"n": 1}))[0].tags["n"] == 4


# -- memory ----------------------------------------------------------------------------------------


def test_an_executor_may_reuse_the_memory_of_its_results() -> None:
    with Flow().add(uses=Arrays) as flow:
        result = flow.post("/", texts(40), request_size=1)
    assert [(doc.embedding == float(doc.text)).all() for doc in result] == [True] * 40


def test_arrays_can_be_changed_in_place() -> None:
    small, large = np.zeros(3), np.zeros(300_000)
    with Flow().add(uses=Arrays).add(uses=Arrays) as flow:
        result = flow.post(
            "/in-place", [Document(tensor=small), Document(tensor=large)], request_size=1
        )
        assert [set(doc.tensor.tolist()) for doc in result] == [{2.0}, {2.0}]
        result[1].tensor += 1
        again = flow.post("/in-place", result)
    assert set(again[1].tensor.tolist()) == {5.0}
    assert not large.any()


# -- async endpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together() -> Iterator[Flow]:
    with Flow().add(name="together", uses=Together) as running:
        yield running


def test_async_endpoints_work_on_many_requests_at_once(together: Flow) -> None:
    (pid,) = replicas("together").values()
    for _ in range(3):
        responses = together.post("/", texts(20), {"n": 20}, request_size=1, return_responses=True)
        assert [response.docs.texts for response in responses] == [
            [f"{number}!"] for number in range(20)
        ]
        pids = {
            response.parameters["__results__"]["together/rep-0"]["pid"] for response in responses
        }
        assert pids == {pid}


def test_async_requests_of_different_posts_meet(together: Flow) -> None:
    posts = [in_background(together.post, "/", Document(text=str(n)), {"n": 12}) for n in range(12)]
    assert [each.result(PATIENCE).texts for each in posts] == [
        [f"{number}!"] for number in range(12)
    ]


def test_sync_endpoints_of_an_executor_with_async_ones(together: Flow) -> None:
    assert together.post("/sync", texts(100), request_size=1).texts == [
        f"{number}?" for number in range(100)
    ]


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("/raise", ["KeyError", "async", "in fail"]),
        ("/exit", ["SystemExit", "3"]),
        ("/cancel", ["CancelledError"]),
        ("/type", ["int", "DocumentArray"]),
    ],
)
def test_async_endpoints_that_fail(together: Flow, endpoint: str, words: list[str]) -> None:
    before = replicas("together")
    with pytest.raises(errors.ExecutorError) as caught:
        together.post(endpoint, Document())
    assert all(word in str(caught.value) for word in words), caught.value
    assert together.post("/sync", Document(text="a")).texts == ["a?"]
    assert replicas("together") == before


def test_close_may_be_async_and_tasks_of_the_executor_do_not_hinder_it(tmp_path: Path) -> None:
    with Flow().add(uses=Together, uses_with={"closed": str(tmp_path / "closed")}) as flow:
        flow.post("/background")
    assert (tmp_path / "closed").read_text() == "closed"


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "raise", "exit", "thread", "process"])
def test_close_is_called_in_every_replica_and_the_flow_ends_whatever_it_does(
    tmp_path: Path, wrong: str
) -> None:
    flow = Flow().add(
        name="closing",
        uses=Closing,
        uses_with={"folder": str(tmp_path), "wrong": wrong},
        replicas=2,
    )
    with flow:
        pids = replicas("closing")
        started = told(flow)
        assert list(tmp_path.iterdir()) == []
    assert {path.name: int(path.read_text()) for path in tmp_path.iterdir()} == {
        name.replace("/", "-"): pid for name, pid in pids.items()
    }
    for each in started.values():
        assert not each["pid"] or not alive(each["pid"]), "what the Executor started ends too"


def test_sigterm_lets_an_idle_replica_close_and_another_takes_its_place(tmp_path: Path) -> None:
    flow = Flow().add(name="closing", uses=Closing, uses_with={"folder": str(tmp_path)})
    with flow:
        before = pid_of("closing/rep-0")
        os.kill(before, signal.SIGTERM)
        wait_for((tmp_path / "closing-rep-0").exists, what="it closes")
        wait_for(
            lambda: replicas("closing").get("closing/rep-0", before) != before,
            what="another one comes",
        )
        assert int((tmp_path / "closing-rep-0").read_text()) == before
        assert told(flow)


class Keeps(Executor):
    """Has open what is to be closed when its process ends, and says so at exit."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        mine = Path(folder) / str(os.getpid())
        self.file = open(f"{mine}.file", "w", encoding="utf-8")  # noqa: SIM115
        self.temporary = tempfile.TemporaryDirectory(dir=folder)
        atexit.register(Path(f"{mine}.exit").touch)

    @requests
    def write(self, **kwargs: Any) -> None:
        self.file.write("written")


class AsyncKeeps(Keeps):
    """The same on an event loop, with a task of its own that has something to do at the end."""

    @requests
    async def write(self, **kwargs: Any) -> None:
        self.file.write("writ")
        self.task = asyncio.get_running_loop().create_task(self.wait_and_write())
        await asyncio.sleep(0)

    async def wait_and_write(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.file.write("ten")


@pytest.mark.parametrize(
    ("kind", "way"),
    [(AsyncKeeps, "close"), (AsyncKeeps, "spawn"), (Keeps, "restart"), (AsyncKeeps, "SIGTERM")],
)
def test_what_an_executor_has_open_is_written_and_removed_when_its_process_ends(
    tmp_path: Path, kind: type[Executor], way: str
) -> None:
    start = "spawn" if way == "spawn" else "fork"
    with Flow(start_method=start).add(
        name="keeps", uses=kind, uses_with={"folder": str(tmp_path)}
    ) as flow:
        flow.post("/")
        first = pid_of("keeps/rep-0")
        if way == "restart":
            flow.restart("keeps")
        if way == "SIGTERM":
            kill(first, signal.SIGTERM)
    assert (tmp_path / f"{first}.file").read_text() == "written"
    assert (tmp_path / f"{first}.exit").exists()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


class SlowToClose(Executor):
    """Waits in `close` until the test lets it go on."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        self.folder = Path(folder)

    @requests
    def nothing(self, **kwargs: Any) -> None:
        pass

    def close(self) -> None:
        (self.folder / "closing").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.001)
        (self.folder / "closed").touch()


class AsyncSlowToClose(SlowToClose):
    """The same on an event loop."""

    @requests
    async def nothing(self, **kwargs: Any) -> None:
        pass


@pytest.mark.parametrize("kind", [SlowToClose, AsyncSlowToClose])
def test_being_told_to_end_again_does_not_cut_close_short(
    tmp_path: Path, kind: type[Executor]
) -> None:
    with Flow().add(name="slow", uses=kind, uses_with={"folder": str(tmp_path)}) as flow:
        flow.post("/")
        pid = pid_of("slow/rep-0")
        os.kill(pid, signal.SIGTERM)
        wait_for((tmp_path / "closing").exists)
        os.kill(pid, signal.SIGTERM)
        (tmp_path / "go").touch()
        wait_for(lambda: not alive(pid))
        assert (tmp_path / "closed").exists()


def test_a_replica_has_the_name_of_its_seat(together: Flow) -> None:
    process = psutil.Process(pid_of("together/rep-0"))
    assert process.cmdline()[0] == "zflow: together/rep-0"
    assert process.name() == "together/rep-0"


def test_logging_set_up_by_the_user_reaches_the_replica(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    handler.setFormatter(logging.Formatter("%(name)s says %(message)s"))
    logging.getLogger("mine").addHandler(handler)
    try:
        with Flow().add(name="talker", uses=Talker) as flow:
            flow.post("/", Document(text="hello"))
    finally:
        logging.getLogger("mine").removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == "talker/rep-0: mine says hello\n"
    assert handler.formatter is not None
    assert type(handler.formatter) is logging.Formatter, "the user's own handler is as it was"


class Talker(Executor):
    """Logs what it gets."""

    @requests
    def log(self, docs: DocumentArray, **kwargs: Any) -> None:
        logging.getLogger("mine").warning(docs[0].text)


def test_results_of_a_chain_are_found_by_replica() -> None:
    with (
        Flow().add(name="a", uses=Tell).add(name="up", uses=Upper).add(name="b", uses=Tell) as flow
    ):
        assert sorted(told(flow)) == ["a/rep-0", "b/rep-0"]
        assert json.dumps(told(flow))


class Forking(Executor):
    """Works with a child process."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        fork = multiprocessing.get_context("fork")
        results = fork.SimpleQueue()
        child = fork.Process(target=results.put, args=(os.getppid(),))
        child.start()
        child.join()
        docs.texts = [str(results.get() == os.getppid())]


def test_in_a_daemon_process_of_multiprocessing_executors_may_have_children_all_the_same(
    tmp_path: Path,
) -> None:
    source = """
import multiprocessing
from test_worker import Forking
from zflow import Document, Flow

def serve():
    with Flow().add(uses=Forking) as flow:
        print(flow.post("/", Document()).texts, flush=True)

daemon = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
daemon.start()
daemon.join()
print(daemon.exitcode)
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(TESTS)])
    assert run_script(source, tmp_path, env={**os.environ, "PYTHONPATH": path}) == (
        0,
        "['True']\n0\n",
        "",
    )


def test_a_replica_without_descriptors_says_what_helps() -> None:
    words = r"^greedy/rep-0 could not start: Too many open files: raise the limit .*\(ulimit -n\)$"
    with pytest.raises(errors.StartupFailed, match=words):
        Flow().add(name="greedy", uses=Greedy).start()
