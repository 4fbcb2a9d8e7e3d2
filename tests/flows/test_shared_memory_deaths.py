"""Shared memory, and whoever dies meanwhile: nothing is lost, nothing wrong,
and nothing of the memory left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    PATIENCE,
    Gate,
    Script,
    alive,
    begun,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    wait_for,
)
from sharing import (
    LITTLE,
    SIZE,
    Add,
    Shard,
    arrays,
    comes_back,
    no_file,
    resident,
    right,
    the_client_keeps_nothing,
)

from zflow import Document, Flow

pytestmark = pytest.mark.slow

__all__ = ["no_file", "the_client_keeps_nothing"]  # fixtures


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something again and again, from a moment after the beginning on."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(random.uniform(0.05, 0.2)):
            action()

    doing = in_background(run)
    try:
        yield
    finally:
        over.set()
        doing.result(PATIENCE)


def kill_one(executor: str) -> None:
    """Kill one of an Executor's replicas, if there is one at the moment."""
    pids = list(replicas(executor).values())
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(pids), signal.SIGKILL)


@pytest.mark.parametrize("shards", [1, 2])
def test_replicas_killed_under_load(shards: int) -> None:
    uses: Any = Add if shards == 1 else Shard
    flow = (
        Flow()
        .add(name="first", uses=uses, shards=shards, replicas=3, retries=100)
        .add(uses=Add, replicas=2)
    )
    with flow, meanwhile(lambda: kill_one("first")):
        if shards == 1:
            assert right(flow.post("/slow", arrays(400), request_size=1), 400, more=2.0)
        else:
            for at, doc in enumerate(flow.post("/search", arrays(200), request_size=1)):
                assert sorted(float(match.tensor[0]) - at for match in doc.matches) == [10.0, 100.0]
    # The Flow is closed: with its last process the memory is gone, whatever was in it.


def test_the_memory_of_dead_replicas_comes_back() -> None:
    with Flow().add(name="add", uses=Add, replicas=2) as flow:
        for _ in range(3):
            with meanwhile(lambda: kill_one("add")):
                assert right(flow.post("/slow", arrays(50), request_size=1), 50)
        comes_back(flow)


def test_the_broker_killed_under_load() -> None:
    with Flow().add(name="first", uses=Add, replicas=2).add(uses=Add) as flow:
        posting = in_background(flow.post, "/slow", arrays(300), request_size=1)
        for _ in range(3):
            wait_for(lambda: resident(flow) > LITTLE or posting.done())
            kill(pid_of("broker"))
        assert right(posting.result(PATIENCE), 300, more=2.0)
        comes_back(flow)


def test_a_replica_that_is_at_a_request_when_the_broker_dies(tmp_path: Path) -> None:
    with Flow().add(uses=Gate, uses_with={"folder": str(tmp_path)}) as flow:
        posting = in_background(flow.post, "/hold", Document(text="a", tensor=np.ones(SIZE)))
        begun(tmp_path, "a")
        kill(pid_of("broker"))
        let_go(tmp_path, "a")
        (doc,) = posting.result(PATIENCE)
        assert doc.tensor.sum() == SIZE
        comes_back(flow)


def test_scaled_down_and_restarted_replicas_leave_nothing() -> None:
    with Flow().add(name="add", uses=Add, replicas=3) as flow:
        posting = in_background(flow.post, "/slow", arrays(400), request_size=1)
        flow.restart("add")
        flow.scale("add", 1)
        flow.scale("add", 2)
        assert right(posting.result(PATIENCE), 400)
        comes_back(flow)


@pytest.mark.parametrize("victim", ["manager", "user"])
def test_nothing_is_left_when_all_processes_are_killed(tmp_path: Path, victim: str) -> None:
    source = (
        "import numpy as np, time\nfrom zflow import Document, Executor, Flow, requests\n"
        "class Slow(Executor):\n    @requests\n    def work(self, docs, **kwargs):\n        "
        "time.sleep(0.01)\n"
        "with Flow().add(uses=Slow, replicas=2) as flow:\n"
        "    print('serves', flush=True)\n"
        "    def docs():\n        while True:\n            yield Document(tensor=np.ones(10 ** "
        "5))\n"
        "    flow.post('/', docs(), request_size=1, on_done=lambda _: None)\n"
    )
    with Script(source, tmp_path) as script:
        script.line()
        family = script.family()
        kill(script.pid if victim == "user" else pid_of("manager"))
        if victim == "manager":
            assert "FlowNotRunning" in script.end()[2]
        wait_for(lambda: not any(alive(pid) for pid in family if pid != script.pid), what="all end")
