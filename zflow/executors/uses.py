"""What `uses` may be, and how it becomes an Executor class with its arguments.

It is given a value and a folder, and returns a class and what to call it with. It knows nothing of
Flows and processes; importing is the business of `modules`,
and finding Executors' folders that of `hub`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, TypeGuard

from zflow.endpoints import spelt
from zflow.errors import InvalidExecutor, NotSupported
from zflow.executors import constructors, hub, requirements
from zflow.executors.batching import Batching
from zflow.executors.description import Description, Uses, describe, module_list
from zflow.executors.executor import BaseExecutor, Executor, class_names, find_class
from zflow.executors.handlers import handlers
from zflow.executors.modules import import_all, import_in, not_imported, path_of
from zflow.suggest import did_you_mean, listed, short
from zflow.yamlsource import YAML_ENDINGS, is_text

ACCEPTED: Final = (
    "a class, its name, 'file.py:Class', 'module:Class' or 'module.Class', an Executor's folder, "
    "'jinaai://user/Name', "
    "a YAML file, YAML text or a dict"
)

_FILES: Final = (".py", *YAML_ENDINGS)

#: The entry point group in which installed packages name their Executors.
GROUP: Final = "zflow.executors"

log = logging.getLogger("zflow")
_said: set[str] = set()  # warnings, each of which is given once


@dataclass(frozen=True)
class Loaded:
    """An Executor class and what a replica makes it with.

    Attributes:
        uses_with: the keywords of its `__init__`.
        metas: what it finds in `self.metas`.
        requests: endpoint -> method name, over its decorators.
        batching: by endpoint, over its decorators.
    """

    cls: type[Executor]
    uses_with: dict[str, Any]
    metas: dict[str, Any]
    requests: dict[str, str]
    batching: dict[str, Batching] = field(default_factory=dict)


def load(
    uses: object,
    *,
    uses_with: Mapping[str, object] | None = None,
    uses_metas: Mapping[str, object] | None = None,
    uses_requests: Mapping[str, str] | None = None,
    uses_dynamic_batching: Mapping[str, Batching] | None = None,
    no_reduce: bool = False,
    py_modules: Sequence[str] | None = None,
    folder: str | None = None,
    install_requirements: bool = False,
    owner: str = "",
) -> Loaded:
    """Find the Executor class that `uses` stands for, and check that it can be made and called.

    Args:
        uses: None (pass everything through), an Executor class, the name of one already defined,
            `'file.py'`, `'file.py:Class'`, `'module:Class'` (or `'module.Class'`), an Executor's
            folder or its name in the Hub (`'jinaai://user/Name'`), the name of an installed
            Executor, or a description: a YAML file, YAML text or a dict with the keys `jtype`,
            `with`, `metas`, `requests`, `py_modules` and `uses_dynamic_batching`.
        uses_with, uses_metas, uses_requests, uses_dynamic_batching: over what the description says,
            key by key.
        no_reduce: it wants the results of several predecessors apart.
        py_modules: `.py` files or module names to import first.
        folder: what relative paths are relative to, and where modules are looked for last; None for
            the working directory.
        install_requirements: its requirements were installed before, which matters to messages
            only.
        owner: whose `uses` it is, for messages: `"executor 'encoder'"`.

    Raises:
        InvalidExecutor: it is not an Executor, cannot be found or imported, cannot be called with
            `uses_with`, or its endpoints are not well defined.
        NotSupported: it is a form of `uses` that this version does not know.

    >>> load("BaseExecutor").cls.__name__
    'BaseExecutor'
    """
    with _named(owner):
        checked = check_kind(uses)
        try:
            modules = import_all(module_list(py_modules or ()), folder)
            described = describe(checked, folder, os.environ)
            cls = _load_class(described, modules)
        except InvalidExecutor as error:
            way_out = hint(error.__cause__, checked, folder, install_requirements)
            raise InvalidExecutor(error.message + way_out) from error.__cause__
        return _complete(
            cls, described, uses_with, uses_metas, uses_requests, uses_dynamic_batching, no_reduce
        )


def check(
    uses: object,
    *,
    uses_with: Mapping[str, object] | None = None,
    uses_requests: Mapping[str, str] | None = None,
    uses_dynamic_batching: Mapping[str, Batching] | None = None,
    no_reduce: bool = False,
    py_modules: Sequence[str] | None = None,
    folder: str | None = None,
    environ: Mapping[str, str],
    owner: str = "",
) -> None:
    """Raise what `load` would, as far as that can be told without importing, or reading,
    anything of the user's.

    A class, and the name of one already defined, is checked in full; a folder must be there.

    Args:
        environ: the environment that the replicas will have.

    Raises: as `load`.
    """
    with _named(owner):
        described = describe(check_kind(uses), folder, environ, reading=False)
        what = described.what
        if isinstance(what, str):
            what = (
                None if py_modules or described.py_modules or described.place else find_class(what)
            )
        elif what is None:
            what = BaseExecutor
        if what is not None:
            _complete(
                what, described, uses_with, None, uses_requests, uses_dynamic_batching, no_reduce
            )


def hint(
    error: BaseException | None, uses: Uses, folder: str | None, install_requirements: bool
) -> str:
    """Return the way out, to be added to a message,
    if an Executor's import or constructor lacks a package.
    """
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return requirements.hint(error, home(uses, folder, os.environ), install_requirements)


def home(uses: Uses, folder: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the folder that holds an Executor and its requirements,
    None where `uses` names no place.

    Raises: as `hub.locate`.
    """
    if not isinstance(uses, str) or find_class(uses) is not None:
        return None
    return hub.home(uses, folder, environ)


