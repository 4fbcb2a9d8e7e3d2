"""`zflow-run executor`: one Executor served alone, from its options to its end."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest
from commands import refused, run, served
from helpers import PATIENCE, replicas

from zflow import Client, Document, cli
from zflow.serve import KEYWORDS


def test_it_has_to_be_told_which_executor(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--uses" in refused(capsys, "executor", "--port", "5555")


def test_an_executor_is_served_alone(folder: Path) -> None:
    options = [
        "--replicas",
        "2",
        "--uses-with",
        "size={a: [1, x]}",
        "--env",
        "THREADS=4",
        "--workspace",
        "here",
    ]
    with served("executor", "--uses", "encoder.py:Encoder", *options) as (process, lines, port):
        assert lines == ["Encoder: 2 replicas"]
        assert sorted(replicas("Encoder")) == ["Encoder/rep-0", "Encoder/rep-1"]
        with Client(f"localhost:{port}") as client:
            docs = client.post("/", (Document() for _ in range(100)), request_size=1)
        assert {doc.tags["pid"] for doc in docs} == set(replicas("Encoder").values())
        assert docs[0].tags["size"] == {"a": [1, "x"]}
        assert docs[0].tags["threads"] == "4", "an environment variable stays text"
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "closed\n" * 2, "")


def test_it_ends_in_good_order_by_ctrl_c(folder: Path) -> None:
    with served(
        "executor", "--uses", "encoder.py", "--name", "enc", "--shards", "2", "--polling", "ALL"
    ) as (
        process,
        lines,
        port,
    ):
        assert lines == ["enc: 2 shards of 1 replica"]
        docs = Client(port=port).post("/", Document(id="x"))
        assert docs[0].tags["pid"] == replicas("enc")["enc/shard-0/rep-0"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "closed\n" * 2, "")


def test_an_executor_that_does_not_start_says_why(folder: Path) -> None:
    status, out, err = run("executor", "--uses", "encoder.py:Encoder", "--py-modules", "missing.py")
    assert (status, out) == (1, "")
    assert "missing.py" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, out, err = run("executor", "--uses", "encoder.py:Encoder", "--port", port)
    assert (status, out) == (1, "")
    assert err.startswith("zflow-run: ")
    assert port in err


def test_there_is_an_option_for_every_keyword(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["executor", "--help"])
    shown = capsys.readouterr().out
    assert "the TCP port to listen on; any free one when left out, which is printed" in " ".join(
        shown.split()
    )
    for key in KEYWORDS:
        assert re.search(rf"--{key.replace('_', '-')}[ ,\n]", shown), key


def test_numbers_without_a_default_are_numbers_all_the_same(folder: Path) -> None:
    with served(
        "executor", "--uses", "encoder.py:Encoder", "--max-connections", "20", "--seed", "4"
    ) as (
        process,
        lines,
        _,
    ):
        assert lines == ["Encoder: 1 replica"]
        process.terminate()
        assert process.wait(PATIENCE) == 0
