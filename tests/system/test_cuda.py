"""CUDA_VISIBLE_DEVICES=RR...: what is chosen and who gets it, by tables and properties;
and how devices are found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.errors import InvalidFlow
from zflow.system import cuda
from zflow.system.cuda import Devices

UUIDS = tuple(f"GPU-0{letter * 7}-74d2-7297-d557-12771b6a79d5" for letter in "abcd")
MIGS = ("MIG-1aaaaaaa-0000-5555-8888-000000000001", "MIG-1bbbbbbb-0000-5555-8888-000000000002")
OLD_MIGS = (f"MIG-{UUIDS[0]}/1/0", f"MIG-{UUIDS[0]}/2/0", f"MIG-{UUIDS[1]}/1/0")
NONE = Devices(0, "nvidia-smi is not there")


def machine(gpus: int, *migs: str) -> Devices:
    return Devices(gpus, "nvidia-smi", (*UUIDS[:gpus], *migs))


def dealt(value: str, devices: Devices, processes: int) -> list[str]:
    return cuda.deal(cuda.select(value, devices, "executor 'encoder'"), processes)


# -- the tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "devices", "table"),
    [
        ("RR", machine(3), {0: "0", 1: "1", 2: "2", 3: "0", 4: "1"}),
        ("RR0:2", machine(3), {0: "0", 1: "1", 2: "0", 3: "1", 4: "0"}),
        ("RR1,3", machine(4), {0: "1", 1: "3", 2: "1", 3: "3", 4: "1"}),
        (
            "RR" + ",".join(UUIDS),
            machine(4),
            {0: UUIDS[0], 1: UUIDS[1], 2: UUIDS[2], 3: UUIDS[3], 4: UUIDS[0]},
        ),
    ],
)
def test_the_tables_of_the_manual(value: str, devices: Devices, table: dict[int, str]) -> None:
    assert dict(enumerate(dealt(value, devices, 5))) == table


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("RR", "0 1 2 3"),
        ("RR ", "0 1 2 3"),
        ("RR:", "0 1 2 3"),
        ("RR::", "0 1 2 3"),
        ("RR1:", "1 2 3"),
        ("RR:2", "0 1"),
        ("RR0:9", "0 1 2 3"),
        ("RR::2", "0 2"),
        ("RR1::2", "1 3"),
        ("RR::-1", "3 2 1 0"),
        ("RR-2:", "2 3"),
        ("RR:-1", "0 1 2"),
        ("RR3:0:-2", "3 1"),
        ("RR2", "2"),
        ("RR1,3", "1 3"),
        ("RR3,1", "3 1"),
        ("RR 1 , 3 ", "1 3"),
        ("RR0,0,1", "0 0 1"),
        ("RR0,1:3", "0 1 2"),
        ("RR2:,0", "2 3 0"),
        ("RR0,7:", "0"),
        (f"RR{UUIDS[2]}", UUIDS[2]),
        ("RRGPU-0b", UUIDS[1]),
        ("RRGPU-0BBBBBBB", UUIDS[1]),
        (f"RR{MIGS[1]},{MIGS[0]}", f"{MIGS[1]} {MIGS[0]}"),
        ("RRMIG-1a", MIGS[0]),
        (f"RR{OLD_MIGS[1]}", OLD_MIGS[1]),
        ("RRMIG-GPU-0aaa/2/0", OLD_MIGS[1]),
        ("RRMIG-GPU-0bbb", OLD_MIGS[2]),
        ("RR0,GPU-0c,2:", f"0 {UUIDS[2]} 2 3"),
    ],
)
def test_what_a_value_chooses(value: str, chosen: str) -> None:
    assert cuda.select(value, machine(4, *MIGS, *OLD_MIGS), "Flow") == chosen.split()


@pytest.mark.parametrize(
    ("value", "devices", "message"),
    [
        (
            "RR3",
            machine(3),
            "names device 3, which does not exist; nvidia-smi lists 0 to 2, and 'GPU-0aaaaaaa-",
        ),
        ("RR0,9", machine(3), "names device 9, which does not exist"),
        (
            "RR4",
            Devices(2, "CUDA_TOTAL_DEVICES"),
            "does not exist; CUDA_TOTAL_DEVICES counts 2, from 0 to 1",
        ),
        ("RR3:", machine(3), "chooses no device; nvidia-smi lists 0 to 2"),
        ("RR2:1", machine(3), "chooses no device"),
        (
            "RRGPU-0f",
            machine(3),
            "has 'GPU-0f', which is no UUID of this machine; nvidia-smi lists 0 to 2, and",
        ),
        ("RRMIG-1a", machine(3), "has 'MIG-1a', which is no UUID of this machine"),
        (
            "RRGPU-0",
            machine(2),
            f"has 'GPU-0', which begins more than one UUID: '{UUIDS[0]}', '{UUIDS[1]}'",
        ),
        ("RRMIG-GPU-0aaa", machine(1, *OLD_MIGS), "which begins more than one UUID"),
        (
            "RRx",
            machine(3),
            "has 'x', which is no device: write RR, RR0:2, RR1,3, RR0,1:3 or RRGPU-<uuid>",
        ),
        ("RR-1", machine(3), "has '-1', which is no device"),
        ("RR1,,3", machine(3), "has '', which is no device"),
        ("RR1,", machine(3), "has '', which is no device"),
        ("RR0:1:2:3", machine(3), "has '0:1:2:3', which is no device"),
        ("RR1.5", machine(3), "has '1.5', which is no device"),
        ("RR1 2", machine(3), "has '1 2', which is no device"),
        ("RR٣", machine(3), "has '٣', which is no device"),
        ("RRGPU-", machine(3), "has 'GPU-', which is no device"),
        ("RR0::0", machine(3), "has '0::0', a slice whose step is 0"),
        ("RR" + "9" * 5000, machine(3), "which is no device"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(
    value: str, devices: Devices, message: str
) -> None:
    with pytest.raises(InvalidFlow) as raised:
        cuda.select(value, devices, "executor 'encoder'")
    assert raised.value.message.startswith("CUDA_VISIBLE_DEVICES='RR")
    assert raised.value.message.endswith("(executor 'encoder')")
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("RR", []),
        ("RR0:2", []),
        ("RR0,1:3", []),
        ("RR1,3", ["1", "3"]),
        ("RRGPU-0a,MIG-x", ["GPU-0a", "MIG-x"]),
    ],
)
def test_without_devices_a_list_is_trusted_and_a_slice_is_nothing(
    value: str, chosen: list[str]
) -> None:
    assert cuda.select(value, NONE, "Flow") == chosen


def test_uuids_are_trusted_where_only_the_number_is_known() -> None:
    assert cuda.select("RRGPU-0a,1", Devices(2, "CUDA_TOTAL_DEVICES"), "Flow") == ["GPU-0a", "1"]


@pytest.mark.parametrize(
    "value", ["", "0", "0,1", "all", "rr", " RR", "R", "NoDevFiles", "GPU-0aaaaaaa", "-1"]
)
def test_any_other_value_asks_for_nothing(value: str) -> None:
    assert not cuda.asks(value)


def test_devices_in_few_words() -> None:
    assert cuda.summary(["0", UUIDS[0], OLD_MIGS[0], MIGS[0], "", None]) == (
        "0 GPU-0aaaaaaa MIG-GPU-0aaaaaaa/1/0 MIG-1aaaaaaa none none"
    )


# -- properties ------------------------------------------------------------------------------------

bounds = st.none() | st.integers(-12, 12)
slices = st.builds(slice, bounds, bounds, bounds.filter(lambda step: step != 0))


def written(part: slice | int) -> str:
    if isinstance(part, int):
        return str(part)
    return ":".join(
        "" if bound is None else str(bound) for bound in (part.start, part.stop, part.step)
    )


@given(st.integers(1, 10), slices, st.integers(1, 30))
def test_a_slice_is_python_s(count: int, part: slice, processes: int) -> None:
    wanted = [str(index) for index in list(range(count))[part]]
    devices = Devices(count, "CUDA_TOTAL_DEVICES")
    if wanted:
        assert dealt("RR" + written(part), devices, processes) == (wanted * processes)[:processes]
    else:
        with pytest.raises(InvalidFlow, match="chooses no device"):
            dealt("RR" + written(part), devices, processes)


@given(st.integers(1, 10), st.lists(st.integers(0, 9) | slices, min_size=1, max_size=5))
def test_a_list_is_its_parts_one_after_the_other(count: int, parts: list[int | slice]) -> None:
    indices = [
        parts_of
        for part in parts
        for parts_of in ([part] if isinstance(part, int) else range(count)[part])
    ]
    value = "RR" + ",".join(map(written, parts))
    if indices and all(index < count for index in indices):
        assert cuda.select(value, Devices(count, "x"), "Flow") == list(map(str, indices))
    else:
        with pytest.raises(InvalidFlow):
            cuda.select(value, Devices(count, "x"), "Flow")


@given(st.lists(st.sampled_from(UUIDS), min_size=1), st.integers(0, 50))
def test_dealing_is_even_and_begins_at_the_first(devices: list[str], processes: int) -> None:
    found = cuda.deal(devices, processes)
    assert len(found) == processes
    assert found[: len(devices)] == devices[:processes]
    turns = [found[position :: len(devices)] for position in range(len(devices))]
    assert all(len(set(turn)) <= 1 for turn in turns)
    assert max(map(len, turns)) - min(map(len, turns)) <= 1


@given(st.text(alphabet="0123456789:,-GPUMIGabc/ x\n", max_size=20), st.integers(0, 4))
def test_whatever_is_written_there_is_a_choice_or_an_error(text: str, count: int) -> None:
    devices = machine(count) if count else NONE
    try:
        chosen = cuda.select("RR" + text, devices, "Flow")
    except InvalidFlow:
        return
    assert not any(device.startswith("RR") for device in chosen)
    assert chosen or not count


@given(st.integers(1, 4), st.sampled_from(UUIDS), st.integers(5, 40))
def test_the_beginning_of_a_uuid_is_that_uuid(count: int, uuid: str, length: int) -> None:
    alike = [known for known in UUIDS[:count] if known.startswith(uuid[:length])]
    if len(alike) == 1:
        assert cuda.select("RR" + uuid[:length], machine(count), "Flow") == alike
    else:
        with pytest.raises(InvalidFlow, match="more than one" if alike else "no UUID"):
            cuda.select("RR" + uuid[:length], machine(count), "Flow")


# -- the machine -----------------------------------------------------------------------------------

LISTING = f"""\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: {UUIDS[0]})
  MIG 3g.20gb     Device  0: (UUID: {MIGS[0]})
  MIG 1g.5gb Device 1: (UUID: {OLD_MIGS[0]})
