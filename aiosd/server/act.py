"""llm.act: the model calls tools, is told what came of it, and goes on until it answers.

Rule 1: a round is an llm.generate (generate.py) and the calls it asked for (the tool manager);
there is nothing here but their order.
Rule 2: each round is committed: the answer when it has ended, what tools brought when they have.
An act that ends early leaves the rounds before it, and no call without a word of what became of it,
unless the daemon was killed or the context is full.
Rule 3: a call that can't be made, or is refused, is a result that the model reads, not an end.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aios_sdk.errors import Cancelled, SyscallError
from aiosd.driver import JobResult
from aiosd.engine.base import MAX_SEED
from aiosd.kernel.model import AgentId, JobId, Outcome
from aiosd.server import generate, tooling
from aiosd.server.act_parts import SHOWN_CHARS, Made, Offer, Sums, offered, shown
from aiosd.server.calls.base import Result
from aiosd.services import context as contexts
from aiosd.services.context import Context
from aiosd.services.tools.manager import ToolCall
from aiosd.services.tools.model import Progress, ToolResult

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.generate import Work
    from aiosd.server.session import Call

SHOWN_SHARE = 4  # the newest calls that fit into this part of a frame are in the result
MESSAGE_TOKENS = 24  # what a template puts around a tool's answer, and a bit more
LEAST_TOKENS = 16  # of a tool's answer: less says nothing
_OF_ONE_ANSWER = {
    "logprobs": 0,
    "ignore_eos": False,
    "keep_partial": False,
    "detach": False,
}


async def run(daemon: Daemon, call: Call) -> Result:
    """One llm.act, from its arrival to its reply."""
    p = call.params
    generate.check_model(daemon, p.get("model"))
    generate.check_max_tokens(daemon, p)
    offer = offered(daemon, call)
    daemon.driver.admission.check(call.agent)
    if "context" in p:
        context = daemon.contexts.get(p["context"])
        await daemon.access.admit(call, "write", generate.target_of(context))
    job = generate.new_job_id()
    async with generate.held_context(daemon, call.agent, p.get("context"), job) as context:
        return await Act(daemon, call, context, offer, job).run()


class Act:
    """One act under way.  While its tools run it is in Daemon.acts, by its last job's id."""

    def __init__(
        self, daemon: Daemon, call: Call, context: Context, offer: Offer, job: JobId
    ) -> None:
        self._d = daemon
        self._call = call
        self._context = context
        self._offer = offer
        self._job = job
        self._seed = call.params.get("seed", secrets.randbelow(MAX_SEED + 1))
        self._n_rounds = 0  # that have called something
        self._n_output = 0
        self._recalled: dict[str, Any] = {}
        self._made: list[Made] = []
        self._sums = Sums()

    @property
    def agent(self) -> AgentId:
        return self._call.agent

    def cancel(self) -> None:
        """As job.cancel does while it generates."""
        self._call.end(Cancelled(f"job {self._job} was cancelled", job=self._job))

    def describe(self) -> Result:
        """As job.list has it while its tools run."""
        usage = self._sums.usage
        return {
            "job": self._job,
            "agent": self.agent.name,
            "uid": self.agent.uid,
            "context": self._context.id,
            "state": "calling",
            "priority": self._call.params["priority"],
            "n_output": self._n_output,
            "waited_ms": usage["waited_ms"],
            "slices": usage["slices"],
            "parks": usage["parks"],
            "waits_for": {"kind": "tools"},
        }

    async def run(self) -> Result:
        began_ns = time.monotonic_ns()
        pending: Sequence[Mapping[str, Any]] = ()
        while True:
            work, result = await self._generate()
            assert result.ending is not None  # DONE comes from the engine, with an ending
            finish, calls = str(result.ending.finish), work.calls_in(result)
            if calls:  # whole ones, also of an answer that was cut
                self._n_rounds += 1
                pending = await self._carry_out(calls)
                if not pending and self._left() > 0:
                    continue
                finish = "tool_calls" if pending else "length"
            elif finish == "stop" and self._n_rounds == self._call.params["max_rounds"]:
                finish = "rounds"
            self._sums.usage["total_ms"] = (time.monotonic_ns() - began_ns) // 10**6
            return self._reply(work, result, finish, pending)

    # ------------------------------------------------------------ generating

    async def _generate(self) -> tuple[Work, JobResult]:
        """The next answer, committed."""
        daemon, call = self._d, self._call
        p = self._params()
        if self._sums.usage:  # what was allowed at first may not be any more
            daemon.access.check_right(call.agent, "llm", call.method)
            if "context" in p:
                generate.reached(daemon, call.agent, p["context"])
            self._job = generate.new_job_id()
        if self._context.busy_with is not None:
            self._context.busy_with = self._job
        work = await generate.prepare(daemon, call.agent, p, self._context, self._job)
        result = await generate.await_job(daemon, call, work)
        call.job = None  # a cancel from here on ends the call itself
        await generate.commit(daemon, work, result)
        if result.outcome is not Outcome.DONE:
            raise call.ended or generate.error_of(self._job, result)
        if not work.is_kept:
            self._context.add(*generate.joined(work, result))
        self._n_output += len(result.tokens)
        self._sums.add(generate.usage_of(work, result))
        if "recalled" in work.params:
            self._recalled = {"recalled": work.params["recalled"]}
        return work, result

    def _params(self) -> dict[str, Any]:
        """The round's, as llm.generate has them."""
        given = self._call.params
        p = {
            **given,
            **_OF_ONE_ANSWER,
            "tools": list(self._offer.tools),
            "tool_choice": given["tool_choice"],
            "max_tokens": min(given["max_tokens"], self._left()),
            "seed": self._seed,
        }
        if not self._offer.tools:
            del p["tools"]
        if self._sums.usage:
            p.pop("messages", None)
            p.pop("recall", None)
            p["tool_choice"] = "none" if self._n_rounds == given["max_rounds"] else "auto"
        return p

    def _left(self) -> int:
        """Tokens that it may still say."""
        given = self._call.params
        limit: int = given.get("max_total_tokens", self._n_output + given["max_tokens"])
        return limit - self._n_output

    # ------------------------------------------------------------ calling

    async def _carry_out(self, calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Make the calls that are the daemon's to make; the others."""
        of_client = self._offer.of_client
        theirs = [one for one in calls if one["name"] in of_client]
        made = [Made(one, self._n_rounds) for one in calls if one["name"] not in of_client]
        self._made += made
        n_calls = self._call.params["max_calls"]
        for late in made[n_calls:]:
            late.content = f"not made: the limit is {n_calls} calls at once"
            self._tell(late)
        unsaid = [*made, *(Made(one, self._n_rounds) for one in theirs)]
        try:
            self._check_going_on()
            with self._calling():
                await self._call.session.drained.wait()  # what they bring is to be read
                await self._call_all(made[:n_calls])
            await self._append(made)
            del unsaid[: len(made)]
            self._check_going_on()
        except BaseException:
            with contextlib.suppress(SyscallError):  # what ended the act is what is told
                await self._append(unsaid)
            raise
        return theirs

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """It is listed meanwhile, and the time counts."""
        acts, began_ns = self._d.acts, time.monotonic_ns()
        acts[self._job] = self
        try:
            yield
        finally:
            del acts[self._job]
            self._sums.tools_ms += (time.monotonic_ns() - began_ns) // 10**6

    async def _call_all(self, made: Sequence[Made]) -> None:
        def ended(place: int, result: ToolResult | SyscallError, duration_ms: int) -> None:
            one = made[place]
            one.duration_ms = duration_ms
            if isinstance(result, SyscallError):
                one.content = f"{result.code}: {result.message}"
            else:
                one.content, one.is_error = result.content, result.is_error
            self._tell(one)

        def told(place: int, progress: Progress) -> None:
            tooling.tell_progress(self._call, progress, call=made[place].call["id"])

        await self._d.tools.call_all(
            [ToolCall(one.call["name"], one.call["arguments"]) for one in made],
            self._call.agent,
            admit=tooling.admission(self._d, self._call),
            on_progress=told,
            on_end=ended,
        )

    async def _append(self, made: Sequence[Made]) -> None:
        """What the calls brought joins the log."""
        if not made:
            return
        daemon, context = self._d, self._context
        limit = self._room(len(made))

        def prepared() -> contexts.Turn:
            messages = [
                {
                    "role": "tool",
                    "content": daemon.prompter.shortened(one.content, limit),
                    "tool_call_id": one.call["id"],
                    "name": one.call["name"],
                }
                for one in made
            ]
            return daemon.prompter.turn(context, {"messages": messages}, generate=False)

        n_chars = sum(len(one.content) for one in made)
        turn = await daemon.in_worker(prepared, self._call.agent.uid, n_chars)
        generate.check_fits(daemon, context, turn)
        entry = contexts.entry_of(context, turn, None, 0)
        if "context" in self._call.params:
            await daemon.contexts.append(context, entry, turn.tokens, generate.now_ms())
        else:
            context.add(entry, turn.tokens)
        for one in made:
            one.content = one.content[:SHOWN_CHARS]

    def _room(self, n_answers: int) -> int:
        """How many tokens each answer may have: half of what is left is to go on with."""
        room = (self._d.model.info.slot_tokens - len(self._context.tokens)) // 2
        return max(LEAST_TOKENS, room // n_answers - MESSAGE_TOKENS)

    # ------------------------------------------------------------ telling

    def _tell(self, made: Made) -> None:
        if self._call.params["stream"]:
            result = {
                "id": made.call["id"],
                "name": made.call["name"],
                "content": made.content,
                "is_error": made.is_error,
                "duration_ms": made.duration_ms,
            }
            self._call.emit({"tool_result": result})

    def _check_going_on(self) -> None:
        """Raises why the act has to end; a cancel may have come during a write."""
        if self._call.ended is not None:
            raise self._call.ended

    def _reply(
        self, work: Work, result: JobResult, finish: str, pending: Sequence[Mapping[str, Any]]
    ) -> Result:
        last = generate.reply(work, result)
        self._call.facts = {
            "finish": finish,
            "rounds": self._n_rounds,
            "calls": len(self._made),
            "tools_ms": self._sums.tools_ms,
            "tokens": self._n_output,
        }
        kept: Result = {key: last[key] for key in ("stop_string", "context") if key in last}
        return {
            "text": last["text"],
            "finish": finish,
            **({"tool_calls": list(pending)} if pending else {}),
            "rounds": self._n_rounds,
            "calls": shown(self._made, self._d.config.limits.frame_bytes // SHOWN_SHARE),
            "n_calls": len(self._made),
            **kept,
            **self._recalled,
            "job": self._job,
            "seed": self._seed,
            "usage": {**self._sums.usage, "tools_ms": self._sums.tools_ms},
        }
