"""What the harness has found, each in a test of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, Gate, begun, in_background, kill, let_go, pid_of, wait_for

from zflow import Client, Document, DocumentArray, Executor, Flow, requests


class Once(Executor):
    """Binds one endpoint, and is not to begin anything twice."""

    @requests(on="/once")
    def once(self, docs: DocumentArray, **kwargs: Any) -> None:
        pass


@pytest.mark.parametrize("retries", [0, 3])
def test_a_broker_started_anew_knows_which_executors_a_request_passes_by(
    tmp_path: Path, retries: int
) -> None:
    flow = Flow().add(name="once", uses=Once, retries=retries)
    flow.add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)})
    with flow, Client(port=flow.port) as client:
        posted = in_background(client.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        passed_by = pid_of("once/rep-0")
        # So that the new broker does not hear from it what it binds.
        os.kill(passed_by, signal.SIGSTOP)
        kill(pid_of("broker"))
        let_go(tmp_path, "held")
        assert posted.result(PATIENCE).texts == ["held"]
        assert client.info()["epoch"] == 1
        os.kill(passed_by, signal.SIGCONT)
        wait_for(lambda: client.info()["executors"]["once"]["replicas"] == ["once/rep-0"])
        assert client.post("/once", Document(text="a")).texts == ["a"]


class SlowStart(Executor):
    """A second replica is not ready before a file is there."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.runtime_args.replica_id:
            (Path(folder) / "starting").touch()
            wait_for(lambda: (Path(folder) / "go").exists())

    @requests
    def answer(self, docs: DocumentArray, **kwargs: Any) -> None:
        pass


def test_a_broker_started_anew_hears_of_commands_that_the_one_before_was_given(
    tmp_path: Path,
) -> None:
    flow = Flow().add(name="slow", uses=SlowStart, uses_with={"folder": str(tmp_path)})
    with flow, Client(port=flow.port) as client:
        change = in_background(flow.scale, "slow", 2)
        wait_for(lambda: (tmp_path / "starting").exists())
        kill(pid_of("broker"))
        wait_for(lambda: client.info()["epoch"] == 1)
        (tmp_path / "go").touch()
        assert change.result(PATIENCE)["replicas"] == 2
        assert client.info()["epoch"] == 1, "it has not died of what it had not asked for"
