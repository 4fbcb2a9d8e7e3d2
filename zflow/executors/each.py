"""`@requests(each=True)`: a method that works Document by Document, and what comes of those that
fail.

It calls a method; it must not know requests or how errors are sent.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol, TypeVar

from zflow.suggest import short

#: The keywords that such a method is called with.
ARGUMENTS: Final = ("doc", "parameters")
_MARK: Final = "__zflow_each__"
_NAMED = 10  # Documents in a message

Function = TypeVar("Function", bound=Callable[..., object])


class Doc(Protocol):
    """What is needed of a Document."""

    id: str


class Docs(Protocol):
    """What is needed of a DocumentArray."""

    def __iter__(self) -> Iterator[Doc]: ...
    def __getitem__(self, rows: list[int], /) -> Docs: ...
    def __setitem__(self, row: int, value: object, /) -> None: ...


class SomeFailed(Exception):
    """A method has failed for some of its Documents; its cause is the first exception.

    Attributes:
        failed: the place and the id of each of these Documents.
        docs: what came of the others.
    """

    def __init__(self, failed: list[tuple[int, str]], docs: Docs) -> None:
        super().__init__(failed, docs)
        self.failed, self.docs = failed, docs

    def __str__(self) -> str:
        some = ", ".join(f"{index} ({short(id, 40)})" for index, id in self.failed[:_NAMED])
        more = len(self.failed) - _NAMED
        return f"Document {some}" + (f" and {more} more" if more > 0 else "")


def mark(function: Function) -> Function:
    """Have a method remember that it wants one Document at a time."""
    setattr(function, _MARK, True)
    return function


def marked(function: object) -> bool:
    """Whether it does."""
    return getattr(function, _MARK, False) is True


def caller(
    method: Callable[..., object], takes: tuple[str, ...], is_async: bool
) -> Callable[..., object]:
    """Return a function that is called as handlers are, and calls the method for each Document.

    A sync method gets one after the other, an `async def` all at once. It changes its Document, or
    returns one in its place. Whatever it raises, the others are done.
    """

    def start(doc: Doc, parameters: object) -> object:
        given = {"doc": doc, "parameters": parameters}
        return method(**{name: given[name] for name in takes})

    def in_turn(docs: Docs, parameters: object, **_: object) -> Docs:
        values: list[object] = []
        own = os.getpid()
        for doc in docs:
            try:
                values.append(start(doc, parameters))
            except BaseException as error:  # also SystemExit, as of any other method
                if os.getpid() != own:
                    raise  # forked in there, and to end there
                values.append(error)
        return _result(docs, values)

    async def one(doc: Doc, parameters: object) -> object:
        own = os.getpid()
        try:
            value = start(doc, parameters)
            return await value if isinstance(value, Awaitable) else value
        except (SystemExit, KeyboardInterrupt) as error:  # a task's ends its event loop
            if os.getpid() != own:
                raise
            return error

    async def together(docs: Docs, parameters: object, **_: object) -> Docs:
        import asyncio

        work = (one(doc, parameters) for doc in docs)
        return _result(docs, await asyncio.gather(*work, return_exceptions=True))

    return together if is_async else in_turn


def _result(docs: Docs, values: list[object]) -> Docs:
    """Put what was returned in place of what it was made of.

    Raises:
        SomeFailed: there are exceptions among it.
    """
    failed: dict[int, BaseException] = {}
    before = list(docs)
    for row, (doc, value) in enumerate(zip(before, values, strict=True)):
        if isinstance(value, BaseException):
            failed[row] = value
        elif isinstance(value, type(doc)):
            docs[row] = value
        elif value is not None:
            failed[row] = TypeError(
                f"returned {type(value).__name__}; with each=True a method returns a Document, or "
                "None to keep its own as it changed it"
            )
    if failed:
        kept = docs[[row for row in range(len(values)) if row not in failed]]
        names = [(row, before[row].id) for row in failed]
        raise SomeFailed(names, kept) from next(iter(failed.values()))
    return docs
