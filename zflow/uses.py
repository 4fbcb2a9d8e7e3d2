"""What `uses` may be, and how it becomes an Executor class with its arguments.

This is the one place that imports users' files and modules. It knows nothing of Flows and processes: it is
given a value and a folder, and returns a class and what to call it with.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from zflow.errors import InvalidExecutor, NotSupported
from zflow.executor import BaseExecutor, Executor, class_names, find_class, handlers
from zflow.suggest import did_you_mean, listed, short
from zflow.yamlsource import YAML_ENDINGS, YamlSource, is_text, read

ACCEPTED: Final = "a class, its name, 'file.py:Class', 'module:Class', a YAML file, YAML text or a dict"

_SCHEMES: Final = {
    "jinaai": "Executors of the Jina Hub are not supported: download its source and say uses='its_file.py:Class'",
    "jinahub": "Executors of the Jina Hub are not supported: download its source and say uses='its_file.py:Class'",
    "jinahub+docker": "containers are not supported: say uses='file.py:Class' with its source",
    "docker": "containers are not supported: say uses='file.py:Class' with its source",
}
_KEYS: Final = ("jtype", "with", "metas", "requests", "py_modules")
_files: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class Loaded:
    """An Executor class and what a replica makes it with.

    Attributes:
        uses_with: the keywords of its `__init__`.
        metas: what it finds in `self.metas`.
        requests: endpoint -> method name, over its decorators.
    """

    cls: type[Executor]
    uses_with: dict[str, Any]
    metas: dict[str, Any]
    requests: dict[str, str]


def load(
    uses: Any,
    *,
    uses_with: Mapping[str, Any] | None = None,
    uses_metas: Mapping[str, Any] | None = None,
    uses_requests: Mapping[str, str] | None = None,
    py_modules: Sequence[str] | None = None,
    folder: str | None = None,
    owner: str = "",
) -> Loaded:
    """Find the Executor class that `uses` stands for, and check that it can be made and called.

    Args:
        uses: None (pass everything through), an Executor class, the name of one already defined, `'file.py'`,
            `'file.py:Class'`, `'module:Class'`, or a description: a YAML file, YAML text or a dict with the keys
            `jtype`, `with`, `metas`, `requests` and `py_modules`.
        uses_with, uses_metas, uses_requests: over what the description says, key by key.
        py_modules: `.py` files or module names to import first.
        folder: what relative paths are relative to, and where modules are looked for last; None for the
            working directory.
        owner: whose `uses` it is, for messages: `"executor 'encoder'"`.

    Raises:
        InvalidExecutor: it is not an Executor, cannot be imported, cannot be called with `uses_with`, or its
            endpoints are not well defined.
        NotSupported: it is a form of `uses` that this version does not know.

    >>> load("BaseExecutor").cls.__name__
    'BaseExecutor'
    """
    try:
        uses = check_kind(uses)
        _import_all(py_modules or (), folder)
        described, folder = _described(uses, folder)
        cls = _find(described.get("jtype", uses), folder)
        loaded = Loaded(
            cls,
            {**described.get("with", {}), **(uses_with or {})},
            {**described.get("metas", {}), **(uses_metas or {})},
            {**described.get("requests", {}), **(uses_requests or {})},
        )
        handlers(cls, loaded.requests)
        _check_arguments(cls, loaded.uses_with)
    except (InvalidExecutor, NotSupported) as error:
        if not owner:
            raise
        raise type(error)(f"{error.message} ({owner})") from error.__cause__
    return loaded


def check_kind(uses: Any, owner: str = "") -> Any:
    """Return `uses` if it could be an Executor as far as can be told without loading anything; raise otherwise.

    Raises:
        InvalidExecutor, NotSupported: as `load`.
    """
    where = f" ({owner})" if owner else ""
    if isinstance(uses, os.PathLike):
        uses = os.fspath(uses)
    if isinstance(uses, str):
        scheme = uses.partition("://")[0] if "://" in uses and not is_text(uses) else None
        if scheme is not None:
            reason = _SCHEMES.get(scheme.lower(), f"{scheme}:// is not supported: uses takes {ACCEPTED}")
            raise NotSupported(f"uses={uses!r}: {reason}{where}")
        if uses.strip():
            return uses
    elif isinstance(uses, type):
        if issubclass(uses, Executor):
            return uses
        raise InvalidExecutor(f"uses={uses.__name__} is a class but not an Executor: derive it from Executor{where}")
    elif isinstance(uses, Executor):
        name = type(uses).__name__
        raise InvalidExecutor(f"uses must be the class {name}, not an instance: give arguments by uses_with{where}")
    elif isinstance(uses, Mapping):
        return dict(uses)
    elif uses is None:
        return None
    raise InvalidExecutor(f"uses must be {ACCEPTED}, not {short(uses)} of type {type(uses).__name__}{where}")


def reference(cls: type[Executor]) -> str:
    """Return how to write a class as `uses` in YAML: `'file.py:Class'` or `'module:Class'` where that finds it
    again, else its name alone."""
    module = sys.modules.get(cls.__module__)
    if module is None or module.__name__ == "__main__" or "<locals>" in cls.__qualname__:
        return cls.__name__
    path = next((path for path, loaded in _files.items() if loaded is module), None)
    return f"{path or module.__name__}:{cls.__qualname__}"


def is_file(uses: str) -> bool:
    """Tell whether a text given as `uses` or in `py_modules` names a file, whose path may be relative."""
    return not is_text(uses) and _split(uses)[0].endswith((".py", *YAML_ENDINGS))


def _described(uses: Any, folder: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the checked description that `uses` is or leads to ({} if it names a class), and its folder."""
    if isinstance(uses, dict):
        source = YamlSource("uses", None, uses)
    elif isinstance(uses, str) and (is_text(uses) or uses.endswith(YAML_ENDINGS)):
        source = read(uses, folder=folder, error=InvalidExecutor)
    else:
        return {}, folder
    described = _check_description(source)
    folder = source.folder or folder
    modules = (described.get("py_modules"), described.get("metas", {}).pop("py_modules", None))
    for paths in modules:
        _import_all([paths] if isinstance(paths, str) else paths or (), folder)
    return described, folder