def check_kind(uses: object, owner: str = "") -> Uses:
    """Return `uses` if it could be an Executor as far as can be told without loading anything;
    raise otherwise.

    Raises:
        InvalidExecutor, NotSupported: as `load`.
    """
    where = f" ({owner})" if owner else ""
    if isinstance(uses, os.PathLike):
        uses = os.fspath(uses)
    if isinstance(uses, str):
        if hub.scheme_of(uses):
            with _named(owner):
                hub.names_in_hub(uses)
        if uses.strip():
            return uses
    elif isinstance(uses, type):
        if issubclass(uses, Executor):
            return uses
        raise InvalidExecutor(
            f"uses={uses.__name__} is a class but not an Executor: derive it from Executor{where}"
        )
    elif isinstance(uses, Executor):
        name = type(uses).__name__
        raise InvalidExecutor(
            f"uses must be the class {name}, not an instance: give arguments by uses_with{where}"
        )
    elif isinstance(uses, Mapping):
        return dict(uses)
    elif uses is None:
        return None
    raise InvalidExecutor(
        f"uses must be {ACCEPTED}, not {short(uses)} of type {type(uses).__name__}{where}"
    )


def reference(cls: type[Executor]) -> str:
    """Return how to write a class as `uses` in YAML:
    `'file.py:Class'` or `'module:Class'` where that finds it
    again, else its name alone."""
    module = sys.modules.get(cls.__module__)
    if module is None or module.__name__ == "__main__" or "<locals>" in cls.__qualname__:
        return cls.__name__
    return f"{path_of(module) or module.__name__}:{cls.__qualname__}"


def is_path(uses: str, folder: str | None = None) -> bool:
    """Tell whether a text given as `uses` or in `py_modules` names a file or a folder,
    relative to `folder`.
    """
    if is_text(uses) or hub.scheme_of(uses) or uses.startswith("~"):
        return False
    if _split(uses)[0].endswith(_FILES) or os.sep in uses:
        return True
    return find_class(uses) is None and hub.holds_executor(os.path.join(folder or "", uses))


@contextmanager
def _named(owner: str) -> Iterator[None]:
    """Put whose `uses` it is at the end of errors."""
    try:
        yield
    except (InvalidExecutor, NotSupported) as error:
        if not owner:
            raise
        raise type(error)(f"{error.message} ({owner})") from error.__cause__


def _complete(
    cls: type[Executor],
    described: Description,
    uses_with: Mapping[str, object] | None,
    uses_metas: Mapping[str, object] | None,
    uses_requests: Mapping[str, str] | None,
    uses_dynamic_batching: Mapping[str, Batching] | None,
    no_reduce: bool,
) -> Loaded:
    """Put the arguments together, and check that the class takes them."""
    loaded = Loaded(
        cls,
        {**described.uses_with, **(uses_with or {})},
        {**described.metas, **(uses_metas or {})},
        {
            spelt(endpoint) or endpoint: method
            for said in (described.requests, uses_requests or {})
            for endpoint, method in said.items()
        },
        {**described.batching, **(uses_dynamic_batching or {})},
    )
    found = handlers(cls, loaded.requests, loaded.batching)
    batched = [endpoint for endpoint, handler in found.items() if handler.batching is not None]
    if no_reduce and batched:
        raise InvalidExecutor(
            f"{cls.__name__} takes {listed(batched)} in batches, but with no_reduce=True it is "
            "given docs_matrix, which"
            " belongs to one request: leave no_reduce out, or say preferred_batch_size 1 in "
            "uses_dynamic_batching"
        )
    for text in constructors.check(cls, loaded.uses_with, Executor):
        if text not in _said:
            _said.add(text)
            log.warning("%s", text)
    return loaded


