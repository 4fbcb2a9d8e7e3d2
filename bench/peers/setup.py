"""Installing the peers from the registry, each into a virtual environment of its
own in `bench/.peers/`, by uv.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".peers"
#: What to install. Jina 3.34 needs docarray's second interface, and setuptools that still bring
#: pkg_resources.
REQUIREMENTS = {
    "jina": ["jina==3.34.0", "docarray>=0.40", "setuptools<81"],
    "ray": ["ray[serve]"],
    "mosec": ["mosec"],
    "litserve": ["litserve"],
}


def interpreter(peer: str) -> Path:
    """Return the path of a peer's interpreter, which may not exist."""
    return FOLDER / peer / "bin" / "python"


def missing(peer: str) -> str | None:
    """Return why a peer cannot be run, or None if it is installed."""
    reason = _reason(peer)
    if reason.exists():
        return f"cannot be installed: {reason.read_text(encoding='utf-8').strip()}"
    if not interpreter(peer).exists():
        return f"not installed: run `python -m bench peers setup {peer}`"
    return None


def install(peer: str) -> bool:
    """Install a peer and return whether that went well; if not,
    the reason is kept for the results.
    """
    print(f"{peer}: installing {' '.join(REQUIREMENTS[peer])}", flush=True)
    shutil.rmtree(FOLDER / peer, ignore_errors=True)
    _reason(peer).unlink(missing_ok=True)
    try:
        uv = str(_uv())
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(FOLDER / peer))
        _run(
            uv, "pip", "install", "--quiet", "--python", str(interpreter(peer)), *REQUIREMENTS[peer]
        )
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines() or [f"exit status {error.returncode}"]
        _reason(peer).write_text(lines[-1] + "\n", encoding="utf-8")
        print(f"{peer}: {missing(peer)}")
        return False
    return True


def _uv() -> Path:
    """Return the path of uv, installed if need be: it resolves Jina's requirements,
    over which pip takes for ever.
    """
    tool = FOLDER / "uv" / "bin" / "uv"
    if not tool.exists():
        FOLDER.mkdir(exist_ok=True)
        _run(sys.executable, "-m", "venv", str(FOLDER / "uv"))
        _run(str(FOLDER / "uv" / "bin" / "pip"), "install", "--quiet", "uv")
    return tool


def _run(*command: str) -> None:
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _reason(peer: str) -> Path:
    """Return the file that tells why a peer could not be installed."""
    return FOLDER / f"{peer}.failed"
