"""The tables of all options, those of a Flow and those of an Executor: what each takes,
its default, what it does.

They are the one source for `Flow` and `Flow.add`, YAML, the command line and the documentation;
tests hold signatures, docstrings and pages against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from zflow.errors import InvalidFlow, NotSupported, keyed
from zflow.suggest import did_you_mean, listed
from zflow.topology import kinds
from zflow.topology.kinds import Kind


@dataclass(frozen=True)
class Field:
    """One option: a keyword of `Flow` or of `Flow.add`, which is also a key in YAML.

    Attributes:
        kind: what it takes.
        default: what holds when it is left out (or None).
        about: what it does, in one line of Markdown; the pages begin with it and may say more.
        unsaid: what holds when it is left out, in words, where `default` does not tell.
        shared: an Executor's can be given to `Flow(...)` too, as the default of every Executor.
    """

    kind: Kind
    default: Any
    about: str
    unsaid: str = ""
    shared: bool = True

    def check(self, key: str, value: Any, owner: str) -> Any:
        """Return a value in its final type.

        Raises:
            InvalidFlow, InvalidExecutor, NotSupported: it cannot be; `error.key` begins with `key`.
        """
        with keyed(key):
            return self.kind.check(key, value, owner)

    @property
    def left_out(self) -> str:
        """What holds when it is left out, in words; '' for nothing."""
        return self.unsaid or ("" if self.default in (None, ()) else str(self.default))


def checked(table: Mapping[str, Field], given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return what was given of the options in a table, in final type; None stands for what was not.

    Raises: as `Field.check`.
    """
    return {
        key: table[key].check(key, value, owner)
        for key, value in given.items()
        if value is not None
    }


