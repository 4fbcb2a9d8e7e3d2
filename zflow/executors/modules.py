"""Imports users' files and modules, each once per process, whatever name they go by.

A lone file gets a module name of its own, and what lies beside it can be imported after all that is
installed. An Executor's folder is imported as if Python had been started there: its files go by
their plain names and come before modules of the same names elsewhere. So two such folders may both
hold an `executor.py`; where both are loaded into one process, a plain name stands for the one
loaded last. This module knows nothing of Executors.
"""

from __future__ import annotations

import os
import re
import sys
from types import ModuleType

from zflow.errors import InvalidExecutor

_files: dict[str, ModuleType] = {}


def import_all(modules: tuple[str, ...] | list[str], folder: str | None) -> list[ModuleType]:
    """Import `.py` files and modules, and return them.

    Args:
        modules: paths that end in `.py`, and dotted names.
        folder: what relative paths are relative to, and where modules are looked for last.

    Raises:
        InvalidExecutor: one does not exist, or raises, which then is the error's `__cause__`.
    """
    return [
        import_file(name, folder) if name.endswith(".py") else import_module(name, folder)
        for name in modules
    ]


def import_module(name: str, folder: str | None) -> ModuleType:
    """Import a module by its dotted name, which is looked for in `folder` last.

    Raises: as `import_all`.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise InvalidExecutor(f"{name!r} is neither a .py file nor the name of a module")
    _make_reachable(folder)
    return _import_named(name, name)


def import_file(path: str, folder: str | None = None) -> ModuleType:
    """Import a Python file under a name of its own, unless it is imported already, by whomever.

    Raises: as `import_all`.
    """
    import importlib.util
    import zlib

    full = _full(path, folder)
    known = _known(full)
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
        raise not_imported(path, error) from error
    _files[full] = module
    return module


def import_in(place: str, modules: tuple[str, ...] | list[str]) -> list[ModuleType]:
    """Import files and modules of an Executor's folder,
    with the folder before everything else on `sys.path`.

    Raises: as `import_all`.
    """
    import importlib

    place = os.path.abspath(place)
    _forget_namesakes(place)
    sys.path[:] = [place, *(entry for entry in sys.path if entry != place)]
    importlib.invalidate_caches()
    return [_import_in(place, name) for name in modules]


def path_of(module: ModuleType) -> str | None:
    """Return the file that a module was imported from by its path, None if it was by its name."""
    return next((path for path, loaded in _files.items() if loaded is module), None)


def not_imported(what: str, error: BaseException) -> InvalidExecutor:
    """Return the error that says that `what` raised `error` while it was imported."""
    return InvalidExecutor(f"importing {what!r} failed: {type(error).__name__}: {error}")


def _import_in(place: str, name: str) -> ModuleType:
    if not name.endswith(".py"):
        return import_module(name, None)
    full = _full(name, place)
    plain = _plain_name(full, place)
    if plain is None or _known(full) is not None:
        return import_file(full)
    module = _import_named(plain, os.path.join(place, name))
    if os.path.realpath(getattr(module, "__file__", None) or "") != full:
        return import_file(full)  # something frozen or built in goes by that name
    _files[full] = module
    return module


def _import_named(name: str, shown: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise not_imported(shown, error) from error


def _full(path: str, folder: str | None) -> str:
    full = os.path.realpath(os.path.join(folder or "", os.path.expanduser(path)))
    if not os.path.isfile(full):
        raise InvalidExecutor(f"there is no file {path!r} (looked for {full})")
    return full


def _plain_name(full: str, place: str) -> str | None:
    """Return the name under which Python, started in `place`, would import a file;
    None if it cannot.
    """
    inside = os.path.relpath(full, os.path.realpath(place))[:-3].split(os.sep)
    if inside[-1] == "__init__":
        inside.pop()
    if (
        not inside
        or inside[0] in sys.stdlib_module_names
        or not all(part.isidentifier() for part in inside)
    ):
        return None
    return ".".join(inside)


def _known(full: str) -> ModuleType | None:
    """Return the module already imported from a file; `__main__` too,
    which must not run a second time.
    """
    if full in _files:
        return _files[full]
    base = os.path.basename(full)
    for module in list(sys.modules.values()):
        file = _file_of(module)
        if file and os.path.basename(file) == base and os.path.realpath(file) == full:
            return module
    return None


def _file_of(module: ModuleType | None) -> str | None:
    file = getattr(module, "__dict__", {}).get("__file__")
    return file if isinstance(file, str) else None


def _forget_namesakes(place: str) -> None:
    """Take modules from elsewhere out of `sys.modules` that go by the names of
    modules in the folder `place`.

    Those who imported them keep them. Never so modules of Python itself, and zflow.
    """
    inside = os.path.join(os.path.realpath(place), "")
    for entry in os.listdir(place):
        name = entry.removesuffix(".py")
        package = os.path.isfile(os.path.join(place, entry, "__init__.py"))
        if (
            (name == entry and not package)
            or name in sys.stdlib_module_names
            or name in ("zflow", "__main__")
        ):
            continue
        file = _file_of(sys.modules.get(name))
        if file is not None and not os.path.realpath(file).startswith(inside):
            for loaded in list(sys.modules):
                if loaded.partition(".")[0] == name:
                    del sys.modules[loaded]


def _make_reachable(folder: str | None) -> None:
    # At the end of the path: files beside an Executor can be imported, and hide nothing that is
    # installed.
    full = os.path.abspath(folder) if folder else None
    if full and full not in sys.path:
        sys.path.append(full)
