"""Reads the code blocks of the project's Markdown pages and runs them;
knows nothing of what they say.

A block is steered by HTML comments on lines of their own right before it:

    <!-- continues -->        python, bash: it goes on where the page's former block of that
                              language ended
    <!-- output -->           text: what the block before it prints, exactly; `...` stands for
                              anything
    <!-- file: NAME -->       it is also a file of that name, which the later blocks of the page
                              find where they run
    <!-- serves -->           it serves until interrupted: it runs while the page's next block does
    <!-- ci: NAME -->         `.ci/run` runs it, so it is not run here
    <!-- not run: REASON -->  it can't run
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 90.0  # seconds that one block may run
GONE_WITHIN = 3.0  # seconds that what a block started may outlive it
MARK = "ZFLOW_PAGES_RUN"  # environment variable by which a block's processes are known
LANGUAGES = {"python", "yaml", "bash", "console", "text", "mermaid"}
DIRECTIVES = {"continues", "output", "file", "serves", "ci", "not run"}
# What a copy of the tree has no use for; the copy is where commands run.
IGNORED = shutil.ignore_patterns(
    ".git",
    ".venv",
    "venv*",
    ".peers",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "build",
    "*.egg-info",
)

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<name>[a-z ]+?)\s*(?::\s*(?P<value>.*?))?\s*-->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced code block: where it is, its language, its text,
    the comments before it and the output it promises.
    """

    page: Path
    line: int
    language: str
    code: str
    directives: dict[str, str] = field(default_factory=dict)
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


class BlockFailed(AssertionError):
    """A block did not do what its page says."""


def pages() -> list[Path]:
    """Return the pages whose blocks are tests."""
    return [
        page
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
        if page.exists()
    ]


def read(page: Path) -> list[Block]:
    """Return the page's code blocks in order, each with the output that a
    block after it promises for it.
    """
    blocks: list[Block] = []
    for block in _parse(page):
        if "output" not in block.directives:
            blocks.append(block)
        elif not blocks or blocks[-1].output is not None:
            raise BlockFailed(
                f"{block}: there is no block before it that this could be the output of"
            )
        else:
            blocks[-1] = replace(blocks[-1], output=block.code)
    return blocks


def _parse(page: Path) -> Iterator[Block]:
    directives: dict[str, str] = {}
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if comment := _COMMENT.match(line):
            directives[comment["name"]] = comment["value"] or ""
        elif fence := _FENCE.match(line):
            code = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                code.append(inner.removeprefix(fence["indent"]) + "\n")
            yield Block(page, number, fence["language"], "".join(code), directives)
            directives = {}
        elif line.strip():
            directives = {}


def runnable(block: Block) -> bool:
    """Whether the block is run at all: it is code, and no comment says otherwise."""
    if (
        "not run" in block.directives
        or "ci" in block.directives
        or block.language in ("text", "mermaid")
    ):
        return False
    return block.language != "yaml" or block.code.lstrip().startswith("jtype: Flow")


def run(block: Block, former: list[Block], folder: Path) -> None:
    """Run `block` in `folder`, after the page's blocks before it have left their files there.

    Raises:
        BlockFailed: it exits non-zero, prints something else than promised,
            takes too long or leaves a process behind.
    """
    where = folder / "tree" if _needs_tree(block, former) else folder
    if where != folder:
        shutil.copytree(ROOT, where, symlinks=True, ignore=IGNORED)
    for other in [*former, block]:
        if name := other.directives.get("file"):
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_text(other.code, encoding="utf-8")
    mark = uuid.uuid4().hex
    env = _environment(mark, folder)
    server = None
    try:
        if former and "serves" in former[-1].directives:
            server = _serve(former[-1], where, env)
        printed = _finish(_start(block, former, where, env), block, mark)
        if server is not None:
            server.send_signal(signal.SIGINT)
            _finish(server, former[-1], mark, interrupted=True)
    finally:
        left = _left_behind(mark)
    if left:
        raise BlockFailed(f"{block} left behind: {', '.join(left)}")
    promised = _promised(block)
    if promised is not None and not matches(promised, printed):
        raise BlockFailed(f"{block} should print\n{promised}\nbut printed\n{printed}")


