"""What a Flow says about itself: whole as long as it can be,
and never so long that nobody would take it.
"""

from __future__ import annotations

from typing import Any

import msgpack

from zflow.devices.broker import greeting
from zflow.devices.protocol.messages import MAX_GREETING


def info_of(endpoints: list[str] | None) -> dict[str, Any]:
    executor = {
        "replicas": ["a/rep-0"],
        "slots": 1,
        "endpoints": endpoints,
        "batching": {"/a": [2, 0]},
    }
    return {"instance": "one", "executors": {"a": executor}}


def test_it_is_all_told() -> None:
    info = info_of(["/" + "a" * 1000] * 1000)
    assert greeting.fitting(info) == info


def test_what_executors_bind_is_left_out_if_it_is_too_long() -> None:
    info = info_of(["/" + "a" * 1000] * (MAX_GREETING // 1000))
    assert len(msgpack.packb(info)) > MAX_GREETING
    told = greeting.fitting(info)
    assert len(msgpack.packb(told)) < MAX_GREETING
    without = info_of(None)
    without["executors"]["a"]["batching"] = {}
    assert told == without


def test_of_many_replicas_with_long_names_some_are_told() -> None:
    """Those elsewhere choose their own names: each of these takes 255 bytes to say."""
    info = info_of(None)
    info["executors"]["a"]["replicas"] = ["\\x01" * 200] * (MAX_GREETING // 700)
    told = greeting.fitting(info)
    assert len(msgpack.packb(told)) < MAX_GREETING
    assert told["executors"]["a"]["replicas"] == ["\\x01" * 200] * greeting.MOST_NAMED
