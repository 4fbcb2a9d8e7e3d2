"""Handlers: which method of an Executor serves which endpoint, and how it is called.

All of it is worked out once, when a class is defined or a replica starts, and never per request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from zflow.endpoints import DEFAULT as DEFAULT
from zflow.endpoints import check_sendable, spelt
from zflow.errors import InvalidExecutor
from zflow.executors import batching, each
from zflow.executors.batching import Batching
from zflow.suggest import did_you_mean, listed, short

#: The keywords that a handler is called with; it may name any of them, or take them all by
#: `**kwargs`.
ARGUMENTS: Final = ("docs", "parameters", "docs_matrix", "docs_map")
_MARK: Final = "__zflow_endpoints__"
_RESERVED: Final = ("close", "logger", "metas", "requests", "runtime_args", "serve", "workspace")


F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


@dataclass(frozen=True)
class Handler:
    """How one endpoint of an Executor is called.

    Attributes:
        endpoint: such as `'/index'`, or `'/default'` for the rest.
        method: the method's name.
        is_async: the call returns an awaitable.
        takes: which of `ARGUMENTS` the method takes.
        batching: how requests are put together for it; None for one at a time.
        each: it is called for one Document at a time; `takes` is of `each.ARGUMENTS` then.
    """

    endpoint: str
    method: str
    is_async: bool
    takes: tuple[str, ...]
    batching: Batching | None = None
    each: bool = False

    def bind(self, executor: object) -> Callable[..., object]:
        """Return a callable that takes every keyword of `ARGUMENTS` and passes
        on those that the method takes.
        """
        import inspect

        method = method_of(executor, self.method)
        if self.is_async and not inspect.iscoroutinefunction(method):
            method = _awaiting(method)
        if self.each:
            return each.caller(method, self.takes, self.is_async)
        if len(self.takes) == len(ARGUMENTS):
            return method
        takes = self.takes

        def call(**given: object) -> object:
            return method(**{name: given[name] for name in takes})

        return call


def method_of(executor: object, name: str) -> Callable[..., Any]:
    """Return a method as the class has it, bound to the instance:
    `self.index = ...` beside `def index` hides no handler.
    """
    import inspect

    cls = type(executor)
    raw = inspect.getattr_static(cls, name)
    bound: Callable[..., Any] = raw.__get__(executor, cls) if hasattr(raw, "__get__") else raw
    return bound


def handlers(
    executor: Any,
    uses_requests: Mapping[str, str] | None = None,
    uses_dynamic_batching: Mapping[str, Batching] | None = None,
) -> dict[str, Handler]:
    """Return the handler of every endpoint that an Executor serves;
    `DEFAULT` is the key of a bare `@requests`.

    Args:
        executor: a class, or an instance (whose own `uses_requests` then count too).
        uses_requests: endpoint -> method name, over what the decorators say; the method needs no
            decorator, and what its decorator says does not count.
        uses_dynamic_batching: by endpoint, over what the decorators say.

    Raises:
        InvalidExecutor: two methods for one endpoint, an unknown method or endpoint, or a method
            that cannot be called with the keywords of `ARGUMENTS`.
    """
    cls = executor if isinstance(executor, type) else type(executor)
    before = {} if isinstance(executor, type) else executor._uses_requests
    named = {
        _checked(endpoint, f"{cls.__name__}.{method}"): method
        for said in (before, uses_requests or {})
        for endpoint, method in said.items()
    }
    moved = set(named.values())
    kept = {endpoint: method for endpoint, method in _decorated(cls).items() if method not in moved}
    bound = {**kept, **named}
    batched = {spelt(name) or name: said for name, said in (uses_dynamic_batching or {}).items()}
    for endpoint in batched:
        if endpoint not in bound:
            hint = did_you_mean(endpoint, bound) or f"; it binds {listed(bound)}"
            raise InvalidExecutor(
                f"uses_dynamic_batching names {endpoint!r}, which {cls.__name__} does not "
                f"bind{hint}"
            )
    found = {}
    for endpoint, method in bound.items():
        handler = _handler(cls, endpoint, method)
        said = batched.get(endpoint) or _nearest(cls, method, batching.marked)
        if handler.each and said is not None:
            raise InvalidExecutor(
                f"{cls.__name__}.{method} takes one Document at a time (each=True), and so none in "
                "batches: leave one of the two out"
            )
        found[endpoint] = (
            replace(handler, batching=said) if said is not None and said.size > 1 else handler
        )
    return found


def _checked(endpoint: object, owner: str) -> str:
    """Return an endpoint as requests name it."""
    name = spelt(endpoint)
    if name is None:
        raise InvalidExecutor(
            f"an endpoint must be a text that starts with '/', not {short(endpoint)} ({owner})"
        )
    check_sendable(name, owner, InvalidExecutor)
    return name


def _decorated(cls: type) -> dict[str, str]:
    """Endpoint -> method name by the decorators of the class and its parents;
    the class nearest to it wins.
    """
    bound: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        own: dict[str, str] = {}
        for name, value, endpoints in _marked(ancestor):
            # A method that a subclass decorates anew serves what the new decorator says, and that
            # only.
            bound = {endpoint: method for endpoint, method in bound.items() if method != name}
            for endpoint in endpoints:
                other = own.setdefault(endpoint, name)
                if vars(ancestor)[other] is not value:
                    raise InvalidExecutor(
                        f"{ancestor.__name__}.{other} and {ancestor.__name__}.{name} are both "
                        "bound to "
                        f"{_spoken(endpoint)}: give each a different `on`, or merge them"
                    )
        bound.update(own)
    return {
        endpoint: method
        for endpoint, method in bound.items()
        if getattr(cls, method, None) is not None
    }


def _marked(cls: type) -> Iterator[tuple[str, object, tuple[str, ...]]]:
    for name, value in list(vars(cls).items()):
        endpoints = getattr(value, _MARK, None) or getattr(
            getattr(value, "__func__", None), _MARK, None
        )
        if isinstance(endpoints, tuple):
            yield name, value, endpoints


def _nearest(cls: type, method: str, said: Callable[[object], T]) -> T | None:
    """What the decorators of a method say, those of the class nearest to this one that has any."""
    for ancestor in cls.__mro__:
        value = vars(ancestor).get(method)
        value = getattr(value, "__func__", value)
        if (found := said(value)) or getattr(value, _MARK, None):
            return found
    return None


def _spoken(endpoint: str) -> str:
    return (
        "every other endpoint (@requests without `on`)"
        if endpoint == DEFAULT
        else f"endpoint {endpoint!r}"
    )


def _handler(cls: type, endpoint: str, method: str) -> Handler:
    import inspect

    label = f"{cls.__name__}.{method}"
    raw = inspect.getattr_static(cls, method, None) if isinstance(method, str) else None
    if raw is None or not callable(getattr(cls, method)):
        known = [name for name in dir(cls) if not name.startswith("_") and name not in _RESERVED]
        raise InvalidExecutor(
            f"{cls.__name__} has no method {short(method)} to serve "
            f"{endpoint!r}{did_you_mean(method, known)}"
        )
    if method in _RESERVED:
        raise InvalidExecutor(
            f"{label} cannot serve {endpoint!r}: Executors use that name themselves; choose "
            "another one"
        )
    # Bound to a stand-in, so that `self` (or `cls`, or nothing for a static method) is left out as
    # in a call.
    bound = raw.__get__(object(), cls) if hasattr(raw, "__get__") else raw
    inner = inspect.unwrap(getattr(bound, "__func__", bound))
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidExecutor(
            f"{label} is a generator (it uses yield): return the DocumentArray instead"
        )
    first = next(iter(inspect.signature(raw).parameters), None) if inspect.isfunction(raw) else None
    if first in (*ARGUMENTS, *each.ARGUMENTS):
        raise InvalidExecutor(f"{label} lacks self: write def {method}(self, docs, **kwargs)")
    is_async = inspect.iscoroutinefunction(bound) or inspect.iscoroutinefunction(inner)
    by_document = _nearest(cls, method, each.marked) is True
    takes = _takes(label, bound, each.ARGUMENTS if by_document else ARGUMENTS)
    return Handler(endpoint, method, is_async, takes, each=by_document)


def _awaiting(method: Callable[..., object]) -> Callable[..., object]:
    """Wrap a sync decorator around an `async def`,
    which may return an awaitable or the result itself.
    """

    async def call(**given: object) -> object:
        result = method(**given)
        return await result if hasattr(result, "__await__") else result

    return call


def _takes(label: str, bound: Callable[..., object], known: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of the `known` keywords the method takes; raise if it cannot be called with
    them.
    """
    import inspect

    way_out = f"handlers are called with the keywords {', '.join(known)}"
    try:
        parameters = inspect.signature(bound).parameters.values()
    except ValueError:
        raise InvalidExecutor(f"{label} lacks self: {way_out}") from None
    takes = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            return known
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.POSITIONAL_ONLY and (required or parameter.name in known):
            raise InvalidExecutor(
                f"{label} takes {parameter.name!r} by position only, but {way_out}: remove the '/'"
            )
        if parameter.name in known:
            takes.append(parameter.name)
        elif required:
            raise InvalidExecutor(
                f"{label} requires {parameter.name!r}, but "
                f"{way_out}{did_you_mean(parameter.name, known)}; "
                "give it a default, or take **kwargs instead"
            )
    return tuple(takes)


def mark(
    function: F, endpoints: tuple[str, ...], batches: Batching | None, by_document: bool = False
) -> F:
    if not callable(function) or isinstance(function, type):
        raise InvalidExecutor(f"@requests decorates methods of an Executor, not {short(function)}")
    before: tuple[str, ...] = getattr(function, _MARK, ())
    setattr(function, _MARK, tuple(dict.fromkeys((*before, *endpoints))))
    if by_document:
        each.mark(function)
    return function if batches is None else batching.mark(function, batches)


def endpoints_of(on: Any) -> tuple[str, ...]:
    if on is None:
        return (DEFAULT,)
    try:
        endpoints = (on,) if isinstance(on, str) else tuple(on)
    except TypeError:
        endpoints = (on,)
    if not endpoints:
        raise InvalidExecutor(
            "@requests(on=[]) binds nothing: name an endpoint, or leave `on` out to get every "
            "request"
        )
    return tuple(_checked(endpoint, "@requests") for endpoint in endpoints)
