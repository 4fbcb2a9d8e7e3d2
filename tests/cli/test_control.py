"""`zflow-run scale`, `restart`, `drain`, `undrain`: what they do to a running Flow,
and what they say.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from commands import refused
from faulty import Start
from helpers import Upper, replicas, texts, wait_for

from zflow import Client, Flow, cli


@pytest.fixture
def flow() -> Iterator[Flow]:
    with (
        Flow()
        .add(name="indexer", uses=Upper)
        .add(name="encoder", uses=Upper, replicas=2) as running
    ):
        yield running


def names(flow: Flow, executor: str) -> list[str]:
    """The replicas that the broker knows."""
    with Client(port=flow.port) as client:
        found: list[str] = client.info()["executors"][executor]["replicas"]
        return found


def test_scale_gives_each_executor_as_many_replicas_as_are_said(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["scale", str(flow.port), "encoder=3", "indexer=2"]) == 0
    said = "encoder: 3 replicas instead of 2\nindexer: 2 replicas instead of 1\n"
    assert capsys.readouterr() == (said, "")
    assert names(flow, "encoder") == ["encoder/rep-0", "encoder/rep-1", "encoder/rep-2"]
    assert names(flow, "indexer") == ["indexer/rep-0", "indexer/rep-1"]
    assert cli.main(["scale", f"localhost:{flow.port}", "indexer=1", "encoder=2"]) == 0
    assert (
        capsys.readouterr().out
        == "indexer: 1 replica instead of 2\nencoder: 2 replicas instead of 3\n"
    )
    assert names(flow, "encoder") == ["encoder/rep-0", "encoder/rep-1"]
    assert names(flow, "indexer") == ["indexer/rep-0"]


def test_restart_puts_new_processes_in_the_place_of_the_old(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {**replicas("encoder"), **replicas("indexer")}
    assert cli.main(["restart", str(flow.port), "encoder", "indexer"]) == 0
    assert capsys.readouterr() == ("encoder: 2 restarted\nindexer: 1 restarted\n", "")
    after = {**replicas("encoder"), **replicas("indexer")}
    assert after.keys() == before.keys()
    assert not {*after.values()} & {*before.values()}


def test_a_drained_replica_gets_nothing_until_it_is_undrained(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    def by() -> set[str]:
        return {doc.tags["by"] for doc in flow.post("/", texts(50), request_size=1)}

    assert cli.main(["drain", str(flow.port), "encoder/rep-0"]) == 0
    assert capsys.readouterr() == ("encoder/rep-0: rests\n", "")
    assert by() == {"encoder/rep-1"}
    assert cli.main(["undrain", str(flow.port), "encoder/rep-0"]) == 0
    assert capsys.readouterr() == ("encoder/rep-0: competes again\n", "")
    wait_for(lambda: "encoder/rep-0" in by(), what="it gets requests again")


def test_what_cannot_be_changed_is_said_and_nothing_changes(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {**replicas("encoder"), **replicas("indexer")}
    for command, name, message in [
        ("scale", "encodr=2", "'encodr'; did you mean 'encoder'?"),
        ("scale", "encoder=0", "a whole number from 1 to 10000, not 0"),
        ("restart", "encodr", "'encodr'; did you mean 'encoder'?"),
        ("drain", "encoder/rep-9", "no replica is called 'encoder/rep-9'"),
        ("drain", "indexer/rep-0", "indexer/rep-0 is the last one that serves its requests"),
        ("undrain", "encoder/rep-9", "no replica is called 'encoder/rep-9'"),
    ]:
        assert cli.main([command, str(flow.port), name]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("zflow-run: ")
        assert message in err
    assert {**replicas("encoder"), **replicas("indexer")} == before


def test_what_was_done_before_something_was_refused_is_said(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["scale", str(flow.port), "encoder=1", "indxer=2", "indexer=3"]) == 1
    out, err = capsys.readouterr()
    assert out == "encoder: 1 replica instead of 2\n"
    assert "did you mean 'indexer'?" in err
    assert names(flow, "indexer") == ["indexer/rep-0"]


def test_scale_refuses_all_it_was_told_when_a_part_makes_no_sense(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted in (
        "encoder",
        "encoder=",
        "=2",
        "encoder=-1",
        "encoder=2.5",
        "encoder=a",
        "a=b=2",
        "",
    ):
        said = refused(capsys, "scale", str(flow.port), "indexer=2", wanted)
        assert f"say EXECUTOR=REPLICAS, such as encoder=5, not {wanted!r}" in said
    assert names(flow, "indexer") == ["indexer/rep-0"]


@pytest.mark.parametrize(
    "arguments", [["scale", "encoder=2"], ["restart", "encoder"], ["drain", "x"], ["undrain", "x"]]
)
def test_each_needs_an_address_and_a_name(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    command, name = arguments
    assert "names no port: write 'HOST:PORT'" in refused(capsys, command, "localhost", name)
    assert "port must be a number from 1 to 65535" in refused(
        capsys, command, "localhost:65536", name
    )
    assert "the following arguments are required" in refused(capsys, command, "5555")


def test_a_number_without_end_is_no_number_of_replicas(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["scale", "localhost:1", "encoder=" + "9" * 5000])
    assert "say EXECUTOR=REPLICAS" in capsys.readouterr().err


def test_a_change_takes_no_longer_than_is_said_and_force_kills(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stuck = Flow(timeout_close=100).add(
        name="start", uses=Start, uses_with={"way": "busy", "only": 1}
    )
    with stuck as flow:
        assert cli.main(["scale", str(flow.port), "start=2", "--timeout", "200"]) == 1
        assert "'start/rep-1' was not ready within timeout=200 ms" in capsys.readouterr().err
        assert cli.main(["restart", str(flow.port), "start", "--timeout", "20000", "--force"]) == 0
        assert capsys.readouterr().out == "start: 1 restarted\n"
        assert cli.main(["drain", str(flow.port), "start/rep-0", "--timeout", "0.1"]) == 1
        assert "timeout is in milliseconds" in capsys.readouterr().err
