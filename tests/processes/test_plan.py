"""From a topology to what the process manager runs: seats, settings,
devices and a private folder.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import socket_folders
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow import errors
from zflow.devices.routing.pool import Limits
from zflow.network import keys
from zflow.processes import plan
from zflow.processes.memory import Sharing
from zflow.processes.plan import Plan
from zflow.topology.options import DEFAULTS
from zflow.topology.topology import ExecutorSpec, Topology

RR = {"CUDA_VISIBLE_DEVICES": "RR"}


def topology_of(*executors: dict[str, Any]) -> Topology:
    topology = Topology()
    for options in executors:
        topology.add({}, **options)
    return topology


@pytest.fixture
def make() -> Iterator[Callable[..., Plan]]:
    """Make a plan for Executors with the options of a Flow; its folder is removed at the end."""
    made: list[Plan] = []

    def make(*executors: dict[str, Any], **options: Any) -> Plan:
        made.append(plan.make(topology_of(*executors), {**DEFAULTS, **options}, "1.2.3"))
        return made[-1]

    yield make
    for one in made:
        os.rmdir(one.folder)  # and there is nothing in it


def test_a_relative_workspace_is_where_the_flow_is_started(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metas = {"workspace": "kept", "name": "x"}
    made = make({"workspace": "kept"}, {"uses_metas": metas}, {"workspace": "/full"}, {})
    assert [seat.spec.workspace for seat in made.seats] == [f"{tmp_path}/kept", None, "/full", None]
    assert made.seats[1].spec.uses_metas == {"workspace": f"{tmp_path}/kept", "name": "x"}
    assert metas["workspace"] == "kept"


# -- seats -----------------------------------------------------------------------------------------


def test_every_replica_of_every_shard_has_a_seat_with_the_way_to_the_broker(
    make: Callable[..., Plan],
) -> None:
    made = make(
        {"name": "a", "replicas": 2}, {"name": "b", "shards": 2, "replicas": 2, "needs": "gateway"}
    )
    assert made.settings is not None
    assert [(seat.name, seat.node) for seat in made.seats] == [
        ("a/rep-0", 0),
        ("a/rep-1", 0),
        ("b/shard-0/rep-0", 1),
        ("b/shard-0/rep-1", 1),
        ("b/shard-1/rep-0", 1),
        ("b/shard-1/rep-1", 1),
    ]
    assert {(seat.back, seat.fan, seat.collector) for seat in made.seats} == {
        (made.settings.back, made.settings.fan, made.settings.collector)
    }
    assert {seat.device for seat in made.seats} == {None}


def test_nodes_come_after_what_they_need_and_seats_name_their_node(
    make: Callable[..., Plan],
) -> None:
    made = make({"name": "last", "needs": "first"}, {"name": "first", "needs": "gateway"})
    assert made.settings is not None
    assert [node.name for node in made.settings.nodes] == ["first", "last"]
    assert [(seat.spec.name, seat.node) for seat in made.seats] == [("first", 0), ("last", 1)]


def test_what_has_no_process_here_has_no_seat(make: Callable[..., Plan]) -> None:
    far = {"name": "far", "external": True, "port": [5555, 5556], "needs": "gateway"}
    made = make({"name": "near"}, far)
    assert [seat.name for seat in made.seats] == ["near/rep-0"]


def test_external_executors_are_waited_for_at_their_addresses(make: Callable[..., Plan]) -> None:
    where = {"external": True, "host": "localhost", "needs": "gateway"}
    made = make(
        {"name": "far", **where, "port": [5555, 5556], "timeout_ready": 2500},
        {"name": "ever", **where, "port": 5557, "timeout_ready": -1},
        {"name": "near"},
    )
    assert made.settings is not None
    assert made.externals["far"] == 2.5
    assert made.externals["ever"] < 0
    assert set(made.externals) == {"far", "ever"}
    assert {node.name: node.addresses for node in made.settings.nodes} == {
        "far": ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"),
        "ever": ("tcp://127.0.0.1:5557",),
        "near": (),
    }


def test_a_join_is_a_node_without_a_process(make: Callable[..., Plan]) -> None:
    topology = topology_of({"name": "a"}, {"name": "b", "needs": "gateway"})
    topology.needs_all({}, name="joined")
    made = plan.make(topology, DEFAULTS, "1")
    os.rmdir(made.folder)
    assert made.settings is not None
    assert [(node.name, node.process) for node in made.settings.nodes] == [
        ("a", True),
        ("b", True),
        ("joined", False),
    ]
    assert [seat.name for seat in made.seats] == ["a/rep-0", "b/rep-0"]


# -- the broker's settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "retries"),
    [
        ({}, 3),
        ({"replicas": 2}, 3),
        ({"replicas": 7}, 7),
        ({"replicas": 7, "retries": 0}, 0),
        ({"retries": 5}, 5),
        ({"retries": 5, "idempotent": False}, 0),
        ({"replicas": 7, "idempotent": False}, 0),
    ],
)
def test_a_request_survives_so_many_replicas(
    make: Callable[..., Plan], options: dict[str, Any], retries: int
) -> None:
    settings = make(options).settings
    assert settings is not None
    assert settings.retries == [retries]


def test_limits_are_in_seconds_and_below_zero_there_are_none(make: Callable[..., Plan]) -> None:
    free = {"timeout_send": -1, "timeout_run": -1, "max_queue": -1, "max_queue_bytes": -1}
    bound = {"timeout_send": 1500, "timeout_run": 20, "max_queue": 5, "max_queue_bytes": 10**6}
    settings = make(free, bound).settings
    assert settings is not None
    assert settings.limits == [Limits(), Limits(timeout=1.5, run=0.02, queue=5, queue_bytes=10**6)]


@pytest.mark.parametrize(
    ("options", "public", "replicas_from"),
    [
        ({}, "tcp://127.0.0.1:*", None),
        ({"port": 5555}, "tcp://127.0.0.1:5555", None),
        (
            {"host": "0.0.0.0", "port": 5555, "replica_port": 5556},
            "tcp://0.0.0.0:5555",
            "tcp://0.0.0.0:5556",
        ),
        ({"host": "localhost", "replica_port": 0}, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ({"host": "::1", "port": 5555}, "tcp://[::1]:5555", None),
    ],
)
def test_where_others_connect(
    make: Callable[..., Plan], options: dict[str, Any], public: str, replicas_from: str | None
) -> None:
    settings = make({}, **options).settings
    assert settings is not None
    assert (settings.public, settings.replicas_from) == (public, replicas_from)


@pytest.mark.parametrize(
    ("host", "curve", "said", "allow_control"),
    [
        ("127.0.0.1", False, None, True),
        ("localhost", False, None, True),
        ("127.0.0.1", False, False, False),
        ("0.0.0.0", False, None, False),
        ("0.0.0.0", False, True, True),
        ("0.0.0.0", True, None, True),
        ("0.0.0.0", True, False, False),
    ],
)
def test_only_who_is_on_this_machine_or_has_a_key_may_change_the_flow_unless_it_is_said_otherwise(
    make: Callable[..., Plan],
    tmp_path: Path,
    host: str,
    curve: bool,
    said: bool | None,
    allow_control: bool,
) -> None:
    folder = str(tmp_path / "keys")
    if curve:
        keys.new(folder)
    settings = make({}, host=host, curve=folder if curve else None, allow_control=said).settings
    assert settings is not None
    assert settings.allow_control is allow_control
    assert (settings.secret is not None) is curve


def test_two_plans_are_two_flows(make: Callable[..., Plan]) -> None:
    first, second = make({}), make({})
    assert first.settings is not None
    assert second.settings is not None
    assert first.settings.instance != second.settings.instance
    assert first.folder != second.folder
    assert (first.settings.version, first.settings.epoch) == ("1.2.3", 0)


# -- the folder ------------------------------------------------------------------------------------


def test_only_this_user_can_enter_the_folder_and_sockets_fit_into_it(
    make: Callable[..., Plan],
) -> None:
    made = make({})
    assert stat.S_IMODE(os.stat(made.folder).st_mode) == 0o700
    assert made.settings is not None
    own = [made.settings.front, made.settings.back, made.settings.fan, made.settings.collector]
    assert len(set(own)) == 4
    assert all(one.startswith(f"ipc://{made.folder}/") for one in own)


def test_where_temporary_files_lie_too_deep_the_folder_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    folder = plan.private_folder()
    os.rmdir(folder)
    assert os.path.dirname(folder) == "/tmp"
    assert os.listdir(deep) == []


@pytest.mark.parametrize(
    ("executors", "options", "error"),
    [
        ([{"name": "a", "needs": "b"}], {}, errors.InvalidFlow),
        ([{"name": "a", "env": {"CUDA_VISIBLE_DEVICES": "RR9"}}], {}, errors.InvalidFlow),
        ([{}], {"curve": "/nowhere"}, errors.InvalidKeys),
        ([{"external": True, "port": 5555, "curve": "/nowhere"}], {}, errors.InvalidKeys),
    ],
)
def test_what_is_wrong_is_found_before_there_is_a_folder(
    gpus: Any, executors: list[dict[str, Any]], options: dict[str, Any], error: type[Exception]
) -> None:
    gpus(2)
    with pytest.raises(error):
        plan.make(topology_of(*executors), {**DEFAULTS, **options}, "1")
    assert socket_folders() == []


def test_the_port_is_the_one_that_was_bound_for_others() -> None:
    assert plan.port_of(["ipc:///tmp/zflow-1/front", "tcp://127.0.0.1:5555"]) == 5555
    assert plan.port_of(["ipc:///tmp/a:1/front", "tcp://[::1]:5556"]) == 5556


# -- shared memory ---------------------------------------------------------------------------------


def test_memory_is_for_as_many_processes_as_there_may_be(make: Callable[..., Plan]) -> None:
    made = make(
        {"name": "a", "shards": 2, "replicas": 3},
        {"name": "b", "replicas": {"min": 1, "max": 4}},
        {"name": "far", "external": True, "port": 5555, "needs": "gateway"},
        shared_memory=2**20,
    )
    assert made.sharing == Sharing(2**20, 10)
    assert make({}, shared_memory=0).sharing.limit == 0


# -- devices ---------------------------------------------------------------------------------------


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Make a machine of some GPUs: an `nvidia-smi` on PATH that lists them,
    and counts how often it is asked.
    """

    def put(count: int) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        echo = "".join(
            f"echo 'GPU {number}: Tesla T4 (UUID: GPU-{number}{number}aa)'\n"
            for number in range(count)
        )
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho asked >>'{folder}/asked'\n{echo}")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder / "asked"

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_TOTAL_DEVICES", raising=False)
    return put


