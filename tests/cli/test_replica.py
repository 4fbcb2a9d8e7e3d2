"""`zflow-run replica`: what it runs, what it says, and how it ends.
How replicas join and leave is `remote`'s.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import refused, shown
from helpers import PATIENCE, Upper, free_port, launched, texts, wait_for

from zflow import Flow, cli, remote


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow(replica_port=0).add(name="enc", uses=Upper) as running:
        yield running


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_it_runs_what_its_options_say_until_it_is_interrupted(
    flow: Flow, folder: Path, how: signal.Signals
) -> None:
    where = ["--broker", f"localhost:{flow.replica_port}", "--executor", "enc"]
    options = ["--uses-with", "size={a: [1, x]}", "--env", "THREADS=4", "--replicas", "2"]
    command = [
        sys.executable,
        "-m",
        "zflow",
        "replica",
        *where,
        "--uses",
        "encoder.py:Encoder",
        *options,
    ]
    with launched(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert (
            said
            == f"enc of the Flow at localhost:{flow.replica_port}: 2 replicas here, until Ctrl-C\n"
        )
        found = {}

        def both() -> bool:
            tags = [doc.tags for doc in flow.post("/", texts(100), request_size=1)]
            found.update(
                {tag["pid"]: (tag["size"], tag["threads"]) for tag in tags if "size" in tag}
            )
            return len(found) == 2

        wait_for(both, what="both replicas get requests")
        assert list(found.values()) == [({"a": [1, "x"]}, "4")] * 2
        process.send_signal(how)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "closed\n" * 2, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--executor", "enk"],
            "the Flow has no Executor 'enk' that replicas could join; did you mean 'enc'?",
        ),
        (
            ["--executor", "enc", "--shard", "1"],
            "shard must be from 0 to 0, not 1 (executor 'enc')",
        ),
        (
            ["--executor", "enc", "--replicas", "0"],
            "replicas must be a whole number of 1 or more, not 0",
        ),
        (
            ["--executor", "enc", "--replicas", "{max: 8}"],
            "replicas must be how many to run here: only the Flow's own",
        ),
        (
            ["--executor", "enc", "--curve", "none"],
            "there is no key folder none: make one with `zflow-run keys new",
        ),
    ],
)
def test_what_cannot_join_is_told_why_in_one_line(
    flow: Flow, folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    where = ["--broker", f"localhost:{flow.replica_port}", "--uses", "encoder.py:Encoder"]
    assert cli.main(["replica", *where, *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"zflow-run: {message}")
    assert err.count("\n") == 1


def test_the_port_of_the_clients_is_not_the_one_to_join_at(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            [
                "replica",
                "--broker",
                f"localhost:{flow.port}",
                "--executor",
                "enc",
                "--uses",
                "Upper",
            ]
        )
        == 1
    )
    assert (
        "is where clients of the Flow connect: replicas join at the port that"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("left_out", ["--broker", "--executor", "--uses"])
def test_it_has_to_be_told_where_whose_and_what(
    capsys: pytest.CaptureFixture[str], left_out: str
) -> None:
    said = {"--broker": f"localhost:{free_port()}", "--executor": "enc", "--uses": "Upper"}
    words = [
        word for option, value in said.items() if option != left_out for word in (option, value)
    ]
    assert f"the following arguments are required: {left_out}\n" in refused(
        capsys, "replica", *words
    )


def test_it_has_an_option_for_every_keyword_that_is_said_where_a_replica_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line.split() for line in shown(capsys, "replica").splitlines()]
    options = {line[0] for line in lines if line}
    assert options >= {f"--{key.replace('_', '-')}" for key in remote.TAKES}
    said = ["--broker", "localhost:1", "--executor", "enc", "--uses", "Upper"]
    assert "--polling" in refused(capsys, "replica", *said, "--polling", "ALL")
