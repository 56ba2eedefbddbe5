"""MCP servers for tests as the configuration has them: programs in this directory, confined."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
# What a Python of any kind needs: its venv, where that was made from, and what it imports.
PYTHON = sorted({sys.prefix, sys.base_prefix, str(ROOT), *filter(os.path.isdir, sys.path)})


def program(name: str, *args: str, **more: Any) -> dict[str, Any]:
    """The keys of a server that is one of the programs here; more: other keys."""
    return {
        "command": sys.executable,
        "args": [str(HERE / name), *args],
        "read": [*PYTHON, *more.pop("read", [])],
        **more,
    }
