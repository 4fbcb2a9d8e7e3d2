"""Options of Jina's that mean nothing here: taken out, named once, and never what has an effect."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from zflow import Executor, Flow, serve
from zflow.errors import InvalidFlow, NotSupported
from zflow.topology import ignored
from zflow.topology.ignored import OF_EXECUTORS, OF_FLOWS, Told
from zflow.topology.options import FIELDS, FLOW_FIELDS, SHARED, UNSUPPORTED


def test_nothing_that_has_an_effect_is_ignored() -> None:
    # An Executor that runs here has no port; whether it does is seen by the rest.
    assert not (OF_EXECUTORS - {"port"}) & (set(FIELDS) | set(UNSUPPORTED))
    assert not OF_FLOWS & (set(FLOW_FIELDS) | SHARED)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"port": 5555, "replicas": 2}, {"replicas": 2}),
        ({"port": 5555, "external": True}, {"port": 5555, "external": True}),
        ({"port": 5555, "host": "far"}, {"port": 5555, "host": "far"}),
        ({"port": 5555, "host": "0.0.0.0"}, {}),
        ({"quiet": None, "name": None}, {"name": None}),
        ({"protocol": ["grpc"]}, {}),
        ({"copy_flow": False}, {}),
        ({"copy_flow": True}, {"copy_flow": True}),
    ],
)
def test_a_port_means_nothing_unless_it_says_where_to_connect(
    given: dict[str, Any], kept: dict[str, Any]
) -> None:
    found, names = ignored.of_executor(given, "")
    assert found == kept
    assert names == [key for key in given if key not in kept and given[key] is not None]


@pytest.mark.parametrize("value", ["http", "WebSocket", ["grpc", "http"], 5])
def test_another_protocol_is_refused(value: Any) -> None:
    with pytest.raises(NotSupported, match=r"^protocol=.* is not supported.*leave protocol out"):
        Flow(protocol=value)
    with pytest.raises(NotSupported, match=r"\(executor 'a'\)$") as caught:
        Flow().add(name="a", protocol=value)
    assert caught.value.key == ("protocol",)


def test_each_is_named_once_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    told.warn()
    told.found("a", ["port", "quiet"])
    told.found("b", ["port"])
    told.warn()
    told.found("c", ["port", "native"])
    told.warn()
    begin = "options of Jina's that mean nothing here are ignored: "
    assert caplog.messages == [f"{begin}port (a, b), quiet (a)", f"{begin}native (c)"]


def test_a_flow_takes_what_old_code_says(caplog: pytest.LogCaptureFixture) -> None:
    flow = Flow(protocol="GRPC", monitoring=True).add(name="a", port=1234, quiet=True)
    flow.add(port=1235, timeout_ctrl=5).needs_all(quiet_error=True)
    assert [spec.port for spec in flow.executors] == [(), (), ()]
    assert flow.executors[-1].pure_join
    assert [message.partition("ignored: ")[2] for message in caplog.messages] == [
        "protocol (Flow), monitoring (Flow)",
        "port (a), quiet (a)",
        "timeout_ctrl (executor1)",
        "quiet_error (executor2)",
    ]
    with pytest.raises(InvalidFlow, match="unknown keyword 'tls'"):
        Flow(tls=True)
    with pytest.raises(InvalidFlow, match="unknown keyword 'uses_before'"):
        flow.add(uses_before="Executor")


def test_old_yaml_brings_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    Flow.load_config(
        "jtype: Flow\nwith: {quiet: true}\nexecutors:\n- {port: 5, quiet: true}\n- {port: 6}"
    )
    assert [(one.levelno, one.name, one.getMessage()) for one in caplog.records] == [
        (
            logging.WARNING,
            "zflow",
            "options of Jina's that mean nothing here are ignored: quiet (Flow, executor0), "
            "port (executor0, executor1)",
        )
    ]


def test_serving_keeps_its_port(caplog: pytest.LogCaptureFixture) -> None:
    flow = serve.flow_of(Executor, {"port": 5555, "monitoring": True, "protocol": "grpc"})
    assert flow.port == 5555
    assert caplog.messages == [
        "options of Jina's that mean nothing here are ignored: monitoring (Executor.serve), "
        "protocol (Executor.serve)"
    ]