def test_devices_are_dealt_in_turn_shard_by_shard(
    gpus: Callable[[int], Path], make: Callable[..., Plan], caplog: pytest.LogCaptureFixture
) -> None:
    asked = gpus(3)
    with caplog.at_level(logging.INFO, "zflow"):
        made = make(
            {"name": "a", "shards": 2, "replicas": 2, "env": RR},
            {"name": "b", "replicas": 2, "env": {"CUDA_VISIBLE_DEVICES": "RR1:"}},
            {"name": "c", "env": {"CUDA_VISIBLE_DEVICES": "2"}},
        )
    assert {seat.name: seat.device for seat in made.seats} == {
        "a/shard-0/rep-0": "0",
        "a/shard-0/rep-1": "1",
        "a/shard-1/rep-0": "2",
        "a/shard-1/rep-1": "0",
        "b/rep-0": "1",
        "b/rep-1": "2",
        "c/rep-0": None,
    }
    assert made.devices == {"a": ["0", "1", "2"], "b": ["1", "2"]}
    assert caplog.messages == [
        "a: CUDA_VISIBLE_DEVICES of its replicas, in order: 0 1 2 0",
        "b: CUDA_VISIBLE_DEVICES of its replicas, in order: 1 2",
    ]
    assert asked.read_text() == "asked\n"


