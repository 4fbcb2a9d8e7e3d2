"""Folders that hold one Executor: `config.yml`, `executor.py` and `requirements.txt`,
as Jina's Hub kept them.

This module says which folder a `uses` stands for. It looks for files and reads none: loading is the
business of `uses`, and installing that of `requirements`. Nothing is ever downloaded here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from zflow.errors import InvalidExecutor, NotSupported
from zflow.suggest import did_you_mean
from zflow.yamlsource import YAML_ENDINGS, is_text

#: The environment variable that names the folder in which `jinaai://user/Name` is `user/Name/`.
VARIABLE: Final = "ZFLOW_HUB"

CONFIG: Final = "config.yml"
SOURCE: Final = "executor.py"
REQUIREMENTS: Final = "requirements.txt"

_FILES: Final = f"{CONFIG}, {SOURCE} and {REQUIREMENTS}"
_SCHEMES: Final = ("jinaai", "jinahub")


def scheme_of(uses: str) -> str:
    """Return `'jinaai'` of `'jinaai://user/Name'`, in lower case,
    and `''` of what has no scheme.
    """
    return uses.partition("://")[0].lower() if "://" in uses and not is_text(uses) else ""


def names_in_hub(uses: str) -> list[str]:
    """Return the folders, one in the other, that `'jinaai://user/Name'` stands for:
    `['user', 'Name']`.

    The tag `latest` is the same as none: a folder holds one version,
    which is all that is known of it.

    Raises:
        NotSupported: another scheme, or another tag.
        InvalidExecutor: it names nothing.

    >>> names_in_hub("jinahub://user/Name/latest")
    ['user', 'Name']
    """
    scheme = scheme_of(uses)
    if scheme not in _SCHEMES:
        raise NotSupported(f"uses={uses!r}: {_way_out(scheme)}")
    path, colon, tag = uses.partition("://")[2].partition(":")
    names = path.strip("/").split("/")
    if not colon and (len(names) == 3 or (len(names) == 2 and names[-1] == "latest")):
        tag = names.pop()
    if len(names) > 2 or not all(re.fullmatch(r"\w[\w.-]*", name) for name in names):
        raise InvalidExecutor(f"uses={uses!r} names no Executor: write '{scheme}://user/Name'")
    if tag not in ("", "latest"):
        raise NotSupported(
            f"uses={uses!r}: tags are not supported, as the folder {'/'.join(names)} holds one "
            "version only: "
            f"say uses='{scheme}://{'/'.join(names)}'"
        )
    return names


def locate(uses: str, folder: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the full path of the Executor's folder that a text stands for,
    None if it is anything else.

    Args:
        uses: the path of a folder, or of the `config.yml` in it, or `'jinaai://user/Name'`.
        folder: what a relative path is relative to; None for the working directory.
        environ: where to look ZFLOW_HUB up.

    Raises:
        InvalidExecutor: it can only be a folder, but there is none, or none that holds an Executor.
        NotSupported: as `names_in_hub`.
    """
    if scheme_of(uses):
        return _in_hub(uses, environ)
    full = os.path.abspath(os.path.join(folder or "", os.path.expanduser(uses)))
    if os.path.basename(uses) == CONFIG and os.path.isfile(full):
        return os.path.dirname(full)
    if is_text(uses) or ":" in uses or uses.endswith((".py", *YAML_ENDINGS)):
        return None
    if holds_executor(full):
        return full
    if os.sep in uses or uses in (".", "..", "~"):
        raise InvalidExecutor(f"uses={uses!r}: {_lacking(full)}")
    return None


def home(uses: str, folder: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the folder that a text stands for, or that of the file it names;
    None if it is anything else.

    Raises: as `locate`.
    """
    found = locate(uses, folder, environ)
    path = uses if uses.endswith(YAML_ENDINGS) else re.sub(r":[\w.]+$", "", uses)
    if found is None and not is_text(uses) and path.endswith((".py", *YAML_ENDINGS)):
        return os.path.dirname(
            os.path.abspath(os.path.join(folder or "", os.path.expanduser(path)))
        )
    return found


def _in_hub(uses: str, environ: Mapping[str, str]) -> str:
    names = names_in_hub(uses)
    here = "/".join(names)
    root = environ.get(VARIABLE)
    if not root:
        raise InvalidExecutor(
            f"uses={uses!r} is looked up in the folder that {VARIABLE} names, which is not set. "
            "Nothing is "
            f"downloaded: put the Executor's {_FILES} into a folder such as ~/hub/{here} and "
            f"export {VARIABLE}=~/hub"
        )
    root = os.path.abspath(os.path.expanduser(root))
    full = os.path.join(root, *names)
    if not holds_executor(full):
        beside = os.path.dirname(full)
        known = sorted(os.listdir(beside)) if os.path.isdir(beside) else ()
        way_out = did_you_mean(names[-1], known) or (
            f". Nothing is downloaded: put the Executor's {_FILES} there, or let {VARIABLE} (now "
            f"{root}) name the "
            f"folder that holds {here}"
        )
        raise InvalidExecutor(f"uses={uses!r}: {_lacking(full)}{way_out}")
    return full


def holds_executor(folder: str) -> bool:
    """Tell whether a folder is there and has what an Executor is loaded from."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (CONFIG, SOURCE))


def _lacking(folder: str) -> str:
    if os.path.isdir(folder):
        return f"the folder {folder} holds neither {CONFIG} nor {SOURCE}"
    return f"there is no folder {folder}"


def _way_out(scheme: str) -> str:
    base = scheme.partition("+")[0]
    if base in _SCHEMES:
        return (
            f"containers and sandboxes are not supported: say uses='{base}://user/Name', with the "
            "Executor's source "
            f"in the folder that {VARIABLE} names"
        )
    if base == "docker":
        return (
            "containers are not supported: name the folder of the Executor's source, such as "
            "uses='./MyExec'"
        )
    return (
        f"{scheme}:// is not supported: name the folder of the Executor's source, such as "
        "uses='./MyExec'"
    )
