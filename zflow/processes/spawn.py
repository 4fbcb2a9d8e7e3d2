"""`start_method='spawn'`: the process manager as a fresh interpreter,
which forks broker and replicas from itself.

So none of them inherits what cannot be inherited by fork, above all an initialised CUDA. As with
multiprocessing, the main script is imported again there, under another name, and the plan gets
there by pickle: classes by reference. It knows nothing of what the plan holds
but the Executors' descriptions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final, NoReturn

from zflow import errors
from zflow.processes import watchdog
from zflow.suggest import short
from zflow.system import cuda, forking, process, signals
from zflow.system.line import hear, say

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from zflow.processes.plan import Plan
    from zflow.topology.topology import ExecutorSpec

log = logging.getLogger("zflow")

_ANEW: Final = "in the fresh interpreter that the Flow's processes come from (start_method 'spawn')"
_GUARD: Final = "put what the script does under `if __name__ == '__main__':`"
_MEMORY: Final = 3  # the descriptor that the shared memory has in the fresh interpreter
# What `multiprocessing.spawn` has one process tell another about the main script.
Preparation = dict[str, object]
_importing = False  # this is the fresh interpreter, and the main script is being imported


def choose(wanted: str | None) -> str:
    """Return the start method: the one that is wanted; else `'fork'`,
    or `'spawn'` where this process can't be forked.

    Raises:
        StartupFailed: a Flow is started while the main script is imported for another Flow.
        NotSupported: greenlets have taken the place of threads in this process.
    """
    if _importing:
        raise errors.StartupFailed(
            f"the script starts a Flow while it is imported {_ANEW}: {_GUARD}"
        )
    patched = forking.patched_by()
    if patched is not None:
        raise errors.NotSupported(
            f"{patched} has patched the standard library in this process, and a Flow needs "
            "threads, pipes and forks as"
            " they are: start it in a process of its own (zflow-run flow.yaml) and post to it with "
            "a Client"
        )
    why = _why_not_fork() if wanted != "spawn" else None
    if why is None:
        return wanted or "fork"
    if wanted == "fork":
        log.warning("%s: it will fail in the replicas forked from it, or wait for ever", why)
        return wanted
    log.info("start_method is 'spawn': %s, so it could not be forked", why)
    return "spawn"


def _why_not_fork() -> str | None:
    """Why this process can't be forked, as far as that is known."""
    library = cuda.initialised_by()
    if library is not None:
        return f"{library} has initialised CUDA in this process"
    library = forking.keeps_openmp()
    return None if library is None else f"{library} (OpenMP) keeps threads in this process"


def start(plan: Plan, ours: Connection, theirs: Connection) -> int:
    """Start the process manager, wait until it has all it needs, and return its process id.

    Args:
        ours, theirs: the two ends of the line between; `theirs` is closed here.

    Raises:
        InvalidExecutor: an Executor cannot be handed over; nothing was started.
        StartupFailed: the fresh interpreter could not import what it needs;
            nothing is left running.
    """
    preparation = _preparation()
    message = _pickled(plan, preparation)
    # What is sent to the whole group reaches the new process too: it waits until that has said what
    # to do about it.
    masked = {*signal.pthread_sigmask(signal.SIG_BLOCK, ()), *signals.HANDLED}
    command = _command(plan.folder)
    actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
    if plan.sharing.descriptor is not None:
        actions.append((os.POSIX_SPAWN_DUP2, plan.sharing.descriptor, _MEMORY))
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsigmask=masked)
    theirs.close()
    try:
        ours.send_bytes(message)
        kind, argument = hear(ours)
        if kind == "failed":
            raise errors.from_wire(argument)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signals.END)
            os.waitpid(pid, 0)
        if isinstance(error, (EOFError, OSError)):
            raise errors.StartupFailed(f"the process manager died {_ANEW}") from None
        raise
    return pid


def _command(folder: str) -> list[str]:
    """The fresh interpreter, with the flags and the path of this one:
    zflow must be found before anything else.
    """
    from multiprocessing import spawn, util

    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    path = [entry for entry in sys.path if isinstance(entry, str)]
    call = f"main({folder!r}, {os.getpid()})"
    code = f"import sys; sys.path[:] = {path!r}; from zflow.processes.spawn import main; {call}"
    return [os.fsdecode(spawn.get_executable()), *flags, "-c", code]


def _preparation() -> Preparation:
    """What multiprocessing tells its spawned processes: paths, arguments and the main script."""
    import multiprocessing
    from multiprocessing import spawn

    method = multiprocessing.get_start_method(allow_none=True)
    data = spawn.get_preparation_data("zflow")
    if method is None:  # asked for there, and thereby settled: the user may still want to choose
        multiprocessing.set_start_method(None, force=True)
        data.pop("start_method", None)
    data["authkey"] = bytes(data["authkey"])
    return data


