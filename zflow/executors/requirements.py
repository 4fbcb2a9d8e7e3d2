"""Installs what an Executor's `requirements.txt` asks for, with pip,
into the environment that runs.

It runs in the user's process, once per start of a Flow and before any process of it exists, under a
lock that all processes of this environment share. It knows files and packages,
and imports nothing of the user's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from zflow.errors import StartupFailed
from zflow.executors.hub import REQUIREMENTS

log = logging.getLogger("zflow.requirements")

LONGEST_OUTPUT: Final = 8_000  # characters of what pip said, from its end


def install(wanted: Mapping[str, str]) -> None:
    """Install the requirements of several Executors, one file after the other;
    skip what is satisfied already.

    Args:
        wanted: the path of each `requirements.txt` -> whose it is, for messages:
            `"executor 'encoder'"`.

    Raises:
        StartupFailed: pip failed, with what it said; there is no pip; or what one Executor asks for
            took away what another needs.
    """
    if not wanted:
        return
    before = _path_files()
    brought: list[tuple[str, str]] = []  # file and line: what is there after the file had its turn
    with _alone():
        _find_new(before)
        for path, owner in wanted.items():
            lines = _lines(path)
            if not all(map(_is_there, lines)):
                _pip_install(path, owner)
                _find_new(before)
                lines = list(filter(_is_there, lines))
            brought += [(path, line) for line in lines]
        for path, line in brought if len(wanted) > 1 else ():
            if not _is_there(line):
                others = ", ".join(other for other in wanted if other != path)
                raise StartupFailed(
                    f"{line} of {path} ({wanted[path]}) is not installed any more after pip "
                    "installed other "
                    f"requirements of this Flow ({others}): they exclude each other in one "
                    "environment"
                )


def hint(error: BaseException | None, place: str | None, installed: bool) -> str:
    """Return the way out, to be added to a message,
    if `error` is about a package that an Executor lacks.

    Args:
        error: what was raised when the Executor was imported or made.
        place: the Executor's folder.
        installed: its requirements were installed before.
    """
    if place is None or not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name.partition(".")[0]
    path = os.path.join(place, REQUIREMENTS)
    if name in ("jina", "docarray"):
        return f"; write `from zflow import ...` where the files in {place} import from {name}"
    if not os.path.isfile(path):
        return (
            f"; install {name!r}, or name its package in {path} and say install_requirements=True"
        )
    if installed:
        return (
            f"; {path} was installed (install_requirements=True) and does not bring it: name "
            "its package there"
        )
    return (
        f"; say install_requirements=True to install {path} with pip, or install {name!r} yourself"
    )


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in file]
    return [line for line in lines if line]


def _is_there(line: str) -> bool:
    """Tell whether what a line asks for is known to be installed, without pip,
    which takes a second to say so.

    It is a plain name with its versions, then. Of anything else (options, extras,
    places) it is pip that decides.
    """
    from importlib import metadata

    try:
        from packaging.requirements import Requirement

        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            return True
        version = metadata.version(wanted.name)
        return (
            not wanted.url
            and not wanted.extras
            and wanted.specifier.contains(version, prereleases=True)
        )
    # No such package, or not a plain line; or no `packaging` to read it with.
    except (ImportError, ValueError):
        return False


def _pip_install(path: str, owner: str) -> None:
    import importlib.util
    import subprocess

    if importlib.util.find_spec("pip") is None:
        raise StartupFailed(
            f"the requirements of {owner} ({path}) cannot be installed: there is no pip in "
            f"{sys.prefix}. Run "
            f"`{sys.executable} -m ensurepip`, or install them by other means"
        )
    _say(f"installing the requirements of {owner} with pip: {path}")
    # Relative paths in the file are relative to where pip runs; -P keeps modules that lie there out
    # of pip's way.
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    command = [
        sys.executable,
        *safe,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "-r",
        path,
    ]
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    done = subprocess.run(
        command, cwd=os.path.dirname(path), text=True, errors="replace", check=False, **options
    )
    if done.returncode:
        said = done.stdout.strip()[-LONGEST_OUTPUT:]
        raise StartupFailed(
            f"pip could not install the requirements of {owner} ({path}); it said:\n{said}"
        )
    log.debug("%s", done.stdout)


def _say(what: str) -> None:
    """Log it, and show it on a terminal: pip may take minutes."""
    log.info("%s", what)
    with contextlib.suppress(Exception):
        if sys.stderr.isatty():
            sys.stderr.write(f"{what}\n")
            sys.stderr.flush()


def _site_folders() -> list[str]:
    import site
    import sysconfig

    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def _path_files() -> set[str]:
    """Files that Python reads at its start to find more packages,
    such as those installed with `-e`.
    """
    names = (
        os.path.join(folder, name) for folder in _site_folders() for name in os.listdir(folder)
    )
    return {name for name in names if name.endswith(".pth")}


def _find_new(before: set[str]) -> None:
    """Make what was just installed, here or by another process,
    importable in this process and those forked from it.
    """
    import importlib
    import site

    new = _path_files() - before
    for folder in _site_folders():
        if folder not in sys.path or any(os.path.dirname(name) == folder for name in new):
            site.addsitedir(folder)
    importlib.invalidate_caches()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process installs into this environment,
    and keep others out while inside.
    """
    import fcntl

    descriptor = _lockable()
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that installs requirements into {sys.prefix}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            # By hand: a process forked meanwhile may hold it open.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lockable() -> int:
    """Return a descriptor that is the same file in every process of this environment.

    The environment's folder itself can be locked, and needs no right to write;
    but not on every file system.
    """
    import fcntl
    import tempfile
    import zlib

    descriptor = os.open(sys.prefix, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        pass  # held by another process, so it can be locked
    except OSError:
        os.close(descriptor)
        name = f"zflow-pip-{os.getuid()}-{zlib.crc32(os.fsencode(sys.prefix)):08x}.lock"
        return os.open(os.path.join(tempfile.gettempdir(), name), os.O_RDWR | os.O_CREAT, 0o600)
    return descriptor
