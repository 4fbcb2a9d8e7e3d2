"""YAML with line numbers: reads one YAML document into plain data and
remembers where each part stood.

Duplicate keys are errors, and `${{ ENV.NAME }}` and `${{ CONTEXT.NAME }}` are replaced. It knows
YAML only: what the keys mean is up to the caller. Tags never create objects;
only plain data comes out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from zflow.errors import InvalidConfig, ZflowError
from zflow.suggest import did_you_mean, short

if TYPE_CHECKING:
    import yaml

YAML_ENDINGS: Final = (".yml", ".yaml")
_EXPRESSION: Final = re.compile(r"\$\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_VARIABLE: Final = re.compile(r"(ENV|CONTEXT)\.([A-Za-z_][A-Za-z0-9_]*)")
_STANDARD: Final = "tag:yaml.org,2002:"
_OF_COLLECTIONS: Final = frozenset(
    _STANDARD + name for name in ("map", "seq", "set", "omap", "pairs")
)
# '<<' and '=', which YAML 1.1 sets apart.
_PLAIN: Final = (_STANDARD + "merge", _STANDARD + "value")


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
    data: object = None
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
) -> YamlSource:
    """Read one YAML document.

    Args:
        source: a path, YAML text, or an open file.
        context: the values of `${{ CONTEXT.NAME }}`.
        folder: what a relative path is relative to; None for the working directory.
        error: the class of error to raise.

    Raises:
        error: no such file, not UTF-8, not YAML, a duplicate key, an unknown variable, a tag that
            means nothing; the message begins with file and line.
    """
    import yaml

    text, label, found_in = _text_of(source, folder, error)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        reader = _Reader(loader, label, {} if context is None else context, error)
        return YamlSource(label, found_in, None if root is None else reader.build(root), root)
    except yaml.MarkedYAMLError as wrong:
        raise error(_explain(label, text, wrong)) from None
    except yaml.YAMLError as wrong:
        raise error(f"{label}: not YAML: {wrong}") from None
    except RecursionError:
        raise error(f"{label}: nested too deeply") from None


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
        context: Mapping[str, object],
        error: type[ZflowError],
    ) -> None:
        self._loader = loader
        self._label = label
        self._context = context
        self._error = error
        self._built: dict[int, object] = {}
        self._open: set[int] = set()

    def build(self, node: yaml.Node) -> object:
        """Return the data of a node; an alias gives the same object as its anchor."""
        key = id(node)
        if key in self._open:
            raise self._wrong(node, "an alias cannot stand inside of what it stands for")
        if key not in self._built:
            self._open.add(key)
            self._built[key] = self._make(node)
            self._open.discard(key)
        return self._built[key]

    def _make(self, node: yaml.Node) -> object:
        import yaml

        if isinstance(node, yaml.MappingNode) and node.tag == _STANDARD + "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _STANDARD + "seq":
            return [self.build(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_STANDARD):
            return self._scalar(node)
        raise self._meaningless(node)

    def _meaningless(self, node: yaml.Node) -> ZflowError:
        tag = node.tag.replace(_STANDARD, "!!")
        return self._wrong(
            node, f"the tag {tag} means nothing here; write jtype: {tag.lstrip('!')} for a class"
        )

    def _mapping(self, node: yaml.MappingNode) -> dict[object, object]:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            key = self._key(key_node)
            if key in seen:
                raise self._wrong(
                    key_node, f"duplicate key {key!r}, first in line {seen[key]}: keep one of them"
                )
            seen[key] = _line(key_node)
        # '<<' merges; what the mapping says itself comes last and wins.
        self._loader.flatten_mapping(node)
        return {self._key(key_node): self.build(value) for key_node, value in node.value}

    def _key(self, node: yaml.Node) -> object:
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            raise self._wrong(node, "a key must be a single word or number")
        return node.value if node.tag in _PLAIN else self._construct(node)

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
        if whole is not None and whole[1].count("${{") == 0:
            value = self._value(node, whole[1])
            return self._reread(node, value) if node.style is None else value
        if "${{" in _EXPRESSION.sub("", text):
            raise self._wrong(node, f"{short(text)} has a '${{{{' without its '}}}}'")
        return _EXPRESSION.sub(lambda match: str(self._value(node, match[1])), text)

    def _value(self, node: yaml.Node, expression: str) -> object:
        match = _VARIABLE.fullmatch(expression)
        if match is None:
            raise self._wrong(node, f"'${{{{ {expression} }}}}' must be ENV.NAME or CONTEXT.NAME")
        kind, name = match.groups()
        values: Mapping[str, object] = os.environ if kind == "ENV" else self._context
        if name not in values:
            way_out = f"export {name}=..." if kind == "ENV" else f"pass context={{{name!r}: ...}}"
            known = [word for word in values if isinstance(word, str)]
            raise self._wrong(
                node, f"{kind}.{name} is not set{did_you_mean(name, known)}; {way_out}"
            )
        return values[name]

    def _reread(self, node: yaml.ScalarNode, value: object) -> object:
        """Read a text that replaced a whole unquoted scalar as YAML would have,
        so that '3' is the number 3.
        """
        import yaml

        if not isinstance(value, str):
            return value
        tag = self._loader.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]
        if tag.removeprefix(_STANDARD) not in ("int", "float", "bool", "null"):
            return value
        return self._construct(yaml.ScalarNode(tag, value, node.start_mark, node.end_mark))

    def _wrong(self, node: yaml.Node, message: str) -> ZflowError:
        return self._error(f"{self._label}:{_line(node)}: {message}")


def _text_of(
    source: object, folder: str | None, error: type[ZflowError]
) -> tuple[str, str, str | None]:
    """Return the text, its label, and the folder of its file."""
    if isinstance(source, str) and is_text(source):
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
    if line <= len(lines) and "${{" in lines[line - 1]:
        hint = "; inside of [ ] and { } an expression ${{ ... }} must stand in quotes"
    return f"{label}:{line}: not YAML: {said}{hint}"
