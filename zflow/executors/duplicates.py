"""Two methods of one name in a class: Python keeps the last, and the first is lost without a word.

What a class has thrown away only the code of its body still knows, and that is at hand while the
class is made. Where it has two functions of one name, the source tells whether that is meant.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ast


class Redefined(NamedTuple):
    """A method that a class defines more than once.

    Attributes:
        name: its name.
        where: the file and the lines; empty where the source is not at hand.
    """

    name: str
    where: str


def redefined(cls: type) -> Redefined | None:
    """Return the first method that a class defines more than once.

    To be called while the class is made, from its `__init_subclass__`. Properties with setters,
    overloads and the branches of an `if` are none of that.
    """
    body = _body_of(cls)
    if body is None:
        return None
    counts = Counter(part.co_name for part in body.co_consts if isinstance(part, CodeType))
    again = [name for name, count in counts.items() if count > 1 and _is_method(cls, name)]
    if not again:
        return None
    found = _source_of(cls, body)
    if found is None:
        return Redefined(again[0], "")
    for name in again:
        lines = _lines_of(found, name)
        if len(lines) > 1:
            listed = ", ".join(map(str, lines))
            return Redefined(name, f" ({body.co_filename}, lines {listed})")
    return None


def _is_method(cls: type, name: str) -> bool:
    return name != "_" and _code_of(vars(cls).get(name)) is not None


def _code_of(value: object) -> CodeType | None:
    """The code of a method, of what its decorators have made of it too."""
    # Only functions are asked: a stranger's object may answer for any attribute, and at a price.
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    while isinstance(value, FunctionType) and "__wrapped__" in vars(value):
        value = vars(value)["__wrapped__"]
    return value.__code__ if isinstance(value, FunctionType) else None


def _body_of(cls: type) -> CodeType | None:
    """The code of a class's body, which lies in that of whoever is making the class."""
    own = {code for value in vars(cls).values() if (code := _code_of(value)) is not None}
    frame: FrameType | None = sys._getframe(1)
    while own and frame is not None:
        for part in frame.f_code.co_consts:
            if isinstance(part, CodeType) and part.co_name == cls.__name__ and own & _parts(part):
                return part
        frame = frame.f_back
    return None


def _parts(body: CodeType) -> set[CodeType]:
    return {part for part in body.co_consts if isinstance(part, CodeType)}


def _source_of(cls: type, body: CodeType) -> ast.ClassDef | None:
    import ast
    import linecache

    try:
        tree = ast.parse("".join(linecache.getlines(body.co_filename)))
    except SyntaxError:  # it has changed meanwhile
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if first <= body.co_firstlineno <= node.lineno:
                return node
    return None


def _lines_of(node: ast.ClassDef, name: str) -> list[int]:
    """Where a class defines a method, but for what the next definition builds on."""
    import ast

    lines: list[int] = []
    for one in node.body:
        if not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)) or one.name != name:
            continue
        words = {
            part.id if isinstance(part, ast.Name) else part.attr
            for each in one.decorator_list
            for part in ast.walk(each)
            if isinstance(part, (ast.Name, ast.Attribute))
        }
        if name not in words and "overload" not in words:
            lines.append(one.lineno)
    return lines
