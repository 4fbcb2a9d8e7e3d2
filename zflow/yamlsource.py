"""YAML with line numbers: reads one YAML document into plain data and
remembers where each part stood.

Duplicate keys are errors, and `${{ ENV.NAME }}` and `${{ CONTEXT.NAME }}` are replaced. It knows
YAML only: what the keys mean is up to the caller, who says in a `Place` where all is text and where
a tag names a class. Tags never create objects; only plain data comes out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from zflow.errors import InvalidConfig, ZflowError
from zflow.suggest import did_you_mean, short

if TYPE_CHECKING:
    import yaml

YAML_ENDINGS: Final = (".yml", ".yaml")
_EXPRESSION: Final = re.compile(r"\$\{\{\s*(.*?)\s*\}\}", re.DOTALL)
# In braces YAML ends a word at a '}': until the words are found, those of an expression are hidden.
_IN_LINE: Final = re.compile(r"\$\{\{([^\n]*?)\}\}")
_HIDDEN: Final = re.compile("\\$\ue0f0\ue0f0([^\n]*?)\ue0f1\ue0f1")
_VARIABLE: Final = re.compile(r"(ENV|CONTEXT)\.([A-Za-z_][A-Za-z0-9_]*)")
_OWN_TAG: Final = re.compile(r"!([A-Za-z_][\w.]*)")
_STANDARD: Final = "tag:yaml.org,2002:"
_OF_COLLECTIONS: Final = frozenset(
    _STANDARD + name for name in ("map", "seq", "set", "omap", "pairs")
)
# '<<' and '=', which YAML 1.1 sets apart.
_PLAIN: Final = (_STANDARD + "merge", _STANDARD + "value")


@dataclass(frozen=True)
class Place:
    """What holds at a place of a document, where it is not the same as everywhere.

    Attributes:
        texts: every value is the text that stands there, whatever YAML would make of it.
        tagged: a tag of one's own may stand before the mapping: `!Name` says `jtype: Name`.
        inner: what holds at places within, by key; `'*'` stands for each item of a list.
    """

    texts: bool = False
    tagged: bool = False
    inner: Mapping[str, Place] = field(default_factory=dict)


_ANYWHERE: Final = Place()
#: A document that may begin with a tag.
TAGGED: Final = Place(tagged=True)


@dataclass
class YamlSource:
    """A YAML document: its data, and where each part of it stands.

    Attributes:
        label: what messages call it: the path as it was given, or `'YAML text'`.
        folder: the absolute folder of the file, None for text that came from no file.
        data: the document as dicts, lists and scalars, expressions replaced.
    """

    label: str
    folder: str | None
    data: Any = None
    _root: yaml.Node | None = field(default=None, repr=False, compare=False)

    def where(self, *path: str | int) -> str:
        """Return `'flow.yaml:7'`: the line of what `path` (keys and indexes) leads to,
        or of its nearest parent.
        """
        node, line = self._root, 1
        for step in path:
            found = _step(node, step)
            if found is None:
                break
            line, node = found
        return f"{self.label}:{line}"


def read(
    source: object,
    context: Mapping[str, object] | None = None,
    *,
    folder: str | None = None,
    error: type[ZflowError] = InvalidConfig,
    place: Place = TAGGED,
) -> YamlSource:
    """Read one YAML document.

    Args:
        source: a path, YAML text, or an open file.
        context: the values of `${{ CONTEXT.NAME }}`.
        folder: what a relative path is relative to; None for the working directory.
        error: the class of error to raise.
        place: what holds where in it.

    Raises:
        error: no such file, not UTF-8, not YAML, a duplicate key, an unknown variable, a tag that
            means nothing; the message begins with file and line.
    """
    import yaml

    text, label, found_in = _text_of(source, folder, error)
    try:
        loader = _loader()(_IN_LINE.sub("$\ue0f0\ue0f0\\1\ue0f1\ue0f1", text))
        root = loader.get_single_node()
        reader = _Reader(loader, label, os.environ, {} if context is None else context, error)
        data = None if root is None else reader.build(root, place)
        return YamlSource(label, found_in, data, root)
    except yaml.MarkedYAMLError as wrong:
        raise error(_explain(label, text, wrong)) from None
    except yaml.YAMLError as wrong:
        raise error(f"{label}: not YAML: {wrong}") from None
    except RecursionError:
        raise error(f"{label}: nested too deeply") from None


def fill(
    value: object, environ: Mapping[str, str], owner: str, error: type[ZflowError] = InvalidConfig
) -> Any:
    """Return plain data from elsewhere with the expressions in it replaced, as in YAML.

    Args:
        value: dicts, lists and values. A text that is nothing but one expression counts as
            unquoted.
        environ: the values of `${{ ENV.NAME }}`.
        owner: what messages begin with.
        error: the class of error to raise.

    Raises:
        error: an unknown variable, or an expression that is none.

    >>> fill({"size": "${{ ENV.SIZE }}"}, {"SIZE": "3"}, "uses")
    {'size': 3}
    """
    if isinstance(value, dict):
        return {key: fill(inner, environ, owner, error) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, environ, owner, error) for inner in value]
    if not isinstance(value, str) or "${{" not in value:
        return value
    import yaml

    # A word of its own, which nobody has to quote.
    node = yaml.ScalarNode(_STANDARD + "str", value, None, None)
    return _Reader(_loader()(""), owner, environ, {}, error).build(node)


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Return the loader that brings hidden expressions back, where words have been found."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
            node = super().compose_scalar_node(anchor)
            node.value = _HIDDEN.sub(r"${{\1}}", node.value)
            return node

    return Loader


def is_text(source: str) -> bool:
    """Tell whether a string is YAML text rather than a path or a name."""
    return (
        "\n" in source
        or source.lstrip().startswith(("{", "!"))
        or re.match(r"\s*\w+:(\s|$)", source) is not None
    )


class _Reader:
    """Builds plain data from YAML nodes; one per document."""

    def __init__(
        self,
        loader: yaml.SafeLoader,
        label: str,
        environ: Mapping[str, str],
        context: Mapping[str, object],
        error: type[ZflowError],
    ) -> None:
        self._loader = loader
        self._label = label
        self._environ = environ
        self._context = context
        self._error = error
        self._built: dict[tuple[int, int], object] = {}
        self._open: set[int] = set()

    def build(self, node: yaml.Node, place: Place = _ANYWHERE) -> object:
        """Return the data of a node; an alias gives the same object as its anchor."""
        key = id(node), id(place)
        if key[0] in self._open:
            raise self._wrong(node, "an alias cannot stand inside of what it stands for")
        if key not in self._built:
            self._open.add(key[0])
            self._built[key] = self._make(node, place)
            self._open.discard(key[0])
        return self._built[key]

    def _make(self, node: yaml.Node, place: Place) -> object:
        import yaml

        if place.tagged and (name := _OWN_TAG.fullmatch(node.tag)):
            return self._tagged(node, place, name[1])
        if isinstance(node, yaml.MappingNode) and node.tag == _STANDARD + "map":
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == _STANDARD + "seq":
            inner = _within(place, "*")
            return [self.build(item, inner) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_STANDARD):
            return self._text(node) if place.texts else self._scalar(node)
        raise self._meaningless(node)

    def _tagged(self, node: yaml.Node, place: Place, name: str) -> dict[object, object]:
        """Return the mapping behind a tag that names its class."""
        import yaml

        data: dict[object, object] = {}
        if isinstance(node, yaml.MappingNode):
            data = self._mapping(node, place)
        elif not (isinstance(node, yaml.ScalarNode) and node.value == ""):
            raise self._wrong(node, f"the tag !{name} stands before a mapping, and here is none")
        if data.setdefault("jtype", name) != name:
            raise self._wrong(
                node, f"the tag !{name} says one class, and jtype {short(data['jtype'])} another"
            )
        return data

    def _meaningless(self, node: yaml.Node) -> ZflowError:
        tag = node.tag.replace(_STANDARD, "!!")
        return self._wrong(
            node, f"the tag {tag} means nothing here; write jtype: {tag.lstrip('!')} for a class"
        )

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[object, object]:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            key = self._key(key_node, place)
            if key in seen:
                raise self._wrong(
                    key_node, f"duplicate key {key!r}, first in line {seen[key]}: keep one of them"
                )
            seen[key] = _line(key_node)
        # '<<' merges; what the mapping says itself comes last and wins.
        self._loader.flatten_mapping(node)
        found: dict[object, object] = {}
        for key_node, value in node.value:
            key = self._key(key_node, place)
            found[key] = self.build(value, _within(place, key))
        return found

    def _key(self, node: yaml.Node, place: Place) -> object:
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            raise self._wrong(node, "a key must be a single word or number")
        return node.value if node.tag in _PLAIN or place.texts else self._construct(node)

    def _construct(self, node: yaml.ScalarNode) -> object:
        import yaml

        if node.tag in _OF_COLLECTIONS:
            raise self._meaningless(node)
        try:
            return self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as wrong:  # PyYAML lets through whatever int(), date() and the like say
            kind = node.tag.removeprefix(_STANDARD)
            raise self._wrong(
                node, f"{short(node.value)} cannot be read as {kind}: {wrong}"
            ) from None

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text = node.value
        if node.tag in _PLAIN:
            return text
        if "${{" not in text:
            return self._construct(node)
        whole = _EXPRESSION.fullmatch(text)
        if whole is None or "${{" in whole[1]:
            return self._text(node)
        value = self._value(node, whole[1])
        if node.style is None:
            return self._reread(node, value)
        return str(value) if isinstance(value, (int, float)) else value

    def _text(self, node: yaml.ScalarNode) -> str:
        """Return what stands there as text, with its expressions replaced."""
        text = str(node.value)
        if "${{" in _EXPRESSION.sub("", text):
            raise self._wrong(node, f"{short(text)} has a '${{{{' without its '}}}}'")
        return _EXPRESSION.sub(lambda match: str(self._value(node, match[1])), text)

    def _value(self, node: yaml.Node, expression: str) -> object:
        match = _VARIABLE.fullmatch(expression)
        if match is None:
            raise self._wrong(node, f"'${{{{ {expression} }}}}' must be ENV.NAME or CONTEXT.NAME")
        kind, name = match.groups()
        values: Mapping[str, object] = self._environ if kind == "ENV" else self._context
        if name not in values:
            way_out = f"export {name}=..." if kind == "ENV" else f"pass context={{{name!r}: ...}}"
            known = [word for word in values if isinstance(word, str)]
            raise self._wrong(
                node, f"{kind}.{name} is not set{did_you_mean(name, known)}; {way_out}"
            )
        return values[name]

    def _reread(self, node: yaml.ScalarNode, value: object) -> object:
        """Read a text that replaced a whole unquoted scalar as YAML reads a word,
        so that '3' is the number 3; it never becomes more than one value.
        """
        import yaml

        if not isinstance(value, str):
            return value
        tag = self._loader.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]
        if tag.removeprefix(_STANDARD) not in ("int", "float", "bool", "null"):
            return value
        return self._construct(yaml.ScalarNode(tag, value, node.start_mark, node.end_mark))

    def _wrong(self, node: yaml.Node, message: str) -> ZflowError:
        where = f":{_line(node)}" if node.start_mark is not None else ""
        return self._error(f"{self._label}{where}: {message}")


def _within(place: Place, key: object) -> Place:
    if place.texts:
        return place
    return place.inner.get(key, _ANYWHERE) if isinstance(key, str) else _ANYWHERE


def _text_of(
    source: object, folder: str | None, error: type[ZflowError]
) -> tuple[str, str, str | None]:
    """Return the text, its label, and the folder of its file."""
    if isinstance(source, str) and (is_text(source) or not source.strip()):
        return source, "YAML text", None
    if isinstance(source, (str, os.PathLike)):
        path = Path(folder or ".", source)
        try:
            return path.read_text("utf-8"), str(source), str(path.absolute().parent)
        except (OSError, UnicodeError, ValueError) as wrong:
            reason = wrong.strerror if isinstance(wrong, OSError) else wrong
            raise error(
                f"{source}: cannot read it: {reason} (looked for {path.absolute()})"
            ) from None
    reading = getattr(source, "read", None)
    if not callable(reading):
        raise error(f"{short(source)} is not YAML: give a path, YAML text or an open file")
    name = getattr(source, "name", None)
    label = name if isinstance(name, str) else "YAML text"
    try:
        text = reading()
        text = text.decode("utf-8") if isinstance(text, bytes) else str(text)
    except (OSError, ValueError) as wrong:  # also one that is closed
        raise error(f"{label}: cannot read it: {wrong}") from None
    return text, label, os.path.dirname(os.path.abspath(label)) if isinstance(name, str) else None


def _step(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):
            if key.value in (step, str(step)):
                return _line(key), value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return _line(item), item
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _explain(label: str, text: str, wrong: yaml.MarkedYAMLError) -> str:
    mark = wrong.problem_mark or wrong.context_mark
    line = mark.line + 1 if mark else 1
    said = ", ".join(part for part in (wrong.context, wrong.problem) if part)
    lines = text.splitlines()
    hint = ""
    if line <= len(lines) and "${{" in _IN_LINE.sub("", lines[line - 1]):
        hint = "; a '${{' needs its '}}' in the same line"
    return f"{label}:{line}: not YAML: {said}{hint}"