GPU 1: NVIDIA (R) odd (name) (UUID: {UUIDS[1]})
Unable to determine the device handle for gpu 0000:05:00.0: GPU is lost.
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put an `nvidia-smi` with that body on PATH, alone."""

    def put(body: str | None) -> None:
        for name in ("sh", "cat", "sleep"):
            (tmp_path / name).symlink_to(shutil.which(name) or "/bin/false")
        if body is not None:
            (tmp_path / "nvidia-smi").write_text(f"#!{shutil.which('sh')}\n{body}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_the_listing_is_read() -> None:
    assert cuda.read_listing(LISTING) == Devices(
        2, "nvidia-smi", (UUIDS[0], MIGS[0], OLD_MIGS[0], UUIDS[1])
    )
    assert cuda.read_listing("No devices found.\n").count == 0


def test_nvidia_smi_is_asked_first(stand_in: Any) -> None:
    stand_in(f'[ "$1" = -L ] && cat <<END\n{LISTING}END')
    assert cuda.discover({"CUDA_TOTAL_DEVICES": "7"}) == cuda.read_listing(LISTING)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (None, "nvidia-smi is not there"),
        ("echo driver trouble; exit 9", "nvidia-smi failed with 9"),
        (f"echo 'GPU 0: half (UUID: {UUIDS[0]})'; exit 3", "nvidia-smi failed with 3"),
        ("echo No devices found.", "nvidia-smi lists none"),
        ("printf '\\377\\376'", "nvidia-smi lists none"),
    ],
)
def test_where_it_lists_nothing_the_variable_counts(
    stand_in: Any, body: str | None, why: str
) -> None:
    stand_in(body)
    assert cuda.discover({"CUDA_TOTAL_DEVICES": " 4 "}) == Devices(4, "CUDA_TOTAL_DEVICES")
    assert (
        str(cuda.discover({"CUDA_TOTAL_DEVICES": "0"}))
        == f"there is no device ({why}; CUDA_TOTAL_DEVICES is 0)"
    )
    assert str(cuda.discover({})) == f"there is no device ({why}; CUDA_TOTAL_DEVICES is not set)"


@pytest.mark.parametrize("total", ["four", "-1", "1.5", "99999"])
def test_a_number_of_devices_that_is_none(stand_in: Any, total: str) -> None:
    stand_in(None)
    with pytest.raises(
        InvalidFlow, match="CUDA_TOTAL_DEVICES must be a whole number of 0 or more, not"
    ):
        cuda.discover({"CUDA_TOTAL_DEVICES": total})


def test_an_nvidia_smi_that_hangs_is_ended(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("sleep 3600 & wait")
    monkeypatch.setattr(cuda, "PATIENCE", 0.3)
    assert "nvidia-smi gave no answer in 0 s" in str(cuda.discover({}))


# -- is CUDA in use? -------------------------------------------------------------------------------


def module(name: str, **contents: Any) -> types.ModuleType:
    found = types.ModuleType(name)
    vars(found).update(contents)
    return found


def says(value: Any) -> types.SimpleNamespace:
    """Anything with the functions that the libraries answer by."""
    return types.SimpleNamespace(
        is_initialized=lambda: value, driver=types.SimpleNamespace(ctxGetCurrent=lambda: value)
    )


def numba(initialised: bool, error: OSError | None) -> types.SimpleNamespace:
    return types.SimpleNamespace(is_initialized=initialised, initialization_error=error)


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("torch", module("torch", cuda=says(True)), module("torch", cuda=says(False))),
        ("cupy", module("cupy", cuda=says(0x1234)), module("cupy", cuda=says(0))),
        (
            "numba",
            module("numba.cuda.cudadrv.driver", driver=numba(True, None)),
            module("numba.cuda.cudadrv.driver", driver=numba(False, None)),
        ),
        (
            "numba",
            module("numba.cuda.cudadrv.driver", driver=numba(True, None)),
            module(
                "numba.cuda.cudadrv.driver", driver=numba(True, OSError("there is no libcuda.so"))
            ),
        ),
        (
            "jax",
            module("jax._src.xla_bridge", _backends={"cpu": 1, "cuda": 2}),
            module("x", _backends={"cpu": 1}),
        ),
    ],
)
def test_a_library_that_has_initialised_cuda_is_found(
    name: str, yes: types.ModuleType, no: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cuda.initialised_by() is None
    monkeypatch.setitem(sys.modules, yes.__name__, no)
    assert cuda.initialised_by() is None
    monkeypatch.setitem(sys.modules, yes.__name__, module(yes.__name__))  # half imported
    assert cuda.initialised_by() is None
    monkeypatch.setitem(sys.modules, yes.__name__, yes)
    assert cuda.initialised_by() == name


DRIVER = """
static int initialised;
int cuInit(unsigned flags) { initialised = 1; return 0; }
int cuDeviceGetCount(int *count) { *count = 3; return initialised ? 0 : 3; }
"""
ASK = """
import ctypes
from zflow.system import cuda
assert cuda.initialised_by() is None
driver = ctypes.CDLL("libcuda.so.1")
assert cuda.initialised_by() is None
driver.cuInit(0)
print(cuda.initialised_by())
"""


@pytest.mark.skipif(
    shutil.which("cc") is None, reason="needs a C compiler, for a stand-in of the driver"
)
def test_whoever_initialises_the_driver_is_found(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(
        [
            "cc",
            "-shared",
            "-fPIC",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            library,
            tmp_path / "driver.c",
        ],
        check=True,
    )
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("the CUDA driver\n", "")
