"""Results on disk: one JSON file for each benchmark, with where,
when and on what it was measured.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.result import Result, from_dict

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Record:
    """A result, and what has to be known to make sense of it."""

    name: str
    quick: bool
    environment: dict[str, Any]
    result: Result


def environment() -> dict[str, Any]:
    """Return machine, versions, date, commit and load average, as of now."""
    import msgpack
    import numpy
    import zmq

    import zflow

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{_processor()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(load, 2) for load in os.getloadavg()],
        "zflow": zflow.__version__,
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "msgpack": ".".join(map(str, msgpack.version)),
        "numpy": numpy.__version__,
    }


def described(environment: dict[str, Any]) -> str:
    """Return it as one line."""
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("zflow", "python", "pyzmq", "libzmq", "numpy")
    )
    return (
        f"{environment['date']}, commit {environment['commit']}, {environment['cores']} cores, "
        f"load {environment['load'][0]}, {versions}; {environment['machine']}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _commit() -> str:
    """Return the short hash, with a plus if the tree has changes of its own;
    'unknown' outside of git.
    """
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "zflow", "devices")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(record: Record, folder: Path) -> Path:
    """Write `folder/NAME.json` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.name}.json"
    data = {"benchmark": record.name, "quick": record.quick, "environment": record.environment}
    path.write_text(json.dumps(data | record.result.as_dict(), indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path, name: str) -> Record | None:
    """Return what `write` has written, or None if there is nothing."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    return Record(data["benchmark"], data["quick"], data["environment"], from_dict(data))
