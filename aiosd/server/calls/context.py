"""`context.*`: conversations."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    InvalidParams,
)
from aiosd.server import generate
from aiosd.server.calls.base import Result
from aiosd.server.turns import in_turns
from aiosd.services import context as contexts
from aiosd.services import entries
from aiosd.services.access import Act

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class Contexts:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    async def context_create(self, call: Call) -> Result:
        p = call.params
        generate.check_model(self._d, p.get("model"))
        model = self._d.model.info.name
        messages = list(p.get("messages", []))
        if "system" in p:
            messages.insert(0, {"role": "system", "content": p["system"]})
        turn = None
        if "tools" in p and not messages:
            raise InvalidParams(
                "tools are told with a message: give system or messages too", field="tools"
            )
        if messages:
            empty = contexts.Context(contexts.new_context_id(), call.agent, model, 0, 0)
            turn = await self._turn(empty, p | {"messages": messages})
        now = generate.now_ms()
        context = await self._d.contexts.create(
            call.agent,
            model,
            now,
            since_ms=self._d.agents.enter(call.agent, now).since_ms,
            name=p.get("name"),
            turn=turn,
        )
        return {"context": context.id}

    async def context_append(self, call: Call) -> Result:
        async with self._locked(call, "write") as context:
            contexts.check_idle(context)
            generate.check_model(self._d, context.model)
            turn = await self._turn(context, call.params)
            entry = contexts.entry_of(context, turn, None, 0)
            await self._d.contexts.append(context, entry, turn.tokens, generate.now_ms())
            self._d.awaited.came_back(context.id)
        return {"context": context.id, "n_tokens": len(context.tokens)}

    async def _turn(self, context: contexts.Context, params: Result) -> contexts.Turn:
        n_chars = await generate.check_size(self._d, params)
        turn = await self._d.in_worker(
            lambda: self._d.prompter.turn(context, params, generate=False),
            context.agent.uid,
            n_chars,
        )
        generate.check_fits(self._d, context, turn)
        return turn

    async def context_fork(self, call: Call) -> Result:
        async with self._locked(call, "read") as source:
            generate.check_model(self._d, source.model)
            n_tokens = call.params.get("n_tokens", len(source.tokens))
            # Whoever may read another's context has its fork; a person at the shell acts for it.
            agent = source.agent if call.subject.is_operator else call.agent
            now = generate.now_ms()
            forked = await self._d.contexts.fork(
                source,
                self._place(source, n_tokens),
                self._d.prompter.text_of(source),
                now,
                agent=agent,
                since_ms=self._d.agents.enter(agent, now).since_ms,
                name=call.params.get("name"),
            )
        return {"context": forked.id}

    async def context_rewind(self, call: Call) -> Result:
        async with self._locked(call, "replace") as context:
            contexts.check_idle(context)
            generate.check_model(self._d, context.model)
            if "n_messages" in call.params:
                n_messages = call.params["n_messages"]
                at = await self._d.in_worker(
                    lambda: self._d.prompter.place_of_message(context, n_messages)
                )
            else:
                at = self._place(context, call.params["n_tokens"])
            text_of = self._d.prompter.text_of(context)
            await self._d.contexts.rewind(context, at, text_of, generate.now_ms())
        n_messages = entries.n_messages(context.log)
        return {
            "context": context.id,
            "n_tokens": len(context.tokens),
            "n_messages": n_messages,
        }

    def _place(self, context: contexts.Context, n_tokens: int) -> entries.Place:
        if n_tokens > len(context.tokens):
            raise InvalidParams(
                f"n_tokens is {n_tokens}, the context has {len(context.tokens)}",
                field="n_tokens",
                limit=len(context.tokens),
            )
        return entries.place(context.log, n_tokens)

    async def context_snapshot(self, call: Call) -> Result:
        async with self._locked(call, "steer") as context:
            contexts.check_idle(context)
            slot = self._d.driver.kernel.slot_of(context.id)
            await self._d.on_engine(
                lambda: self._d.engine.store(context.id, slot, call.params["to"])
            )
        return {
            "context": context.id,
            "residence": self._residence(context),
            "snapshot_bytes": self._d.engine.snapshot_bytes(context.id),
        }

    async def context_prefetch(self, call: Call) -> Result:
        context = self._context(call, "steer")
        n_cached = await generate.prefetch(self._d, call, context)
        return {
            "context": context.id,
            "residence": self._residence(context),
            "cached_tokens": n_cached,
        }

    def context_info(self, call: Call) -> Result:
        return self._describe_context(self._context(call, "see"))

    async def context_list(self, call: Call) -> Result:
        wants_all = call.params["all"]
        async with self._d.listings[call.session.uid]:
            found = [
                self._describe_context(c)
                async for c in in_turns(list(self._d.contexts.all()))
                if c.agent == call.agent or (wants_all and self._d.access.sees(call, c.agent))
            ]
        return {"contexts": found}

    async def context_read(self, call: Call) -> Result:
        context = await self._admitted(call, "read")
        tokens = {"tokens": context.tokens.tolist()} if call.params["tokens"] else {}
        return {"messages": context.messages, **tokens}

    async def context_delete(self, call: Call) -> Result:
        async with self._locked(call, "delete") as context:
            await self._d.contexts.delete(context)
            await self._d.access.forget_grants(context.agent, "context", context.id)
        self._d.driver.drop_context(context.id)
        self._d.agents.leave(context.agent)
        return {}

    @contextlib.asynccontextmanager
    async def _locked(self, call: Call, act: Act) -> AsyncIterator[contexts.Context]:
        """The call's context, after the short calls on it that came before."""
        context = await self._admitted(call, act)
        async with context.lock:
            # NotFound if one of them was its deletion, and what was confirmed is.
            yield self._context(call, act, is_confirmed=True)

    async def _admitted(self, call: Call, act: Act) -> contexts.Context:
        context = self._d.contexts.get(call.params["context"])
        await self._d.access.admit(call, act, generate.target_of(context))
        return context

    def _context(self, call: Call, act: Act, *, is_confirmed: bool = False) -> contexts.Context:
        context = self._d.contexts.get(call.params["context"])
        target = generate.target_of(context)
        self._d.access.check(call, act, target, is_confirmed=is_confirmed)
        return context

    def _describe_context(self, context: contexts.Context) -> Result:
        snapshot_bytes = self._d.engine.snapshot_bytes(context.id)
        return contexts.describe(context, self._residence(context), snapshot_bytes)

    def _residence(self, context: contexts.Context) -> str:
        if self._d.driver.kernel.slot_of(context.id) is not None:
            return "slot"
        return self._d.engine.residence_of(context.id) or "tokens"
