"""What `replicas={'min': 1, 'max': 8}` says, in Python and in YAML."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow import Flow
from zflow.errors import InvalidConfig
from zflow.topology.options import FIELDS
from zflow.topology.scaling import ReplicaRange


def test_a_range_may_be_a_default_of_the_flow_and_be_overridden():
    flow = (
        Flow(replicas={"min": 2, "max": 4}).add().add(replicas=3).add(replicas={"min": 1, "max": 9})
    )
    assert [(spec.replicas, spec.autoscale) for spec in flow.executors] == [
        (2, ReplicaRange(2, 4)),
        (3, None),
        (1, ReplicaRange(1, 9)),
    ]


def test_yaml_holds_a_range_and_gives_it_back(tmp_path):
    path = tmp_path / "flow.yaml"
    text = (
        "jtype: Flow\nexecutors:\n- name: encoder\n  replicas: {min: 1, max: 8}\n- replicas: "
        "{max: 3, idle: 5000}\n"
    )
    path.write_text(text)
    flow = Flow.load_config(path)
    assert [spec.autoscale for spec in flow.executors] == [
        ReplicaRange(1, 8),
        ReplicaRange(1, 3, idle=5000),
    ]
    flow.save_config(tmp_path / "copy.yaml")
    assert Flow.load_config(tmp_path / "copy.yaml").executors == flow.executors
    shared = Flow(replicas={"min": 1, "max": 4}).add().add(replicas=1)
    shared.save_config(tmp_path / "shared.yaml")
    assert [spec.autoscale for spec in Flow.load_config(tmp_path / "shared.yaml").executors] == [
        ReplicaRange(1, 4),
        None,
    ]


def test_yaml_with_a_wrong_range_is_an_error_with_its_line():
    with pytest.raises(
        InvalidConfig,
        match=r"YAML text:4: executors\[0\]: replicas has an unknown key 'mx'; did you",
    ):
        Flow.load_config("jtype: Flow\nexecutors:\n- name: a\n  replicas: {min: 1, mx: 8}\n")


@pytest.mark.parametrize(
    ("limits", "written"),
    [
        (ReplicaRange(1, 8), {"min": 1, "max": 8}),
        (ReplicaRange(2, 2, wait=500, idle=30_000), {"min": 2, "max": 2}),
        (ReplicaRange(1, 8, wait=100), {"min": 1, "max": 8, "wait": 100}),
        (ReplicaRange(1, 8, idle=1), {"min": 1, "max": 8, "idle": 1}),
        (ReplicaRange(3, 500, wait=3, idle=500), {"min": 3, "max": 500, "wait": 3, "idle": 500}),
    ],
)
def test_what_goes_without_saying_is_not_written(
    limits: ReplicaRange, written: dict[str, int]
) -> None:
    assert limits.written == written
    assert list(limits.written) == list(written)


@given(st.integers(1, 100), st.integers(0, 100), st.integers(1, 1000), st.integers(1, 60_000))
def test_what_is_written_is_read_as_the_same(least: int, more: int, wait: int, idle: int) -> None:
    limits = ReplicaRange(least, least + more, wait, idle)
    assert FIELDS["replicas"].check("replicas", limits.written, "Flow") == limits


def test_messages_show_it_in_words() -> None:
    assert f"{ReplicaRange(1, 8, wait=100)}" == "from 1 to 8"


def test_it_is_plain_data_that_does_not_change() -> None:
    limits = ReplicaRange(min=1, max=8)
    assert limits == ReplicaRange(1, 8, 500, 30_000)
    assert len({limits, ReplicaRange(1, 8), ReplicaRange(1, 9)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max = 9  # type: ignore[misc]
