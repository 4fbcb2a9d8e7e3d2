"""The name on the package index: `zflow` there is another project's,
and nothing of ours may lead to it.
"""

from __future__ import annotations

import configparser
import re
import subprocess

import pytest
from helpers import ROOT

ASKS = re.compile(r"""pip3? (?:install|download|wheel)\b[^\n]*[\s'"=]zflow(?![-\w./]|'s)""")


def named(text: str) -> list[str]:
    """Where a text asks pip for a distribution that is called `zflow`."""
    return [found[0] for found in ASKS.finditer(text)]


def test_the_distribution_has_a_name_of_its_own() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["name"] == "zflow-mq"
    extras = "\n".join(config["options.extras_require"].values())
    assert "zflow-mq[test]" in extras
    assert not re.search(r"\bzflow\[", extras)


def test_nothing_asks_pip_for_the_other_project() -> None:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    # In a source archive or a copy there is no git: then every file counts.
    paths = [ROOT / name for name in listed if name] or [
        path for path in ROOT.rglob("*") if ".venv" not in path.parts
    ]
    texts = [
        path
        for path in paths
        if path.suffix in (".md", ".py", ".cfg", ".toml", ".yaml", ".yml", "") and path.is_file()
    ]
    assert len(texts) > 100
    found = {str(path): named(path.read_text(encoding="utf-8", errors="replace")) for path in texts}
    assert {
        path: lines
        for path, lines in found.items()
        if lines and not path.endswith("test_distribution.py")
    } == {}


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("pip install zflow", True),
        ("python -m pip install -q 'zflow[progress]'", True),
        ("pip install pyzmq zflow", True),
        ("pip install zflow-mq", False),
        ("pip install '.[progress]'  # of zflow's checkout", False),
        ("pip install dist/zflow_mq-0.1.0-py3-none-any.whl", False),
    ],
)
def test_what_asks_for_it_is_found(text: str, asks: bool) -> None:
    assert bool(named(text)) is asks
