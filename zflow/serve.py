"""One Executor served alone: a Flow of nothing else, which listens with the same front as any Flow.

It turns keywords into that Flow and waits for its end.
What the keywords may be is what `Flow` and `Flow.add` say.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from zflow.errors import InvalidFlow
from zflow.executors.executor import Executor
from zflow.flow import Flow
from zflow.network.address import spell
from zflow.suggest import did_you_mean, listed, short
from zflow.topology import ignored
from zflow.topology.kinds import GATEWAY
from zflow.topology.options import DEFAULTS, FIELDS, UNSUPPORTED

if TYPE_CHECKING:
    from zflow.system.termination import Event

log = logging.getLogger("zflow")

#: Keywords of `Flow.add` that mean nothing where there is no other Executor, and why.
UNFIT: Final[Mapping[str, str]] = {
    "needs": "there is no other Executor to wait for",
    "no_reduce": "there is no other Executor whose results could come apart",
    "external": "what is served runs here; it is the Flow that uses it from elsewhere that says "
    "external=True",
    "curve": "it is the Flow that uses it from elsewhere that shows keys",
}

#: Every keyword of `serve` but `stop_event`: the Flow's own, and those of `Flow.add` that concern
#: one Executor.
KEYWORDS: Final = (*DEFAULTS, *(key for key in FIELDS if key not in UNFIT and key not in DEFAULTS))


def serve(uses: object, /, *, stop_event: Event | None = None, **options: Any) -> None:
    """Serve an Executor until Ctrl-C, SIGTERM, or until `stop_event` is set;
    as `Executor.serve`.
    """
    if stop_event is not None and not callable(getattr(stop_event, "is_set", None)):
        raise InvalidFlow(
            f"stop_event must be an Event of threading or multiprocessing, not {short(stop_event)} "
            f"({_owner(uses)})"
        )
    with flow_of(uses, options) as flow:
        log.info("%s serves at %s", flow.executors[0].name, spell(flow.host, flow.port))
        flow.block(stop_event)


Executor._serve_alone = serve


def flow_of(uses: object, options: Mapping[str, Any]) -> Flow:
    """Return the Flow of that one Executor, not started.

    Raises: as `Flow` and `Flow.add`.
    """
    told = ignored.Told()
    options, names = ignored.of_serving(options, KEYWORDS, _owner(uses))
    _check(uses, options)
    told.found(_owner(uses), names)
    told.warn()
    given = {key: value for key, value in options.items() if value is not None}
    given.setdefault("name", name_of(uses))
    own = {key: given.pop(key) for key in DEFAULTS if key in given}
    return Flow(**own).add(uses=uses, **given)


def name_of(uses: object) -> str | None:
    """Return the name of an Executor's class as far as `uses` tells it, None where it does not.

    >>> name_of("encoder.py:Encoder"), name_of("parts.encoder.Encoder"), name_of("encoder.yml")
    ('Encoder', 'Encoder', None)
    """
    if not isinstance(uses, (str, type)):
        return None
    name = uses if isinstance(uses, str) else uses.__name__
    if name.endswith((".py", ".yml", ".yaml")):
        return None
    found = re.fullmatch(r"(?:[^\n]*[:/]|[\w.]+\.)?([A-Za-z_][A-Za-z0-9_]*)", name)
    return found[1] if found and found[1] != GATEWAY else None


def _check(uses: object, options: Mapping[str, object]) -> None:
    owner = _owner(uses)
    for key in options:
        if key == "uses":
            raise InvalidFlow(f"uses is the class that serves: leave it out ({owner})")
        if key in KEYWORDS or key in UNSUPPORTED:
            continue
        if key in UNFIT:
            raise InvalidFlow(f"{key} has no place here: {UNFIT[key]}; leave it out ({owner})")
        known = [name for name in KEYWORDS if name != "uses"]
        hint = did_you_mean(key, [*known, "stop_event"]) or f"; known are {listed(known, 40)}"
        raise InvalidFlow(f"unknown keyword {key!r}{hint} ({owner})")


def _owner(uses: object) -> str:
    return f"{uses.__name__}.serve" if isinstance(uses, type) else "serve"
