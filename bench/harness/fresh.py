"""Calling a function in an interpreter that has done nothing before."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench.harness.store import ROOT


def fresh(module: str, function: str, *arguments: int) -> Any:
    """Return what `module.function(*arguments)` returns in a new interpreter;
    it has to fit into JSON.
    """
    code = (
        "import importlib, json, sys; "
        "module, function, *arguments = sys.argv[1:]; "
        "result = getattr(importlib.import_module(module), function)(*map(int, arguments)); "
        "print(json.dumps(result))"
    )
    command = [sys.executable, "-c", code, module, function, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
