"""`zflow-run ping`: what it tells about a Flow, and how it says that there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from helpers import PATIENCE, Upper, kill, launched, replicas, wait_for
from peers import stranger, welcome

import zflow
from zflow import Client, Flow, cli
from zflow.network import keys


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with (
        Flow()
        .add(name="encoder", uses=Upper, replicas=2)
        .add(name="indexer", uses=Upper) as running
    ):
        yield running


@pytest.mark.parametrize("form", ["{}", "127.0.0.1:{}", "localhost:{}", "tcp://127.0.0.1:{}"])
def test_ping_tells_about_the_flow(
    flow: Flow, capsys: pytest.CaptureFixture[str], form: str
) -> None:
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


def test_ping_waits_for_a_flow_that_is_just_starting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "zflow",
        "executor",
        "--uses",
        "encoder.py",
        "--port",
        str(port),
    ]
    with launched(command, stdout=subprocess.DEVNULL) as process:
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


def test_ping_tells_which_executor_has_no_replica(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Flow().add(name="broken", uses=OnlyOnce, uses_with={"folder": str(tmp_path)}) as flow:
        kill(replicas("broken")["broken/rep-0"])

        def shown() -> bool:
            assert cli.main(["ping", str(flow.port)]) == 0
            return "broken: 0 replicas, 0 queued\n" in capsys.readouterr().out

        wait_for(shown)
        with Client(port=flow.port) as client:
            assert not client.is_flow_ready()


def test_ping_tells_which_addresses_of_an_external_executor_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as nobody, Flow().add(uses=Upper) as far:
        nobody.bind(("127.0.0.1", 0))
        there, not_there = f"127.0.0.1:{far.port}", f"127.0.0.1:{nobody.getsockname()[1]}"
        with Flow().add(name="far", host=[there, not_there], external=True) as flow:
            assert cli.main(["ping", str(flow.port)]) == 0
            assert (
                capsys.readouterr().out.splitlines()[-1]
                == f"far: 1 of 2 addresses (far@{there}), 0 queued"
            )


class OnlyOnce(Upper):
    """Starts once, and never again."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        os.close(os.open(Path(folder, "started"), os.O_CREAT | os.O_EXCL))


def test_a_number_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "names no port: write 'HOST:PORT'" in refused(capsys, "ping", "localhost")
    assert "--timeout must be a number of ms above 0" in refused(
        capsys, "ping", "5555", "--timeout", "0"
    )
    said = refused(capsys, "ping", "5555", "--timeout", "0.5")
    assert "--timeout is in milliseconds: 0.5 is less than one; 500 is half a second" in said
    assert "--count must be 1 or more, not 0" in refused(capsys, "ping", "5555", "--count", "0")


def test_ping_shows_the_keys_that_a_flow_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "keys"
    keys.new(folder)
    with Flow(curve=str(folder)).add(name="up", uses=Upper) as flow:
        assert cli.main(["ping", str(flow.port), "--curve", str(folder)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "up: 1 replica (up/rep-0), 0 queued"
        assert cli.main(["ping", str(flow.port), "--timeout", "100"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "does it ask for keys (curve=)" in err
        assert cli.main(["ping", str(flow.port), "--curve", str(tmp_path / "none")]) == 1
        assert "make one with `zflow-run keys new" in capsys.readouterr().err


def test_what_a_stranger_tells_is_shown_in_one_line_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    info = {
        "version": "1\x1b[2J",
        "requests": "0\nzflow 1.0 at bank.example",
        "executors": {"a\rb": {"replicas": ["rep\x07"], "queued": 0}},
    }
    with stranger(lambda message: welcome(message, info)) as port:
        assert cli.main(["ping", str(port)]) == 0
    out = capsys.readouterr().out
    assert [line[:5] for line in out.splitlines()] == ["zflow", "round", "reque", "a\\rb:"]
    assert all(character.isprintable() or character == "\n" for character in out)
