"""What a broker is started with: plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from zflow.devices.routing.pool import Limits
from zflow.devices.routing.walk import Node


@dataclass(frozen=True)
class Settings:
    """What a broker is started with.

    Args:
        nodes: the graph, each node after those it needs.
        retries: per node, how many crashed replicas a request survives.
        limits: per node, what a request may take there, and how many may wait.
        front: where clients on this machine connect: an ipc address in a private folder.
        public: where others do; `tcp://host:*` takes any free port.
        back: where this machine's replicas connect.
        fan: where fan-outs are published to replicas of Executors with shards.
        collector: where their answers are collected.
        max_message_bytes: the largest payload taken from a client or a replica.
        replicas_from: where replicas of other machines connect; None takes none.
        max_connections: how many connections there may be to each public address.
        max_requests_per_client: how many requests a client may have in flight over one public
            connection.
        lists: returns the public keys that may connect from elsewhere, by domain; empty for plain
            connections.
        secret: this Flow's own secret key, or None.
        far_keys: by external node, the keys that its addresses are shown: the server's, and a pair.
        allow_control: whether clients over public connections may change the Flow; with `secret`,
            those among the `admins` of `lists` only.
        refuse_unknown: whether requests for endpoints that no node binds are refused.
        instance: the Flow; tells it from another one at the same address.
        epoch: how often its broker was started before.
        version: zflow's version, told to clients that ask.
        give_back: gives freed memory back to the system;
            called when there has been nothing to do for a moment.
    """

    nodes: Sequence[Node]
    retries: Sequence[int]
    limits: Sequence[Limits]
    front: str
    public: str
    back: str
    fan: str
    collector: str
    max_message_bytes: int
    replicas_from: str | None = None
    max_connections: int = 10_000
    max_requests_per_client: int = 10_000
    lists: Callable[[], Mapping[bytes, frozenset[bytes]]] = dict
    secret: bytes | None = field(default=None, repr=False)
    far_keys: Mapping[str, tuple[bytes, bytes, bytes]] = field(default_factory=dict, repr=False)
    allow_control: bool = False
    refuse_unknown: bool = False
    instance: str = ""
    epoch: int = 0
    version: str = ""
    give_back: Callable[[], object] = lambda: None
