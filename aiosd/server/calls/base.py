"""What all handlers share: how a result looks."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]
