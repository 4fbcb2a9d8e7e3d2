"""Parameters for one Executor alone: `encoder__top_k`, or a dict under the Executor's name.

An Executor is called with its own view; what goes on to the next is what came, with what the
Executor has changed. Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection

from zflow.documents.values import Parameters

MARK = "__"


def may_differ(parameters: Parameters, name: str) -> bool:
    """Whether something may be for one Executor; quick, as it is asked for each request."""
    for key in parameters:  # noqa: SIM110  any() takes three times as long
        if key == name or (type(key) is str and MARK in key):
            return True
    return False


def view(parameters: Parameters, name: str, names: Collection[str]) -> Parameters:
    """Return the parameters that an Executor is called with.

    Args:
        name: the Executor's.
        names: those of all Executors of the Flow.

    Returns:
        `parameters` themselves where nothing in them is for one Executor. Else others without the
        keys that begin with an Executor's name and `__`; over them those for this one, without that
        name, and then what stands in a dict under its name.

    >>> view({"top_k": 3, "a__top_k": 5, "b__x": 1}, "a", ["a", "b"])
    {'top_k': 5}
    >>> view({"top_k": 3, "a": {"top_k": 5}}, "a", ["a", "b"])
    {'top_k': 5, 'a': {'top_k': 5}}
    """
    if not may_differ(parameters, name):
        return parameters
    below = parameters.get(name)
    longest = max(map(len, names), default=0)
    owners = {
        key: owner
        for key in parameters
        if isinstance(key, str) and MARK in key and (owner := _owner(key, names, longest))
    }
    if not owners and not isinstance(below, dict):
        return parameters
    own = {
        key.removeprefix(name + MARK): parameters[key]
        for key, owner in owners.items()
        if owner == name
    }
    common = {key: value for key, value in parameters.items() if key not in owners}
    return {**common, **own, **(below if isinstance(below, dict) else {})}


def carried(parameters: Parameters, before: Parameters, after: Parameters) -> Parameters:
    """Return what goes on to the next Executor.

    Args:
        parameters: as they came.
        before: the Executor's view of them.
        after: what it has made of that.

    >>> carried({"a__x": 1, "y": 2}, {"x": 1, "y": 2}, {"x": 1, "y": 3, "z": 4})
    {'a__x': 1, 'y': 3, 'z': 4}
    """
    removed = {
        key
        for key in before.keys() - after.keys()
        if key in parameters and parameters[key] is before[key]
    }
    changed = {
        key: value for key, value in after.items() if key not in before or before[key] is not value
    }
    return {
        **{key: value for key, value in parameters.items() if key not in removed},
        **changed,
    }


def _owner(key: str, names: Collection[str], longest: int) -> str:
    """The Executor, that of the longest name, whose a key is; empty for everybody's."""
    owner = ""
    # No further than a name may reach: a stranger's key may be megabytes of underscores.
    last = min(len(key) - len(MARK) - 1, longest)
    at = key.find(MARK, 1, last + len(MARK))
    while at > 0:
        if key[:at] in names:
            owner = key[:at]
        at = key.find(MARK, at + 1, last + len(MARK))
    return owner
