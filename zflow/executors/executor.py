"""Executor, the base class of what users write, and `@requests`, which binds methods to endpoints.

An Executor is an ordinary class: it can be made and called without a Flow, and this module knows
nothing of processes, sockets or requests on the wire. What a method takes is worked out once, when
the class is defined and when a replica binds its handlers, never per request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, overload

from zflow.errors import InvalidExecutor
from zflow.executors import batching, duplicates
from zflow.executors.handlers import endpoints_of, handlers, mark, method_of

log = logging.getLogger("zflow")
_classes: dict[str, type[Executor]] = {}

F = TypeVar("F", bound=Callable[..., object])
E = TypeVar("E", bound="Executor")


@overload
def requests(func: F, /) -> F: ...


@overload
def requests(
    *,
    on: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    batch_timeout: float = 0,
    each: bool = False,
) -> Callable[[F], F]: ...


def requests(
    func: Callable[..., object] | None = None,
    /,
    *,
    on: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    batch_timeout: float = 0,
    each: bool = False,
) -> object:
    """Bind a method of an Executor, sync or `async def`, to endpoints.
    The method stays an ordinary one.

    Args:
        on: the endpoint, such as `'/index'` or `'index'`, or several of them; every request that no
            other method is bound to when it is left out, or `'*'`.
        batch_size: how many Documents the method gets at most in one call, if those of several
            requests wait for it; a single request with more is never cut. One request at a time
            when it is left out.
        batch_timeout: ms that a request may wait for others while a replica is idle and they are
            too few for a full batch.
        each: the method gets one Document at a time, as `doc`, and returns one, or None to keep
            `doc` as it changed it. An `async def` is called for all at once. If it fails for some,
            the `ExecutorError` says for which (`failed`), and has what came of the others (`docs`).

    Raises:
        InvalidExecutor: an endpoint is no text, or too long, what is decorated is not a function,
            or a batch cannot be like that.

    >>> class Shout(Executor):
    ...     @requests(on=["/shout", "/loud"])
    ...     def shout(self, docs, **kwargs):
    ...         docs.texts = [text.upper() for text in docs.texts]
    """
    if isinstance(func, (str, list, tuple)):
        raise InvalidExecutor(f"write @requests(on={func!r}), not @requests({func!r})")
    endpoints = endpoints_of(on)
    batches = batching.of_requests(batch_size, batch_timeout)
    if func is not None:
        return mark(func, endpoints, batches, each)
    return lambda function: mark(function, endpoints, batches, each)


requests.__module__ = "zflow"


class Metas(SimpleNamespace):
    """What `uses_metas` and YAML say about an Executor, as attributes.

    Attributes:
        name: that of the class, unless it is said.
        description, workspace, py_modules: nothing, unless they are said.
    """

    __slots__ = ("_executor",)  # so that `vars` shows only what was said

    name: str
    description: str = ""
    workspace: str | None = None
    py_modules: str | Sequence[str] = ()

    def __init__(self, executor: str, /, **said: object) -> None:
        super().__init__(**said)
        self._executor = executor

    def __getattr__(self, key: str) -> str:
        if key == "name":
            return self._executor
        raise AttributeError(f"nothing is said about {key!r}: {self!r}")

    def __reduce__(self) -> tuple[type, tuple[str], dict[str, object]]:
        return Metas, (self._executor,), vars(self)


class Executor:
    """Base class of Executors: subclass it, decorate methods with `@requests`,
    give the class to `Flow.add`.

    In a replica these are in place before your `__init__` runs,
    whether or not it calls `super().__init__()`:

    Attributes:
        runtime_args: where this instance runs: `name` (`'encoder/rep-0'`; the class name outside a
            Flow), `shard_id`, `shards`, `replica_id`, `replicas`, `workspace`, `seed` (of its
            random numbers, if `seed=` was given), and
            `cuda_visible_devices`: the GPUs that CUDA shows this process, as the variable
                CUDA_VISIBLE_DEVICES
            says; None if it is not set.
        metas: what `uses_metas` and the Executor's YAML say about it, as attributes; its `name` is
            that of the class if they don't say one.
        requests: a dict from endpoint to the bound method that serves it.
        logger: a `logging.Logger` named `zflow.` and the replica's name.

    Args:
        metas, requests, runtime_args: replace those attributes when given; a Flow sets them by
            itself.
        workspace: the folder under which `self.workspace` lies.
        kwargs: anything else is ignored, so that `super().__init__(**kwargs)` always works.

    >>> class Greet(Executor):
    ...     def __init__(self, greeting="hello", **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.greeting = greeting
    ...
    ...     @requests
    ...     def greet(self, docs, **kwargs):
    ...         return f"{self.greeting} {docs}"
    >>> Greet(greeting="bye").greet(docs="you")
    'bye you'
    """

    __module__ = "zflow"

    runtime_args: SimpleNamespace
    metas: Metas
    _runtime_args: SimpleNamespace
    _metas: Metas
    _uses_requests: Mapping[str, str]
    # Builds a Flow, which is above this module: `zflow.serve` puts it here.
    _serve_alone: ClassVar[Callable[..., None]]

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        handlers(cls)
        again = duplicates.redefined(cls)
        if again is not None:
            log.warning(
                "%s.%s is defined more than once%s: only the last one counts; give each a name of "
                "its own",
                cls.__name__,
                again.name,
                again.where,
            )
        _classes[cls.__name__] = cls

    def __new__(cls: type[E], *args: object, **kwargs: object) -> E:
        self = super().__new__(cls)
        self.runtime_args = SimpleNamespace(
            name=cls.__name__,
            shard_id=0,
            shards=1,
            replica_id=0,
            replicas=1,
            workspace=None,
            seed=None,
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        self._runtime_args = self.runtime_args
        self.metas = self._metas = Metas(cls.__name__)
        self._uses_requests = {}
        return self

    def __init__(
        self,
        metas: Mapping[str, object] | SimpleNamespace | None = None,
        requests: Mapping[str, str] | None = None,
        runtime_args: Mapping[str, object] | SimpleNamespace | None = None,
        workspace: str | os.PathLike[str] | None = None,
        **kwargs: object,
    ) -> None:
        if metas is not None:
            self.metas = self._metas = Metas(type(self).__name__, **rooted(_plain(metas)))
        if requests is not None:
            self._uses_requests = dict(requests)
            self.__dict__.pop("requests", None)
        if runtime_args is not None:
            self.runtime_args = self._runtime_args = SimpleNamespace(
                **{**vars(_place(self)), **rooted(_plain(runtime_args))}
            )
        if workspace is not None:
            _place(self).workspace = os.path.abspath(workspace)

    @cached_property
    def requests(self) -> dict[str, Callable[..., Any]]:
        """The bound method of every endpoint that this Executor serves."""
        return {
            endpoint: method_of(self, found.method) for endpoint, found in handlers(self).items()
        }

    @cached_property
    def logger(self) -> logging.Logger:
        """The log of this replica: `logging.getLogger('zflow.encoder/rep-0')`."""
        return logging.getLogger(f"zflow.{_place(self).name}")

    @property
    def workspace(self) -> str | None:
        """This Executor's own folder, `<workspace>/<executor name>/<shard_id>`,
        created when first asked for. A relative `workspace` is relative to where the Flow was
        started, or without a Flow where the Executor was made, whatever folder is the working
        directory later.

        None when neither `workspace` nor `uses_metas={'workspace': ...}` was given.
        """
        place = _place(self)
        base = place.workspace or getattr(_space(self.metas, self._metas), "workspace", None)
        if not base:
            return None
        name = place.name.partition("/")[0]
        path = os.path.join(os.path.abspath(base), name, str(place.shard_id))
        os.makedirs(path, exist_ok=True)
        return path

    @classmethod
    def serve(cls, *, stop_event: object = None, **options: object) -> None:
        """Serve this Executor alone, as a Flow of nothing else, until it is told to end;
        then close in good order.

        What it listens with is what any Flow has: Clients can post to it, and another Flow can have
        it as an external Executor. It ends by Ctrl-C, by SIGTERM (if this is the main thread), or
        when `stop_event` is set. The log says where it serves.

        Args:
            stop_event: of threading or multiprocessing.
            options: any keyword of `Flow.add` that concerns one Executor (`replicas`, `shards`,
                `uses_with`, ...), and any of `Flow` (`port`, `host`, `timeout_close`, ...). `name`
                is that of the class when left out.

        Raises:
            InvalidFlow, InvalidExecutor, NotSupported: a wrong keyword or value; nothing was
                started.
            StartupFailed, PortInUse: it cannot start; nothing is left running.
            FlowNotRunning: it came down by itself.

        >>> Executor.serve(prot=12345)
        Traceback (most recent call last):
        zflow.errors.InvalidFlow: unknown keyword 'prot'; did you mean 'port'? (Executor.serve)
        """
        cls._serve_alone(cls, stop_event=stop_event, **options)

    def close(self) -> None:
        """Called once when the replica shuts down, or at the end of `with MyExec() as executor:`;
        override it to give back files, connections, devices. It may be `async def`.
        """

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *_: object) -> None:
        closing = method_of(self, "close")()
        if hasattr(closing, "__await__"):
            import asyncio

            asyncio.run(_awaited(closing))

    async def __aenter__(self: E) -> E:
        return self

    async def __aexit__(self, *_: object) -> None:
        closing = method_of(self, "close")()
        if hasattr(closing, "__await__"):
            await closing


async def _awaited(closing: Awaitable[object]) -> None:
    await closing


def find_class(name: str) -> type[Executor] | None:
    """Return the Executor class defined last under that name, or None."""
    return _classes.get(name)


def class_names() -> list[str]:
    """Return the names of all Executor classes defined so far, for messages."""
    return sorted(_classes)


def instantiate(
    cls: type[Executor],
    *,
    uses_with: Mapping[str, object] | None = None,
    metas: Mapping[str, object] | None = None,
    requests: Mapping[str, str] | None = None,
    runtime_args: Mapping[str, object] | SimpleNamespace | None = None,
    workspace: str | None = None,
) -> Executor:
    """Make an Executor as a replica does: first its runtime attributes,
    then its own `__init__(**uses_with)`, which gets `metas`, `requests` and `runtime_args` as
    dicts where it names them.

    Raises whatever the constructor raises.

    >>> instantiate(BaseExecutor, runtime_args={"name": "encoder/rep-0"}).runtime_args.name
    'encoder/rep-0'
    """
    from zflow.executors import constructors

    executor: Executor = cls.__new__(cls)
    Executor.__init__(executor, metas, requests, runtime_args, workspace)
    told = {
        "metas": dict(vars(executor.metas)),
        "requests": dict(executor._uses_requests),
        "runtime_args": dict(vars(executor.runtime_args)),
    }
    named = {name: told[name] for name in constructors.takes(cls, Executor).told}
    executor.__init__(**{**named, **(uses_with or {})})  # type: ignore[misc]  # the two steps of cls(...), with room in between
    return executor


def rooted(values: Mapping[str, object], start: str = "") -> Mapping[str, object]:
    """Return metas or runtime_args with a relative `workspace` in full,
    so that it stays where it is when the working directory changes.

    Args:
        start: what it is relative to; the working directory when left out.

    Raises:
        OSError: the working directory is gone.

    >>> rooted({"name": "x", "workspace": "data"}, "/here")
    {'name': 'x', 'workspace': '/here/data'}
    """
    said = values.get("workspace")
    if not (said and isinstance(said, (str, os.PathLike))):
        return values
    return {**values, "workspace": os.path.abspath(os.path.join(start, said))}


def _place(executor: Executor) -> SimpleNamespace:
    """The `runtime_args` of an Executor, also where an attribute of the user's hides them."""
    return _space(executor.runtime_args, executor._runtime_args)


def _space(value: object, told: SimpleNamespace) -> SimpleNamespace:
    """What an attribute holds; what was there before if the user has put something else there."""
    return value if isinstance(value, SimpleNamespace) else told


def _plain(values: Mapping[str, object] | SimpleNamespace) -> Mapping[str, object]:
    return vars(values) if isinstance(values, SimpleNamespace) else values


class BaseExecutor(Executor):
    """What runs where `uses` is left out: it binds no endpoint,
    so every request passes through unchanged.
    """

    __module__ = "zflow"
