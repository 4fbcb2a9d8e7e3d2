"""`zflow-run`: its commands, what their options come to, its exit statuses and what it says."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, Upper, kill, replicas, wait_for

import zflow
from zflow import Client, Document, Flow, cli
from zflow.serve import KEYWORDS

ENCODER = """
import os
from zflow import Executor, requests

class Encoder(Executor):
    def __init__(self, size=8, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    @requests
    def encode(self, docs, **kwargs):
        for doc in docs:
            doc.tags = {"size": self.size, "pid": os.getpid(), "threads": os.environ.get("THREADS")}

    def close(self):
        print("closed", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an Executor in a file."""
    (tmp_path / "encoder.py").write_text(ENCODER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str], int]]:
    """`zflow-run` as it serves: the process, the lines before the last one it printed at first, and the port."""
    command = [sys.executable, "-m", "zflow", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                if line.startswith("serving at "):
                    break
                lines.append(line.rstrip("\n"))
            else:
                raise AssertionError(process.communicate())
            yield process, lines, int(line.partition(",")[0].rpartition(":")[2])
        finally:
            process.kill()


def run(*arguments: str) -> tuple[int, str, str]:
    """Run `zflow-run` to its end: exit status, stdout and stderr."""
    done = subprocess.run([sys.executable, "-m", "zflow", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run it here, where it has to refuse the usage; what it says."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


# -- which command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [["flow.yaml"], ["flow", "flow.yaml"], ["--uses", "flow.yaml"], ["./ping"]])
def test_a_flow_is_served_with_or_without_a_word(folder: Path, how: list[str]) -> None:
    for name in ("flow.yaml", "ping"):
        Path(name).write_text(
            "jtype: Flow\nexecutors:\n- name: e\n  uses: encoder.py:Encoder\n  replicas: 2\n"
            "- name: s\n  shards: 3\n- method: needs_all\n"
        )
    with served(*how) as (process, lines, port):
        assert lines == ["e: 2 replicas", "s: 3 shards of 1 replica"]
        assert Client(port=port).post("/", Document())[0].tags["size"] == 8
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, shown in [
        (["--help"], [*cli.COMMANDS, "zflow-run FLOW.yaml [options]"]),
        (["--version"], [f"zflow {zflow.__version__}"]),
        *(([name, "--help"], [command.usage, "--help"]) for name, command in cli.COMMANDS.items()),
    ]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        out = capsys.readouterr().out
        for text in shown:
            assert text in out
        assert len(out.splitlines()) < 90


def test_wrong_usage_is_refused_with_the_way_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name one YAML file, such as: zflow-run flow.yaml" in refused(capsys)
    assert "one YAML file, not ['a.yaml', 'b.yaml']" in refused(capsys, "a.yaml", "b.yaml")
    assert "'pnig' is neither a command nor a file; did you mean 'ping'?" in refused(capsys, "pnig", "127.0.0.1:5555")
    assert "--context takes NAME=VALUE, not 'x'" in refused(capsys, "flow.yaml", "--context", "x")
    assert "--uses" in refused(capsys, "executor", "--port", "5555")
    said = refused(capsys, "executor", "--uses", "encoder.py", "--uses-with", "size=[1")
    assert "--uses-with size: '[1' is no YAML value" in said
    assert "--env takes NAME=VALUE, not '=4'" in refused(capsys, "executor", "--uses", "encoder.py", "--env", "=4")
    assert "names no port: write 'HOST:PORT'" in refused(capsys, "ping", "localhost")
    assert "--timeout must be a number of ms above 0" in refused(capsys, "ping", "5555", "--timeout", "0")
    said = refused(capsys, "ping", "5555", "--timeout", "0.5")
    assert "--timeout is in milliseconds: 0.5 is less than one; 500 is half a second" in said
    assert "--count must be 1 or more, not 0" in refused(capsys, "ping", "5555", "--count", "0")


def test_what_cannot_run_is_said_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        (["missing.yaml"], "missing.yaml: cannot read it: No such file or directory"),
        (
            ["executor", "--uses", "encoder.py:Encoder", "--replicas", "0"],
            "replicas must be a whole number of 1 or more",
        ),
        (["executor", "--uses", "encoder.py:Encoder", "--polling", "{/a: SOME}"], "polling must be ANY or ALL"),
        (
            ["executor", "--uses", "encoder.py:Encoder", "--port", "99999"],
            "port must be a whole number from 1 to 65535",
        ),
        (["executor", "--uses", "encoder.py:Encodr"], "did you mean 'Encoder'?"),
    ]:
        assert cli.main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("zflow-run: ")
        assert message in err
        assert "Traceback" not in err


# -- executor ---------------------------------------------------------------------------------------------------------


def test_an_executor_is_served_alone(folder: Path) -> None:
    options = ["--replicas", "2", "--uses-with", "size={a: [1, x]}", "--env", "THREADS=4", "--workspace", "here"]
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
    with served("executor", "--uses", "encoder.py", "--name", "enc", "--shards", "2", "--polling", "ALL") as (
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
    for key in KEYWORDS:
        assert f"--{key.replace('_', '-')} " in shown or f"--{key.replace('_', '-')}\n" in shown


# -- ping -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="encoder", uses=Upper, replicas=2).add(name="indexer", uses=Upper) as running:
        yield running


@pytest.mark.parametrize("form", ["{}", "127.0.0.1:{}", "localhost:{}", "tcp://127.0.0.1:{}"])
def test_ping_tells_about_the_flow(flow: Flow, capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert cli.main(["ping", form.format(flow.port), "--count", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    version, trip, progress, *executors = out.splitlines()
    assert version.startswith(f"zflow {zflow.__version__} at ")
    assert version.endswith(f":{flow.port}")
    assert trip.startswith("round trip: ")
    assert "ms (median of 3), " in trip
    assert progress == "requests in progress: 0"
    assert executors == [
        "encoder: 2 replicas (encoder/rep-0, encoder/rep-1), 0 queued",
        "indexer: 1 replica (indexer/rep-0), 0 queued",
    ]
    assert cli.main(["ping", form.format(flow.port), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_ping_fails_where_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but not listening
        port = str(nobody.getsockname()[1])
        assert cli.main(["ping", port, "--timeout", "100"]) == 1
        out, err = capsys.readouterr()
        assert (out, err.startswith("zflow-run: ")) == ("", True)
        assert f"127.0.0.1:{port}" in err
        assert "is it running, is the port right" in err
        assert cli.main(["ping", port, "--timeout", "100", "--quiet"]) == 1
        assert capsys.readouterr() == ("", "")


def test_ping_waits_for_a_flow_that_is_just_starting(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "zflow", "executor", "--uses", "encoder.py", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        assert cli.main(["ping", str(port), "--timeout", str(1000 * PATIENCE)]) == 0
        assert "executor0: " in capsys.readouterr().out
        process.terminate()


def test_ping_speaks_ipv6(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with Flow(host="::1").add(name="up", uses=Upper) as flow:
        assert cli.main(["ping", f"[::1]:{flow.port}"]) == 0
        assert f" at [::1]:{flow.port}\n" in capsys.readouterr().out


def test_ping_tells_which_executor_has_no_replica(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Flow().add(name="broken", uses=OnlyOnce, uses_with={"folder": str(tmp_path)}) as flow:
        kill(replicas("broken")["broken/rep-0"])

        def shown() -> bool:
            assert cli.main(["ping", str(flow.port)]) == 0
            return "broken: 0 replicas, 0 queued\n" in capsys.readouterr().out

        wait_for(shown)
        with Client(port=flow.port) as client:
            assert not client.is_flow_ready()


def test_ping_tells_which_addresses_of_an_external_executor_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody, Flow().add(uses=Upper) as far:
        nobody.bind(("127.0.0.1", 0))
        there, not_there = f"127.0.0.1:{far.port}", f"127.0.0.1:{nobody.getsockname()[1]}"
        with Flow().add(name="far", host=[there, not_there], external=True) as flow:
            assert cli.main(["ping", str(flow.port)]) == 0
            assert capsys.readouterr().out.splitlines()[-1] == f"far: 1 of 2 addresses (far@{there}), 0 queued"


class OnlyOnce(Upper):
    """Starts once, and never again."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        os.close(os.open(Path(folder, "started"), os.O_CREAT | os.O_EXCL))
