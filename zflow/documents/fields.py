"""The fields of a Document: their names, what they hold when unset, and what may be put into them.

The one table that `document`, `wire` and `show` share. It must not know Documents,
arrays or frames.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex

from zflow.suggest import did_you_mean, short

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem
    from numpy.typing import ArrayLike

    # What a dict of scores can be made of.
    Named = SupportsKeysAndGetItem[str, "Score"] | Iterable[tuple[str, "Score"]]

STRINGS = ("id", "parent_id", "text", "uri", "mime_type", "modality")
INTEGERS = ("granularity", "adjacency")
ARRAYS = ("tensor", "embedding")
NESTED = ("matches", "chunks")

#: Every field, in the order in which they are shown.
FIELDS = (
    *(
        "id",
        "text",
        "blob",
        "tensor",
        "embedding",
        "uri",
        "mime_type",
        "modality",
        "weight",
        "tags",
        "scores",
    ),
    *("matches", "chunks", "parent_id", "granularity", "adjacency"),
)

#: The fields of a Document that are set, by name: its `__dict__`.
Row = dict[str, Any]

# An array is empty only as None: its truth value is not defined. A weight of 0.0 is a weight.
_EMPTY_ONLY_AS_NONE = frozenset((*ARRAYS, "weight"))
_NOT_ARRAYS = (str, bytes, bytearray, Mapping, set, frozenset)


@dataclass(slots=True, repr=False)
class NamedScore:
    """One score of a Document, such as its similarity to a query.

    Args:
        value: the score, or None while it is not known.
        op_name: what computed it.
        description: anything to tell about it.
    """

    __module__ = "zflow"

    value: float | None = None
    op_name: str = ""
    description: str = ""

    def __repr__(self) -> str:
        named = [
            f"{name}={getattr(self, name)!r}"
            for name in ("op_name", "description")
            if getattr(self, name)
        ]
        return f"NamedScore({', '.join([repr(self.value), *named])})"


# What a score's value is as a rule; anything else is converted when it is sent.
_VALUES = frozenset({float, int, type(None)})

#: What can be put in for a score: also its parts by name.
Score = NamedScore | SupportsFloat | Mapping[str, Any]


class Scores(dict[str, NamedScore]):
    """The scores of a Document by name; a plain number put in becomes a `NamedScore`.

    A name that is not there yet gets a `NamedScore` without value,
    so both ways of setting one work:

    >>> scores = Scores()
    >>> scores["cos"] = 0.3
    >>> scores["dot"].value = 2.0
    >>> scores
    {'cos': NamedScore(0.3), 'dot': NamedScore(2.0)}
    """

    __slots__ = ()

    def __init__(self, scores: Named | None = None) -> None:
        if scores is not None:
            self.update(scores)

    def __missing__(self, name: str) -> NamedScore:
        self[name] = score = NamedScore()
        return score

    def __setitem__(self, name: str, score: Score) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"the name of a score must be str, not {type(name).__name__} ({name!r})"
            )
        super().__setitem__(name, _named_score(name, score))

    def setdefault(self, name: str, score: Score | None = None) -> NamedScore:
        """Return the score of that name, after putting `score` there if there was none."""
        if name not in self:
            self[name] = NamedScore() if score is None else score
        return self[name]

    def update(self, *others: Named, **scores: Score) -> None:
        """Set several scores, with the arguments of `dict.update`."""
        for name, score in dict(*others, **scores).items():
            self[name] = score

    def __ior__(self, others: Named) -> Scores:  # type: ignore[override,misc]  # dict's own would put numbers in as they are
        self.update(others)
        return self

    def __reduce__(self) -> tuple[type[Scores], tuple[dict[str, NamedScore]]]:
        return Scores, (dict(self),)


def plain(scores: Scores) -> dict[str, list[float | str | None]]:
    """Return scores as they are sent.

    Raises:
        TypeError: a part of one has been set to something that it cannot be.
    """
    return {
        name: [score.value, score.op_name, score.description]
        if type(score.value) in _VALUES and type(score.op_name) is type(score.description) is str
        else _parts(score)
        for name, score in scores.items()
    }


def _parts(score: NamedScore) -> list[float | str | None]:
    value = score.value
    try:
        parts: list[float | str | None] = [None if value is None else _number(value)]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"the value of a score must be a number or None, not {_kind(value)}"
        ) from None
    for name in ("op_name", "description"):
        text = getattr(score, name)
        if not isinstance(text, str):
            raise TypeError(f"{name} of a score must be a str, not {_kind(text)}")
        parts.append(str.__str__(text))
    return parts


def _named_score(name: str, score: Score) -> NamedScore:
    if isinstance(score, NamedScore):
        return score
    if isinstance(score, Mapping) and set(score) <= set(NamedScore.__slots__):
        return NamedScore(**score)
    try:
        return NamedScore(_number(score))
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"score {name!r} must be a number or a NamedScore, not {_kind(score)}"
        ) from None


def is_empty(name: str, value: object) -> bool:
    """Say whether a field with this value counts as unset."""
    return value is None or (name not in _EMPTY_ONLY_AS_NONE and not value)


def converted(name: str, value: object) -> object:
    """Return `value` as a field stores it, for every field but `matches` and `chunks`;
    None stays None.

    Raises:
        TypeError: the field cannot hold such a value; the message names the field and the type.
    """
    if value is None:
        return None
    try:
        return _CONVERT[TYPES[name]](value) if name in TYPES else _array_like(value)
    except (TypeError, ValueError, OverflowError) as error:
        if name == "scores" and isinstance(value, Mapping):
            raise
        raise TypeError(
            f"Document.{name} must be {_WANTED.get(name, 'an array')}, not {_kind(value)}"
        ) from error


def unknown_field(name: str) -> str:
    """Return the message for a field that Documents do not have: the nearest that they do,
    and the way out.
    """
    guess = did_you_mean(name, (*FIELDS, "content"))
    return (
        f"a Document has no field {name!r}{guess} (your own values go into tags={{{name!r}: ...}})"
    )


def _kind(value: object) -> str:
    return f"{type(value).__name__} ({short(value, 40)})"


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str.__str__(value)  # of a subclass, such as numpy.str_ or a str Enum, only the text


def _blob(value: object) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError
    return bytes(value)


def _number(value: Any) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise TypeError
    return value if type(value) in (int, float) else float(value)


def _integer(value: SupportsIndex) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _tags(value: object) -> object:
    if not isinstance(value, Mapping):
        raise TypeError
    return value if isinstance(value, dict) else dict(value)


def _array_like(value: object) -> object:
    if not hasattr(value, "dtype") and isinstance(value, _NOT_ARRAYS):
        raise TypeError
    return value


#: The type that a field's value has once it is stored; arrays may be of any type that numpy can
#: read.
TYPES: dict[str, type] = {
    **dict.fromkeys(STRINGS, str),
    **dict.fromkeys(INTEGERS, int),
    "blob": bytes,
    "weight": float,
    "tags": dict,
    "scores": Scores,
}
_CONVERT: dict[type, Callable[[Any], object]] = {
    str: _string,
    int: _integer,
    bytes: _blob,
    float: lambda value: float(_number(value)),
    dict: _tags,
    Scores: Scores,
}
_WANTED = {
    **dict.fromkeys(STRINGS, "str"),
    **dict.fromkeys(INTEGERS, "int"),
    "blob": "bytes",
    "weight": "float or None",
    "tags": "a dict",
    "scores": "a dict of numbers by name",
}


#: The fields that may be the content, in the order in which they are looked at.
CONTENTS: tuple[Literal["text", "blob", "tensor"], ...] = ("text", "blob", "tensor")


def field_of(value: object) -> Literal["text", "blob", "tensor"]:
    """Return the field that holds such a content."""
    if isinstance(value, str):
        return "text"
    return "blob" if isinstance(value, (bytes, bytearray, memoryview)) else "tensor"


class Content:
    """What a Document has of `content`."""

    @property
    def content(self) -> Any:
        """The first of `text`, `blob` and `tensor` that is set, or None;
        setting it sets one and unsets the others.
        """
        name = self.content_type
        return None if name is None else getattr(self, name)

    @content.setter
    def content(self, value: ArrayLike | None) -> None:
        field = field_of(value)
        for name in CONTENTS:
            setattr(self, name, value if name == field else None)

    @property
    def content_type(self) -> Literal["text", "blob", "tensor"] | None:
        """Which field `content` is: `'text'`, `'blob'`, `'tensor'`, or None."""
        row = self.__dict__
        return next((name for name in CONTENTS if _is_set(row.get(name))), None)


def _is_set(value: object) -> bool:
    # Of an array, the truth value is not defined.
    return value is not None and not (isinstance(value, (str, bytes)) and not value)
