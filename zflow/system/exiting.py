"""The end of a forked process as Python ends one: what was begun in it is finished,
what came with the fork is not.

A forked process leaves by `os._exit`, because the rest of what would happen is its parent's
business. What user code has opened and registered here is not: `begin` forgets what the parent has
registered, `end` carries out what was since. It waits for no thread and no process that user code
has started: they may never end.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
import weakref
from collections.abc import Callable
from types import ModuleType

from zflow.system import process

log = logging.getLogger("zflow")

_begun_in = 0  # the process that has called `begin`
# Handlers of logging: their buffers hold what the parent has to write.
_inherited: list[object] = []


def begin() -> None:
    """Forget what the parent is to do at its exit; to be called after the fork,
    before user code.
    """
    global _begun_in
    _begun_in = os.getpid()
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    _inherited[:] = logging._handlerList  # type: ignore[attr-defined]
    _be_no_child_of_multiprocessing()


def _be_no_child_of_multiprocessing() -> None:
    """To multiprocessing, this process has no children yet,
    and may have some even if the parent may not.
    """
    util, processes = (
        sys.modules.get("multiprocessing.util"),
        sys.modules.get("multiprocessing.process"),
    )
    if util is not None:
        util._finalizer_registry.clear()
    if processes is not None:
        processes._children = set()  # type: ignore[attr-defined]
        processes.current_process()._config["daemon"] = False


def end() -> None:
    """Carry out what is to be done at the exit of this process,
    and write out what was not written yet.

    The caller has dropped its references to what user code made.
    """
    if os.getpid() != _begun_in:
        return  # a process that user code has forked
    # Before: of a file in a cycle the collector may close the lower half first.
    _attempt(_write_out)
    gc.collect()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        atexit.unregister(util._exit_function)  # it waits for all children
        _attempt(_end_multiprocessing, util)
    _attempt(atexit._run_exitfuncs)
    _attempt(logging.shutdown, [each for each in logging._handlerList if each not in _inherited])  # type: ignore[attr-defined]
    _attempt(_write_out)
    process.flush()


def _end_multiprocessing(util: ModuleType) -> None:
    """What multiprocessing does at the exit, but for waiting: end pools,
    managers and daemon processes.
    """
    import multiprocessing

    util._run_finalizers(0)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.terminate()
    util._run_finalizers()


def _write_out() -> None:
    """Flush the files that are still open: in a cycle, held by a module,
    or by a thread that goes on.

    What came with the fork is not among them: the process manager has told
    the collector to leave it alone.
    """
    import io

    kinds = io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom
    for each in gc.get_objects():
        if issubclass(type(each), kinds):  # isinstance() would ask proxies what they stand for
            with contextlib.suppress(Exception):  # it is closed, or nobody reads the pipe
                each.flush()


def _attempt(step: Callable[..., object], *arguments: object) -> None:
    try:
        step(*arguments)
    except BaseException:  # also SystemExit: the other steps are still to come
        log.exception("at the end of this process")
