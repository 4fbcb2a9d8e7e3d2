"""What Flows that come and go give back: processes, threads, descriptors, temporary files;
and what they cost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import (
    PATIENCE,
    Gate,
    Upper,
    children,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    run_script,
    texts,
    wait_for,
)

from zflow import Client, Document, DocumentArray, Executor, Flow, errors, requests

pytestmark = pytest.mark.slow

TIMES = 30
# Times the processor time of `import zmq, msgpack`; as a rule it is about the same.
IMPORT_AT_MOST = 2
MOST_MODULES = 38  # of zflow that `import zflow` loads
OWN_MIB = 15  # of memory of its own, per idle replica


class Broken(Executor):
    """Does not start, or does not answer."""

    def __init__(self, start: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not start:
            raise RuntimeError("does not start")

    @requests
    def fail(self, docs: DocumentArray, **kwargs: Any) -> None:
        raise ValueError("does not answer")


def held() -> dict[str, Any]:
    """What this process and its children hold of the system."""
    return {
        "processes": len(children()),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": sorted(os.listdir(tempfile.gettempdir())),
    }


def gives_back(cycle: Callable[[], None], times: int) -> None:
    """Run the cycle, first twice for what is only made once; then it must leave nothing behind."""
    for _ in range(2):
        cycle()
    before = held()
    for _ in range(times):
        cycle()
    wait_for(lambda: held() == before, 5, f"{before} again, not {held()}")


def test_starts_and_stops_leave_nothing_behind() -> None:
    flow = Flow().add(uses=Upper)

    def cycle() -> None:
        with flow:
            assert flow.post("/", Document(text="a")).texts == ["A"]

    gives_back(cycle, TIMES)


def test_starts_that_fail_leave_nothing_behind() -> None:
    flow = Flow().add(uses=Upper, replicas=2).add(uses=Broken)

    def cycle() -> None:
        with pytest.raises(errors.StartupFailed):
            flow.start()

    gives_back(cycle, 8)


def test_clients_and_failures_leave_nothing_behind() -> None:
    def cycle() -> None:
        with Client(port=flow.port) as client:
            for _ in range(3):
                with pytest.raises(errors.ExecutorError):
                    client.post("/", texts(50), request_size=1)
            with pytest.raises(errors.SerializationError):
                client.post("/", Document(tags={"a": object()}))

    with Flow().add(uses=Broken, uses_with={"start": True}) as flow:
        gives_back(cycle, 10)


def test_restarts_leave_nothing_behind_in_manager_and_broker() -> None:
    with Flow().add(name="mortal", uses=Upper, replicas=4) as flow:

        def counts() -> list[int]:
            return [len(os.listdir(f"/proc/{pid_of(name)}/fd")) for name in ("manager", "broker")]

        def restart(number: int) -> None:
            name = f"mortal/rep-{number % 4}"
            kill(pid_of(name))
            wait_for(lambda: len(replicas("mortal")) == 4, what=f"{name} is back")
            assert flow.post("/", texts(20), request_size=1)[0].text == "0"

        flow.post("/", texts(20), request_size=1)
        before = counts()
        for number in range(8):
            restart(number)
        wait_for(lambda: counts() == before, 10, f"{before} descriptors again, not {counts()}")


def test_a_process_with_many_descriptors(tmp_path: Path) -> None:
    """`select` cannot take descriptors from 1024 on; nothing of ours may depend on low ones."""
    source = (
        "import os, resource\nsoft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))\n"
        "kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]\n"
        "from zflow import Document, Flow\nwith Flow().add(replicas=2) as flow:\n"
        "    print(flow.post('/', Document(text='a'), target_executor='executor0').texts)\n"
    )
    code, out, err = run_script(source, tmp_path)
    assert (code, out) == (0, "['a']\n"), err


# -- what it costs ---------------------------------------------------------------------------------


def test_import_is_quick_and_takes_in_nothing_large(tmp_path: Path) -> None:
    """What a Flow needs only once it starts is imported then: pyzmq and msgpack,
    which are the measure here, too.
    """

    def measure(what: str) -> tuple[float, list[str]]:
        code = (
            f"import sys, time; begin = time.process_time(); import {what}; took = "
            "time.process_time() - begin;"
            " print(took, *sorted(sys.modules))"
        )
        command = [sys.executable, "-X", f"pycache_prefix={tmp_path}", "-c", code]
        out = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        return float(out[0]), out[1:]

    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    pairs = [(measure("zflow"), measure("zmq, msgpack")) for _ in range(5)]
    loaded = pairs[0][0][1]
    heavy = {"numpy", "asyncio", "yaml", "psutil", "multiprocessing", "tempfile", "zmq", "msgpack"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
    assert sum(name.partition(".")[0] == "zflow" for name in loaded) <= MOST_MODULES
    quickest = [min(seconds for seconds, _ in some) for some in zip(*pairs, strict=True)]
    assert quickest[0] < IMPORT_AT_MOST * quickest[1]


MEMORY = """
from zflow import Document, Executor, Flow, requests

class Trivial(Executor):
    @requests
    def nothing(self, docs, **kwargs):
        pass

with Flow().add(uses=Trivial, replicas=4) as flow:
    flow.post("/", (Document(text="a") for _ in range(200)), request_size=1)
    import psutil
    for process in psutil.Process().children(recursive=True):
        if "/rep-" in process.cmdline()[0]:
            print(process.memory_full_info().pss)
"""


def test_an_idle_replica_has_little_memory_of_its_own(tmp_path: Path) -> None:
    code, out, err = run_script(MEMORY, tmp_path)
    assert (code, err) == (0, "")
    sizes = [int(line) / 2**20 for line in out.split()]
    assert len(sizes) == 4
    assert max(sizes) < OWN_MIB


def test_the_broker_gives_memory_back_when_a_rush_is_over(tmp_path: Path) -> None:
    def size() -> int:
        return int(psutil.Process(broker).memory_info().rss)

    with (
        Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}) as flow,
        Client(port=flow.port) as tcp,
    ):
        broker = pid_of("broker")
        let_go(tmp_path, "first")
        tcp.post("/hold", Document(text="first"))
        before = size()
        blobs = [Document(text="held", blob=bytes(60_000)) for _ in range(800)]
        rush = in_background(tcp.post, "/hold", blobs, request_size=1, prefetch=len(blobs))
        wait_for(lambda: flow._running()[1].info()["requests"] == len(blobs))
        most = size()
        let_go(tmp_path, "held")
        assert len(rush.result(PATIENCE)) == len(blobs)
        wait_for(lambda: size() - before < (most - before) * 0.3, what="little is kept")
