"""What a replica is called, and what of its seat is shown."""

from __future__ import annotations

from typing import Any

import pytest

from zflow.replicas.seat import Seat, identity
from zflow.topology.topology import ExecutorSpec


def seat(shards: int = 1, **changes: Any) -> Seat:
    spec = ExecutorSpec("encoder", ("gateway",), shards=shards)
    fields: dict[str, Any] = {
        "node": 0,
        "shard_id": 0,
        "replica_id": 2,
        "back": "ipc://b",
        "fan": None,
    }
    return Seat(spec, **{**fields, "collector": None, "max_message_bytes": 1000, **changes})


@pytest.mark.parametrize(
    ("shards", "changes", "name"),
    [
        (1, {}, "encoder/rep-2"),
        (3, {"shard_id": 1}, "encoder/shard-1/rep-2"),
        (1, {"machine": "gpu-7"}, "encoder/rep-2@gpu-7"),
        (3, {"machine": "gpu-7"}, "encoder/shard-0/rep-2@gpu-7"),
    ],
)
def test_the_name_says_which_shard_there_is_only_if_there_are_several(
    shards: int, changes: dict[str, Any], name: str
) -> None:
    assert seat(shards, **changes).name == name


def test_a_replica_that_takes_anothers_seat_has_another_routing_id() -> None:
    name = seat().name
    assert identity(name, 41) == b"encoder/rep-2#41"
    assert identity(name, 42) != identity(name, 41)


def test_keys_are_not_shown() -> None:
    with_keys = seat(keys=(b"public-of-flow", b"own-public", b"own-secret"))
    assert "own-secret" not in repr(with_keys)
    assert with_keys.keys is not None
