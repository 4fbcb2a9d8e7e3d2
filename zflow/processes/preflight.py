"""What is done about Executors in the user's process, before any process of the Flow is started.

What can be told without their code is checked, and requirements are installed.
No Executor is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from zflow.devices.sockets import descriptors
from zflow.errors import StartupFailed
from zflow.executors import hub, requirements, uses
from zflow.system import process
from zflow.topology.topology import ExecutorSpec

DESCRIPTORS = 16  # that this process must be able to open; each replica may have as many as it


def check(specs: Iterable[ExecutorSpec]) -> None:
    """Find what is wrong with Executors as far as that shows without loading them.

    Raises: as `uses.check`.
        StartupFailed: there are too few file descriptors for any start.
    """
    try:
        descriptors.make_sure(DESCRIPTORS)
    except OSError as error:
        raise StartupFailed(f"nothing can be started: {process.cannot_start(error)}") from None
    for spec in (spec for spec in specs if spec.local):
        uses.check(
            spec.uses,
            uses_with=spec.uses_with,
            uses_requests=spec.uses_requests,
            uses_dynamic_batching=spec.uses_dynamic_batching,
            no_reduce=spec.no_reduce,
            py_modules=spec.py_modules,
            folder=spec.folder,
            environ=_environ(spec),
            owner=_owner(spec),
        )


def install(specs: Iterable[ExecutorSpec]) -> None:
    """Install the requirements of the Executors that ask for it, each file once.

    Raises:
        StartupFailed: as `requirements.install`.
    """
    wanted: dict[str, list[str]] = {}
    for spec in specs:
        place = (
            uses.home(spec.uses, spec.folder, _environ(spec))
            if spec.install_requirements and spec.local
            else None
        )
        path = os.path.join(place, hub.REQUIREMENTS) if place is not None else ""
        if os.path.isfile(path):
            wanted.setdefault(os.path.realpath(path), []).append(_owner(spec))
    requirements.install({path: " and ".join(owners) for path, owners in wanted.items()})


def _environ(spec: ExecutorSpec) -> dict[str, str]:
    return {**os.environ, **spec.env}


def _owner(spec: ExecutorSpec) -> str:
    return f"executor {spec.name!r}"
