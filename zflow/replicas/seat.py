"""Which replica of which Executor a process is, and how it reaches the broker: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zflow.topology.topology import ExecutorSpec


@dataclass(frozen=True)
class Seat:
    """Which replica of which Executor a process is, and how it reaches the broker.

    Args:
        spec: the Executor.
        node: its index in the graph.
        shard_id: from 0.
        replica_id: from 0, within its shard; also the group that it belongs to.
        back: the broker's address for replicas.
        fan: where the broker publishes fan-outs; None on another machine, where they do not arrive.
        collector: where it collects the answers of shards; None on another machine.
        max_message_bytes: the largest result that may be sent.
        device: the CUDA_VISIBLE_DEVICES that was dealt to it; None where nothing was to be dealt
            out.
        machine: the name of the other machine it is on, if it is not on the broker's.
        keys: the Flow's public key and an own pair, if the Flow asks for keys.
        names: those of all Executors of the Flow, to tell whose a parameter is.
    """

    spec: ExecutorSpec
    node: int
    shard_id: int
    replica_id: int
    back: str
    fan: str | None
    collector: str | None
    max_message_bytes: int
    device: str | None = None
    machine: str | None = None
    keys: tuple[bytes, bytes, bytes] | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`'encoder/rep-0'`, and `'indexer/shard-1/rep-0'` where there are several shards;
        `'encoder/rep-0@host'`.
        """
        shard = f"/shard-{self.shard_id}" if self.spec.shards > 1 else ""
        where = f"@{self.machine}" if self.machine else ""
        return f"{self.spec.name}{shard}/rep-{self.replica_id}{where}"


def identity(name: str, pid: int) -> bytes:
    """The routing id of a replica: its name and its process id."""
    return f"{name}#{pid}".encode()
