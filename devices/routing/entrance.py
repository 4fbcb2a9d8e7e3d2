"""Which endpoints a Flow takes requests for: those that any of its Executors binds. Pure logic.

It looks once for each endpoint, and again when an Executor binds something else.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from zflow.devices.routing.bindings import LONGEST_SHOWN, MOST_SHOWN
from zflow.devices.routing.walk import DEFAULT, Node

MOST_KEPT = 1000  # endpoints that are known to be taken: strangers may ask for any number
MOST_COMPARED = 200  # names that one is compared with, for the nearest
MOST_REFUSED = 100  # refusals that are worth a comparison: strangers may go on for ever


class Entrance:
    """What the front asks about endpoints.

    Args:
        nodes: the graph; what they bind may change.
        refuse: False to take any endpoint.

    Attributes:
        taken: those that are known to be taken; of any number, some.

    >>> entrance = Entrance([Node("a", endpoints=frozenset({"/index", "/search"}))], refuse=True)
    >>> entrance.objection("/search") is None
    True
    >>> entrance.objection("/saerch").partition(" (")[0]
    "no Executor binds '/saerch'; there are '/search', '/index'"
    """

    def __init__(self, nodes: Sequence[Node], refuse: bool) -> None:
        self._nodes = nodes
        self._refuse = refuse
        self._refused: dict[str, str] = {}
        self.taken: set[str] = set()

    def changed(self) -> None:
        """An Executor binds something else than before."""
        self.taken.clear()
        self._refused.clear()

    def objection(self, endpoint: str) -> str | None:
        """Why no request for this endpoint is taken; None if it is.

        It is where nobody says what is bound: where a replica is still to come, what runs
        elsewhere, and what has no endpoints of its own takes every request.
        """
        if self._refuse and (bound := self._bound()) is not None and endpoint not in bound:
            return self._refusal(endpoint, sorted(bound))
        if len(self.taken) < MOST_KEPT:
            self.taken.add(endpoint)
        return None

    def _bound(self) -> set[str] | None:
        """All that is bound, None for everything."""
        bound: set[str] = set()
        for node in self._nodes:
            if not node.process:
                continue
            if node.addresses or not node.endpoints or DEFAULT in node.endpoints:
                return None
            bound |= node.endpoints
        return bound or None

    def _refusal(self, endpoint: str, names: list[str]) -> str:
        if endpoint in self._refused:
            return self._refused[endpoint]
        if keeping := len(self._refused) < MOST_REFUSED:
            names = _nearest_first(endpoint, names)
        shown = ", ".join(repr(name[:LONGEST_SHOWN]) for name in names[:MOST_SHOWN])
        more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        asked = "*" if endpoint == DEFAULT else endpoint[:LONGEST_SHOWN]  # as it is written
        text = (
            f"no Executor binds {asked!r}; there are {shown}{more} "
            "(Flow(unknown_endpoints='pass') lets such requests pass)"
        )
        if keeping:
            self._refused[endpoint] = text
        return text


def _nearest_first(endpoint: str, names: list[str]) -> list[str]:
    if len(endpoint) > LONGEST_SHOWN:  # a stranger's: comparing would take long
        return names
    some = {name.lower(): name for name in names[:MOST_COMPARED] if len(name) <= LONGEST_SHOWN}
    near = [some[word] for word in difflib.get_close_matches(endpoint.lower(), some)]
    return [*near, *(name for name in names if name not in near)]
