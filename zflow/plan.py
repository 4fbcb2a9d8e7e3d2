"""From a Flow's topology to what the process manager runs: plain data, nothing started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zflow import polling
from zflow.devices import broker
from zflow.devices.router import Node
from zflow.errors import NotSupported
from zflow.link import Seat
from zflow.manager import Plan
from zflow.topology import ExecutorSpec, Topology

_LONGEST_SOCKET_PATH = 100  # bytes; the system takes about 107


def make(topology: Topology, options: Mapping[str, Any], version: str) -> Plan:
    """Return the plan for a Flow; creates the private folder for its sockets and nothing else.

    Raises:
        InvalidFlow: `needs` names nothing, or there is a cycle.
        NotSupported: CUDA_VISIBLE_DEVICES asks to deal GPUs out.
    """
    specs = topology.order()
    _refuse_round_robin()
    folder = _private_folder()
    back, fan, collector = (f"ipc://{folder}/{name}" for name in ("back", "fan", "collector"))
    limit = options["max_message_bytes"]
    settings = broker.Settings(
        nodes=[_node(spec) for spec in specs],
        retries=[max(3, s.replicas) if s.retries < 0 else s.retries for s in specs],
        timeouts=[None if s.timeout_send < 0 else s.timeout_send / 1000 for s in specs],
        front=[f"ipc://{folder}/front", _tcp(options["host"], options["port"])],
        back=back,
        fan=fan,
        collector=collector,
        max_message_bytes=limit,
        version=version,
    )
    seats = [
        Seat(spec, node, shard, replica, back, fan, collector, limit)
        for node, spec in enumerate(specs)
        if not spec.pure_join
        for shard in range(spec.shards)
        for replica in range(spec.replicas)
    ]
    return Plan(settings, seats, folder)


def _node(spec: ExecutorSpec) -> Node:
    return Node(
        spec.name,
        spec.needs,
        process=not spec.pure_join,
        no_reduce=spec.no_reduce,
        shards=spec.shards,
        groups=spec.replicas,
        polling=polling.by_endpoint(spec.polling),
        partial=spec.on_shard_failure == "partial",
    )


def port_of(addresses: list[str]) -> int:
    """The TCP port among the addresses that the broker has bound."""
    return next(int(address.rpartition(":")[2]) for address in addresses if address.startswith("tcp://"))


def _tcp(host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"tcp://{host}:{'*' if port is None else port}"


def _private_folder() -> str:
    """A new folder that only this user can enter, with a path short enough for a socket in it."""
    import tempfile

    folder = tempfile.mkdtemp(prefix="zflow-")
    if len(os.fsencode(folder)) + len("/collector") > _LONGEST_SOCKET_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="zflow-", dir="/tmp")
    return folder


def _refuse_round_robin() -> None:
    value = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if value.strip().upper().startswith("RR"):
        raise NotSupported(
            f"CUDA_VISIBLE_DEVICES={value!r}: dealing GPUs out to replicas is not supported by this version of zflow;"
            " name the devices themselves, such as '0,1', or unset it"
        )
