"""The [tools] table: which tools there are, what each may touch, and the bounds of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aiosd.settings import GIB, KIB, MIB, key

TOOL_PATTERN = r"[A-Za-z0-9._*?-]{1,128}"
_HOLDER = r"@?[A-Za-z0-9._*?-]{1,64}"
_DECLARED = ("declared", "yes", "no")


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What holds for one tool, or for those that the name's pattern matches.

    0 and `declared` leave it at what the tool says of itself.
    """

    agents: tuple[str, ...] = key(
        ("*",),
        "Who may use it: names, patterns, `@group`. For others it isn't there.",
        pattern=_HOLDER,
    )
    irreversible: str = key(
        "declared",
        "Whether what it does can't be undone; `[[access.confirm]]` can ask a person then.",
        choices=_DECLARED,
    )
    ordered: str = key(
        "declared",
        "Whether its calls in a list wait for those before them.",
        choices=_DECLARED,
    )
    timeout_s: int = key(0, "A call takes no longer.", low=0, high=86400)
    max_parallel: int = key(0, "Calls at once; more wait in line.", low=0, high=1024)
    read: tuple[str, ...] = key((), "Paths it may read, beside those it declares.")
    write: tuple[str, ...] = key((), "Paths it may write, beside those it declares.")
    network: str = key("declared", "Whether it may reach the network.", choices=_DECLARED)
    memory_bytes: int = key(
        0, "Memory of one call's processes.", low=0, high=1024**4, is_bytes=True
    )


@dataclass(frozen=True, slots=True)
class Tools:
    """Tools and their calls; who may use them at all is the right `tool` of [access]."""

    directory: str = key(
        "",
        "A directory of Python files with tools; each `*.py` in it is read at start and on reload. "
        "Only its owner and root should be able to write there.",
        is_path=True,
        reloads=True,
    )
    off: tuple[str, ...] = key(
        ("shell",),
        "Tools that aren't offered: names, or patterns such as `git.*`.",
        pattern=TOOL_PATTERN,
        reloads=True,
    )
    allowed_hosts: tuple[str, ...] = key(
        (),
        "Hosts that `fetch` may reach: names, or `*.example.org`; with none there is no `fetch`.",
        pattern=r"(\*\.)?[A-Za-z0-9.:\[\]-]{1,253}",
        reloads=True,
    )
    fetch_private: bool = key(
        False,
        "`fetch` may reach private addresses too (this machine, the local network), of the "
        "allowed hosts.",
        reloads=True,
    )
    calls: int = key(
        64, "Calls of all tools that run at once; more wait in line.", low=1, high=4096,
        reloads=True,
    )  # fmt: skip
    waiting: int = key(
        1024, "Calls that wait for one tool; past it `busy`.", low=0, high=10**6, reloads=True
    )
    waiting_per_uid: int = key(
        256, "Of them, those of one uid; past it `busy`.", low=0, high=10**6, reloads=True
    )
    argument_bytes: int = key(
        MIB,
        "Arguments of one call, as JSON; past it `invalid_params`.",
        low=KIB,
        high=64 * MIB,
        is_bytes=True,
        reloads=True,
    )
    result_bytes: int = key(
        256 * KIB,
        "The text of one result, and its data; text past it is cut, data dropped, and both said.",
        low=KIB,
        high=64 * MIB,
        is_bytes=True,
        reloads=True,
    )
    memory_bytes: int = key(
        GIB,
        "Memory that one call's processes may take, unless the tool has a bound of its own.",
        low=32 * MIB,
        high=1024**4,
        is_bytes=True,
        reloads=True,
    )
    processes: int = key(64, "Processes and threads of one call.", low=1, high=65536, reloads=True)
    file_bytes: int = key(
        256 * MIB,
        "The largest file that one call may write.",
        low=0,
        high=1024**4,
        is_bytes=True,
        reloads=True,
    )
    disk_bytes: int = key(
        512 * MIB,
        "What one call may write in all, where it may write.",
        low=0,
        high=1024**4,
        is_bytes=True,
        reloads=True,
    )
    spares: int = key(
        8,
        "Processes that are kept started, one for each of the local tools used last, to save "
        "their next calls the start; 0 starts one when a call comes.",
        low=0,
        high=1024,
        reloads=True,
    )
    tool: Mapping[str, ToolRule] = key(
        {},
        'For one tool (`[tools.tool.calculator]`) or several (`[tools.tool."git.*"]`): '
        "the table of its name, else the first whose pattern fits.",
        table=ToolRule,
        name_pattern=TOOL_PATTERN,
        reloads=True,
    )

    def rule(self, name: str) -> ToolRule:
        """What holds for the tool of this name."""
        own = self.tool.get(name)
        if own is not None:
            return own
        fitting = (rule for pattern, rule in self.tool.items() if fnmatchcase(name, pattern))
        return next(fitting, _NO_RULE)

    def users(self) -> dict[str, tuple[str, ...]]:
        """Who may use which tools, by name or pattern."""
        return {name: rule.agents for name, rule in self.tool.items()}

    def is_on(self, name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in self.off)


_NO_RULE = ToolRule()
