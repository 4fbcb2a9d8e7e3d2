"""Constructors of Executors: what they take, and their parents to whom `**kwargs` are handed on.

Signatures tell the names, the source tells what becomes of `**kwargs`. It knows classes and names
of arguments, no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from zflow.errors import InvalidExecutor
from zflow.suggest import did_you_mean, listed

if TYPE_CHECKING:
    import ast
    from inspect import Parameter

#: What a replica gives a constructor that names it.
TOLD: Final = ("metas", "requests", "runtime_args")


class Takes(NamedTuple):
    """What the constructor of a class takes by keyword.

    Attributes:
        named: the parameters that it names, and those that its parents do, if it hands on what it
            does not name.
        told: those of `TOLD` among them that are not only Executor's own.
        is_open: whether other keywords can come to something: what becomes of them is not known.
        is_unused: whether other keywords come to nothing, since some `__init__` leaves its
            `**kwargs` as they are.
        texts: the texts in a constructor that keeps `**kwargs` for itself, as in `kwargs['model']`.
    """

    named: tuple[str, ...]
    told: tuple[str, ...]
    is_open: bool
    is_unused: bool
    texts: frozenset[str]


class _Use(NamedTuple):
    """What an `__init__` does with its `**kwargs`."""

    hands_on: bool  # to a parent's `__init__`
    keeps: bool  # does something else with them, too
    texts: frozenset[str]


def takes(cls: type, base: type) -> Takes:
    """Return what the constructor of an Executor class takes.

    Args:
        base: Executor itself, which ignores what it does not name.
    """
    named: list[str] = []
    told: list[str] = []
    texts: frozenset[str] = frozenset()
    is_open = False
    for owner, constructor in _constructors(cls):
        parameters = _parameters(constructor)
        if parameters is None:
            return Takes(tuple(named), tuple(told), True, False, texts)
        own = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        named += own
        if owner is base:
            break
        told += [name for name in own if name in TOLD]
        rest = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            break
        use = _use(cls, constructor, rest)
        is_open, texts = is_open or use.keeps, texts | use.texts
        if not use.hands_on:
            return Takes(tuple(named), tuple(told), is_open, not use.keeps, texts)
    return Takes(tuple(named), tuple(told), is_open, False, texts)


def check(cls: type, given: Iterable[str], base: type) -> list[str]:
    """Check that a class can be made with these keywords, beside those of `TOLD`.

    Args:
        base: Executor itself.

    Returns:
        What is to be said about keywords that seem to be misspelt, but may be meant.

    Raises:
        InvalidExecutor: it does not take one of them, or requires another one.
    """
    names = list(given)
    owner, constructor = next(_constructors(cls))
    if owner is base:
        if names:
            raise InvalidExecutor(
                f"uses_with gives {listed(names)}, but {cls.__name__} has no __init__ of its own: "
                f"write def __init__(self, {names[0]}, **kwargs), or leave uses_with out"
            )
        return []
    found = takes(cls, base)
    said = [_unknown(cls, name, found) for name in names if name not in found.named]
    _check_required(cls, _parameters(constructor) or [], names)
    return [text for text in said if text]


def _unknown(cls: type, name: str, found: Takes) -> str:
    """What to say of a keyword that no constructor names; raises if it is certainly wrong."""
    near = did_you_mean(name, {*found.named, *found.texts} - set(TOLD))
    label = f"uses_with gives {name!r}, which {cls.__name__}.__init__"
    if not found.is_open and not found.is_unused:
        hint = near or f"; it takes {listed(key for key in found.named if key not in TOLD)}"
        raise InvalidExecutor(f"{label} does not take{hint}")
    if found.is_unused and not found.is_open:
        return f"{label} takes by its **kwargs and does not use{near}"
    # What it does with **kwargs is its own business, unless this is nearly a name that it knows.
    return f"{label} does not name{near}" if near and name not in found.texts else ""


def _check_required(cls: type, parameters: Iterable[Parameter], given: list[str]) -> None:
    for p in parameters:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) or p.default is not p.empty:
            continue
        if p.kind is p.POSITIONAL_ONLY:
            raise InvalidExecutor(
                f"{cls.__name__}.__init__ takes {p.name!r} by position only: remove the '/'"
            )
        if p.name not in given and p.name not in TOLD:
            raise InvalidExecutor(
                f"{cls.__name__}.__init__ requires {p.name!r}: give it by uses_with={{{p.name!r}: "
                "...}"
            )


def _constructors(cls: type) -> Iterator[tuple[type, Callable[..., object]]]:
    """Whose `__init__` there are, and those, in the order in which `super()` finds them."""
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            yield owner, vars(owner)["__init__"]


def _parameters(constructor: Callable[..., object]) -> list[Parameter] | None:
    """Those after `self`; None where it is not written in Python and says nothing about them."""
    import inspect

    try:
        return list(inspect.signature(constructor).parameters.values())[1:]
    except (TypeError, ValueError):
        return None


def _use(cls: type, constructor: Callable[..., object], rest: str) -> _Use:
    """Read what becomes of `**rest`; where there is no source, it may be anything."""
    import ast
    import inspect
    import textwrap

    try:
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(constructor)))))
    except (OSError, TypeError, SyntaxError):
        return _Use(False, True, frozenset())
    parents = {parent.__name__ for parent in cls.__mro__}
    calls = [node for node in nodes if isinstance(node, ast.Call) and _is_init(node.func, parents)]
    handed = [
        keyword.value
        for call in calls
        for keyword in call.keywords
        if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest
    ]
    used = [node for node in nodes if isinstance(node, ast.Name) and node.id == rest]
    keeps = len(used) > len(handed)
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and keeps]
    words = frozenset(text for text in texts if isinstance(text, str) and text.isidentifier())
    return _Use(bool(handed), keeps, words)


def _is_init(called: ast.expr, parents: set[str]) -> bool:
    """Tell whether this is `super().__init__`, or `Parent.__init__`."""
    import ast

    if not isinstance(called, ast.Attribute) or called.attr != "__init__":
        return False
    of = called.value
    if isinstance(of, ast.Name):
        return of.id in parents
    return isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super"
