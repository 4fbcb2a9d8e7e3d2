"""`Executor.serve`: one Executor alone, from Python, until it is told to end."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    PATIENCE,
    TESTS,
    Append,
    Gate,
    Script,
    Upper,
    begun,
    in_background,
    let_go,
    replicas,
    wait_for,
)

from zflow import Client, Document, Executor, errors, requests
from zflow.serve import KEYWORDS, UNFIT, flow_of, name_of, serve
from zflow.topology.options import DEFAULTS, FIELDS

FORKS = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def port_told(caplog: pytest.LogCaptureFixture) -> int:
    """The port that the log says, once it does."""

    def told() -> list[str]:
        return [
            record.getMessage() for record in caplog.records if " serves at " in record.getMessage()
        ]

    return int(wait_for(told, what="the log says where it serves")[0].rpartition(":")[2])


@FORKS
@pytest.mark.parametrize("kind", [threading.Event, multiprocessing.Event])
def test_it_serves_until_the_event_is_set(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zflow")
    stop = kind()
    ended = in_background(Append.serve, replicas=2, uses_with={"letter": "!"}, stop_event=stop)
    with Client(port=port_told(caplog)) as client:
        assert client.is_flow_ready()
        assert client.post("/", Document(text="hello")).texts == ["hello!"]
        assert sorted(replicas("Append")) == ["Append/rep-0", "Append/rep-1"]
    assert not ended.done()
    stop.set()
    assert ended.result(PATIENCE) is None
    assert not replicas("Append")


@FORKS
def test_what_is_in_flight_when_it_ends_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zflow")
    stop = threading.Event()
    options = {"uses_with": {"folder": str(tmp_path)}, "timeout_close": 60_000, "replicas": 2}
    ended = in_background(Gate.serve, stop_event=stop, **options)
    with Client(port=port_told(caplog)) as client:
        answer = in_background(client.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        stop.set()
        with Client(port=port_told(caplog)) as other:
            wait_for(lambda: _closing(other), what="no more requests are taken")
        let_go(tmp_path, "held")
        assert answer.result(PATIENCE).texts == ["held"]
    ended.result(PATIENCE)
    assert len(list(tmp_path.glob("*.closed"))) == 2, "each Executor was closed"


def _closing(client: Client) -> bool:
    try:
        client.post("/", Document())
    except errors.FlowNotRunning:
        return True
    return False


SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
import logging
from zflow import Executor, requests

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

class Shout(Executor):
    @requests
    def shout(self, docs, **kwargs):
        docs.texts = [text.upper() for text in docs.texts]

    def close(self):
        print("closed", flush=True)

Shout.serve(host="127.0.0.1", replicas=2)
print("after", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_serves_ends_in_good_order(tmp_path: Path, how: signal.Signals) -> None:
    with Script(SERVE, tmp_path, TESTS) as script:
        name, address = script.line().split(" serves at ")
        assert name == "Shout"
        with Client(address) as client:
            assert client.post("/", Document(text="hello")).texts == ["HELLO"]
        script.process.send_signal(how)
        status, out, err = script.end()
    assert (status, err) == (0, "")
    assert out.splitlines()[-3:] == ["closed", "closed", "after"]


def test_what_it_takes_is_what_flow_and_add_take() -> None:
    assert set(KEYWORDS) == (FIELDS.keys() - UNFIT.keys()) | DEFAULTS.keys()
    flow = flow_of(
        Upper,
        {
            "port": 5555,
            "replicas": 2,
            "env": {"A": 1},
            "polling": "all",
            "timeout_close": 5,
            "host": None,
        },
    )
    assert (flow.port, flow.host) == (5555, "127.0.0.1")
    (spec,) = flow.executors
    assert (spec.name, spec.uses, spec.replicas, spec.env) == ("Upper", Upper, 2, {"A": "1"})
    assert flow_of(Upper, {"name": "mine"}).executors[0].name == "mine"
    assert flow_of(None, {}).executors[0].name == "executor0"


@pytest.mark.parametrize(
    ("uses", "name"),
    [
        (Upper, "Upper"),
        ("Upper", "Upper"),
        ("encoder.py:Encoder", "Encoder"),
        ("package.module:Encoder", "Encoder"),
        ("folder/CLIPEncoder", "CLIPEncoder"),
        ("jinaai://user/Encoder", "Encoder"),
        ("encoder.py", None),
        ("encoder.yml", None),
        ("jtype: Encoder", None),
        ("jtype: Encoder\nwith:\n  size: 8", None),
        ({"jtype": "Encoder"}, None),
        ("module:Outer.Inner", None),
        ("encoder.py:gateway", None),
        (None, None),
    ],
)
def test_the_name_is_that_of_the_class_where_it_is_known(uses: Any, name: str | None) -> None:
    assert name_of(uses) == name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"replica": 2},
            errors.InvalidFlow,
            r"unknown keyword 'replica'; did you mean 'replicas'\? \(Upper.serve\)",
        ),
        ({"stop_evnt": 2}, errors.InvalidFlow, r"did you mean 'stop_event'\?"),
        ({"xyz": 1}, errors.InvalidFlow, "known are 'port', 'host', "),
        (
            {"needs": "gateway"},
            errors.InvalidFlow,
            "needs has no place here: there is no other Executor to wait for",
        ),
        (
            {"external": True},
            errors.InvalidFlow,
            "external has no place here: what is served runs here",
        ),
        ({"uses": Append}, errors.InvalidFlow, "uses is the class that serves: leave it out"),
        ({"gpus": 1}, errors.NotSupported, "gpus is not supported"),
        (
            {"replicas": 0},
            errors.InvalidFlow,
            "replicas must be a whole number of 1 or more, not 0",
        ),
        ({"port": 0}, errors.InvalidFlow, "port must be a whole number from 1 to 65535, not 0"),
        (
            {"stop_event": True},
            errors.InvalidFlow,
            "stop_event must be an Event of threading or multiprocessing",
        ),
        ({"uses_with": {"a": 1}}, errors.InvalidExecutor, "uses_with gives 'a'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        Upper.serve(**options)


def test_a_method_of_that_name_cannot_be_an_endpoint() -> None:
    with pytest.raises(
        errors.InvalidExecutor, match=r"serve cannot serve '/default': Executors use that name"
    ):

        class Wrong(Executor):
            @requests
            def serve(self, **kwargs: Any) -> None:  # type: ignore[override]
                pass


def test_what_does_not_start_says_why_and_leaves_nothing() -> None:
    class Fails(Executor):
        def __init__(self, **kwargs: Any) -> None:
            raise LookupError("no model")

    with pytest.raises(errors.StartupFailed, match="no model"):
        serve(Fails)
