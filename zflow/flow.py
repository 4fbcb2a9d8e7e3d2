"""`Flow`: the builder, and the life cycle of what it has built.

It puts the plan together and hands it to the process manager; posting is the Client's business.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zflow import errors
from zflow.clients.shortcuts import Shortcuts
from zflow.suggest import short
from zflow.topology import ignored
from zflow.topology.options import DEFAULTS, FIELDS, FLOW_FIELDS, check_defaults, checked
from zflow.topology.topology import ExecutorSpec, Topology
from zflow.version import __version__ as version

if TYPE_CHECKING:
    from zflow.clients.async_client import AsyncClient
    from zflow.clients.client import Client
    from zflow.documents.values import Parameters
    from zflow.executors.executor import Executor
    from zflow.processes.launch import Launched
    from zflow.system.termination import Event

log = logging.getLogger("zflow")


class Flow(Shortcuts):
    """A graph of Executors, each in processes of its own, joined by a broker.

    Args:
        port: the TCP port to listen on; any free one when left out.
        host: the address to listen on; loopback unless said otherwise.
        curve: a key folder (`zflow-run keys new`): who connects over TCP has to have a key that is
            on its lists.
        allow_control: whether clients over TCP may change it (`scale`, `restart`, `drain`,
            `undrain`); with `curve`, only those whose key is on the list `admins/`. Left out, it is
            True on loopback or with `curve`, else False. The Flow's own methods always may.
        unknown_endpoints: what becomes of a request for an endpoint that no Executor binds:
            `'refuse'` fails it with BadRequest, `'pass'` lets it through unchanged. An Executor
            without `uses`, one without endpoints and an external one count as binding all.
        replica_port: the TCP port where replicas on other machines may join (`zflow-run replica`),
            0 for any free one; none may when left out.
        max_connections: how many connections over TCP there may be, of clients and of replicas
            each; 10,000 when left out, or as many as there may be file descriptors for.
        max_requests_per_client: how many requests a client may have in flight over one connection.
        timeout_close: ms that `close()` may take to finish requests in flight and to close the
            Executors.
        max_message_bytes: the largest request, or result, in bytes.
        shared_memory: the bytes of shared memory that its processes may use for large arrays and
            blobs, instead of sending them through sockets; -1 for an eighth of the machine's
            memory, 0 for none.
        start_method: how its processes come into being: `'fork'`, from this one, or `'spawn'`, from
            a fresh interpreter that imports the main script again. Left out, it is fork, or spawn
            if this process cannot be forked: where CUDA is initialised, or OpenMP keeps threads
            that cannot be ended.
        defaults: any keyword of `add` but `name` and `needs`: what holds for every Executor that
            doesn't say otherwise.

    Raises:
        InvalidFlow: an unknown keyword, or a value that cannot be. Keywords of Jina's that mean
            nothing here are ignored with a warning.

    Example:
        flow = Flow().add(name="encoder", uses=Encoder, replicas=3)
        with flow.add(name="indexer", uses=Indexer):
            flow.index(documents)
            print(flow.search(Document(text="hello")).texts)
    """

    __module__ = "zflow"

    def __init__(
        self,
        *,
        port: int | None = None,
        host: str | None = None,
        curve: str | os.PathLike[str] | None = None,
        allow_control: bool | None = None,
        unknown_endpoints: str | None = None,
        replica_port: int | None = None,
        max_connections: int | None = None,
        max_requests_per_client: int | None = None,
        timeout_close: int | None = None,
        max_message_bytes: int | None = None,
        shared_memory: int | None = None,
        start_method: str | None = None,
        **defaults: object,
    ) -> None:
        defaults, meaningless = ignored.of_flow(defaults)
        own = checked(
            FLOW_FIELDS,
            {key: value for key, value in locals().items() if key in FLOW_FIELDS},
            "Flow",
        )
        self._given = {**own, **defaults}
        self._options = {**DEFAULTS, **own}
        self._defaults = check_defaults(defaults)
        self._topology = Topology()
        self._launched: Launched | None = None
        self._client: Client | None = None
        self._port: int | None = None
        self._closed = False
        self._interrupted = False  # by Ctrl-C, in block()
        self._told = ignored.Told()
        self._told.found("Flow", meaningless)
        self._told.warn()

    # -- building ----------------------------------------------------------------------------------

    def add(
        self,
        *,
        name: str | None = None,
        uses: type[Executor] | str | os.PathLike[str] | Mapping[str, object] | None = None,
        replicas: int | Mapping[str, int] | None = None,
        shards: int | None = None,
        polling: str | Mapping[str, str] | None = None,
        on_shard_failure: str | None = None,
        needs: str | list[str] | tuple[str, ...] | None = None,
        endpoints: list[str] | tuple[str, ...] | None = None,
        uses_with: Mapping[str, object] | None = None,
        uses_metas: Mapping[str, object] | None = None,
        uses_requests: Mapping[str, str] | None = None,
        uses_dynamic_batching: Mapping[str, Mapping[str, float]] | None = None,
        py_modules: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        install_requirements: bool | None = None,
        env: Mapping[str, object] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        timeout_send: int | None = None,
        timeout_run: int | None = None,
        timeout_ready: int | None = None,
        retries: int | None = None,
        idempotent: bool | None = None,
        max_queue: int | None = None,
        max_queue_bytes: int | None = None,
        no_reduce: bool | None = None,
        external: bool | None = None,
        host: str | Sequence[str] | None = None,
        port: int | str | Sequence[int | str] | None = None,
        curve: str | os.PathLike[str] | None = None,
        **unknown: object,
    ) -> Flow:
        """Add an Executor after the one added last, or after those that `needs` names;
        return the Flow.

        Args:
            name: its name; `executor0`, `executor1`, ... by position when left out.
            uses: the Executor: a class, the name of one, `'module:Class'`, `'file.py:Class'`, a
                folder, `'jinaai://user/Name'` for one in the folder that ZFLOW_HUB names, or YAML.
                Without it, requests pass through.
            replicas: how many processes compete for its requests. The idle one gets the request
                first. With a dict, `{'min': 1, 'max': 8}`, as many as the load needs: more before
                requests wait longer than `'wait'` (500) ms, fewer when there was less to do for
                `'idle'` (30000) ms.
            shards: how many parts its data has; each shard has `replicas` processes.
            polling: which shards get a request: `'ANY'` (an idle one) or `'ALL'`, or a dict by
                endpoint, with `'*'` for the others. `/index` is ANY and `/search` is ALL unless
                named. Without effect on one shard.
            on_shard_failure: what an ALL request comes to of which a shard fails: `'fail'`, or
                `'partial'` for the results of the others, with `response.parameters['__shards__']`
                saying what is missing.
            needs: what it waits for: a name, several, or `'gateway'` for the entrance.
            endpoints: what it binds as long as no replica of this Flow has said so: replicas on
                other machines that bind something else are refused. Of an external Executor: what
                it is asked for, whatever it says.
            uses_with: keywords for the Executor's `__init__`.
            uses_metas: what the Executor finds in `self.metas`.
            uses_requests: endpoint -> method name, in the place of what their `@requests` say.
            uses_dynamic_batching: by endpoint, over what decorators say, how requests are put
                together: `{'/encode': {'preferred_batch_size': 32, 'timeout': 0}}`. The method gets
                    up to so many Documents of
                several requests in one call, and while a replica is idle they wait for others for
                `timeout` ms at most.
            py_modules: Python files to load before `uses` is looked up.
            install_requirements: install the `requirements.txt` beside the Executor with pip before
                it starts.
            env: environment variables of its processes, over those that `Flow(env=...)` names.
                CUDA_VISIBLE_DEVICES=RR deals GPUs out to them.
            workspace: the folder under which its `self.workspace` lies.
            seed: makes the random numbers of `random` and numpy the same in each run; each replica
                has a seed of its own that follows from this one, in `self.runtime_args.seed`.
                Otherwise they differ in each process.
            timeout_send: ms that a request may take here, waiting included; -1 for any time.
            timeout_run: ms that a replica may be at one request; then the request fails, and the
                replica is killed and started anew. -1 for any time.
            timeout_ready: ms that a replica may take to get ready; -1 for any time.
            retries: how many crashes of replicas a request survives; -1 for max(3, replicas). With
                0 it is sent once at most.
            idempotent: False if a request must not be begun twice, as with `retries=0`.
            max_queue: how many requests may wait for it; more are refused with Overloaded. -1 for
                any number.
            max_queue_bytes: the same in bytes of requests, waiting or worked on.
            no_reduce: give the Executor the results of several predecessors apart, as `docs_matrix`
                and `docs_map`.
            external: it runs elsewhere, served by another Flow; every address is one replica.
            host: where an external Executor runs: `'host'`, `'host:port'`, or a list.
            port: its port, or a list with one for each host.
            curve: the key folder that lets this Flow in there.

        Raises:
            InvalidFlow, InvalidExecutor, NotSupported: something is wrong with an argument; nothing
                was added.
            FlowNotRunning: the Flow is already started.
        """
        given = {key: value for key, value in locals().items() if key in FIELDS}
        return self._extend(self._topology.add, {**given, **unknown})

    def needs(
        self, needs: str | list[str] | tuple[str, ...], name: str | None = None, **options: object
    ) -> Flow:
        """Add a node that waits for those named; without further options it only joins,
        and has no process.

        Raises: as `add`.
        """
        return self._extend(self._topology.needs, {"needs": needs, "name": name, **options})

    def needs_all(self, name: str | None = None, **options: object) -> Flow:
        """Add a node that waits for every Executor that nothing waits for yet;
        otherwise as `needs`.
        """
        return self._extend(self._topology.needs_all, {"name": name, **options})

    def _extend(
        self, method: Callable[..., object], given: dict[str, object], folder: str | None = None
    ) -> Flow:
        if self._launched is not None:
            raise errors.FlowNotRunning(
                "the Flow is started: add Executors before that, or close it first"
            )
        name = given.get("name") or f"executor{len(self.executors)}"
        given, meaningless = ignored.of_executor(given, f"executor {short(name)}")
        method(
            self._defaults,
            folder,
            **{key: value for key, value in given.items() if value is not None},
        )
        self._told.found(str(name), meaningless)
        self._told.warn()
        return self

    @classmethod
    def load_config(
        cls, source: object, *, context: Mapping[str, object] | None = None, **overrides: object
    ) -> Flow:
        """Build a Flow from YAML.

        Args:
            source: a path, YAML text, or an open file.
            context: values for `${{ CONTEXT.NAME }}` in it; `${{ ENV.NAME }}` reads the
                environment.
            overrides: keywords of `Flow(...)`, over what `with:` says.

        Raises:
            InvalidConfig: a wrong key or value; the message begins with file and line.
        """
        from zflow.topology import config

        found = config.load(source, context)
        with found.located("with"):
            flow = cls(**{**found.flow_kwargs, **overrides})
        for index, executor in enumerate(found.executors):
            with found.located("executors", index):
                flow._extend(
                    getattr(flow._topology, executor.method), dict(executor.kwargs), found.folder
                )
        flow._told = found.told
        flow._told.warn()
        return flow

    def save_config(self, path: str | os.PathLike[str]) -> None:
        """Write the Flow as YAML that `load_config` reads back.

        Raises:
            InvalidConfig: a value has no form in YAML.
        """
        from zflow.topology import config

        folder = os.path.dirname(os.path.abspath(path))
        text = config.dump(self._given, self._topology.specs, folder)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    @property
    def executors(self) -> list[ExecutorSpec]:
        """The Executors in the order of adding."""
        return self._topology.specs

    def __repr__(self) -> str:
        copies = (
            (spec, " x ".join(str(n) for n in (spec.shards, spec.replicas) if n > 1))
            for spec in self.executors
        )
        names = ", ".join(
            f"{spec.name} x {times}" if times else spec.name for spec, times in copies
        )
        state = f" at {self.host}:{self.port}" if self._launched is not None else ""
        return f"<Flow [{names}]{state}>"

    # -- life cycle --------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """Where it listens."""
        return str(self._options["host"])

    @property
    def port(self) -> int | None:
        """The TCP port it listens on; None as long as it is to be chosen at the start."""
        return self._port if self._port is not None else self._options["port"]

    @property
    def replica_port(self) -> int | None:
        """The TCP port where replicas on other machines join; None if none may,
        or as long as it is to be chosen.
        """
        addresses = self._launched.replica_addresses if self._launched is not None else []
        return (
            int(addresses[0].rpartition(":")[2])
            if addresses
            else self._options["replica_port"] or None
        )

    def start(self) -> Flow:
        """Start all processes and return when every replica is ready.

        Raises:
            StartupFailed: an Executor raised or was not ready in time; with its traceback. Nothing
                is left running.
            PortInUse: the port is taken.
            InvalidFlow, InvalidExecutor: found before anything was started; StartupFailed so, too,
                if pip failed.
            NotSupported: this system cannot fork processes,
                or gevent or eventlet have patched this process.
        """
        if self._launched is not None:
            raise errors.FlowNotRunning("the Flow is already started")
        if not hasattr(os, "fork"):
            raise errors.NotSupported(
                "zflow forks its processes, which this system cannot do; use Linux or macOS"
            )
        from zflow.clients.client import Client
        from zflow.clients.member import Membership
        from zflow.processes import plan, preflight, spawn
        from zflow.processes.launch import Launched

        method = spawn.choose(self._options["start_method"])
        specs = self._topology.order()
        preflight.check(specs)
        ready = plan.make(self._topology, self._options, version)
        try:
            preflight.install(specs)
        except BaseException:
            os.rmdir(ready.folder)
            raise
        if self.host not in plan.LOOPBACK and self._options["curve"] is None:
            may = (
                "use and change the Flow" if plan.allows_control(self._options) else "use the Flow"
            )
            log.warning(
                "listening on %s without keys (curve=): whoever reaches it may %s", self.host, may
            )
        launched = Launched(ready, method)
        self._launched = launched
        self._closed = self._interrupted = False
        self._port = plan.port_of(launched.addresses)
        self._client = Client._of(
            Membership(launched.addresses[0], launched.check, launched.sharing.client())
        )
        return self

    def close(self) -> None:
        """Let requests in flight be answered, close the Executors and end all processes,
        within `timeout_close`.

        Closing a Flow that is not started, or was closed, does nothing.
        """
        launched, self._launched = self._launched, None
        client, self._client = self._client, None
        self._port = None
        if launched is not None:
            self._closed = True
            try:
                launched.close(self._options["timeout_close"] / 1000)
            except KeyboardInterrupt:
                if not self._interrupted:
                    # Else it is the second: the first one has ended block(), and this is what
                    # follows from it.
                    raise
            finally:
                if client is not None:
                    client._end()

    def __enter__(self) -> Flow:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def block(self, stop_event: Event | None = None) -> None:
        """Serve until Ctrl-C, SIGTERM, until `stop_event` (of threading or
        multiprocessing) is set, or until closed.

        Raises:
            FlowNotRunning: the Flow is not started, or comes down by itself.
        """
        launched = self._running()[0]
        try:
            launched.wait(stop_event)
        except KeyboardInterrupt:
            self._interrupted = True
        except errors.FlowNotRunning:
            if self._launched is launched:
                raise  # else it was closed, by another thread

    def is_flow_ready(self, timeout: float = 5000) -> bool:
        """Whether it is started, not about to close, and every Executor in it has a replica.

        Args:
            timeout: ms that its answer may take.

        Raises:
            BadRequest: `timeout` is no number above 0.
        """
        client = self._client
        return client is not None and client.is_flow_ready(timeout)

    def _running(self) -> tuple[Launched, Client]:
        if self._launched is None or self._client is None:
            what = (
                "was closed: start() it again"
                if self._closed
                else "is not started: use start() or `with flow:`"
            )
            raise errors.FlowNotRunning(f"the Flow {what}")
        return self._launched, self._client

    # -- changes -----------------------------------------------------------------------------------

    def scale(
        self, executor: str, replicas: int, *, timeout: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Give an Executor so many replicas while the Flow runs; as `Client.scale`."""
        return self._running()[1].scale(executor, replicas, timeout=timeout, force=force)

    def restart(
        self, executor: str, *, timeout: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Put a new process in the place of each replica of an Executor, one after the other;
        as `Client.restart`.
        """
        return self._running()[1].restart(executor, timeout=timeout, force=force)

    def drain(self, replica: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Give a replica, such as `'encoder/rep-0'`, nothing more; as `Client.drain`."""
        return self._running()[1].drain(replica, timeout=timeout)

    def undrain(self, replica: str) -> dict[str, Any]:
        """Let a replica compete again that was drained; as `Client.undrain`."""
        return self._running()[1].undrain(replica)

    # -- posting -----------------------------------------------------------------------------------

    def post(
        self, on: str, inputs: object = None, parameters: Parameters | None = None, **options: Any
    ) -> Any:
        """Send Documents to an endpoint and wait for the results;
        takes and returns what `Client.post` does.

        Raises:
            FlowNotRunning: the Flow is not started, was closed, or has come down.
        """
        client = self._running()[1]
        return client.post(on, inputs, parameters, **options)

    def async_client(self) -> AsyncClient:
        """Return a client for asyncio that shares memory with the Flow and may change it,
        as `post` and `scale` do.

        It is good until the Flow is closed.

        Raises:
            FlowNotRunning: the Flow is not started, was closed, or has come down.
        """
        from zflow.clients.async_client import AsyncClient

        return AsyncClient._of(self._running()[1]._membership)