def test_who_asks_for_devices_where_there_are_none_is_named_once(
    gpus: Callable[[int], Path], make: Callable[..., Plan], caplog: pytest.LogCaptureFixture
) -> None:
    gpus(0)
    made = make(
        {"name": "a", "env": RR},
        {"name": "b", "env": {"CUDA_VISIBLE_DEVICES": "RR0:2"}},
        {"name": "c"},
    )
    assert [seat.device for seat in made.seats] == ["", "", None]
    assert made.devices == {"a": [""], "b": [""]}, "replicas that come later have none, too"
    [message] = caplog.messages
    assert message.startswith("CUDA_VISIBLE_DEVICES deals GPUs out, but there is no device")
    assert message.endswith("; without one: a (RR), b (RR0:2)")


def test_a_device_that_is_chosen_twice_is_dealt_twice_and_shared_once(
    gpus: Callable[[int], Path], make: Callable[..., Plan]
) -> None:
    gpus(2)
    made = make({"name": "a", "replicas": 3, "env": {"CUDA_VISIBLE_DEVICES": "RR1,1,0"}})
    assert [seat.device for seat in made.seats] == ["1", "1", "0"]
    assert made.devices == {"a": ["1", "0"]}


def test_the_executors_own_word_counts_more_than_the_environments(
    gpus: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "RR")
    own = spec("own", env={"CUDA_VISIBLE_DEVICES": "0"})
    assert (
        plan.choose_devices([own, spec("far", external=True), spec("join", pure_join=True)]) == {}
    )
    assert not asked.exists(), "nobody needs to know"
    assert plan.choose_devices([own, spec("other")]) == {"other": ["0", "1"]}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "RR7")
    with pytest.raises(errors.InvalidFlow, match=r"\(environment, for executor 'other'\)"):
        plan.choose_devices([spec("other")])


@settings(max_examples=20)
@given(shards=st.integers(1, 4), replicas=st.integers(1, 5))
def test_no_device_has_two_processes_more_than_another(shards: int, replicas: int) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "RRGPU-0,GPU-1,GPU-2"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        patch.delenv("CUDA_TOTAL_DEVICES", raising=False)
        specs = [spec("a", shards=shards, replicas=replicas, env=env), spec("b", replicas=replicas)]
        dealt = plan.deal_devices(specs, plan.choose_devices(specs))
    assert len(dealt["a"]) == shards * replicas
    counts = [dealt["a"].count(device) for device in ("GPU-0", "GPU-1", "GPU-2")]
    assert sum(counts) == shards * replicas
    assert max(counts) - min(counts) <= 1
    assert dealt["b"] == [None] * replicas


def spec(name: str, **options: Any) -> ExecutorSpec:
    return ExecutorSpec(name=name, needs=("gateway",), **options)
