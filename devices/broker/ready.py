"""What a replica says when it wants to be taken in: checked here, once, for type,
range and size.
"""

from __future__ import annotations

from typing import NamedTuple

from zflow.devices.balancing.replica import BatchKey
from zflow.devices.protocol.messages import MAX_ENDPOINT, Ready
from zflow.devices.routing.bindings import Binding
from zflow.devices.routing.walk import Node

MAX_SLOTS = 1024  # tasks a single replica, or an address, may say it works on at once
MAX_REPLICA = 1_000_000  # the number of a replica is below this
MOST_ENDPOINTS = 1000  # of one Executor
MAX_BATCH = 1_000_000  # Documents that may be given in one go
MAX_BATCH_WAIT = 86_400_000_000  # us that a request may wait for others: a day


class Checked(NamedTuple):
    """What a replica says, as it can be."""

    slots: int
    shard: int
    number: int
    binding: Binding


def read(node: Node, said: Ready) -> Checked | str:
    """Return what a replica of this node says, or what is wrong with it."""
    _, endpoints, slots, shard, number, batching = said
    if shard not in range(node.shards):
        return f"there is no shard {shard}, there are {node.shards}"
    if not 1 <= slots <= MAX_SLOTS:
        return f"it has {slots} slots, and may have 1 to {MAX_SLOTS}"
    if not 0 <= number < MAX_REPLICA:
        return f"there is no replica number {number}: they are from 0 to {MAX_REPLICA - 1}"
    if endpoints is not None:
        if len(endpoints) > MOST_ENDPOINTS:
            return f"it binds {len(endpoints)} endpoints, and may bind {MOST_ENDPOINTS}"
        if not all(map(_is_endpoint, endpoints)):
            return f"its endpoints are not all text of at most {MAX_ENDPOINT} characters"
    if len(batching) > MOST_ENDPOINTS or not all(map(_is_batching, batching.items())):
        return (
            f"how it takes requests in batches cannot be: 1 to {MAX_BATCH} Documents, for which a "
            "request waits"
            f" {MAX_BATCH_WAIT // 3_600_000_000} hours at most"
        )
    together = {
        name: BatchKey(name, size, timeout * 1e-6) for name, (size, timeout) in batching.items()
    }
    return Checked(
        slots, shard, number, Binding(None if endpoints is None else frozenset(endpoints), together)
    )


def _is_endpoint(name: object) -> bool:
    return type(name) is str and len(name) <= MAX_ENDPOINT


def _is_batching(item: tuple[object, object]) -> bool:
    """Whether an entry of Ready's `batching` is one."""
    name, said = item
    if (
        not _is_endpoint(name)
        or type(said) is not list
        or [type(number) for number in said] != [int, int]
    ):
        return False
    return bool(1 <= said[0] <= MAX_BATCH and 0 <= said[1] <= MAX_BATCH_WAIT)
