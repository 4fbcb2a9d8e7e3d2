"""Options of the command line for keywords of Python: one for each,
read as YAML would read its value.

Which keywords there are, what they do, and what their values may be,
is what the tables of options say.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Mapping
from typing import Any

from zflow.errors import InvalidConfig
from zflow.topology.options import FIELDS, FLOW_FIELDS, Field


def add(
    parser: argparse.ArgumentParser,
    keys: Iterable[str],
    *,
    required: Iterable[str] = (),
    about: Mapping[str, str] | None = None,
) -> None:
    """Give a parser an option for each keyword of `Flow` or `Flow.add`;
    what both have is the Flow's.

    Args:
        required: the keywords that must be said.
        about: what some of them do, where that differs from what they do in a Flow.
    """
    for key in keys:
        help = (about or {}).get(key) or _help(_field(key), key in required)
        form = _form(key, _field(key))
        parser.add_argument(
            option(key), dest=key, help=help.replace("%", "%%"), required=key in required, **form
        )


def read(
    parser: argparse.ArgumentParser, given: argparse.Namespace, keys: Iterable[str]
) -> dict[str, Any]:
    """Return what was said of these keywords, each in the form that Python's has;
    exit if it has none.
    """
    said = {key: getattr(given, key) for key in keys}
    return {key: _read(parser, key, text) for key, text in said.items() if text is not None}


def option(key: str) -> str:
    """Return the option of a keyword.

    >>> option("uses_with")
    '--uses-with'
    """
    return "--" + key.replace("_", "-")


def pairs(parser: argparse.ArgumentParser, option: str, given: Iterable[str]) -> dict[str, str]:
    """Return what an option written NAME=VALUE, perhaps several times, says;
    exit if it is written otherwise.
    """
    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            parser.error(f"{option} takes NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def _field(key: str) -> Field:
    return FLOW_FIELDS[key] if key in FLOW_FIELDS else FIELDS[key]


def _form(key: str, field: Field) -> dict[str, Any]:
    """What argparse has to know about an option."""
    match field.kind.written:
        case "flag" if field.default is False:  # what is off by default can only be switched on
            return {"action": "store_const", "const": True}
        case "flag":
            return {"action": argparse.BooleanOptionalAction, "default": None}
        case "named texts" | "named values":
            return {"action": "append", "metavar": "NAME=VALUE"}
        case "texts":
            return {"action": "append", "metavar": "VALUE"}
        case "number":
            return {"type": int, "metavar": "PORT" if key.endswith("port") else "NUMBER"}
    return {"metavar": "VALUE"}


def _help(field: Field, required: bool) -> str:
    if field.kind.written in ("texts", "named texts", "named values"):
        return f"{field.about}; may be repeated"
    default = "" if required or field.default is False else field.left_out
    return f"{field.about} (default: {default})" if default else field.about


def _read(parser: argparse.ArgumentParser, key: str, given: Any) -> object:
    """Return what the text of an option stands for: values are read as in YAML,
    but names and paths are texts.
    """
    written = _field(key).kind.written
    if written == "value":
        return _value(parser, option(key), given)
    if not written.startswith("named"):
        return given
    found = pairs(parser, option(key), given)
    if written == "named texts":
        return found
    return {name: _value(parser, f"{option(key)} {name}", text) for name, text in found.items()}


def _value(parser: argparse.ArgumentParser, label: str, text: str) -> object:
    from zflow import yamlsource

    try:
        return yamlsource.read(io.StringIO(text)).data
    except InvalidConfig as error:
        parser.error(f"{label}: {text!r} is no YAML value: {error}")
