"""Which shards get a request: one of them (ANY) or every one (ALL), decided per endpoint.

`polling` is given once per Executor, as one value or as a dict by endpoint. This module knows
endpoints and the two words only: not how shards are found, nor how their results come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zflow.endpoints import check_sendable, spelt
from zflow.errors import InvalidFlow, keyed
from zflow.suggest import short

ANY: Final = "ANY"
ALL: Final = "ALL"
WILDCARD: Final = "*"

#: What holds for these endpoints unless they are named in `polling`; the wildcard does not touch
#: them.
DEFAULTS: Final[Mapping[str, str]] = {"/index": ANY, "/search": ALL}

Polling = str | dict[str, str]


def check(polling: object, owner: str) -> Polling:
    """Return `polling` in its plain form (upper case, a dict of its own),
    or say what is wrong with it.

    Args:
        polling: `'ANY'` or `'ALL'` in any case, or a dict from endpoint (or `'*'`) to one of them.
        owner: whose polling it is, for messages: `"executor 'encoder'"`.

    Raises:
        InvalidFlow: it is anything else.

    >>> check({"/custom": "all", "*": "any"}, "executor 'indexer'")
    {'/custom': 'ALL', '*': 'ANY'}
    """
    if isinstance(polling, Mapping):
        checked = {}
        for key, value in polling.items():
            with keyed(str(key)):
                checked[_endpoint(key, owner)] = _word(value, f"{owner}, endpoint {short(key)}")
        return checked
    return _word(polling, owner)


def by_endpoint(polling: Polling) -> dict[str, str]:
    """Return a checked `polling` as one dict: `'ANY'` or `'ALL'` by endpoint,
    and under `'*'` for all others.

    An endpoint that is named wins; `/index` is otherwise ANY and `/search` ALL; everything else
    follows the single value or `'*'`, and is ANY without either.

    >>> by_endpoint("ALL")
    {'*': 'ALL', '/index': 'ANY', '/search': 'ALL'}
    """
    named = {} if isinstance(polling, str) else polling
    rest = polling if isinstance(polling, str) else polling.get(WILDCARD, ANY)
    return {
        WILDCARD: rest,
        **DEFAULTS,
        **{key: value for key, value in named.items() if key != WILDCARD},
    }


def _word(value: object, owner: str) -> str:
    word = value.upper() if isinstance(value, str) else None
    if word not in (ANY, ALL):
        raise InvalidFlow(f"polling must be ANY or ALL, not {short(value)} ({owner})")
    return ALL if word == ALL else ANY


def _endpoint(key: object, owner: str) -> str:
    if key == WILDCARD:
        return WILDCARD
    name = spelt(key)
    if name is not None:
        check_sendable(name, f"polling, {owner}", InvalidFlow)
        return name
    raise InvalidFlow(
        f"polling goes by endpoints, which start with '/', or by '*', not by {short(key)} ({owner})"
    )
