"""Write the pages that are made from the code: docs/CONFIG.md and the table in PROTOCOL.md."""

from __future__ import annotations

from pathlib import Path

from aios_sdk import syscalls
from aiosd import config

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- syscalls: made by python -m tests.make_docs -->\n"


def protocol_page(text: str) -> str:
    """PROTOCOL.md with everything after the marker made anew."""
    head, marker, _ = text.partition(BEGIN)
    assert marker, "PROTOCOL.md has lost its marker"
    return head + marker + "\n" + syscalls.render() + "\n"


def main() -> None:
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "CONFIG.md").write_text(config.reference())
    protocol = ROOT / "PROTOCOL.md"
    protocol.write_text(protocol_page(protocol.read_text()))


if __name__ == "__main__":
    main()
