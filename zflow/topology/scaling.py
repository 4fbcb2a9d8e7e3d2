"""What `replicas={'min': 1, 'max': 8}` says: between how many replicas an Executor may go,
and by what. Plain data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ReplicaRange:
    """What `replicas={'min': 1, 'max': 8}` says.

    Args:
        min: as many replicas there are at least, and at the start.
        max: as many there are at most.
        wait: ms that requests may wait for a replica; there are more replicas before they wait
            longer.
        idle: ms for which there must have been less to do before there are fewer replicas.
    """

    min: int
    max: int
    wait: int = 500
    idle: int = 30_000

    def __str__(self) -> str:
        return f"from {self.min} to {self.max}"

    @property
    def written(self) -> dict[str, int]:
        """The dict that says the same, without what goes without saying."""
        plain = asdict(ReplicaRange(self.min, self.max))
        return {
            key: value
            for key, value in asdict(self).items()
            if key in ("min", "max") or value != plain[key]
        }
