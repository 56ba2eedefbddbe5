"""Arguments of calls, checked in workers; each tool's schema is made ready once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aios_sdk.errors import InvalidParams, ToolFailed
from aiosd.kernel.model import AgentId
from aiosd.services.tools.arguments import BadSchema, Checker
from aiosd.services.tools.model import Tool
from aiosd.services.tools.surroundings import LONG_WORK, InWorker


class Checking:
    """Checkers by tool, each with the schema that it was made of."""

    def __init__(self, in_worker: InWorker) -> None:
        self._in_worker = in_worker
        self._made: dict[str, tuple[Mapping[str, Any], Checker | BadSchema]] = {}

    async def check(
        self, tool: Tool, arguments: Mapping[str, Any], caller: AgentId, max_bytes: int
    ) -> None:
        """InvalidParams, whose field is the path in the arguments; ToolFailed if the schema is of
        no use."""
        checker = await self._checker(tool)
        if isinstance(checker, BadSchema):
            words = f"{tool.name} can't be called: its schema: {checker}"
            raise ToolFailed(words, tool=tool.name)
        size = LONG_WORK if checker.takes_long or _is_long(arguments) else 0
        try:
            await self._in_worker(lambda: checker.check(arguments, max_bytes), caller.uid, size)
        except InvalidParams as error:
            raise InvalidParams(f"{tool.name}: {error.message}", **error.data) from None

    def keep(self, names: Collection[str]) -> None:
        """Forget what was made for other tools."""
        self._made = {name: made for name, made in self._made.items() if name in names}

    async def _checker(self, tool: Tool) -> Checker | BadSchema:
        schema, checker = self._made.get(tool.name, (None, None))
        if checker is None or schema != tool.parameters:
            checker = await self._in_worker(lambda: _made(tool.parameters))
            self._made[tool.name] = tool.parameters, checker
        return checker


def _made(schema: Mapping[str, Any]) -> Checker | BadSchema:
    try:
        return Checker(schema)
    except BadSchema as error:
        return error


def _is_long(arguments: Mapping[str, Any]) -> bool:
    """Whether checking them may take more than some milliseconds."""
    n_left, waiting = 1000, [*arguments.values()]
    while waiting and n_left > 0:
        match waiting.pop():
            case list() as items:
                waiting += items[:n_left]
            case dict() as items:
                waiting += list(items.values())[:n_left]
            case str() as text:
                n_left -= len(text) // 100
        n_left -= 1
    return n_left <= 0
