"""CUDA_VISIBLE_DEVICES=RR...: what it asks for, which devices there are, and who gets which.

Parsing, selecting and dealing are pure; only `discover` and `initialised_by` look at the machine.
It knows nothing of Flows and Executors, and imports no library that uses GPUs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zflow.errors import InvalidFlow
from zflow.suggest import listed, short

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
TOTAL: Final = "CUDA_TOTAL_DEVICES"

#: What a value begins with that asks for dealing out; any other value is CUDA's own business.
MARK: Final = "RR"
# Seconds that nvidia-smi may take: on some machines it takes long to wake the driver up.
PATIENCE: Final = 30.0

#: An index, a slice of all indices, or a UUID that may be abbreviated.
Choice = int | slice | str

_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_SLICE: Final = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?")
_UUID: Final = re.compile(r"(?:GPU|MIG)-[\w-]+(?:/[0-9]+/[0-9]+)?", re.ASCII)
_LISTED: Final = re.compile(
    r"^\s*(?:GPU [0-9]+|MIG\b).*\(UUID:\s*((?:GPU|MIG)-[^\s)]+)\)", re.MULTILINE
)


@dataclass(frozen=True)
class Devices:
    """The devices of a machine.

    Attributes:
        count: how many GPUs there are; their indices count from 0.
        source: who says so: `'nvidia-smi'` or `'CUDA_TOTAL_DEVICES'`; where there are none, why.
        uuids: those of the GPUs and of their MIG instances, in full;
            empty where only the number is known.
    """

    count: int
    source: str
    uuids: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.count:
            return f"there is no device ({self.source})"
        if not self.uuids:
            return f"{self.source} counts {self.count}, from 0 to {self.count - 1}"
        return f"{self.source} lists 0 to {self.count - 1}, and {listed(self.uuids, 20)}"


def asks(value: str) -> bool:
    """Tell whether a value of CUDA_VISIBLE_DEVICES asks for devices to be dealt out.

    >>> asks("RR0:2"), asks("0,1")
    (True, False)
    """
    return value.startswith(MARK)


def parse(value: str, owner: str, label: str = VARIABLE) -> list[Choice]:
    """Return what a value chooses among the devices, in its order; a plain `RR` chooses all.

    Args:
        value: one that `asks`: after `RR` come indices, slices and UUIDs, separated by commas.
        owner, label: whose value it is, and of what, for messages.

    Raises:
        InvalidFlow: it is malformed.

    >>> parse("RR0,1:3,GPU-0aaa", "Flow")
    [0, slice(1, 3, None), 'GPU-0aaa']
    """
    rest = value[len(MARK) :].strip()
    if not rest:
        return [slice(None)]
    return [_choice(item.strip(), _Complaint(label, value, owner)) for item in rest.split(",")]


def select(value: str, devices: Devices, owner: str, label: str = VARIABLE) -> list[str]:
    """Return the devices that a value chooses, each as CUDA takes it;
    [] where no device was found to count.

    A list of indices and UUIDs is trusted where no device was found,
    and UUIDs where only their number is known.

    Raises:
        InvalidFlow: it is malformed, names a device that does not exist,
            or chooses none of those that do.

    >>> select("RR0:2", Devices(3, "nvidia-smi"), "Flow")
    ['0', '1']
    """
    complaint = _Complaint(label, value, owner)
    choices = parse(value, owner, label)
    if not devices.count:
        trusted = [str(choice) for choice in choices if not isinstance(choice, slice)]
        return trusted if len(trusted) == len(choices) else []
    found = [device for choice in choices for device in _chosen(choice, devices, complaint)]
    if not found:
        raise complaint(f"chooses no device; {devices}")
    return found


def deal(devices: Sequence[str], processes: int) -> list[str]:
    """Return the device of each process: in turn, from the first;
    an empty text where there is none.

    >>> deal(["0", "1", "2"], 5)
    ['0', '1', '2', '0', '1']
    """
    return [devices[position % len(devices)] if devices else "" for position in range(processes)]


def summary(devices: Iterable[str | None]) -> str:
    """Return devices in few words: UUIDs up to their first group.

    >>> summary(["0", "GPU-0aaaaaaa-74d2-7297-d557-12771b6a79d5", ""])
    '0 GPU-0aaaaaaa none'
    """
    return " ".join(
        re.sub(r"((?:GPU|MIG)-(?:GPU-)?\w+)-[^/]*", r"\1", device or "none") for device in devices
    )


@dataclass(frozen=True)
class _Complaint:
    label: str
    value: str
    owner: str

    def __call__(self, reason: str) -> InvalidFlow:
        return InvalidFlow(f"{self.label}={short(self.value, 200)} {reason} ({self.owner})")


def _choice(item: str, complaint: _Complaint) -> Choice:
    if _NUMBER.fullmatch(item):
        return int(item)
    if _UUID.fullmatch(item):
        return item
    parts = _SLICE.fullmatch(item)
    if parts is None:
        raise complaint(
            f"has {short(item)}, which is no device: write RR, RR0:2, RR1,3, RR0,1:3 or "
            "RRGPU-<uuid>"
        )
    start, stop, step = (int(part) if part else None for part in parts.groups())
    if step == 0:
        raise complaint(
            f"has {short(item)}, a slice whose step is 0: leave the step out, or make it another "
            "number"
        )
    return slice(start, stop, step)


def _chosen(choice: Choice, devices: Devices, complaint: _Complaint) -> Sequence[str]:
    if isinstance(choice, slice):
        return [str(index) for index in range(devices.count)[choice]]
    if isinstance(choice, str):
        return [_uuid(choice, devices, complaint)] if devices.uuids else [choice]
    if choice >= devices.count:
        raise complaint(f"names device {choice}, which does not exist; {devices}")
    return [str(choice)]


def _uuid(wanted: str, devices: Devices, complaint: _Complaint) -> str:
    """Return the one UUID in full that `wanted` is, or begins.
    The older MIG form ends in `/<instance>/<part>`.
    """
    head, _, tail = wanted.lower().partition("/")
    found = []
    for uuid in devices.uuids:
        start, _, end = uuid.lower().partition("/")
        if start.startswith(head) and tail in ("", end):
            found.append(uuid)
    exact = [uuid for uuid in found if uuid.lower() == wanted.lower()]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise complaint(f"has {wanted!r}, which begins more than one UUID: {listed(found, 20)}")
    raise complaint(f"has {wanted!r}, which is no UUID of this machine; {devices}")


# -- looking at the machine ------------------------------------------------------------------------


def read_listing(text: str) -> Devices:
    """Return the devices in what `nvidia-smi -L` prints: lines of GPUs,
    and below them lines of MIG instances.

    >>> read_listing("GPU 0: Tesla T4 (UUID: GPU-5d5ba0d6)")
    Devices(count=1, source='nvidia-smi', uuids=('GPU-5d5ba0d6',))
    """
    uuids = tuple(_LISTED.findall(text))
    return Devices(sum(uuid.startswith("GPU-") for uuid in uuids), "nvidia-smi", uuids)


def discover(environ: Mapping[str, str]) -> Devices:
    """Return the devices that `nvidia-smi -L` lists, else as many as CUDA_TOTAL_DEVICES says,
    else none.

    Raises:
        InvalidFlow: CUDA_TOTAL_DEVICES is needed and is not a number.
    """
    text, trouble = _nvidia_smi()
    devices = read_listing(text)
    if devices.count:
        return devices
    trouble = trouble or "nvidia-smi lists none"
    total = environ.get(TOTAL, "").strip()
    if not total:
        return Devices(0, f"{trouble}; {TOTAL} is not set")
    if not re.fullmatch(r"[0-9]{1,4}", total):
        raise InvalidFlow(
            f"{TOTAL} must be a whole number of 0 or more, not {short(total)} (environment)"
        )
    return Devices(int(total), TOTAL if int(total) else f"{trouble}; {TOTAL} is 0")


def _nvidia_smi() -> tuple[str, str]:
    """Return what `nvidia-smi -L` prints and, if it cannot be trusted, why."""
    import signal
    import subprocess

    try:
        process = subprocess.Popen(
            ["nvidia-smi", "-L"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what it has started itself can be ended with it
        )
    except OSError as error:
        return "", "nvidia-smi is not there" if isinstance(
            error, FileNotFoundError
        ) else f"nvidia-smi: {error}"
    with process.stdout:  # type: ignore[union-attr]
        try:
            out, _ = process.communicate(timeout=PATIENCE)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # It hangs in the driver, where nothing ends it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "", f"nvidia-smi gave no answer in {PATIENCE:.0f} s"
    if process.returncode:
        return "", f"nvidia-smi failed with {process.returncode}"
    return out.decode(errors="replace"), ""


def initialised_by() -> str | None:
    """Return the library by which this process has begun to use CUDA,
    which a forked process then cannot; else None.

    Nothing is imported and nothing initialised to find out.
    """
    for name, module, check in _LIBRARIES:
        loaded = sys.modules.get(module)
        if loaded is not None:
            # Half imported, or of a version that keeps it elsewhere.
            with contextlib.suppress(Exception):
                if check(loaded):
                    return name
    return "the CUDA driver" if _driver_is_initialised() else None


_LIBRARIES: Final[Sequence[tuple[str, str, Callable[[Any], object]]]] = (
    ("torch", "torch", lambda torch: torch.cuda.is_initialized()),
    ("cupy", "cupy", lambda cupy: cupy.cuda.driver.ctxGetCurrent()),
    (  # where there is no CUDA, its driver calls itself initialised as well, with an error
        "numba",
        "numba.cuda.cudadrv.driver",
        lambda numba: numba.driver.is_initialized and numba.driver.initialization_error is None,
    ),
    ("jax", "jax._src.xla_bridge", lambda bridge: {"cuda", "gpu"} & set(bridge._backends)),
)


def _driver_is_initialised() -> bool:
    """Ask the driver itself, if any library has loaded it."""
    with contextlib.suppress(OSError, AttributeError):
        with open("/proc/self/maps", "rb") as maps:
            if b"/libcuda.so" not in maps.read():
                return False
        import ctypes

        count = ctypes.c_int()
        return int(ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))) == 0
    return False
