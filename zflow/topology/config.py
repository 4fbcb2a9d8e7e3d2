"""YAML <-> Flow: what a Flow's YAML says, as the keywords of `Flow(...)` and of its `add(...)`,
and back.

A wrong key or value is reported with its file and line. This module builds no Flow and starts
nothing: which keywords there are, and what their values may be, is the business of the topology.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from zflow.errors import InvalidConfig, InvalidExecutor, InvalidFlow, NotSupported
from zflow.executors.batching import Batching
from zflow.executors.executor import Executor
from zflow.executors.uses import is_path, reference
from zflow.suggest import did_you_mean, listed, short
from zflow.topology import ignored
from zflow.topology.ignored import Told
from zflow.topology.kinds import GATEWAY
from zflow.topology.options import FIELDS, FLOW_FIELDS, SHARED, check_defaults
from zflow.topology.scaling import ReplicaRange
from zflow.topology.topology import ExecutorSpec, Topology
from zflow.yamlsource import Place, YamlSource, read

if TYPE_CHECKING:
    import yaml

_KEYS: Final = ("jtype", "version", "with", "executors")
_METHODS: Final = ("add", "needs", "needs_all")
_OPTIONS: Final = Place(inner={"env": Place(texts=True), "uses": Place(tagged=True)})
_PLACE: Final = Place(
    tagged=True, inner={"with": _OPTIONS, "executors": Place(inner={"*": _OPTIONS})}
)


@dataclass(frozen=True)
class ExecutorConfig:
    """One entry under `executors:`: the Flow's method that adds it (`add`, `needs`, `needs_all`),
    and its keywords.
    """

    method: str
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class FlowConfig:
    """What a Flow's YAML says.

    Attributes:
        flow_kwargs: the keywords of `Flow(...)`, from `with:`, as they stand there.
        executors: the entries under `executors:`, checked, in their order.
        folder: the folder of the file, which relative paths of Executors are relative to;
            None for text.
        told: the keys that mean nothing here and were left out, which nobody was told of yet.
    """

    flow_kwargs: dict[str, Any]
    executors: list[ExecutorConfig]
    folder: str | None
    source: YamlSource
    told: Told

    @contextmanager
    def located(self, *path: str | int) -> Iterator[None]:
        """Put file and line before the message of an error about what stands at `path`.

        The line is that of the error's key, as far as that stands there,
        else that of `path` itself.

        >>> config = load("jtype: Flow\\nwith:\\n  prot: 1")
        >>> with config.located("with"):
        ...     raise InvalidFlow("unknown keyword 'prot', not 'port' (Flow)", key=("prot",))
        Traceback (most recent call last):
        zflow.errors.InvalidConfig: YAML text:3: with: unknown key 'prot', not 'port' (Flow)
        """
        try:
            yield
        except (InvalidFlow, InvalidExecutor, NotSupported) as error:
            # YAML has keys where Python has keywords.
            message = error.message.replace("unknown keyword", "unknown key", 1)
            kind = InvalidConfig if isinstance(error, InvalidFlow) else type(error)
            key = (*path, *error.key)
            raise kind(
                f"{self.source.where(*key)}: {_label(path)}: {message}", key=key
            ) from error.__cause__


def load(source: Any, context: Mapping[str, Any] | None = None) -> FlowConfig:
    """Read a Flow from YAML and check everything but what `with:` says,
    which is `Flow(...)`'s to check.

    Args:
        source: a path, YAML text, or an open file.
        context: the values of `${{ CONTEXT.NAME }}` in it; `${{ ENV.NAME }}` is an environment
            variable. An expression that is a whole unquoted value is read as YAML, so that '3'
            becomes the number 3; in quotes, or as a part of a text, it stays text. Under `env:`
            everything is text.

    Raises:
        InvalidConfig: it is not a Flow, or a key or a value is wrong; the message begins with file
            and line.
        InvalidExecutor, NotSupported: as `Flow.add`, with file and line.

    >>> load("jtype: Flow\\nexecutors:\\n- name: encoder\\n  replicas: 3").executors
    [ExecutorConfig(method='add', kwargs={'name': 'encoder', 'replicas': 3})]
    """
    origin = read(source, context, place=_PLACE)
    data = _flow(origin)
    with_ = _mapping(origin, data.get("with"), "with")
    entries = data.get("executors") or []
    if not isinstance(entries, list):
        raise _wrong(origin, f"executors must be a list, not {short(entries)}", "executors")
    executors = [_executor(origin, index, entry) for index, entry in enumerate(entries)]
    config = _meaningful(FlowConfig(with_, executors, origin.folder, origin, Told()))
    _check(config)
    return config


def dump(
    flow_kwargs: Mapping[str, Any], specs: Sequence[ExecutorSpec], folder: str | None = None
) -> str:
    """Return the YAML that `load` reads back as the same Flow;
    only what differs from the defaults is written.

    Args:
        flow_kwargs: the keywords that `Flow(...)` was given.
        specs: its Executors in the order of adding.
        folder: where the YAML will be saved. Relative paths of Executors that were meant from
            elsewhere are written in full.

    Raises:
        InvalidConfig: a value has no form in YAML; the message names the Executor and the key.

    >>> print(dump({"port": 5000}, [ExecutorSpec("encoder", ("gateway",), replicas=3)]), end="")
    jtype: Flow
    version: '1'
    with:
      port: 5000
    executors:
    - name: encoder
      replicas: 3
    """
    document: dict[str, Any] = {"jtype": "Flow", "version": "1"}
    if flow_kwargs:
        move = _mover(None, folder)
        document["with"] = {key: _written(key, value, move) for key, value in flow_kwargs.items()}
    defaults = check_defaults({key: value for key, value in flow_kwargs.items() if key in SHARED})
    names = [GATEWAY, *(spec.name for spec in specs)]
    entries = [
        _entry(spec, position, names[position], defaults, folder)
        for position, spec in enumerate(specs)
    ]
    return _to_yaml({**document, "executors": entries} if entries else document)


def _flow(origin: YamlSource) -> dict[str, Any]:
    data = origin.data
    if data is None:
        raise _wrong(origin, "the YAML is empty: a Flow begins with 'jtype: Flow'")
    if not isinstance(data, dict):
        raise _wrong(
            origin, f"a Flow is a mapping that begins with 'jtype: Flow', not {short(data)}"
        )
    for key in data:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"; known are {listed(_KEYS)}"
            if key in FLOW_FIELDS:
                hint = f"; write {key} under 'with'"
            elif key in FIELDS:
                hint = (
                    f"; write {key} under 'with' for every Executor, or in an entry of "
                    "'executors' for one"
                )
            raise _wrong(origin, f"unknown key {key!r}{hint}", str(key))
    if data.get("jtype") != "Flow":
        said = f"not {short(data['jtype'])}" if "jtype" in data else "and is missing"
        raise _wrong(origin, f"jtype must be Flow, {said}", "jtype")
    if str(data.get("version", "1")) not in ("1", "1.0"):
        raise _wrong(origin, f"version must be '1', not {short(data['version'])}", "version")
    return data


def _wrong(origin: YamlSource, message: str, *path: str | int) -> InvalidConfig:
    return InvalidConfig(f"{origin.where(*path)}: {message}", key=path)


def _mapping(origin: YamlSource, value: Any, *path: str | int) -> dict[str, Any]:
    label = _label(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(
            origin, f"{label} must be a mapping of keys to values, not {short(value)}", *path
        )
    for key in value:
        if not isinstance(key, str):
            raise _wrong(
                origin, f"{label}: a key must be a text, not {short(key)}", *path, str(key)
            )
    return dict(value)


def _executor(origin: YamlSource, index: int, entry: Any) -> ExecutorConfig:
    kwargs = _mapping(origin, entry, "executors", index)
    method = kwargs.pop("method", "add")
    if "dynamic_batching" in kwargs:
        if "uses_dynamic_batching" in kwargs:
            message = (
                f"{_label(('executors', index))}: dynamic_batching and uses_dynamic_batching are "
                "the same: write one of them"
            )
            raise _wrong(origin, message, "executors", index, "dynamic_batching")
        kwargs["uses_dynamic_batching"] = kwargs.pop("dynamic_batching")
    if method not in _METHODS:
        message = (
            f"{_label(('executors', index))}: method must be one of {listed(_METHODS)}, not "
            f"{short(method)}"
        )
        raise _wrong(origin, message, "executors", index, "method")
    return ExecutorConfig(method, kwargs)


def _meaningful(config: FlowConfig) -> FlowConfig:
    """Return it without the keys of Jina's that mean nothing here; they are in `told`."""
    with config.located("with"):
        own, names = ignored.of_flow(config.flow_kwargs)
    config.told.found("Flow", names)
    executors = []
    for index, entry in enumerate(config.executors):
        name = entry.kwargs.get("name") or f"executor{index}"
        with config.located("executors", index):
            kwargs, names = ignored.of_executor(entry.kwargs, f"executor {name!r}")
        config.told.found(name, names)
        executors.append(ExecutorConfig(entry.method, kwargs))
    return replace(config, flow_kwargs=own, executors=executors)


