"""A small disk for the Flow's sockets, which can be filled without harm to anybody.

It is a tmpfs in a mount namespace of this program's own, so the program is begun once more inside
one. Where the system does not allow that, nothing is filled, and the account says why.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

VARIABLE = "ZFLOW_CHAOS_DISK"  # the folder where it is mounted
INODES = 64
_MOUNT = f'mount -t tmpfs -o size=1m,nr_inodes={INODES},mode=700 none "$0" && exec "$@"'


def unavailable() -> str:
    """Why there cannot be a disk of our own; empty if there can."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return "there is no unshare(1)"
    with tempfile.TemporaryDirectory(prefix="zc-", dir="/tmp") as folder:
        tried = subprocess.run(
            [*_inside(folder), "true"], capture_output=True, text=True, check=False
        )
    return (
        ""
        if tried.returncode == 0
        else f"no private mount: {tried.stderr.strip() or tried.returncode}"
    )


def _inside(folder: str) -> list[str]:
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, folder]


def run_inside(command: Sequence[str]) -> int:
    """Run a program in the place of this one, with the disk mounted and TMPDIR on it;
    its exit status.

    The folder is removed afterwards; the disk itself goes with the last process that sees it.
    """
    folder = tempfile.mkdtemp(prefix="zc-", dir="/tmp")
    try:
        environment = {**os.environ, VARIABLE: folder, "TMPDIR": folder}
        return subprocess.run([*_inside(folder), *command], env=environment, check=False).returncode
    finally:
        os.rmdir(folder)


class Disk:
    """The disk, if there is one.

    Args:
        folder: where it is mounted; None for none.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._files: list[str] = []

    def __bool__(self) -> bool:
        return self._folder is not None

    def fill(self) -> None:
        """Take all that is left, space and names; called again, also what has become free since."""
        assert self._folder is not None
        with contextlib.suppress(OSError):
            while True:
                path = os.path.join(self._folder, f"fill-{len(self._files)}")
                with open(path, "wb", buffering=0) as file:
                    self._files.append(path)
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(1 << 16))

    def clear(self) -> None:
        """Give everything back."""
        for path in self._files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._files.clear()