def _check_description(source: YamlSource) -> dict[str, Any]:
    data = source.data
    if not isinstance(data, dict):
        raise InvalidExecutor(f"{source.where()}: an Executor is described by a mapping with jtype, not {short(data)}")
    for key in data:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"; known are {listed(_KEYS)}"
            raise InvalidExecutor(f"{_at(source, key)}: unknown key {key!r}{hint}")
    described = {key: value for key, value in data.items() if value is not None}
    if not isinstance(described.get("jtype"), str) or is_text(described["jtype"]):
        raise InvalidExecutor(f"{_at(source, 'jtype')}: jtype must name the Executor class, not {data.get('jtype')!r}")
    for key in ("with", "metas", "requests"):
        value = described.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise InvalidExecutor(f"{_at(source, key)}: {key} must map names to values, not {short(value)}")
        described[key] = dict(value)
    return described


def _at(source: YamlSource, key: str) -> str:
    return source.where(key) if source.label != "uses" else "uses"


def _find(uses: Any, folder: str | None) -> type[Executor]:
    """Return the class that a class, None or a text stands for."""
    if uses is None:
        return BaseExecutor
    if isinstance(uses, type):
        found: type[Executor] = uses
        return found
    place, name = _split(uses)
    if place.endswith(".py"):
        return _member(_import_file(place, folder), name, place)
    if name:
        return _member(_import_module(place, folder), name, place)
    by_name = find_class(uses)
    if by_name is not None:
        return by_name
    if os.path.isdir(os.path.join(folder or "", uses)):
        raise NotSupported(
            f"uses={uses!r} is a folder, which is not supported: name a file in it, such as "
            f"'{uses.rstrip('/')}/config.yml'"
        )
    hint = did_you_mean(uses, class_names())
    if re.fullmatch(r"\w+(\.\w+)+", uses):
        module, _, last = uses.rpartition(".")
        hint = f"; did you mean '{module}:{last}'?"
    raise InvalidExecutor(f"uses={uses!r} names no Executor class defined so far{hint}; uses takes {ACCEPTED}")


def _split(uses: str) -> tuple[str, str]:
    """Split 'file.py:Class' or 'module:Class'; the second part is '' without a colon."""
    place, _, name = uses.rpartition(":")
    return (place, name) if place else (uses, "")


