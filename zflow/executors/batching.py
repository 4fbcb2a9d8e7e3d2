"""Batching: what is said about it, by decorators, in Python and in YAML.

A method that says how many Documents it likes to get at once is called with those of several
requests, as many as wait for it. When a batch is made, and of what, is the broker's business; how
it is called, that of `call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from zflow.endpoints import check_sendable, spelt
from zflow.errors import InvalidExecutor, InvalidFlow, ZflowError, keyed
from zflow.suggest import did_you_mean, listed, seconds_meant, short

F = TypeVar("F", bound=Callable[..., object])

_MARK: Final = "__zflow_batching__"
_KEYS: Final = ("preferred_batch_size", "timeout")
_MOST: Final = 1_000_000  # Documents; the broker takes no more from a replica
_LONGEST: Final = 86_400_000  # ms: a day


class Batching(NamedTuple):
    """How the requests for an endpoint are put together.

    Attributes:
        size: how many Documents a call gets at most, unless a single request has more.
        timeout: seconds that a request may wait for others while there are too few of them.
    """

    size: int
    timeout: float = 0.0

    @property
    def written(self) -> dict[str, Any]:
        """As YAML holds it, in ms."""
        ms = round(self.timeout * 1000, 6)
        return {
            "preferred_batch_size": self.size,
            **({"timeout": int(ms) if ms == int(ms) else ms} if ms else {}),
        }


def dynamic_batching(*, preferred_batch_size: int, timeout: float = 0) -> Callable[[F], F]:
    """Let a method get the Documents of several requests in one call; stands beside `@requests`.

    The same as `@requests(batch_size=..., batch_timeout=...)`, with the names that Jina has for it.

    Args:
        preferred_batch_size: how many Documents a call gets at most; a single request with more is
            never cut. 1 for one request at a time.
        timeout: ms that a request may wait for others while a replica is idle and they are too few
            for a full batch; 0 for not at all.

    Raises:
        InvalidExecutor: a value cannot be, or the method says it twice.
    """
    said = _checked(preferred_batch_size, timeout, "", _KEYS, "@dynamic_batching", InvalidExecutor)
    return lambda function: mark(function, said)


dynamic_batching.__module__ = "zflow"


def of_requests(batch_size: object, batch_timeout: object) -> Batching | None:
    """Return what `@requests(batch_size=..., batch_timeout=...)` says; None where it says nothing.

    Raises:
        InvalidExecutor: a value cannot be.
    """
    if batch_size is None:
        if batch_timeout:
            raise InvalidExecutor(
                "batch_timeout says how long a batch may take to fill: add batch_size= (@requests)"
            )
        return None
    return _checked(
        batch_size, batch_timeout, "", ("batch_size", "batch_timeout"), "@requests", InvalidExecutor
    )


def by_endpoint(
    key: str, value: object, owner: str, error: type[ZflowError]
) -> dict[str, Batching]:
    """Return what `uses_dynamic_batching` says, by endpoint.

    Raises:
        error: it is not a dict like `{'/encode': {'preferred_batch_size': 32, 'timeout': 100}}`.
    """
    example = "{'/encode': {'preferred_batch_size': 32, 'timeout': 100}}"
    if not isinstance(value, Mapping):
        raise error(f"{key} must be a dict such as {example}, not {short(value)} ({owner})")
    checked = {}
    for endpoint, said in value.items():
        name = spelt(endpoint)
        if name is None:
            raise error(
                f"{key} goes by endpoints, which start with '/', not by {short(endpoint)} ({owner})"
            )
        with keyed(endpoint):
            check_sendable(name, f"{key}, {owner}", error)
            checked[name] = _of_endpoint(f"{key}[{endpoint!r}]", said, example, owner, error)
    return checked


def _of_endpoint(
    label: str, said: object, example: str, owner: str, error: type[ZflowError]
) -> Batching:
    if not isinstance(said, Mapping) or "preferred_batch_size" not in said:
        raise error(
            f"{label} must be a dict with preferred_batch_size, as in {example}, not {short(said)} "
            f"({owner})"
        )
    for name in said:
        if name not in _KEYS:
            hint = did_you_mean(name, _KEYS) or f"; known are {listed(_KEYS)}"
            raise error(
                f"{label} has an unknown key {short(name)}{hint} ({owner})", key=(str(name),)
            )
    return _checked(
        said["preferred_batch_size"], said.get("timeout", 0), label, _KEYS, owner, error
    )


def check_fits(
    said: Mapping[str, Batching],
    polling: Mapping[str, str],
    shards: int,
    no_reduce: bool,
    owner: str,
) -> None:
    """Check that what is to be put together can be.

    Args:
        polling: by endpoint, and under `'*'` for the others.

    Raises:
        InvalidFlow: requests for an endpoint can't be put together, however many come;
            with the way out.
    """
    for endpoint in (endpoint for endpoint, one in said.items() if one.size > 1):
        label, key = f"uses_dynamic_batching[{endpoint!r}]", ("uses_dynamic_batching", endpoint)
        if no_reduce:
            raise InvalidFlow(
                f"{label}: with no_reduce=True the Executor is given docs_matrix, which belongs to "
                "one request; leave"
                f" one of the two out ({owner})",
                key=key,
            )
        if shards > 1 and polling.get(endpoint, polling.get("*")) == "ALL":
            raise InvalidFlow(
                f"{label}: a request for all shards goes to each at once, and is not put together "
                "with others; say"
                f" polling={{{endpoint!r}: 'ANY'}}, or leave it out ({owner})",
                key=key,
            )


def _checked(
    size: object,
    timeout: object,
    of: str,
    names: tuple[str, str],
    owner: str,
    error: type[ZflowError],
) -> Batching:
    """Check both values; the timeout is in ms. `of` is what the names are keys of, if they are."""
    first, second = (f"{of}[{name!r}]" if of else name for name in names)
    with keyed(names[0]):
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST:
            raise error(
                f"{first} must be a whole number from 1 to {_MOST}, not {short(size)} ({owner})"
            )
    with keyed(names[1]):
        if (
            isinstance(timeout, bool)
            or not isinstance(timeout, (int, float))
            or not 0 <= timeout <= _LONGEST
        ):
            raise error(
                f"{second} must be milliseconds from 0 to {_LONGEST}, not {short(timeout)} "
                f"({owner})"
            )
        if 0 < timeout < 1:
            meant = seconds_meant(timeout)
            raise error(
                f"{second} is in milliseconds: {timeout} is less than one; {meant} ({owner})"
            )
    return Batching(size, timeout / 1000)


def mark(function: F, said: Batching) -> F:
    """Have a method remember what its decorator says.

    Raises:
        InvalidExecutor: another one has said something else.
    """
    before = marked(function)
    if before not in (None, said):
        raise InvalidExecutor(
            f"{getattr(function, '__name__', 'a method')} has two batch sizes, {before.size} and "
            f"{said.size}, or two"
            " timeouts: say it once, by batch_size= of @requests or by @dynamic_batching"
        )
    setattr(function, _MARK, said)
    return function


def marked(function: object) -> Batching | None:
    """Return what the decorators of a method say, None where they say nothing."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, Batching) else None