def _check(config: FlowConfig) -> None:
    """Add everything to a topology that is thrown away, so that errors get their lines."""
    topology = Topology()
    for index, entry in enumerate(config.executors):
        with config.located("executors", index):
            getattr(topology, entry.method)({}, config.folder, **entry.kwargs)
    for index, spec in enumerate(topology.specs):
        with config.located("executors", index):
            topology.check_needs(spec)
    with config.located("executors"):
        topology.order()


def _label(path: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else str(step) for step in path)


def _entry(
    spec: ExecutorSpec, position: int, before: str, defaults: Mapping[str, Any], folder: str | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if spec.name != f"executor{position}":
        entry["name"] = spec.name
    if spec.pure_join:
        return {**entry, "method": "needs", "needs": list(spec.needs)}
    move = _mover(spec.folder, folder)
    for key, known in FIELDS.items():
        default = {"name": spec.name, "needs": (before,)}.get(key, defaults.get(key, known.default))
        value = spec.autoscale or spec.replicas if key == "replicas" else getattr(spec, key)
        if _differ(value, default):
            entry[key] = _written(key, value, move)
    return entry


def _differ(value: Any, default: Any) -> bool:
    try:
        return bool(value != default)
    # Values without a truth to their ==, such as arrays: writing them will say what is wrong.
    except Exception:
        return True


def _mover(base: str | None, folder: str | None) -> Callable[[str], str]:
    """Return what turns a text that names a file or a folder, relative to `base`,
    into one that holds in `folder`.
    """
    base = os.path.abspath(base or ".")
    if base == os.path.abspath(folder or "."):
        return str
    return lambda text: os.path.join(base, text) if is_path(text, base) else text


def _written(key: str, value: Any, move: Callable[[str], str]) -> Any:
    """Return the form in which YAML holds a checked value."""
    if isinstance(value, type) and issubclass(value, Executor):
        return reference(value)
    if isinstance(value, (ReplicaRange, Batching)):
        return value.written
    if key == "uses_dynamic_batching":
        return {endpoint: _written("", said, move) for endpoint, said in value.items()}
    if key == "uses" and isinstance(value, dict):
        inner = {"jtype": "uses", "py_modules": "py_modules"}
        return {name: _written(inner.get(name, ""), part, move) for name, part in value.items()}
    if key == "uses":
        return move(value) if isinstance(value, str) else value
    if key == "py_modules":
        paths = [value] if isinstance(value, str) else value
        return [move(path) if path.endswith(".py") else path for path in paths]
    if key == "needs":
        return value[0] if len(value) == 1 else list(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _to_yaml(document: dict[str, Any]) -> str:
    parts: list[tuple[str, dict[str, Any]]] = [("Flow", document.get("with", {}))]
    for index, entry in enumerate(document.get("executors", [])):
        parts.append((f"executor {entry.get('name', f'executor{index}')!r}", entry))
    for owner, part in parts:
        for key, value in part.items():
            _check_writable(key, value, owner)
    return _yaml_text(document)


def _yaml_text(value: Any) -> str:
    import yaml

    return str(yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=10**6))


@cache
def _dumper() -> type[yaml.SafeDumper]:
    """Return a dumper that quotes the rarer line breaks of Unicode,
    which PyYAML's own writes so that they are lost.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if any(mark in value for mark in "\x85\u2028\u2029") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def _check_writable(key: str, value: Any, owner: str) -> None:
    import yaml

    try:
        text = _yaml_text({key: value})
    except (yaml.YAMLError, RecursionError, TypeError, ValueError):
        message = f"{key} cannot be written as YAML: {short(value)} is not plain data ({owner})"
        raise InvalidConfig(message, key=(key,)) from None
    if "${{" in text and key != "uses":  # where it would be replaced anyway
        message = (
            f"{key} cannot be written as YAML: '${{{{' would be replaced when it is read ({owner})"
        )
        raise InvalidConfig(message, key=(key,))
