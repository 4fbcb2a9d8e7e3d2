"""What the tests of running Flows share: waiting for conditions, finding processes,
running scripts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from zflow import Client, Document, DocumentArray, Executor, Flow, requests

T = TypeVar("T")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# Seconds until a test gives up on something that must happen; generous, for busy machines.
PATIENCE = 30.0
# Seconds within which nothing of a Flow may be left when its user's process was killed.
ORPHANS_END = 2.0


def wait_for(condition: Callable[[], T], timeout: float = PATIENCE, what: str = "") -> T:
    """Return the first true value of `condition`; fail if there is none within `timeout`
    seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {timeout} s: {what or condition}; last value {value!r}"
            )
        time.sleep(0.005)


# -- processes -------------------------------------------------------------------------------------


def children() -> list[psutil.Process]:
    """All living descendants of this process; the test run adopts orphans,
    so what a script left is among them.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(
                process.cmdline()
            ):
                found.append(process)
    return found


def title(pid: int) -> str:
    """What `ps` shows of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:
        return ""


def titled(wanted: str) -> dict[str, int]:
    """Process ids of the descendants whose title begins with `zflow: ` and `wanted`,
    by the rest of the title.
    """
    names = {process.pid: title(process.pid) for process in children()}
    start = f"zflow: {wanted}"
    return {
        name.removeprefix("zflow: "): pid for pid, name in names.items() if name.startswith(start)
    }


def replicas(executor: str) -> dict[str, int]:
    """Process ids of an Executor's replicas by name: `{'encoder/rep-0': 123}`."""
    return titled(f"{executor}/")


def pid_of(name: str) -> int:
    """The process id behind a title; a process that has just been forked
    still bears the one of its parent.
    """

    def found() -> list[int]:
        pids = [process.pid for process in children() if title(process.pid) == f"zflow: {name}"]
        return pids if len(pids) == 1 else []

    return wait_for(found, what=f"there is one {name}")[0]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send the signal and wait until the process has ended."""
    os.kill(pid, how)
    wait_for(lambda: not alive(pid), what=f"{pid} ends by {how.name}")


def socket_folders() -> list[str]:
    """The folders of running Flows, all of this test run's."""
    return sorted(name for name in os.listdir(tempfile.gettempdir()) if name.startswith("zflow-"))


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- scripts ---------------------------------------------------------------------------------------


class Script:
    """A Python program in a process of its own, killed when the block is left."""

    def __init__(self, source: str, folder: Path, *arguments: Any, **options: Any) -> None:
        path = folder / "script.py"
        path.write_text(source, encoding="utf-8")
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        self.process = subprocess.Popen(
            [sys.executable, *options.pop("flags", ()), str(path), *map(str, arguments)],
            text=True,
            **options,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        found = self.process.stdout.readline()
        if not found:
            raise AssertionError(f"the script ended: {self.end()}")
        return found.rstrip("\n")

    def end(self, timeout: float = PATIENCE) -> tuple[int, str, str]:
        """Wait until it has ended; its exit status and what it wrote (that was
        not read) to stdout and stderr.
        """
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out or "", err or ""

    def family(self) -> list[int]:
        """The process ids of all its living descendants."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            # What it started ends by itself, or is found by the check at the end of each test.
            self.process.kill()
        with self.process:
            pass


def run_script(source: str, folder: Path, *arguments: Any, **options: Any) -> tuple[int, str, str]:
    """Run a Python program to its end; its exit status, stdout and stderr."""
    with Script(source, folder, *arguments, **options) as script:
        return script.end()


# -- at the same time ------------------------------------------------------------------------------


def in_background(function: Callable[..., T], *arguments: Any, **options: Any) -> Future[T]:
    """Call in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def texts(count: int, start: int = 0) -> Iterator[Document]:
    """Documents with the texts '0', '1', ..."""
    return (Document(text=str(number)) for number in range(start, start + count))


# -- Executors -------------------------------------------------------------------------------------


class Upper(Executor):
    """Upper-cases, and says who did."""

    @requests
    def upper(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.text = doc.text.upper()
            doc.tags["by"] = self.runtime_args.name
            doc.tags["pid"] = os.getpid()


class Append(Executor):
    """Appends a letter to each text."""

    def __init__(self, letter: str = "x", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.letter = letter

    @requests
    def append(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.text += self.letter


class Gate(Executor):
    """Holds a request at `/hold` until the test lets it go, and tells when it has begun;
    answers others at once.

    The texts of the Documents name the requests. Files in `folder` tell and let go:
    no sleeping on either side.
    """

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = Path(folder)

    @requests
    def answer(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tags["by"] = self.runtime_args.name
            doc.tags["pid"] = os.getpid()

    @requests(on="/hold")
    def hold(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            with open(self.folder / f"{doc.text}.begun", "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
            while not (self.folder / f"{doc.text}.go").exists():
                time.sleep(0.001)
        self.answer(docs)

    def close(self) -> None:
        """Leave a trace."""
        (self.folder / f"{os.getpid()}.closed").touch()


def begun(folder: Path, *names: str) -> list[int]:
    """Wait until requests are held at a Gate; the process ids of those that hold them,
    in the order of begin.
    """

    def told(name: str) -> list[int]:
        path = folder / f"{name}.begun"
        return [int(line) for line in path.read_text().split("\n") if line] if path.exists() else []

    for name in names:
        wait_for(lambda name=name: told(name), what=f"{name} begins")  # type: ignore[misc]
    return [pid for name in names for pid in told(name)]


def let_go(folder: Path, *names: str) -> None:
    """Let held requests go."""
    for name in names:
        (folder / f"{name}.go").touch()


def under_way(port: int | None, posted: Future[Any]) -> None:
    """Wait until some of what is posted in the background has arrived;
    a quick replica may have answered all.
    """
    with Client(port=port) as client:
        wait_for(
            lambda: posted.done() or client.info()["requests"] > 0, what="requests are under way"
        )


async def soon(condition: Callable[[], Any]) -> None:
    """Wait on the event loop."""
    async with asyncio.timeout(30) if hasattr(asyncio, "timeout") else contextlib.AsyncExitStack():
        while not condition():
            await asyncio.sleep(0.002)


async def awaited(results: Any) -> Any:
    return await results


SOURCE = """
import time
from zflow import Executor, requests

class Work(Executor):
    @requests
    def work(self, docs, **kwargs):
        time.sleep(0.002)
        for doc in docs:
            doc.tags["by"] = self.runtime_args.name
            doc.tags["shard"] = self.runtime_args.shard_id
"""


class Work(Executor):
    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.002)
        for doc in docs:
            doc.tags["by"] = self.runtime_args.name
            doc.tags["shard"] = self.runtime_args.shard_id


@contextlib.contextmanager
def launched(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that ends by itself, or is told to; if the test fails before, it is killed."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def joined(flow: Flow, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`zflow-run replica`, running."""
    file = folder / "work.py"
    file.write_text(SOURCE)
    where = [
        "--broker",
        f"localhost:{flow.replica_port}",
        "--executor",
        "work",
        "--uses",
        f"{file}:Work",
    ]
    command = [sys.executable, "-m", "zflow", "replica", *where, *options]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert "here, until Ctrl-C" in process.stdout.readline()
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """Let this process open hardly any more files: at most so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
