"""`python -m zflow` is `zflow-run`."""

from __future__ import annotations

import sys

from zflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
