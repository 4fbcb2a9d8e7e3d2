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
def test_a_broker_started_anew_knows_which_executors_a_request_passes_by(tmp_path: Path, retries: int) -> None:
    flow = Flow().add(name="once", uses=Once, retries=retries)
    flow.add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)})
    with flow, Client(port=flow.port) as client:
        posted = in_background(client.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        passed_by = pid_of("once/rep-0")
        os.kill(passed_by, signal.SIGSTOP)  # so that the new broker does not hear from it what it binds
        kill(pid_of("broker"))
        let_go(tmp_path, "held")
        assert posted.result(PATIENCE).texts == ["held"]
        assert client.info()["epoch"] == 1
        os.kill(passed_by, signal.SIGCONT)
        wait_for(lambda: client.info()["executors"]["once"]["replicas"] == ["once/rep-0"])
        assert client.post("/once", Document(text="a")).texts == ["a"]
