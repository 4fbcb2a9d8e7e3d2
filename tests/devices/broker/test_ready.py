"""What a replica may say of itself."""

from __future__ import annotations

from typing import Any

import pytest

from zflow.devices.balancing.replica import BatchKey
from zflow.devices.broker import ready
from zflow.devices.broker.ready import Checked
from zflow.devices.protocol.messages import MAX_ENDPOINT, Ready
from zflow.devices.routing.bindings import Binding
from zflow.devices.routing.walk import Node

NODE = Node("work", shards=2)
GOOD = Ready("work", ["/a"], 2, 1, 3, {"/a": [5, 1500]})


def said(**changes: Any) -> Checked | str:
    return ready.read(NODE, GOOD._replace(**changes))


def test_what_can_be() -> None:
    binding = Binding(frozenset({"/a"}), {"/a": BatchKey("/a", 5, 0.0015)})
    assert said() == Checked(2, 1, 3, binding)
    assert said(endpoints=None) == Checked(2, 1, 3, binding._replace(endpoints=None))
    assert isinstance(said(batching={"/a": [ready.MAX_BATCH, ready.MAX_BATCH_WAIT]}), Checked)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shard": 2}, "there is no shard 2, there are 2"),
        ({"shard": -1}, "no shard -1"),
        ({"slots": 0}, "it has 0 slots, and may have 1 to 1024"),
        ({"slots": 2**64 - 1}, "may have 1 to 1024"),
        ({"replica": -1}, "no replica number -1"),
        ({"replica": ready.MAX_REPLICA}, "no replica number 1000000"),
        ({"endpoints": [7]}, "not all text of at most 1024 characters"),
        ({"endpoints": [["/a"]]}, "not all text"),
        ({"endpoints": ["/" * (MAX_ENDPOINT + 1)]}, "not all text of at most 1024 characters"),
        (
            {"endpoints": ["/a"] * (ready.MOST_ENDPOINTS + 1)},
            "it binds 1001 endpoints, and may bind 1000",
        ),
        *(
            (
                {"batching": batching},
                "1 to 1000000 Documents, for which a request waits 24 hours at most",
            )
            for batching in (
                {"/a": 5},
                {"/a": [5]},
                {"/a": [True, 0]},
                {"/a": [5, 0.5]},
                {"/a": [0, 0]},
                {"/a": [5, -1]},
                {"/a": [5, 2**64 - 1]},
                {"/a": [ready.MAX_BATCH + 1, 0]},
                {7: [5, 0]},
                {"/" * (MAX_ENDPOINT + 1): [5, 0]},
                {f"/{number}": [5, 0] for number in range(ready.MOST_ENDPOINTS + 1)},
            )
        ),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], words: str) -> None:
    why = said(**changes)
    assert isinstance(why, str)
    assert words in why
