"""Options of the command line for keywords of Python: one for each, read as YAML would read its value.

Which keywords there are, and what their values may be, is what `Flow` and `Flow.add` say.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Mapping
from typing import Any, Final

from zflow.errors import InvalidConfig
from zflow.flow import DEFAULTS
from zflow.topology.options import FIELDS

_NUMBERS: Final = frozenset({"max_connections", "seed"})  # without a default that would show it

#: What the Flow's own keywords do, and those of an Executor that need other words here.
_ABOUT: Final[Mapping[str, str]] = {
    "port": "the TCP port to listen on; any free one when left out, which is printed",
    "host": "the address to listen on (default: 127.0.0.1)",
    "timeout_close": "ms that the end may take to finish requests and to close (default: 10000)",
    "max_message_bytes": "the largest request or result (default: 1 GiB)",
    "start_method": "fork or spawn",
    "curve": "the key folder: who connects over TCP has to have a key on its lists",
    "allow_control": "whether clients over TCP may scale, restart, drain (default: on loopback, or admins)",
    "max_connections": "how many connections over TCP there may be (default: 10000, or what fits)",
    "max_requests_per_client": "how many requests a client may have in flight over one (default: 10000)",
    "shared_memory": "bytes of shared memory for large arrays, 0 for none (default: an eighth of the machine's memory)",
    "replica_port": "the TCP port where replicas on other machines may join, 0 for any free one; none when left out",
}


def add(
    parser: argparse.ArgumentParser,
    keys: Iterable[str],
    *,
    required: Iterable[str] = (),
    about: Mapping[str, str] | None = None,
) -> None:
    """Give a parser an option for each keyword of `Flow` or `Flow.add`; what both have is the Flow's.

    Args:
        required: the keywords that must be said.
        about: what some of them do, where that differs from what they do in a Flow.
    """
    for key in keys:
        help = (about or {}).get(key) or _help(key)
        parser.add_argument(option(key), dest=key, help=help, required=key in required, **_form(key))


def read(parser: argparse.ArgumentParser, given: argparse.Namespace, keys: Iterable[str]) -> dict[str, Any]:
    """Return what was said of these keywords, each in the form that Python's has; exit if it has none."""
    said = {key: getattr(given, key) for key in keys}
    return {key: _read(parser, key, text) for key, text in said.items() if text is not None}


def option(key: str) -> str:
    """Return the option of a keyword.

    >>> option("uses_with")
    '--uses-with'
    """
    return "--" + key.replace("_", "-")


def pairs(parser: argparse.ArgumentParser, option: str, given: Iterable[str]) -> dict[str, str]:
    """Return what an option written NAME=VALUE, perhaps several times, says; exit if it is written otherwise."""
    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            parser.error(f"{option} takes NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def _default(key: str) -> Any:
    return DEFAULTS[key] if key in DEFAULTS else FIELDS[key].default


def _form(key: str) -> dict[str, Any]:
    """What argparse has to know about an option; which kind it is shows by its default."""
    default = _default(key)
    if key == "allow_control":  # where it is left out, that depends on others
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if isinstance(default, bool):  # what is on by default can only be switched off
        return (
            {"action": argparse.BooleanOptionalAction, "default": None}
            if default
            else {
                "action": "store_const",
                "const": True,
            }
        )
    if isinstance(default, dict):
        return {"action": "append", "metavar": "NAME=VALUE"}
    if isinstance(default, tuple):
        return {"action": "append", "metavar": "VALUE"}
    if key in _NUMBERS:
        return {"type": int, "metavar": "NUMBER"}
    return {"type": int, "metavar": "PORT"} if key.endswith("port") else {"metavar": "VALUE"}


def _help(key: str) -> str:
    default = _default(key)
    about = _ABOUT.get(key) or (FIELDS[key].about if key in FIELDS else f"as {key} of a Flow")
    if isinstance(default, (dict, tuple)):
        about += "; may be repeated"
    elif key not in _ABOUT and default not in (None, False):
        about += f" (default: {default})"
    return about.replace("%", "%%")  # which means something to argparse


def _read(parser: argparse.ArgumentParser, key: str, given: Any) -> Any:
    """Return what the text of an option stands for: values are read as in YAML, but names and paths are texts."""
    default = _default(key)
    if isinstance(default, dict):
        found = pairs(parser, option(key), given)
        if not FIELDS[key].type.endswith("dict"):  # but a dict of texts
            return found
        return {name: _value(parser, f"{option(key)} {name}", text) for name, text in found.items()}
    if not isinstance(given, str) or default is None or (key in DEFAULTS and isinstance(default, str)):
        return given
    return _value(parser, option(key), given)


def _value(parser: argparse.ArgumentParser, label: str, text: str) -> Any:
    from zflow import yamlsource

    try:
        return yamlsource.read(io.StringIO(text)).data
    except InvalidConfig as error:
        parser.error(f"{label}: {text!r} is no YAML value: {error}")