def _load_class(described: Description, modules: Sequence[ModuleType]) -> type[Executor]:
    """Import what is described, and return the class."""
    what, place, folder = described.what, described.place, described.folder
    if what is None:
        return BaseExecutor
    if isinstance(what, type):
        return what
    file, name = _dotted(what) or _split(what)
    names = (
        described.py_modules
        if file == what and not file.endswith(".py")
        else (*described.py_modules, file)
    )
    modules = [*modules, *(import_all(names, folder) if place is None else import_in(place, names))]
    if len(names) > len(described.py_modules):
        return _member(modules[-1], name, os.path.join(place or "", file))
    return _by_name(what, described, modules)


def _by_name(name: str, described: Description, modules: Sequence[ModuleType]) -> type[Executor]:
    """Return the Executor of that name: of the modules just imported, else of any,
    else an installed one.

    An Executor's folder is asked alone: another folder may have a class of the same name.
    """
    place = described.place
    for module in reversed(modules):
        if _is_executor(vars(module).get(name)) or (place is not None and name in vars(module)):
            return _member(module, name, getattr(module, "__file__", None) or module.__name__)
    found = find_class(name)
    if place is None:
        found = found or _installed(name)
        if found is None:
            raise InvalidExecutor(_unknown(name))
    elif found is None or not _lies_in(found, place):
        there = [
            key for module in modules for key, value in vars(module).items() if _is_executor(value)
        ]
        hint = did_you_mean(name, there) or f"; Executors there: {listed(there)}"
        raise InvalidExecutor(
            f"{os.path.join(place, hub.CONFIG)}: jtype names {name!r}, which is in none of its "
            "py_modules "
            f"({listed(described.py_modules)}){hint}"
        )
    return found


def _is_executor(value: object) -> TypeGuard[type[Executor]]:
    return isinstance(value, type) and issubclass(value, Executor)


def _lies_in(cls: type[Executor], place: str) -> bool:
    """Tell whether a class was defined in a file in a folder."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return os.path.realpath(file).startswith(os.path.join(os.path.realpath(place), ""))


def _installed(name: str) -> type[Executor] | None:
    """Return the Executor that an installed package names so, None if none does."""
    from importlib.metadata import entry_points

    found = {point.value: point for point in sorted(entry_points(group=GROUP, name=name))}
    if not found:
        return None
    if len(found) > 1:
        packages = listed(
            point.dist.name if point.dist else value for value, point in found.items()
        )
        raise InvalidExecutor(
            f"uses={name!r} names Executors of several packages ({packages}): say "
            "uses='module:Class', one of "
            f"{listed(found)}"
        )
    value, point = next(iter(found.items()))
    try:
        cls = point.load()
    except (Exception, SystemExit) as error:
        raise not_imported(value, error) from error
    if not _is_executor(cls):
        raise InvalidExecutor(
            f"uses={name!r} is {short(cls)} ({value}), not an Executor: its package's entry point "
            "in the group "
            f"{GROUP!r} must name a class derived from Executor"
        )
    return cls


def _unknown(name: str) -> str:
    from importlib.metadata import entry_points

    hint = did_you_mean(name, [*class_names(), *entry_points(group=GROUP).names])
    kinds = "no Executor class defined so far, no installed one and no folder"
    return f"uses={name!r} names {kinds}{hint}; uses takes {ACCEPTED}"


def _split(uses: str) -> tuple[str, str]:
    """Split 'file.py:Class' or 'module:Class'; the second part is '' without a colon."""
    place, _, name = uses.rpartition(":")
    return (place, name) if place else (uses, "")


def _dotted(uses: str) -> tuple[str, str] | None:
    """Split 'package.module.Class', unless an installed package names an Executor so."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", uses) or uses.endswith(_FILES):
        return None
    if _installed(uses) is not None:
        return None
    module, _, name = uses.rpartition(".")
    return module, name


def _member(module: ModuleType, name: str, place: str) -> type[Executor]:
    """Return the Executor of that name in a module, or its only one if no name is given."""
    inside = {
        key: value
        for key, value in vars(module).items()
        if _is_executor(value) and (value.__module__ + ".").startswith(module.__name__ + ".")
    }
    if not name:
        if len(inside) == 1:
            return next(iter(inside.values()))
        which = (
            f"several Executors ({listed(inside)}): choose one"
            if inside
            else "no Executor: define one"
        )
        raise InvalidExecutor(f"uses={place!r} holds {which}, and say uses='{place}:Class'")
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        hint = did_you_mean(name, inside) or f"; Executors there: {listed(inside)}"
        raise InvalidExecutor(f"uses='{place}:{name}': {place} has no {name!r}{hint}")
    if not _is_executor(found):
        raise InvalidExecutor(
            f"uses='{place}:{name}' is {short(found)}, not an Executor: derive the class from "
            "Executor"
        )
    return found
