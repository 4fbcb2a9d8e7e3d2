"""From a Flow's topology to what the process manager runs: plain data, nothing started."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from zflow.devices.broker.settings import Settings
from zflow.devices.routing.pool import Limits
from zflow.devices.routing.walk import Node
from zflow.devices.sockets import listener
from zflow.errors import InvalidFlow, StartupFailed
from zflow.executors.executor import rooted
from zflow.network import address, keys
from zflow.processes import memory
from zflow.processes.memory import Sharing
from zflow.replicas.seat import Seat
from zflow.system import cuda, process
from zflow.topology import polling
from zflow.topology.topology import ExecutorSpec, Topology

log = logging.getLogger("zflow")

Options = Mapping[str, Any]  # of a Flow, its own: checked, and all of them

MOST_CONNECTIONS = 10_000  # over TCP, of clients and of replicas each, where nothing else is said
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SET_TMPDIR = "set TMPDIR to a folder that can be written to and has room"
_LONGEST_SOCKET_PATH = 100  # bytes; the system takes about 107


@dataclass(frozen=True)
class Plan:
    """All that the process manager needs to run a Flow.

    Args:
        settings: the broker's; None where the broker is elsewhere.
        seats: one per replica.
        folder: where the Flow's sockets lie; removed at the end.
        externals: the names of external Executors, and how many seconds each may take to be there;
            below 0, any time.
        devices: by Executor, the devices that its replicas share, if any are dealt out.
        sharing: what there is of shared memory.
        grace: the seconds that a replica may take to end where it is to be forced.
    """

    settings: Settings | None
    seats: Sequence[Seat]
    folder: str
    externals: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sharing: Sharing = field(default_factory=Sharing)
    grace: float = 10.0


def make(topology: Topology, options: Options, version: str) -> Plan:
    """Return the plan for a Flow; creates the private folder for its sockets and nothing else.

    Raises:
        InvalidKeys: a key folder is none.
        InvalidFlow: `needs` names nothing, there is a cycle, CUDA_VISIBLE_DEVICES asks for what
            does not exist, a workspace is relative to nothing, or there are not enough file
            descriptors for so many replicas or connections.
        StartupFailed: there can be no folder for sockets.
    """
    specs = [placed(spec) for spec in topology.order()]
    connections = _connections(options, specs)
    chosen = choose_devices(specs)
    devices = deal_devices(specs, chosen)
    far_keys = {
        spec.name: own
        for spec in specs
        if (own := keys.keys_of(_in(spec.folder, spec.curve))) is not None
    }
    curve = options["curve"]
    secret = None if curve is None else keys.server_keys(curve).secret
    lists = dict if curve is None else keys.Lists(os.path.abspath(curve))
    folder = private_folder()  # from here on nothing can be wrong any more
    back, fan, collector = (f"ipc://{folder}/{name}" for name in ("back", "fan", "collector"))
    limit = options["max_message_bytes"]
    replica_port = options["replica_port"]
    settings = Settings(
        nodes=[_node(spec) for spec in specs],
        retries=[_retries(spec) for spec in specs],
        limits=[_limits(spec) for spec in specs],
        front=f"ipc://{folder}/front",
        public=address.endpoint(options["host"], options["port"] or "*"),
        back=back,
        fan=fan,
        collector=collector,
        max_message_bytes=limit,
        replicas_from=None
        if replica_port is None
        else address.endpoint(options["host"], replica_port or "*"),
        max_connections=connections,
        max_requests_per_client=options["max_requests_per_client"],
        far_keys=far_keys,
        secret=secret,
        lists=lists,
        allow_control=allows_control(options),
        refuse_unknown=options["unknown_endpoints"] == "refuse",
        instance=os.urandom(8).hex(),
        version=version,
        give_back=process.give_back_memory,
    )
    names = tuple(spec.name for spec in specs)
    seats = [
        Seat(spec, node, shard, replica, back, fan, collector, limit, device, names=names)
        for node, spec in enumerate(specs)
        if spec.local
        for (shard, replica), device in zip(
            product(range(spec.shards), range(spec.replicas)), devices[spec.name], strict=True
        )
    ]
    externals = {spec.name: spec.timeout_ready / 1000 for spec in specs if spec.external}
    shared = {name: list(dict.fromkeys(some)) or [""] for name, some in chosen.items()}
    sharing = Sharing(memory.limit(options["shared_memory"]), _processes(specs))
    return Plan(
        settings, seats, folder, externals, shared, sharing, options["timeout_close"] / 1000
    )


def placed(spec: ExecutorSpec) -> ExecutorSpec:
    """Return an Executor whose workspace is named in full: relative ones begin here and now,
    wherever its processes will be.

    Raises:
        InvalidFlow: there is no working directory any more.
    """
    try:
        workspace = None if spec.workspace is None else os.path.abspath(spec.workspace)
        return replace(spec, workspace=workspace, uses_metas=dict(rooted(spec.uses_metas)))
    except OSError as error:
        raise InvalidFlow(
            f"workspace is relative, but the working directory is gone ({error}): give a full path "
            f"(executor {spec.name!r})",
            key=("workspace",),
        ) from None


def _processes(specs: Sequence[ExecutorSpec]) -> int:
    """How many replicas there may be on this machine, as far as that is known at the start."""
    most = [spec.replicas if spec.autoscale is None else spec.autoscale.max for spec in specs]
    return sum(spec.shards * count for spec, count in zip(specs, most, strict=True) if spec.local)


def _connections(options: Options, specs: Sequence[ExecutorSpec]) -> int:
    """How many connections of clients, and of replicas elsewhere, the broker takes:
    no more than it has room for.
    """
    doors = 1 if options["replica_port"] is None else 2
    descriptors = listener.descriptors(hard=True)
    replicas = _processes(specs)
    room = listener.room(descriptors, replicas, doors)
    wanted = options["max_connections"]
    if room < 1:
        raise InvalidFlow(
            f"a process may have {descriptors} file descriptors here, too few for {replicas} "
            "replicas and one"
            f" connection over TCP: choose fewer replicas, or raise the hard limit (ulimit -Hn)"
        )
    if wanted is not None and room < wanted:
        raise InvalidFlow(
            f"max_connections={wanted} is more than there is room for: a process may have "
            f"{descriptors} file"
            f" descriptors here, which leaves {room} for each kind of connection over TCP; choose "
            "fewer, or raise the"
            f" hard limit (ulimit -Hn)"
        )
    if wanted is None and room < MOST_CONNECTIONS:
        log.info(
            "max_connections is %d: a process may have %d file descriptors here", room, descriptors
        )
    return min(MOST_CONNECTIONS, room) if wanted is None else int(wanted)


def _retries(spec: ExecutorSpec) -> int:
    if not spec.idempotent:
        return 0
    return max(3, spec.replicas) if spec.retries < 0 else spec.retries


def _limits(spec: ExecutorSpec) -> Limits:
    def limit(value: int) -> int | None:
        return None if value < 0 else value

    def seconds(value: int) -> float | None:
        return None if value < 0 else value / 1000

    return Limits(
        seconds(spec.timeout_send),
        seconds(spec.timeout_run),
        limit(spec.max_queue),
        limit(spec.max_queue_bytes),
    )


def _node(spec: ExecutorSpec) -> Node:
    declared = frozenset(spec.endpoints) or None
    return Node(
        spec.name,
        spec.needs,
        process=not spec.pure_join,
        no_reduce=spec.no_reduce,
        shards=spec.shards,
        groups=spec.replicas,
        polling=polling.by_endpoint(spec.polling),
        partial=spec.on_shard_failure == "partial",
        addresses=tuple(address.endpoint(*address.parse(one)) for one in spec.addresses),
        autoscaled=spec.autoscale is not None,
        endpoints=declared,
        declared=declared,
    )


def _in(folder: str | None, path: str | None) -> str | None:
    return None if path is None else os.path.join(folder or "", path)


def allows_control(options: Options) -> bool:
    """Whether who connects over TCP may change the Flow; where nothing is said,
    on loopback or with an admin's key.
    """
    said = options["allow_control"]
    return (
        bool(options["host"] in LOOPBACK or options["curve"] is not None)
        if said is None
        else bool(said)
    )


def port_of(addresses: list[str]) -> int:
    """The TCP port among the addresses that the broker has bound."""
    return next(
        int(address.rpartition(":")[2]) for address in addresses if address.startswith("tcp://")
    )


def private_folder() -> str:
    """A new folder that only this user can enter, with a path short enough for a socket in it.

    Raises:
        StartupFailed: there can be none.
    """
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="zflow-")
        if len(os.fsencode(folder)) + len("/collector") > _LONGEST_SOCKET_PATH:
            os.rmdir(folder)
            folder = tempfile.mkdtemp(prefix="zflow-", dir="/tmp")
    except OSError as error:
        raise StartupFailed(f"no folder for sockets can be made ({error}); {SET_TMPDIR}") from error
    return folder


def deal_devices(
    specs: Sequence[ExecutorSpec], chosen: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str | None]]:
    """Return, by Executor, the CUDA_VISIBLE_DEVICES of each of its processes;
    None to leave it as it is.

    The processes of an Executor take the devices that `choose_devices` has chosen in turn,
    shard by shard.
    """
    dealt: dict[str, Sequence[str | None]] = {}
    for spec in specs:
        processes = spec.shards * spec.replicas
        if spec.name in chosen:
            dealt[spec.name] = cuda.deal(chosen[spec.name], processes)
            if chosen[spec.name]:
                summary = cuda.summary(dealt[spec.name])
                log.info("%s: %s of its replicas, in order: %s", spec.name, cuda.VARIABLE, summary)
        else:
            dealt[spec.name] = [None] * processes
    return dealt


def choose_devices(specs: Sequence[ExecutorSpec]) -> dict[str, list[str]]:
    """Return, by Executor that asks for devices, those that its replicas share,
    also replicas that come later.

    Devices are looked for once, if anybody asks for any.
    """
    found: cuda.Devices | None = None
    devices: dict[str, list[str]] = {}
    without: list[str] = []
    for spec in specs:
        value, owner = _visible_devices(spec)
        if not spec.local or not cuda.asks(value):
            continue
        found = found or cuda.discover(os.environ)
        devices[spec.name] = cuda.select(value, found, owner)
        if not devices[spec.name]:
            without.append(f"{spec.name} ({value})")
    if without:
        log.warning(
            "%s deals GPUs out, but %s; without one: %s", cuda.VARIABLE, found, ", ".join(without)
        )
    return devices


def _visible_devices(spec: ExecutorSpec) -> tuple[str, str]:
    """Return what CUDA_VISIBLE_DEVICES says for an Executor, and whose word that is;
    the nearest counts.
    """
    if cuda.VARIABLE in spec.env:
        return spec.env[cuda.VARIABLE], f"executor {spec.name!r}"
    return os.environ.get(cuda.VARIABLE, ""), f"environment, for executor {spec.name!r}"
