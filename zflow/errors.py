"""Every error that zflow raises on purpose, under one base class.

An error names the thing, the value and the way out. All of them pickle, and all of them can be sent
over the wire as plain data (`to_wire`, `from_wire`): nothing received is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple


class ZflowError(Exception):
    """Base class of all zflow errors: `except ZflowError` catches whatever zflow itself raises.

    Args:
        message: what is wrong, with what, and the way out.
        details: further attributes of the error.

    Attributes:
        key: which option of a Flow or an Executor is wrong, as a path of keys: `('replicas',)`, or
            `('uses_dynamic_batching', '/encode', 'timeout')`. Of an error in a Flow's YAML it
            begins at the top of the
            document: `('executors', 0, 'replicas')`. `()` where it is about no single one.
    """

    __module__ = "zflow"

    key: tuple[str | int, ...] = ()

    def __init__(
        self, message: str = "", *, key: tuple[str | int, ...] = (), **details: str
    ) -> None:
        super().__init__(message)
        self.__dict__.update(details)
        if key:
            self.key = key

    @property
    def message(self) -> str:
        """The error's text, without a remote traceback."""
        return str(self.args[0]) if self.args else ""


class InvalidFlow(ZflowError, ValueError):
    """The Flow cannot be built as described: a name, `needs`,
    a number or a combination is wrong.
    """


class InvalidConfig(InvalidFlow):
    """A YAML file or text cannot be read as a Flow; the message gives file, line and key."""


class InvalidKeys(ZflowError, ValueError):
    """A folder of CURVE keys is not what it should be; the message names the file,
    never what is in it.
    """


class InvalidExecutor(ZflowError, ValueError):
    """What `uses` says is not an Executor that can be run,
    or its endpoints are not well defined.
    """


class NotSupported(ZflowError, NotImplementedError):
    """A documented option that this version of zflow does not carry out."""


class MissingExtra(ZflowError, ImportError):
    """A feature needs a package that the core does not install; the message says how to get it."""


class FlowNotRunning(ZflowError, RuntimeError):
    """Something was asked of a Flow that is not started, or was closed."""


class FlowUnreachable(ZflowError, ConnectionError):
    """No Flow answers at that address, or it stopped answering."""


class AccessDenied(FlowUnreachable):
    """What listens there refuses the connection: it does not know the keys,
    or has no room for more.
    """


class Overloaded(ZflowError, RuntimeError):
    """More was asked for than is taken at a time; nothing was begun,
    and it may be asked again later.
    """


class OutOfDescriptors(ZflowError, OSError):
    """This process, or the machine, has as many files and sockets open as it may."""


class ChangeRefused(ZflowError, RuntimeError):
    """A change of a running Flow cannot be made; what was there goes on as it was."""


class StartupFailed(ZflowError, RuntimeError):
    """An Executor did not get ready; the message carries its traceback,
    and nothing was left running.
    """


class PortInUse(StartupFailed):
    """The Flow cannot listen where it was told to."""


class SerializationError(ZflowError, TypeError):
    """A value cannot be sent; the message names the Document and the field."""


class RequestTooLarge(ZflowError, ValueError):
    """A request or a result is larger than the Flow accepts;
    the message names the largest Document.
    """


class BadRequest(ZflowError, ValueError):
    """The Flow cannot make sense of a request: unknown target, broken header, another version."""


class FailedDocument(NamedTuple):
    """A Document that an Executor has failed for: its place in the request, and its id."""

    index: int  # type: ignore[assignment]  # tuple has a method of that name
    id: str


class ExecutorError(ZflowError, RuntimeError):
    """An Executor raised while it handled a request.

    Attributes:
        executor: the replica that raised, such as `'encoder/rep-0'`.
        exception: the name of the remote exception's class, such as `'KeyError'`.
        traceback: the remote traceback as text; `str(error)` ends with it.
        failed: of an Executor that works Document by Document (`@requests(each=True)`), those that
            it failed for: `(index, id)`, the index being that in the request. Else empty.
        docs: a DocumentArray of what came of the others in the request; else empty.
    """

    executor: str = ""
    exception: str = ""
    traceback: str = ""
    failed: Sequence[FailedDocument] = ()
    docs: Sequence[object] = ()

    def __str__(self) -> str:
        if not self.traceback:
            return self.message
        return f"{self.message}\n\nTraceback in {self.executor}:\n{self.traceback.rstrip()}"


class ReplicaCrashed(ZflowError, RuntimeError):
    """Every replica that was given this request died with it."""


class DeadlineExceeded(ZflowError, TimeoutError):
    """The request was not answered within its time."""


@contextmanager
def keyed(*path: str | int) -> Iterator[None]:
    """Say of errors raised within what they are about: `path` goes before the keys that they have.

    >>> try:
    ...     with keyed("env", "THREADS"):
    ...         raise InvalidFlow("no number")
    ... except InvalidFlow as error:
    ...     error.key
    ('env', 'THREADS')
    """
    try:
        yield
    except ZflowError as error:
        error.key = (*path, *error.key)
        raise


def to_wire(error: ZflowError) -> dict[str, Any]:
    """Return the error as plain data: its class name, its message and its attributes."""
    return {"type": type(error).__name__, "message": error.message, **vars(error)}


def from_wire(data: object) -> ZflowError:
    """Rebuild an error from what `to_wire` made;
    unknown or malformed data becomes a plain `ZflowError`.

    >>> from_wire({"type": "DeadlineExceeded", "message": "too late"})
    DeadlineExceeded('too late')
    """
    if not isinstance(data, dict):
        try:
            shown = f"{data!r:.200}"
        except RecursionError:
            shown = f"{type(data).__name__}, nested too deep to be shown"
        return ZflowError(f"malformed error received: {shown}")
    kind, message = data.get("type"), data.get("message", "")
    found = globals().get(kind, ZflowError) if isinstance(kind, str) else ZflowError
    if not (isinstance(found, type) and issubclass(found, ZflowError)):
        found = ZflowError
    key = data.get("key", ())
    if not isinstance(key, (list, tuple)) or not all(isinstance(step, (str, int)) for step in key):
        key = ()
    error = found(message if isinstance(message, str) else "its message is no text", key=tuple(key))
    if isinstance(error, ExecutorError) and "failed" in data:
        error.failed = _failed(data.get("failed"))
    declared = [
        name for name, kind in vars(found).get("__annotations__", {}).items() if kind == "str"
    ]
    for name, value in data.items():
        if not isinstance(name, str) or name in ("type", "message", "key"):
            continue
        # What the class has by itself, such as OSError's errno, is not for others to set.
        taken = str if name in declared else () if hasattr(found, name) else (str, int, float)
        if isinstance(value, taken):
            setattr(error, name, value)
    return error


def _failed(data: Any) -> list[FailedDocument]:
    """Return what was told of Documents that have failed; nothing of it if it is malformed."""
    try:
        failed = [FailedDocument(*one) for one in data or ()]
    except (TypeError, ValueError):
        return []
    sound = all(type(index) is int and type(id) is str for index, id in failed)
    return failed if sound else []
