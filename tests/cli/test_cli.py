"""`zflow-run`: how a command is found, its help,
its exit statuses and what it says when something is wrong.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused, served
from helpers import PATIENCE, launched

import zflow
from zflow import Client, Document, cli


@pytest.mark.parametrize(
    "how", [["flow.yaml"], ["flow", "flow.yaml"], ["--uses", "flow.yaml"], ["./ping"]]
)
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
        assert len(out.splitlines()) < 95


def test_a_word_that_looks_like_a_command_is_not_taken_for_a_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "'pnig' is neither a command nor a file; did you mean 'ping'?" in refused(
        capsys, "pnig", "127.0.0.1:5555"
    )


def test_what_cannot_run_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in [
        (["missing.yaml"], "missing.yaml: cannot read it: No such file or directory"),
        (
            ["executor", "--uses", "encoder.py:Encoder", "--replicas", "0"],
            "replicas must be a whole number of 1 or more",
        ),
        (
            ["executor", "--uses", "encoder.py:Encoder", "--polling", "{/a: SOME}"],
            "polling must be ANY or ALL",
        ),
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


def test_what_ctrl_c_cuts_short_ends_as_in_a_shell() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "zflow", "ping", where, "--timeout", str(1000 * PATIENCE)]
        with launched(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            silent.settimeout(PATIENCE)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (130, "", "")