def _pickled(plan: Plan, preparation: Preparation) -> bytes:
    import pickle

    specs = {seat.spec.name: seat.spec for seat in plan.seats}.values()
    if not preparation.keys() & {"init_main_from_path", "init_main_from_name"}:
        _check_not_in_main(specs)
    try:
        return pickle.dumps((preparation, pickle.dumps(plan)))
    except Exception as error:
        raise _culprit(specs, error) from error


def _check_not_in_main(specs: Iterable[ExecutorSpec]) -> None:
    for spec in specs:
        if isinstance(spec.uses, type) and spec.uses.__module__ == "__main__":
            raise _cannot(spec, "uses", "is defined in a main program that is no file")


def _culprit(specs: Iterable[ExecutorSpec], error: Exception) -> errors.ZflowError:
    import pickle

    for spec in specs:
        for field in fields(spec):
            try:
                pickle.dumps(getattr(spec, field.name))
            except Exception as reason:
                local = field.name == "uses" and "<locals>" in getattr(
                    spec.uses, "__qualname__", ""
                )
                return _cannot(
                    spec,
                    field.name,
                    "is local to a function" if local else f"cannot be pickled ({reason})",
                )
    return errors.StartupFailed(f"the Flow cannot be handed to a fresh interpreter: {error}")


def _cannot(spec: ExecutorSpec, key: str, reason: str) -> errors.InvalidExecutor:
    why = _why_not_fork()
    return errors.InvalidExecutor(
        f"{key}={short(getattr(spec, key), 200)} {reason}, so it cannot be had {_ANEW}: define it "
        "at the top level of a"
        " module, or start the Flow by fork, before this process uses CUDA or OpenMP"
        f"{f'; {why}' if why else ''} (executor {spec.name!r})"
    )


# -- in the fresh interpreter ----------------------------------------------------------------------


def main(folder: str, user: int) -> NoReturn:
    """Be the watchdog of the Flow that process `user` starts:
    its process manager learns of it by way of stdin.

    It was started with all signals blocked that are handled, and so it stays in this process.
    """
    from multiprocessing.connection import Connection

    status = 1
    try:
        with contextlib.suppress(OSError):  # there may be none
            os.set_inheritable(_MEMORY, False)
        line = Connection(os.dup(0))
        process.read_nothing()
        status = watchdog.run(lambda parent: _run(line, user, parent), folder, line, user)
    finally:
        process.flush()
        os._exit(status)


def _run(line: Connection, user: int, parent: int) -> int:
    import pickle

    from zflow.processes import manager

    process.die_with_parent(signal.SIGKILL, parent)
    process.set_title("zflow: manager")
    try:
        preparation, pickled = pickle.loads(line.recv_bytes())
    except EOFError:
        return 1  # the parent ended before it had said everything
    try:
        _import_main(preparation)
        plan: Plan = pickle.loads(pickled)
        if plan.sharing.descriptor is not None:
            plan = replace(plan, sharing=replace(plan.sharing, descriptor=_MEMORY))
    except BaseException as error:
        say(line, "failed", errors.to_wire(_failure(error)))
        return 1
    say(line, "prepared", None)
    # The manager watches its parent by other means, and lets Executors close.
    process.outlive_parent()
    os.kill(parent, signals.SERVING)
    return manager.run(plan, line, user, parent)


def _import_main(preparation: Preparation) -> None:
    from multiprocessing import process as multiprocess
    from multiprocessing import spawn

    global _importing
    current = multiprocess.current_process()
    _importing = True
    current._inheriting = True  # type: ignore[attr-defined]  # multiprocessing then refuses to start processes
    try:
        spawn.prepare(preparation)
    finally:
        _importing = False
        del current._inheriting  # type: ignore[attr-defined]
    library = cuda.initialised_by()
    if library is not None:
        raise errors.StartupFailed(
            f"{library} initialises CUDA while the script is imported {_ANEW}: {_GUARD}"
        )
    library = forking.keeps_openmp()
    if library is not None:
        raise errors.StartupFailed(
            f"{library} (OpenMP) starts threads while the script is imported {_ANEW}: {_GUARD}"
        )


def _failure(error: BaseException) -> errors.ZflowError:
    import traceback

    if isinstance(error, errors.ZflowError):
        return error
    shown = "".join(traceback.format_exception(error)).rstrip()
    return errors.StartupFailed(
        f"the script could not be imported {_ANEW}: {type(error).__name__}: {error}\n{shown}"
    )