def matches(promised: str, printed: str) -> bool:
    """Whether `printed` is what was promised; `...` stands for anything,
    spaces at the ends of lines don't count.
    """
    wanted, got = (
        ["\n".join(line.rstrip() for line in text.strip().splitlines())]
        for text in (promised, printed)
    )
    pattern = ".*".join(re.escape(part) for part in wanted[0].split("..."))
    return re.fullmatch(pattern, got[0], re.DOTALL) is not None


def _needs_tree(block: Block, former: list[Block]) -> bool:
    serving = bool(former) and "serves" in former[-1].directives
    return block.language in ("bash", "console") or serving


def _environment(mark: str, folder: Path) -> dict[str, str]:
    """Commands find the Python that runs the tests, and zflow where these tests found it,
    installed or not.
    """
    binaries = folder / "bin"
    binaries.mkdir()
    scripts = {"python": "", "python3": ""}
    if shutil.which("zflow-run", path=str(Path(sys.executable).parent)) is None:
        scripts["zflow-run"] = "-m zflow"
    for name, arguments in scripts.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (binaries / name).chmod(0o755)
    env = dict(os.environ, PYTHONUNBUFFERED="1", COLUMNS="120")
    env[MARK] = mark
    env["PATH"] = os.pathsep.join(
        [str(binaries), str(Path(sys.executable).parent), env.get("PATH", os.defpath)]
    )
    return env


def _script(block: Block, former: list[Block]) -> str:
    """The block's code, with the code before it that it continues."""
    if "continues" not in block.directives:
        return block.code
    for at in range(len(former) - 1, -1, -1):
        if former[at].language == block.language:
            return _script(former[at], former[:at]) + "\n" + block.code
    raise BlockFailed(f"{block} continues nothing: there is no {block.language} block before it")


def _start(
    block: Block, former: list[Block], where: Path, env: dict[str, str]
) -> subprocess.Popen[str]:
    code = _script(block, former)
    if block.language == "python":
        (where / "block.py").write_text(code, encoding="utf-8")
        command = [sys.executable, "block.py"]
    elif block.language == "yaml":
        (where / "block.yaml").write_text(code, encoding="utf-8")
        command = [sys.executable, "-c", "from zflow import Flow; Flow.load_config('block.yaml')"]
    else:
        if block.language == "console":
            code = "".join(
                line[2:] for line in code.splitlines(keepends=True) if line.startswith("$ ")
            )
        command = ["bash", "-euo", "pipefail", "-c", code]
    return subprocess.Popen(
        command,
        cwd=where,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _serve(block: Block, where: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """Start a block that serves, and wait until it has printed the address where."""
    code = "exec " + block.code.removeprefix("$ ").strip()
    server = _start(replace(block, language="bash", code=code, directives={}), [], where, env)
    assert server.stdout is not None
    seen = []
    for line in server.stdout:  # the caller's time limit ends a server that never says anything
        seen.append(line)
        if re.search(r":\d{2,5}\b", line):
            return server
    raise BlockFailed(
        f"{block} ended with {server.wait()} before it printed an address:\n{''.join(seen)}"
    )


def _finish(
    process: subprocess.Popen[str], block: Block, mark: str, interrupted: bool = False
) -> str:
    try:
        printed, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        _end(_marked(mark))  # all of them: whoever still holds the pipe would keep it from ending
        printed, _ = process.communicate()
        raise BlockFailed(
            f"{block} did not end within {TIME_LIMIT:.0f} s; it printed\n{printed}"
        ) from None
    if process.returncode not in ((0, 130, -signal.SIGINT) if interrupted else (0,)):
        raise BlockFailed(f"{block} ended with {process.returncode}; it printed\n{printed}")
    return printed


def _promised(block: Block) -> str | None:
    if block.output is not None or block.language != "console":
        return block.output
    output = "".join(
        line for line in block.code.splitlines(keepends=True) if not line.startswith("$ ")
    )
    return output or None


def _left_behind(mark: str) -> list[str]:
    """Name the processes that a block started and that stayed; they are ended."""
    until = time.monotonic() + GONE_WITHIN
    while (found := _marked(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    return _end(found)


def _end(processes: list[psutil.Process]) -> list[str]:
    names = []
    for process in processes:
        try:
            names.append(f"{process.pid} {' '.join(process.cmdline()) or process.name()}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return names


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
