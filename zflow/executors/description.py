"""What a `uses` says: the class or its name, and the arguments that come with it, from YAML,
a dict or a folder.

It reads descriptions and checks their form. It imports nothing of the user's: whether there is such
a class shows when it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from zflow.errors import InvalidExecutor
from zflow.executors import hub
from zflow.executors.batching import Batching, by_endpoint
from zflow.executors.executor import find_class
from zflow.suggest import did_you_mean, listed, short
from zflow.yamlsource import YAML_ENDINGS, YamlSource, fill, is_text, read

_BATCHING: Final = ("uses_dynamic_batching", "dynamic_batching")  # two names for one thing
_KEYS: Final = ("jtype", "with", "metas", "requests", "py_modules", *_BATCHING)
_MAPPINGS: Final = ("with", "metas", "requests")


@dataclass(frozen=True)
class Description:
    """What a `uses` says, or leads to.

    Attributes:
        what: the class, or a text that names it; None for no Executor in particular.
        folder: what relative paths are relative to; None for the working directory.
        uses_with, metas, requests: the arguments that come with it.
        batching: how requests are put together, by endpoint.
        py_modules: what to import first.
        place: the Executor's folder, if it has one: its files are imported from there.
    """

    what: Any
    folder: str | None
    uses_with: Mapping[str, Any] = field(default_factory=dict)
    metas: Mapping[str, Any] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    batching: Mapping[str, Batching] = field(default_factory=dict)
    py_modules: tuple[str, ...] = ()
    place: str | None = None


def describe(
    uses: Any, folder: str | None, environ: Mapping[str, str], reading: bool = True
) -> Description:
    """Return what a checked `uses` says.

    Args:
        folder: what relative paths are relative to; None for the working directory.
        environ: where to look ZFLOW_HUB up, and what a dict says as `${{ ENV.NAME }}`.
        reading: False to read no file, so that what one says is missing.

    Raises:
        InvalidExecutor: a description is malformed, or a folder is not there.
    """
    if isinstance(uses, dict):
        filled = fill(uses, environ, "uses", InvalidExecutor)
        return _from_source(YamlSource("uses", None, filled), folder)
    if not isinstance(uses, str):
        return Description(uses, folder)
    place = place_of(uses, folder, environ)
    if not reading:
        return Description(uses, folder, place=place)
    if place is not None:
        config = os.path.join(place, hub.CONFIG)
        if not os.path.isfile(config):
            return Description(hub.SOURCE, place, place=place)
        return _from_source(read(config, error=InvalidExecutor), place, place)
    if is_text(uses) or uses.endswith(YAML_ENDINGS):
        return _from_source(read(uses, folder=folder, error=InvalidExecutor), folder)
    return Description(uses, folder)


def place_of(uses: str, folder: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the Executor's folder that a text stands for,
    unless it is the name of a class already defined.

    Raises: as `hub.locate`.
    """
    return None if find_class(uses) is not None else hub.locate(uses, folder, environ)


def module_list(modules: Any) -> tuple[str, ...]:
    """Return `py_modules`, one or several, as a tuple of texts.

    Raises:
        InvalidExecutor: it holds something else.
    """
    names = (modules,) if isinstance(modules, str) else modules
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidExecutor(
            f"py_modules must be a list of .py files or module names, not {short(modules)}"
        )
    return tuple(names)


def _from_source(source: YamlSource, folder: str | None, place: str | None = None) -> Description:
    described = _check_description(source)
    metas = described["metas"]
    py_modules = (
        *module_list(described.get("py_modules", ())),
        *module_list(metas.pop("py_modules", None) or ()),
    )
    if place is not None and not py_modules and os.path.isfile(os.path.join(place, hub.SOURCE)):
        py_modules = (hub.SOURCE,)
    return Description(
        described["jtype"],
        source.folder or folder,
        described["with"],
        metas,
        described["requests"],
        described["batching"],
        py_modules,
        place,
    )


def _check_description(source: YamlSource) -> dict[str, Any]:
    data = source.data
    if not isinstance(data, dict):
        raise InvalidExecutor(
            f"{source.where()}: an Executor is described by a mapping with jtype, not {short(data)}"
        )
    for key in data:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"; known are {listed(_KEYS)}"
            raise InvalidExecutor(f"{_at(source, key)}: unknown key {key!r}{hint}")
    described = {key: value for key, value in data.items() if value is not None}
    if not isinstance(described.get("jtype"), str) or is_text(described["jtype"]):
        raise InvalidExecutor(
            f"{_at(source, 'jtype')}: jtype must name the Executor class, not {data.get('jtype')!r}"
        )
    for key in _MAPPINGS:
        value = described.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise InvalidExecutor(
                f"{_at(source, key)}: {key} must map names to values, not {short(value)}"
            )
        described[key] = dict(value)
    said = [key for key in _BATCHING if key in described]
    if len(said) > 1:
        raise InvalidExecutor(f"{_at(source, said[1])}: {listed(said)} are the same: write one")
    key = said[0] if said else _BATCHING[0]
    described["batching"] = by_endpoint(
        key, described.get(key, {}), _at(source, key), InvalidExecutor
    )
    return described


def _at(source: YamlSource, key: str) -> str:
    return source.where(key) if source.label != "uses" else "uses"
