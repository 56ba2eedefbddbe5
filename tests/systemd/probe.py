"""Run by a copy of the real unit, as its user and under its hardening: starts confined processes,
and prints as JSON what became of them."""

import asyncio
import json
import os
import sys
from pathlib import Path

from aiosd.confine import (
    PIPE,
    STDOUT,
    Bounds,
    ConfineError,
    Confinement,
    Grant,
    Mechanisms,
    spawn,
)

ATTACKS = "/usr/local/share/attacks.py"


async def said(argv: list[str], confinement: Confinement) -> str:
    try:
        process = await spawn(argv, confinement, stdout=PIPE, stderr=STDOUT)
    except ConfineError as error:
        return f"ConfineError: {error}"
    async with process:
        assert process.stdout is not None
        words = (await process.stdout.read()).decode().strip()
        return f"{words} [{await process.wait()}]"


async def attacks(group: str, state: Path) -> dict[str, str]:
    target = {
        "group": group,
        "secret": str(state / "secret"),
        "others": str(state / "secret"),
        "readable": ATTACKS,
        "datagram": "/run/systemd/notify",
        "daemon": os.getpid(),
        "sibling": os.getpid(),
        "setuid": "true",
    }
    confinement = Confinement(Grant(read=(ATTACKS,), is_networked=group == "networked"))
    words = await said([sys.executable, "-I", ATTACKS, json.dumps(target)], confinement)
    found: dict[str, str] = json.loads(words.removesuffix(" [exit code 0]"))
    return {name: what for name, what in found.items() if "refused: E" not in what}


async def main() -> None:
    state = Path(os.environ["STATE_DIRECTORY"].partition(":")[0])
    (state / "secret").write_text("secret")
    bounded = Confinement(bounds=Bounds(memory_bytes=100 << 20))
    here = Mechanisms.here()
    found = {
        "shell": await said(["sh", "-c", f"echo works; cat {state}/secret"], Confinement()),
        "python": await said([sys.executable, "-I", "-c", "print(6 * 7)"], Confinement()),
        "node": await said(["node", "-e", "console.log(6 * 7)"], Confinement()),
        "memory": await said([sys.executable, "-I", "-c", "bytearray(1 << 30)"], bounded),
        "unharmed": (state / "secret").read_text(),
        "landlock": here.landlock_abi,
        "why_not": here.why_not,
    }
    for group in ("files", "processes", "network", "networked"):
        found[group] = await attacks(group, state)
    print(json.dumps(found))  # noqa: T201 - this is how it answers


asyncio.run(main())