def _member(module: ModuleType, name: str, place: str) -> type[Executor]:
    """Return the Executor of that name in a module, or its only one if no name is given."""
    inside = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Executor) and value.__module__ == module.__name__
    }
    if not name:
        if len(inside) == 1:
            return next(iter(inside.values()))
        which = f"several Executors ({listed(inside)}): choose one" if inside else "no Executor: define one"
        raise InvalidExecutor(f"uses={place!r} holds {which}, and say uses='{place}:Class'")
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        hint = did_you_mean(name, inside) or f"; Executors there: {listed(inside)}"
        raise InvalidExecutor(f"uses='{place}:{name}': {place} has no {name!r}{hint}")
    if not isinstance(found, type) or not issubclass(found, Executor):
        raise InvalidExecutor(
            f"uses='{place}:{name}' is {short(found)}, not an Executor: derive the class from Executor"
        )
    return found


def _import_all(modules: Any, folder: str | None) -> None:
    if not isinstance(modules, (list, tuple)) or not all(isinstance(module, str) for module in modules):
        raise InvalidExecutor(f"py_modules must be a list of .py files or module names, not {short(modules)}")
    for module in modules:
        if module.endswith(".py"):
            _import_file(module, folder)
        else:
            _import_module(module, folder)


def _import_module(name: str, folder: str | None) -> ModuleType:
    import importlib

    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise InvalidExecutor(f"{name!r} is neither a .py file nor the name of a module: uses takes {ACCEPTED}")
    _make_reachable(folder)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _not_imported(name, error) from error


def _import_file(path: str, folder: str | None) -> ModuleType:
    """Import a Python file once per process, however it is spelled, and whoever imported it first."""
    import importlib.util
    import zlib

    full = os.path.realpath(os.path.join(folder or "", os.path.expanduser(path)))
    if not os.path.isfile(full):
        raise InvalidExecutor(f"there is no file {path!r} (looked for {full})")
    known = _files.get(full) or _imported_from(full)
    if known is not None:
        return known
    name = f"zflow_file_{os.path.basename(full)[:-3]}_{zlib.crc32(os.fsencode(full)):08x}"
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise InvalidExecutor(f"{path!r} cannot be imported as Python code")
    module = importlib.util.module_from_spec(spec)
    _make_reachable(os.path.dirname(full))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _not_imported(path, error) from error
    _files[full] = module
    return module


def _imported_from(path: str) -> ModuleType | None:
    """Return the module already imported from a file; `__main__` too, which must not run a second time."""
    base = os.path.basename(path)
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and os.path.basename(file) == base and os.path.realpath(file) == path:
            return module
    return None


def _make_reachable(folder: str | None) -> None:
    # At the end of the path: files beside an Executor can be imported, and hide nothing that is installed.
    full = os.path.abspath(folder) if folder else None
    if full and full not in sys.path:
        sys.path.append(full)


def _not_imported(what: str, error: BaseException) -> InvalidExecutor:
    return InvalidExecutor(f"importing {what!r} failed: {type(error).__name__}: {error}")


def _check_arguments(cls: type[Executor], uses_with: Mapping[str, Any]) -> None:
    """Raise InvalidExecutor if `cls(**uses_with)` is no valid call."""
    import inspect

    constructor = cls.__init__
    if constructor is Executor.__init__:
        if uses_with:
            first = next(iter(uses_with))
            raise InvalidExecutor(
                f"uses_with gives {listed(uses_with)}, but {cls.__name__} has no __init__ of its own: "
                f"write def __init__(self, {first}, **kwargs), or leave uses_with out"
            )
        return
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
    except (TypeError, ValueError):
        return  # a constructor not written in Python says nothing about its parameters
    by_keyword = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in uses_with:
        if name not in by_keyword and not takes_all:
            hint = did_you_mean(name, by_keyword) or f"; it takes {listed(by_keyword)}"
            raise InvalidExecutor(f"uses_with gives {name!r}, which {cls.__name__}.__init__ does not take{hint}")
    for p in parameters:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) or p.default is not p.empty:
            continue
        if p.kind is p.POSITIONAL_ONLY:
            raise InvalidExecutor(f"{cls.__name__}.__init__ takes {p.name!r} by position only: remove the '/'")
        if p.name not in uses_with:
            raise InvalidExecutor(
                f"{cls.__name__}.__init__ requires {p.name!r}: give it by uses_with={{{p.name!r}: ...}}"
            )
