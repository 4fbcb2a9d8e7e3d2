"""The broker's process: what is done in it before and around the broker's loop."""

from __future__ import annotations

import errno
import gc
import signal
from typing import TYPE_CHECKING

import zmq

from zflow.devices.broker import broker
from zflow.devices.broker.settings import Settings
from zflow.devices.sockets import descriptors
from zflow.processes.plan import SET_TMPDIR, Plan
from zflow.system import line, process
from zflow.system.logs import name_lines

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def run(settings: Settings, plan: Plan, control: Connection, manager: int) -> int:
    """Be the broker until the manager says stop or is gone, whatever signals come;
    return the exit status.

    Args:
        settings: what to be.
        plan: of it, the folder of the sockets and the shared memory.
        control: the line to the process manager, which is told if nothing can be listened on.
        manager: the process id of the process manager.
    """
    process.die_with_parent(signal.SIGKILL, manager)
    process.set_title("zflow: broker")
    process.read_nothing()
    name_lines("zflow: broker")

    process.allow_many_descriptors()
    try:
        descriptors.make_sure()
        serving = broker.Broker(settings, control, plan.sharing.reader())
    except (OSError, zmq.ZMQError) as error:
        if not isinstance(error, zmq.ZMQError) or error.errno in descriptors.FEW:
            told = process.cannot_start(OSError(error.errno, error.strerror))
            line.say(control, "failed", line.failure(f"the broker cannot start: {told}"))
            return 1
        why = str(error.strerror or error)
        own = "ipc://" in why  # in the Flow's own folder
        kind = (
            "PortInUse"
            if error.errno in (errno.EADDRINUSE, errno.EACCES) and not own
            else "StartupFailed"
        )
        way_out = SET_TMPDIR if own else "choose another port= or host="
        line.say(control, "failed", line.failure(f"cannot listen there: {why}; {way_out}", kind))
        return 1
    # Little of what the broker makes is cyclic; looking for that took time.
    gc.set_threshold(50_000, 50, 50)
    serving.run()
    return 0
