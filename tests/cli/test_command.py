"""What the commands share: how a Flow is served until it is interrupted,
and how numbers of things are written.
"""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from commands import run, served
from helpers import PATIENCE, Script, Upper, wait_for

from zflow import Client, Document, Flow
from zflow.cli.command import counted

STARTING = """
import sys
from pathlib import Path
from threading import Event
from zflow import Executor, Flow
from zflow.cli.command import serve

class Slow(Executor):
    def __init__(self, folder, **kwargs):
        super().__init__(**kwargs)
        (Path(folder) / "begun").touch()
        Event().wait()

sys.exit(serve(Flow().add(name="slow", uses=Slow, uses_with={"folder": sys.argv[1]})))
"""


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "replica", "0 replicas"),
        (1, "replica", "1 replica"),
        (2, "replica", "2 replicas"),
        (1, "address", "1 address"),
        (12, "address", "12 addresses"),
    ],
)
def test_one_is_counted_otherwise_than_several(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def test_it_says_where_each_executor_runs_and_where_the_flow_listens(folder: Path) -> None:
    with Flow().add(uses=Upper) as far:
        Path("flow.yaml").write_text(
            f"jtype: Flow\nexecutors:\n- {{name: far, external: true, port: {far.port}}}\n"
            "- {name: near, uses: encoder.py:Encoder, shards: 2, replicas: 2, polling: ALL}\n"
            "- {method: needs, name: join, needs: [far, near]}\n"
        )
        with served("flow.yaml") as (process, lines, port):
            assert lines == [
                f"far: external, at 127.0.0.1:{far.port}",
                "near: 2 shards of 2 replicas",
            ]
            assert Client(port=port).is_flow_ready()
            process.terminate()
            assert process.wait(PATIENCE) == 0


def test_an_ipv6_address_is_written_in_brackets(folder: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with served("executor", "--uses", "encoder.py", "--host", "::1") as (process, _, port):
        assert Client(f"[::1]:{port}").post("/", Document())[0].tags["size"] == 8
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_ctrl_c_while_it_starts_is_no_error(tmp_path: Path) -> None:
    with Script(STARTING, tmp_path, tmp_path) as script:
        wait_for((tmp_path / "begun").exists, what="the Executor begins to start")
        script.process.send_signal(signal.SIGINT)
        assert script.end() == (0, "", "")


def test_a_flow_that_does_not_start_is_not_said_to_serve(folder: Path) -> None:
    Path("encoder.py").write_text("raise RuntimeError('no model here')")
    status, out, err = run("executor", "--uses", "encoder.py:Encoder")
    assert (status, out) == (1, "")
    assert err.startswith("zflow-run: ")
    assert "RuntimeError: no model here" in err
