"""What a post or a command is given: options checked, inputs cut into requests, targets found.
Pure functions.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zflow import errors
from zflow.devices.protocol import messages
from zflow.documents.document import Document, DocumentArray
from zflow.endpoints import spelt
from zflow.suggest import listed, seconds_meant, short

PREFETCH = 128  # requests of one post in flight
REQUEST_SIZE = 100  # Documents in one request
MOST = 2**53  # of anything that is counted, and of ms: what a float still holds exactly


def check_options(
    on: object,
    parameters: object,
    request_size: object,
    prefetch: object,
    timeout: object,
    on_overload: object,
) -> str:
    """Check what is given to `post`, before anything is sent.

    Returns:
        The endpoint as it is sent.

    Raises:
        BadRequest: with the name of the argument, its value and what it may be.
    """
    endpoint = spelt(on)
    if endpoint is None:
        raise errors.BadRequest(f"an endpoint is a text that starts with '/', not {short(on)}")
    if len(endpoint) > messages.MAX_ENDPOINT:
        raise errors.BadRequest(
            f"an endpoint has at most {messages.MAX_ENDPOINT} characters, not {len(endpoint)}"
        )
    try:
        endpoint.encode()
    except UnicodeEncodeError:
        raise errors.BadRequest(
            f"an endpoint is a text that can be sent as UTF-8, not {short(on)}"
        ) from None
    if parameters is not None and not isinstance(parameters, dict):
        raise errors.BadRequest(f"parameters must be a dict, not {short(parameters)}")
    if on_overload not in ("fail", "wait"):
        raise errors.BadRequest(f"on_overload must be 'fail' or 'wait', not {short(on_overload)}")
    limit = 1 if timeout is None else timeout
    for name, value in (("request_size", request_size), ("prefetch", prefetch), ("timeout", limit)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise errors.BadRequest(
                f"{name} must be a whole number of 1 or more, not {short(value)}"
            )
        if value > MOST:
            raise errors.BadRequest(
                f"{name} must be a whole number of {MOST} or less, not {short(value)}"
            )
    return endpoint


def told(info: Mapping[str, object]) -> tuple[list[str], int]:
    """The names of a Flow's Executors, and the largest message that it takes, by what it says;
    it may say anything.

    >>> told({"executors": {"encoder": {}}, "max_message_bytes": 1000}), told({"executors": 7})
    ((['encoder'], 1000), ([], 9223372036854775808))
    """
    names, limit = info.get("executors"), info.get("max_message_bytes")
    known = [name for name in names if isinstance(name, str)] if isinstance(names, dict) else []
    return known, limit if type(limit) is int else 2**63


def choose_targets(pattern: str | None, names: Iterable[str]) -> list[str] | None:
    """The Executors that `target_executor` means: those whose name it matches from the start,
    as `re.match` does.

    Raises:
        BadRequest: it is no regular expression, or matches no Executor.

    >>> choose_targets("enc", ["encoder", "indexer"])
    ['encoder']
    """
    if pattern is None:
        return None
    if not isinstance(pattern, str):
        raise errors.BadRequest(
            f"target_executor {short(pattern)} is not a regular expression: it is no text"
        )
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise errors.BadRequest(
            f"target_executor {short(pattern)} is not a regular expression: {error}"
        ) from None
    known = list(names)
    found = [name for name in known if compiled.match(name)]
    if not found:
        raise errors.BadRequest(
            f"target_executor {short(pattern)} matches no Executor; there are {listed(known)}"
        )
    return found


def resolved(inputs: object) -> Any:
    """Return inputs; if they are a function, what it returns.

    Raises:
        BadRequest: the function needs arguments, or returns None.
    """
    if not callable(inputs) or isinstance(inputs, (type, Document, Iterable)):
        return inputs
    try:
        inspect.signature(inputs).bind()
    except TypeError as error:
        raise errors.BadRequest(f"the function given as inputs needs arguments: {error}") from None
    except ValueError:  # one of C, which does not say what it takes
        pass
    found = inputs()
    if found is None:
        raise errors.BadRequest(
            f"the function given as inputs returned None, not Documents: {short(inputs)}"
        )
    return found


def batches(inputs: object, size: int) -> Iterator[DocumentArray]:
    """Cut inputs into requests of `size` Documents.

    None, and inputs of which there are none, are one request without Documents; a Document is one
    request; an iterable is read as it is needed.

    Raises:
        BadRequest: something that is not a Document, with its place.
    """
    if inputs is None:
        return iter((DocumentArray(),))
    if isinstance(inputs, Document):
        return iter((DocumentArray([inputs]),))
    if isinstance(inputs, DocumentArray):
        return _slices(inputs, size)
    if hasattr(inputs, "__aiter__") or hasattr(inputs, "__await__"):
        if hasattr(inputs, "close"):  # a coroutine that nobody awaits would be warned of
            inputs.close()
        raise errors.BadRequest(
            f"inputs that are asynchronous need an AsyncClient: {short(inputs)}"
        )
    if isinstance(inputs, (str, bytes, dict)) or not isinstance(inputs, Iterable):
        raise errors.BadRequest(
            "inputs must be a Document, a DocumentArray or an iterable of Documents, not "
            f"{short(inputs)}"
        )
    return _cut(iter(inputs), size)


def _slices(docs: DocumentArray, size: int) -> Iterator[DocumentArray]:
    if len(docs) <= size:
        yield docs
        return
    for at in range(0, len(docs), size):
        yield docs._part(at, at + size)


def _cut(documents: Iterator[Document], size: int) -> Iterator[DocumentArray]:
    place = 0
    while some := list(itertools.islice(documents, size)):
        for at, document in enumerate(some, place):
            check_document(document, at)
        place += len(some)
        yield DocumentArray(some)
    if not place:
        yield DocumentArray()


def check_document(document: object, place: int) -> None:
    """Raise BadRequest if the input at this place is not a Document."""
    if not isinstance(document, Document):
        raise errors.BadRequest(
            f"inputs must be Documents, but the one at {place} is {short(document)}"
        )


def seconds(timeout: float) -> float:
    """Return the seconds of so many ms; raises BadRequest if that cannot be how long to wait."""
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, (int, float))
        or not 0 < timeout < float("inf")
    ):
        raise errors.BadRequest(f"timeout must be a number of ms above 0, not {short(timeout)}")
    if timeout > MOST:
        raise errors.BadRequest(
            f"timeout must be a number of ms of {MOST} or less, not {short(timeout)}"
        )
    if timeout < 1:
        raise errors.BadRequest(
            f"timeout is in milliseconds: {timeout} is less than one; {seconds_meant(timeout)}"
        )
    return timeout / 1000


def command_arguments(
    timeout: float | None, force: bool, arguments: Mapping[str, object]
) -> dict[str, object]:
    """What a command is sent with; raises BadRequest if `timeout` cannot be how long to wait."""
    told = dict(arguments)
    if timeout is not None:
        told["timeout"] = max(1, round(1000 * seconds(timeout)))
    if force:
        told["force"] = True
    return told
