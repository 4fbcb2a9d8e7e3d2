"""`zflow-run flow`: which YAML file is served, and what the command line says over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import refused, served
from helpers import free_port

from zflow import Client, Document, cli
from zflow.network import keys


def test_there_is_one_yaml_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name one YAML file, such as: zflow-run flow.yaml" in refused(capsys)
    assert "one YAML file, not ['a.yaml', 'b.yaml']" in refused(capsys, "a.yaml", "b.yaml")
    assert "one YAML file, not ['a.yaml', 'b.yaml']" in refused(
        capsys, "a.yaml", "--uses", "b.yaml"
    )


def test_a_value_of_the_context_is_written_name_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--context takes NAME=VALUE, not 'x'" in refused(capsys, "flow.yaml", "--context", "x")


def test_the_command_line_counts_over_the_yaml_and_fills_it_in(folder: Path) -> None:
    keys.new("mine")
    Path("flow.yaml").write_text(
        "jtype: Flow\nwith: {port: 1, host: 192.0.2.1}\nexecutors:\n- name: ${{ CONTEXT.name }}\n"
        "  uses: encoder.py:Encoder\n  uses_with: {size: '${{ CONTEXT.size }}'}\n"
    )
    port = free_port()
    over = ["--port", str(port), "--host", "127.0.0.1", "--curve", "mine"]
    with served("flow.yaml", *over, "--context", "size=a=b", "--context", "name=enc") as (
        _,
        lines,
        there,
    ):
        assert lines == ["enc: 1 replica"]
        assert there == port
        with Client(port=port, curve="mine") as client:
            assert client.post("/", Document())[0].tags["size"] == "a=b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "jtype: Flow\nexecuters: []",
            "flow.yaml:2: unknown key 'executers'; did you mean 'executors'?",
        ),
        (
            "jtype: Flow\nwith:\n  port: ${{ CONTEXT.prt }}",
            "flow.yaml:3: CONTEXT.prt is not set; did you mean 'port'?",
        ),
    ],
)
def test_what_is_wrong_in_the_yaml_is_said_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("flow.yaml").write_text(text)
    assert cli.main(["flow.yaml", "--context", "port=1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"zflow-run: {message}")
