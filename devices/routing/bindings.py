"""What the replicas of one Executor bind, and which of them decide that for all. Pure logic.

Those of this machine decide: what they say holds, also after they have ended. As long as none has
said anything, what the Flow was given holds (`endpoints=`, or what a broker before this one knew),
and without that what the first replica says that joins from elsewhere. One elsewhere must say the
same, or it is not one of this Executor's.

While replicas of this machine are replaced by others, they may differ:
then the Executor binds what any of them binds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from zflow.devices.balancing.replica import BatchKey

Endpoints = frozenset[str]

MOST_SHOWN = 20  # endpoints of a list
LONGEST_SHOWN = 100  # characters of one of them


class Binding(NamedTuple):
    """What a replica says that it takes.

    Attributes:
        endpoints: those that it binds; None: it does not say.
        batching: how it takes requests together, by endpoint; None: that is not known.
    """

    endpoints: Endpoints | None
    batching: Mapping[str, BatchKey] | None

    def fits(self, other: Binding) -> bool:
        """Whether the two say the same, as far as both say anything."""
        return all(
            None in (mine, its) or mine == its for mine, its in zip(self, other, strict=True)
        )


class Bindings:
    """What an Executor binds, by its replicas.

    Args:
        given: what it binds as long as no replica of this machine has said anything;
            None if that is not known.

    >>> bindings = Bindings()
    >>> bindings.join(b"here", Binding(frozenset({"/index", "/search"}), {}), here=True)
    >>> bindings.objection(Binding(frozenset({"/index", "/search"}), {})) is None
    True
    >>> bindings.objection(Binding(frozenset({"/search"}), {})) is None
    False
    """

    def __init__(self, given: Endpoints | None = None) -> None:
        self._given = Binding(given, None)
        # By name of the replica, the one that joined last at the end.
        self._here: dict[bytes, Binding] = {}
        self._last: Binding | None = None  # what the last one here says, or said
        self._elsewhere: dict[bytes, Binding] = {}

    def join(self, name: bytes, said: Binding, here: bool) -> None:
        """A replica says this: of this machine, or one elsewhere to which there is no objection."""
        self.leave(name)
        if here:
            self._here[name] = self._last = said
        else:
            self._elsewhere[name] = said

    def leave(self, name: bytes) -> None:
        """A replica is gone."""
        self._elsewhere.pop(name, None)
        if self._here.pop(name, None) is not None and self._here:
            self._last = next(reversed(self._here.values()))

    def of(self, name: bytes) -> Endpoints | None:
        """What this replica binds; None if it did not say."""
        said = self._here.get(name) or self._elsewhere.get(name)
        return None if said is None else said.endpoints

    def objection(self, said: Binding) -> str | None:
        """Why a replica elsewhere that says this is none of this Executor's;
        None if it can be one.
        """
        deciding = self._deciding
        if any(said.fits(one) for one in deciding):
            return None
        newest = deciding[-1]
        if self._last is not None:
            whose = "the Executor's replicas in its Flow"
        elif self._given.endpoints is not None:
            whose = "the Executor, as its Flow says,"
        else:
            whose = "the replicas that joined before"
        if not Binding(said.endpoints, None).fits(newest):
            what = f"it binds {_listed(said.endpoints)}, but {whose} {_listed(newest.endpoints)}"
        else:
            what = (
                f"it takes requests in batches {_sizes(said.batching)}, but {whose} "
                f"{_sizes(newest.batching)}"
            )
        return f"{what}: run the same Executor there, with the same options"

    @property
    def strangers(self) -> dict[bytes, str]:
        """The replicas elsewhere that say something else than those here do by now,
        and the objections to them.
        """
        found = {name: self.objection(said) for name, said in self._elsewhere.items()}
        return {name: why for name, why in found.items() if why is not None}

    @property
    def endpoints(self) -> Endpoints | None:
        """What the Executor binds: all that any of those binds that decide; None for unknown,
        which is everything.
        """
        said = [one.endpoints for one in self._deciding if one.endpoints is not None]
        return frozenset().union(*said) if said else self._given.endpoints

    @property
    def batching(self) -> Mapping[str, BatchKey]:
        """How requests are put together, by endpoint:
        as the replica says that joined last of those that decide.
        """
        return self._deciding[-1].batching or {}

    @property
    def _deciding(self) -> list[Binding]:
        if self._here:
            return list(self._here.values())
        if self._last is not None:
            return [self._last]
        first = next(iter(self._elsewhere.values()), self._given)
        return [
            first
            if self._given.endpoints is None
            else first._replace(endpoints=self._given.endpoints)
        ]


def _listed(endpoints: Iterable[str] | None) -> str:
    names = sorted(endpoints or ())
    shown = [name[:LONGEST_SHOWN] for name in names[:MOST_SHOWN]]
    return f"{shown} and {len(names) - len(shown)} more" if len(shown) < len(names) else f"{shown}"


def _sizes(batching: Mapping[str, BatchKey] | None) -> str:
    said = sorted((batching or {}).values())
    shown = ", ".join(
        f"{one.endpoint[:LONGEST_SHOWN]!r}: [{one.size}, {one.timeout * 1000:.10g} ms]"
        for one in said[:MOST_SHOWN]
    )
    return f"{{{shown}{', ...' if len(said) > MOST_SHOWN else ''}}}"
