"""Executor, the base class of what users write, and `@requests`, which binds methods to endpoints.

An Executor is an ordinary class: it can be made and called without a Flow, and this module knows nothing of
processes, sockets or requests on the wire. What a method takes is worked out once, when the class is defined
and when a replica binds its handlers, never per request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final, TypeVar, overload

from zflow import batching
from zflow.batching import Batching
from zflow.errors import InvalidExecutor
from zflow.suggest import did_you_mean, listed, short

#: The endpoint of a bare `@requests`: it gets every request that no other method is bound to.
DEFAULT: Final = "/default"

#: The keywords that a handler is called with; it may name any of them, or take them all by `**kwargs`.
ARGUMENTS: Final = ("docs", "parameters", "docs_matrix", "docs_map")

_MARK: Final = "__zflow_endpoints__"
_RESERVED: Final = ("close", "logger", "metas", "requests", "runtime_args", "serve", "workspace")
_classes: dict[str, type[Executor]] = {}

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound="Executor")


@overload
def requests(func: F, /) -> F: ...


@overload
def requests(
    *, on: str | Iterable[str] | None = None, batch_size: int | None = None, batch_timeout: float = 0.0
) -> Callable[[F], F]: ...


def requests(
    func: Any = None,
    /,
    *,
    on: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    batch_timeout: float = 0.0,
) -> Any:
    """Bind a method of an Executor, sync or `async def`, to endpoints. The method stays an ordinary one.

    Args:
        on: the endpoint, such as `'/index'`, or several of them; every request that no other method is bound
            to when it is left out.
        batch_size: how many Documents the method gets at most in one call, if those of several requests wait for it; a
            single request with more is never cut. One request at a time when it is left out.
        batch_timeout: seconds that a request may wait for others while a replica is idle and they are too few for a
            full batch.

    Raises:
        InvalidExecutor: an endpoint does not start with '/', what is decorated is not a function, or a batch cannot be
            like that.

    >>> class Shout(Executor):
    ...     @requests(on=["/shout", "/loud"])
    ...     def shout(self, docs, **kwargs):
    ...         docs.texts = [text.upper() for text in docs.texts]
    """
    if isinstance(func, (str, list, tuple)):
        raise InvalidExecutor(f"write @requests(on={func!r}), not @requests({func!r})")
    endpoints = _endpoints(on)
    batches = batching.of_requests(batch_size, batch_timeout)
    if func is not None:
        return _mark(func, endpoints, batches)
    return lambda function: _mark(function, endpoints, batches)


class Executor:
    """Base class of Executors: subclass it, decorate methods with `@requests`, give the class to `Flow.add`.

    In a replica these are in place before your `__init__` runs, whether or not it calls `super().__init__()`:

    Attributes:
        runtime_args: where this instance runs: `name` (`'encoder/rep-0'`; the class name outside a Flow), `shard_id`,
            `shards`, `replica_id`, `replicas`, `workspace`, and `cuda_visible_devices`: the GPUs that CUDA shows this
            process, as the variable CUDA_VISIBLE_DEVICES says; None if it is not set.
        metas: what `uses_metas` and the Executor's YAML say about it, as attributes.
        requests: a dict from endpoint to the bound method that serves it.
        logger: a `logging.Logger` named `zflow.` and the replica's name.

    Args:
        metas, requests, runtime_args: replace those attributes when given; a Flow sets them by itself.
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

    runtime_args: SimpleNamespace
    metas: SimpleNamespace
    _uses_requests: Mapping[str, str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        handlers(cls)
        _classes[cls.__name__] = cls

    def __new__(cls: type[E], *args: Any, **kwargs: Any) -> E:
        self = super().__new__(cls)
        self.runtime_args = SimpleNamespace(
            name=cls.__name__,
            shard_id=0,
            shards=1,
            replica_id=0,
            replicas=1,
            workspace=None,
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        self.metas = SimpleNamespace()
        self._uses_requests = {}
        return self

    def __init__(
        self,
        metas: Mapping[str, Any] | SimpleNamespace | None = None,
        requests: Mapping[str, str] | None = None,
        runtime_args: Mapping[str, Any] | SimpleNamespace | None = None,
        workspace: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if metas is not None:
            self.metas = SimpleNamespace(**_plain(metas))
        if requests is not None:
            self._uses_requests = dict(requests)
            self.__dict__.pop("requests", None)
        if runtime_args is not None:
            self.runtime_args = SimpleNamespace(**{**vars(self.runtime_args), **_plain(runtime_args)})
        if workspace is not None:
            self.runtime_args.workspace = os.fspath(workspace)

    @cached_property
    def requests(self) -> dict[str, Callable[..., Any]]:
        """The bound method of every endpoint that this Executor serves."""
        return {endpoint: getattr(self, found.method) for endpoint, found in handlers(self).items()}

    @cached_property
    def logger(self) -> logging.Logger:
        """The log of this replica: `logging.getLogger('zflow.encoder/rep-0')`."""
        return logging.getLogger(f"zflow.{self.runtime_args.name}")

    @property
    def workspace(self) -> str | None:
        """This Executor's own folder, `<workspace>/<executor name>/<shard_id>`, created when first asked for.

        None when neither `workspace` nor `uses_metas={'workspace': ...}` was given.
        """
        base = getattr(self.runtime_args, "workspace", None) or getattr(self.metas, "workspace", None)
        if not base:
            return None
        name = self.runtime_args.name.partition("/")[0]
        path = os.path.join(os.path.abspath(base), name, str(self.runtime_args.shard_id))
        os.makedirs(path, exist_ok=True)
        return path

    @classmethod
    def serve(cls, *, stop_event: Any = None, **options: Any) -> None:
        """Serve this Executor alone, as a Flow of nothing else, until it is told to end; then close in good order.

        What it listens with is what any Flow has: Clients can post to it, and another Flow can have it as an external
        Executor. It ends by Ctrl-C, by SIGTERM (if this is the main thread), or when `stop_event` is set. The log says
        where it serves.

        Args:
            stop_event: of threading or multiprocessing.
            options: any keyword of `Flow.add` that concerns one Executor (`replicas`, `shards`, `uses_with`, ...), and
                any of `Flow` (`port`, `host`, `timeout_close`, ...). `name` is that of the class when left out.

        Raises:
            InvalidFlow, InvalidExecutor, NotSupported: a wrong keyword or value; nothing was started.
            StartupFailed, PortInUse: it cannot start; nothing is left running.
            FlowNotRunning: it came down by itself.

        >>> Executor.serve(prot=12345)
        Traceback (most recent call last):
        zflow.errors.InvalidFlow: unknown keyword 'prot'; did you mean 'port'? (Executor.serve)
        """
        from zflow.serve import serve

        serve(cls, stop_event=stop_event, **options)

    def close(self) -> None:
        """Called once when the replica shuts down: override it to give back files, connections, devices."""


@dataclass(frozen=True)
class Handler:
    """How one endpoint of an Executor is called.

    Attributes:
        endpoint: such as `'/index'`, or `'/default'` for the rest.
        method: the method's name.
        is_async: the call returns an awaitable.
        takes: which of `ARGUMENTS` the method takes.
        batching: how requests are put together for it; None for one at a time.
    """

    endpoint: str
    method: str
    is_async: bool
    takes: tuple[str, ...]
    batching: Batching | None = None

    def bind(self, executor: Executor) -> Callable[..., Any]:
        """Return a callable that takes every keyword of `ARGUMENTS` and passes on those that the method takes."""
        import inspect

        method: Callable[..., Any] = getattr(executor, self.method)
        if self.is_async and not inspect.iscoroutinefunction(method):
            method = _awaiting(method)
        if len(self.takes) == len(ARGUMENTS):
            return method
        takes = self.takes

        def call(**given: Any) -> Any:
            return method(**{name: given[name] for name in takes})

        return call


def handlers(
    executor: Executor | type[Executor],
    uses_requests: Mapping[str, str] | None = None,
    uses_dynamic_batching: Mapping[str, Batching] | None = None,
) -> dict[str, Handler]:
    """Return the handler of every endpoint that an Executor serves; `DEFAULT` is the key of a bare `@requests`.

    Args:
        executor: a class, or an instance (whose own `uses_requests` then count too).
        uses_requests: endpoint -> method name, over what the decorators say; the method needs no decorator.
        uses_dynamic_batching: by endpoint, over what the decorators say.

    Raises:
        InvalidExecutor: two methods for one endpoint, an unknown method or endpoint, or a method that cannot be called
            with the keywords of `ARGUMENTS`.
    """
    cls = executor if isinstance(executor, type) else type(executor)
    bound = _decorated(cls)
    if not isinstance(executor, type):
        bound.update(executor._uses_requests)
    bound.update(uses_requests or {})
    batched = uses_dynamic_batching or {}
    for endpoint in batched:
        if endpoint not in bound:
            hint = did_you_mean(endpoint, bound) or f"; it binds {listed(bound)}"
            raise InvalidExecutor(f"uses_dynamic_batching names {endpoint!r}, which {cls.__name__} does not bind{hint}")
    found = {}
    for endpoint, method in bound.items():
        _check_endpoint(endpoint, f"{cls.__name__}.{method}")
        handler = _handler(cls, endpoint, method)
        said = batched.get(endpoint) or _batching(cls, method)
        found[endpoint] = replace(handler, batching=said) if said is not None and said.size > 1 else handler
    return found


def find_class(name: str) -> type[Executor] | None:
    """Return the Executor class defined last under that name, or None."""
    return _classes.get(name)


def class_names() -> list[str]:
    """Return the names of all Executor classes defined so far, for messages."""
    return sorted(_classes)


def instantiate(
    cls: type[Executor],
    *,
    uses_with: Mapping[str, Any] | None = None,
    metas: Mapping[str, Any] | None = None,
    requests: Mapping[str, str] | None = None,
    runtime_args: Mapping[str, Any] | SimpleNamespace | None = None,
    workspace: str | None = None,
) -> Executor:
    """Make an Executor as a replica does: first its runtime attributes, then its own `__init__(**uses_with)`.

    Raises whatever the constructor raises.

    >>> instantiate(BaseExecutor, runtime_args={"name": "encoder/rep-0"}).runtime_args.name
    'encoder/rep-0'
    """
    executor: Executor = cls.__new__(cls)
    Executor.__init__(executor, metas, requests, runtime_args, workspace)
    executor.__init__(**(uses_with or {}))  # type: ignore[misc]  # the two steps of cls(...), with room in between
    return executor


def _plain(values: Mapping[str, Any] | SimpleNamespace) -> Mapping[str, Any]:
    return vars(values) if isinstance(values, SimpleNamespace) else values


def _mark(function: F, endpoints: tuple[str, ...], batches: Batching | None) -> F:
    if not callable(function) or isinstance(function, type):
        raise InvalidExecutor(f"@requests decorates methods of an Executor, not {short(function)}")
    before: tuple[str, ...] = getattr(function, _MARK, ())
    setattr(function, _MARK, tuple(dict.fromkeys((*before, *endpoints))))
    return function if batches is None else batching.mark(function, batches)


def _endpoints(on: Any) -> tuple[str, ...]:
    if on is None:
        return (DEFAULT,)
    try:
        endpoints = (on,) if isinstance(on, str) else tuple(on)
    except TypeError:
        endpoints = (on,)
    if not endpoints:
        raise InvalidExecutor(
            "@requests(on=[]) binds nothing: name an endpoint, or leave `on` out to get every request"
        )
    for endpoint in endpoints:
        _check_endpoint(endpoint, "@requests")
    return endpoints


def _check_endpoint(endpoint: object, owner: str) -> None:
    if not isinstance(endpoint, str) or not endpoint.startswith("/"):
        hint = f"; write '/{endpoint}'" if isinstance(endpoint, str) and endpoint else ""
        raise InvalidExecutor(f"an endpoint must be a text that starts with '/', not {short(endpoint)}{hint} ({owner})")


def _decorated(cls: type) -> dict[str, str]:
    """Endpoint -> method name by the decorators of the class and its parents; the class nearest to it wins."""
    bound: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        own: dict[str, str] = {}
        for name, value, endpoints in _marked(ancestor):
            # A method that a subclass decorates anew serves what the new decorator says, and that only.
            bound = {endpoint: method for endpoint, method in bound.items() if method != name}
            for endpoint in endpoints:
                other = own.setdefault(endpoint, name)
                if vars(ancestor)[other] is not value:
                    raise InvalidExecutor(
                        f"{ancestor.__name__}.{other} and {ancestor.__name__}.{name} are both bound to "
                        f"{_spoken(endpoint)}: give each a different `on`, or merge them"
                    )
        bound.update(own)
    return {endpoint: method for endpoint, method in bound.items() if getattr(cls, method, None) is not None}


def _marked(cls: type) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    for name, value in list(vars(cls).items()):
        endpoints = getattr(value, _MARK, None) or getattr(getattr(value, "__func__", None), _MARK, None)
        if isinstance(endpoints, tuple):
            yield name, value, endpoints


def _batching(cls: type, method: str) -> Batching | None:
    """What the decorators of a method say, those of the class nearest to this one that has any."""
    for ancestor in cls.__mro__:
        value = vars(ancestor).get(method)
        value = getattr(value, "__func__", value)
        said = batching.marked(value)
        if said is not None or getattr(value, _MARK, None):
            return said
    return None


def _spoken(endpoint: str) -> str:
    return "every other endpoint (@requests without `on`)" if endpoint == DEFAULT else f"endpoint {endpoint!r}"


def _handler(cls: type, endpoint: str, method: str) -> Handler:
    import inspect

    label = f"{cls.__name__}.{method}"
    raw = inspect.getattr_static(cls, method, None) if isinstance(method, str) else None
    if raw is None or not callable(getattr(cls, method)):
        known = [name for name in dir(cls) if not name.startswith("_") and name not in _RESERVED]
        raise InvalidExecutor(
            f"{cls.__name__} has no method {short(method)} to serve {endpoint!r}{did_you_mean(method, known)}"
        )
    if method in _RESERVED:
        raise InvalidExecutor(
            f"{label} cannot serve {endpoint!r}: Executors use that name themselves; choose another one"
        )
    # Bound to a stand-in, so that `self` (or `cls`, or nothing for a static method) is left out as in a call.
    bound = raw.__get__(object(), cls) if hasattr(raw, "__get__") else raw
    inner = inspect.unwrap(getattr(bound, "__func__", bound))
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidExecutor(f"{label} is a generator (it uses yield): return the DocumentArray instead")
    if inspect.isfunction(raw) and next(iter(inspect.signature(raw).parameters), None) in ARGUMENTS:
        raise InvalidExecutor(f"{label} lacks self: write def {method}(self, docs, **kwargs)")
    is_async = inspect.iscoroutinefunction(bound) or inspect.iscoroutinefunction(inner)
    return Handler(endpoint, method, is_async, _takes(label, bound))


def _awaiting(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a sync decorator around an `async def`, which may return an awaitable or the result itself."""

    async def call(**given: Any) -> Any:
        result = method(**given)
        return await result if hasattr(result, "__await__") else result

    return call


def _takes(label: str, bound: Any) -> tuple[str, ...]:
    """Return which of `ARGUMENTS` the method takes; raise if it cannot be called with them."""
    import inspect

    way_out = f"handlers are called with the keywords {', '.join(ARGUMENTS)}"
    try:
        parameters = inspect.signature(bound).parameters.values()
    except ValueError:
        raise InvalidExecutor(f"{label} lacks self: {way_out}") from None
    takes = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            return ARGUMENTS
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.POSITIONAL_ONLY and (required or parameter.name in ARGUMENTS):
            raise InvalidExecutor(f"{label} takes {parameter.name!r} by position only, but {way_out}: remove the '/'")
        if parameter.name in ARGUMENTS:
            takes.append(parameter.name)
        elif required:
            raise InvalidExecutor(
                f"{label} requires {parameter.name!r}, but {way_out}{did_you_mean(parameter.name, ARGUMENTS)}; "
                "give it a default, or take **kwargs instead"
            )
    return tuple(takes)


class BaseExecutor(Executor):
    """What runs where `uses` is left out: it binds no endpoint, so every request passes through unchanged."""