def check_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Check the keywords that `Flow(...)` takes as defaults for every Executor,
    and return them in final type.

    Raises:
        InvalidFlow, InvalidExecutor, NotSupported: as `Topology.add`.

    >>> check_defaults({"replicas": 2, "env": {"THREADS": 4}})
    {'replicas': 2, 'env': {'THREADS': '4'}}
    """
    for key in defaults:
        if key in FIELDS and not FIELDS[key].shared:
            message = f"{key} belongs to one Executor: give it to add({key}=...), not to Flow(...)"
            raise InvalidFlow(message, key=(key,))
    check_known(defaults, "Flow", FLOW_FIELDS)
    return checked(FIELDS, defaults, "Flow")


def check_known(given: Iterable[str], owner: str, also: Iterable[str] = ()) -> None:
    """Raise if one of these keywords is none of an Executor's;
    `also` are others that may have been meant.
    """
    for key in given:
        if key in UNSUPPORTED:
            message = (
                f"{key} is not supported by this version of zflow: {UNSUPPORTED[key]} ({owner})"
            )
            raise NotSupported(message, key=(key,))
        if key not in FIELDS:
            known = [*FIELDS, *also]
            hint = did_you_mean(key, known) or f"; known are {listed(known, 40)}"
            raise InvalidFlow(f"unknown keyword {key!r}{hint} ({owner})", key=(key,))


#: The Flow's own: keywords of `Flow(...)`, and keys under `with:` in YAML.
FLOW_FIELDS: Final[Mapping[str, Field]] = {
    "port": Field(kinds.PORT, None, "the TCP port to listen on", "any free one"),
    "host": Field(kinds.HOST, "127.0.0.1", "the address to listen on"),
    "curve": Field(
        kinds.PATH,
        None,
        "a key folder: who connects over TCP has to have a key that is on its lists",
    ),
    "allow_control": Field(
        kinds.FLAG,
        None,
        "whether clients over TCP may scale, restart and drain",
        "on loopback or with `curve`",
    ),
    "unknown_endpoints": Field(
        kinds.UNKNOWN,
        "refuse",
        "what becomes of requests that no Executor binds: `refuse` or `pass`",
    ),
    "replica_port": Field(
        kinds.FREE_PORT,
        None,
        "the TCP port where replicas on other machines may join, 0 for any free one",
        "none",
    ),
    "max_connections": Field(
        kinds.CONNECTIONS,
        None,
        "how many connections over TCP there may be, of clients and of replicas each",
        "10000, or what fits",
    ),
    "max_requests_per_client": Field(
        kinds.IN_FLIGHT, 10_000, "how many requests a client may have in flight over one connection"
    ),
    "timeout_close": Field(
        kinds.GRACE, 10_000, "ms that the end may take to finish requests and to close Executors"
    ),
    "max_message_bytes": Field(
        kinds.SIZE, 1024**3, "the largest request or result, in bytes", "1 GiB"
    ),
    "shared_memory": Field(
        kinds.SHARE,
        -1,
        "bytes of shared memory for large arrays and blobs; 0: none, -1: an eighth of the "
        "machine's",
    ),
    "start_method": Field(
        kinds.START_METHOD,
        None,
        "`fork`, or `spawn` for processes that don't come from yours",
        "`fork`",
    ),
}

#: What holds of the Flow's own when they are left out.
DEFAULTS: Final[Mapping[str, Any]] = {key: field.default for key, field in FLOW_FIELDS.items()}

#: An Executor's: keywords of `Flow.add`, and keys of an entry under `executors:` in YAML.
FIELDS: Final[Mapping[str, Field]] = {
    "name": Field(
        kinds.NAME,
        None,
        "its name: letters, digits, `_` and `-`, 100 at most",
        "`executor0`, ...",
        shared=False,
    ),
    "uses": Field(
        kinds.USES,
        None,
        "the Executor: a class, its name, a folder, a file, `module:Class` or YAML",
        "requests pass through",
    ),
    "replicas": Field(
        kinds.REPLICAS,
        1,
        "how many processes compete for its requests; or a range, `{min: 1, max: 8}`: as many as "
        "the load needs",
    ),
    "shards": Field(kinds.COUNT, 1, "how many parts its data has, each with `replicas` processes"),
    "polling": Field(kinds.POLLING, "ANY", "which shards get a request, also by endpoint"),
    "on_shard_failure": Field(
        kinds.SHARD_FAILURE,
        "fail",
        "what an ALL request comes to of which some shards fail",
    ),
    "needs": Field(kinds.NEEDS, None, "what it waits for", "the one before", shared=False),
    "endpoints": Field(
        kinds.ENDPOINTS,
        (),
        "the endpoints that it binds, as long as no replica of this Flow has said so",
        shared=False,
    ),
    "uses_with": Field(kinds.DICT, {}, "keywords for the Executor's `__init__`"),
    "uses_metas": Field(kinds.DICT, {}, "what it finds in `self.metas`"),
    "uses_requests": Field(
        kinds.METHODS, {}, "endpoint to method name, in the place of what their `@requests` say"
    ),
    "uses_dynamic_batching": Field(
        kinds.BATCHING,
        {},
        "how requests are put together: `{/encode: {preferred_batch_size: 32, timeout: 0}}`, "
        "`timeout` in ms",
        shared=False,
    ),
    "py_modules": Field(kinds.PATHS, (), "Python files to load before `uses` is looked up"),
    "install_requirements": Field(
        kinds.FLAG, False, "install the `requirements.txt` of the Executor's folder with pip first"
    ),
    "env": Field(kinds.ENVIRONMENT, {}, "environment variables of its processes"),
    "workspace": Field(kinds.PATH, None, "the folder under which its `self.workspace` lies"),
    "seed": Field(
        kinds.SEED,
        None,
        "for random numbers that are the same in each run, and differ between replicas",
    ),
    "timeout_send": Field(
        kinds.LIMIT, -1, "ms that one request may take here, waiting included; -1: any time"
    ),
    "timeout_run": Field(
        kinds.LIMIT, -1, "ms that a replica may be at one request until it is killed; -1: any time"
    ),
    "timeout_ready": Field(
        kinds.LIMIT, 600_000, "ms that a replica may take to get ready; -1: any time"
    ),
    "retries": Field(
        kinds.RETRIES, -1, "how many crashes of replicas a request survives; -1: max(3, replicas)"
    ),
    "idempotent": Field(
        kinds.FLAG,
        True,
        "False: a request that may have been begun is not begun again, as with `retries=0`",
    ),
    "max_queue": Field(
        kinds.QUEUE,
        100_000,
        "how many requests may wait for a replica until more are refused; -1: any number",
    ),
    "max_queue_bytes": Field(
        kinds.QUEUE,
        -1,
        "how many bytes of requests may be here until more are refused; -1: any number",
    ),
    "no_reduce": Field(
        kinds.FLAG,
        False,
        "the results of several predecessors, or of the shards before it, come apart, as "
        "`docs_matrix` and `docs_map`",
    ),
    "external": Field(kinds.FLAG, False, "it runs elsewhere, served by another Flow", shared=False),
    "host": Field(
        kinds.HOSTS,
        (),
        "where an external Executor runs: `host`, `host:port`, or a list",
        shared=False,
    ),
    "port": Field(kinds.PORTS, (), "its port, or a list with one for each host", shared=False),
    "curve": Field(kinds.PATH, None, "the key folder that lets this Flow in there", shared=False),
}

#: Those of them that `Flow(...)` takes too.
SHARED: Final = frozenset(key for key, field in FIELDS.items() if field.shared)

#: What Jina's `add` takes and this version does not carry out, with the way out.
UNSUPPORTED: Final[Mapping[str, str]] = {
    "gpus": "set env={'CUDA_VISIBLE_DEVICES': 'RR'} to deal them out to the replicas, or '0' to "
    "choose one",
}
