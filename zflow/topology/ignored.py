"""Options of Jina's that mean nothing here, and that a Flow's old YAML is full of.

They are taken out of what was said, and named in one warning, before anything else is checked. What
would change results, or who can read what travels, is not among them: that stays an error.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from zflow.errors import NotSupported
from zflow.suggest import short

log = logging.getLogger("zflow")

#: Of monitoring and tracing, of logs, of gRPC and of how Jina ran its processes.
_OF_BOTH: Final = frozenset(
    (
        "compression",
        "docker_kwargs",
        "entrypoint",
        "exit_on_exceptions",
        "grpc_channel_options",
        "grpc_server_options",
        "k8s_namespace",
        "log_config",
        "metrics",
        "metrics_exporter_host",
        "metrics_exporter_port",
        "monitoring",
        "native",
        "noblock_on_start",
        "pod_role",
        "port_monitoring",
        "protocol",
        "quiet",
        "quiet_error",
        "quiet_remote_logs",
        "reload",
        "runtime_backend",
        "runtime_cls",
        "span_exporter_host",
        "span_exporter_port",
        "timeout_ctrl",
        "traces_exporter_host",
        "traces_exporter_port",
        "tracing",
        "workspace_id",
    )
)

#: Of an Executor that runs here; of Jina's containers and its Hub, which are refused by `uses`.
OF_EXECUTORS: Final = _OF_BOTH | {
    "connection_list",
    "disable_auto_volume",
    "force_update",
    "host_in",
    "host_out",
    "port",
    "port_in",
    "port_out",
    "prefer_platform",
    "pull_latest",
    "replica_id",
    "shard_id",
    "upload_files",
    "volumes",
}

#: Of the Flow and its gateway.
OF_FLOWS: Final = _OF_BOTH | {
    "cors",
    "deployments_addresses",
    "description",
    "expose_endpoints",
    "expose_graphql_endpoint",
    "graph_conditions",
    "graph_description",
    "inspect",
    "no_crud_endpoints",
    "no_debug_endpoints",
    "prefetch",
    "title",
    "uvicorn_kwargs",
}

_ANY_ADDRESS: Final = ("0.0.0.0", "::")  # where to listen; nobody connects there


def of_executor(given: Mapping[str, Any], owner: str) -> tuple[dict[str, Any], list[str]]:
    """Return what was said of an Executor without the options that mean nothing, and their names.

    Raises:
        NotSupported: another protocol than gRPC was asked for.

    >>> of_executor({"name": "a", "port": 5555, "quiet": True}, "")
    ({'name': 'a'}, ['port', 'quiet'])
    """
    names = OF_EXECUTORS
    if given.get("external") or (given.get("host") and given["host"] not in _ANY_ADDRESS):
        names = names - {"port"}
    elif "host" in given:
        names = names | {"host"}
    if given.get("copy_flow") is False:  # as it always is here
        names = names | {"copy_flow"}
    return _apart(given, names, owner)


def of_flow(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what was said of a Flow without the options that mean nothing, and their names.

    Raises: as `of_executor`.
    """
    return _apart(given, OF_FLOWS, "Flow")


def of_serving(
    given: Mapping[str, Any], known: Collection[str], owner: str
) -> tuple[dict[str, Any], list[str]]:
    """Return what was said of an Executor that is served alone without the options that mean
    nothing, and their names; `known` are those that it has.

    Raises: as `of_executor`.
    """
    return _apart(given, (OF_EXECUTORS | OF_FLOWS) - set(known), owner)


def _apart(
    given: Mapping[str, Any], names: frozenset[str], owner: str
) -> tuple[dict[str, Any], list[str]]:
    _check_protocol(given.get("protocol"), owner)
    kept = {key: value for key, value in given.items() if key not in names}
    return kept, [key for key in given if key in names and given[key] is not None]


def _check_protocol(value: Any, owner: str) -> None:
    said = value if isinstance(value, (list, tuple)) else (value,)
    if value is not None and not all(str(one).lower() == "grpc" for one in said):
        raise NotSupported(
            f"protocol={short(value)} is not supported: a Flow speaks ZeroMQ with zflow's clients, "
            f"and nothing else; leave protocol out ({owner})",
            key=("protocol",),
        )


class Told:
    """What a Flow's user was told of options that mean nothing: each is named once.

    >>> told = Told()
    >>> told.found("executor 'a'", ["port"])
    >>> told.warn()
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: dict[str, list[str]] = {}

    def found(self, owner: str, names: list[str]) -> None:
        """These were said of somebody."""
        for name in names:
            if name not in self._known:
                self._new.setdefault(name, []).append(owner)

    def warn(self) -> None:
        """Name those that were found since the last time."""
        if self._new:
            what = ", ".join(f"{name} ({', '.join(owners)})" for name, owners in self._new.items())
            log.warning("options of Jina's that mean nothing here are ignored: %s", what)
            self._known.update(self._new)
            self._new = {}
