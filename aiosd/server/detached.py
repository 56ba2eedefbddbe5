"""Jobs that outlive their connection: kept in the database, followed by whoever attaches.

Rule 1: a detached job is on the disk before it begins, its output soon after it is there, and its
end in the same write as its turn.
Rule 2: nobody is sent anything: followers read what is kept, from the token they want.  One that
doesn't read its connection holds up nobody and buffers nothing.
Rule 3: after a restart a job goes on from the output that was saved; the tokens are the same.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from aios_sdk.errors import (
    Cancelled,
    EngineFailed,
    Internal,
    NotFound,
    QuotaExceeded,
    SyscallError,
    TooLarge,
    Unavailable,
    from_wire,
)
from aiosd.config import Limits
from aiosd.driver import JobResult
from aiosd.engine.base import Output
from aiosd.kernel.model import AgentId, JobId, Outcome
from aiosd.server import generate
from aiosd.services import saved_jobs
from aiosd.services.access import Target
from aiosd.services.context import Turn
from aiosd.services.database import Transaction
from aiosd.services.saved_contexts import NotAsSaved
from aiosd.services.saved_jobs import DONE, FAILED, SavedJob

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

log = structlog.get_logger()

N_LOG = "n_log"  # beside the params: the log's tokens before the job
SAVE_TOKENS = 32  # output is saved in pieces of so many: what a crash makes us generate again


@dataclass(slots=True)
class Detached:
    """One detached job, from the moment it is asked for.  changed is set, and made anew, when
    there is more to see."""

    id: JobId
    agent: AgentId
    tokens: array[int] = field(default_factory=lambda: array("i"))
    text: str = ""  # what the tokens say, without calls
    calls: list[dict[str, Any]] = field(default_factory=list)
    n_sure: int = 0  # of them, those that a resumed job may begin with: all but an ending's
    n_saved: int = 0
    state: str = ""  # nothing to tell before it is on the disk
    is_dropped: bool = False  # cancelled; looked at before it begins
    result: dict[str, Any] | None = None
    error: SyscallError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        return self.result is not None or self.error is not None

    def tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class DetachedJobs:
    """All detached jobs: those that run, in memory; those that have ended, in the database."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._running: dict[JobId, Detached] = {}
        self._unsaved: dict[JobId, tuple[AgentId, str, dict[str, Any]]] = {}  # the disk refused

    @property
    def _limits(self) -> Limits:
        return self._d.config.limits

    # ------------------------------------------------------------ beginning and ending

    async def run(self, call: Call, job: JobId) -> dict[str, Any]:
        """llm.generate with detach: begin the job, then follow it while the caller is there."""
        n_own = sum(d.agent.uid == call.agent.uid for d in self._running.values())
        if n_own >= self._limits.detached_per_uid:
            raise QuotaExceeded(
                f"uid {call.agent.uid} has {n_own} detached jobs running, "
                f"limit is {self._limits.detached_per_uid}",
                limit=self._limits.detached_per_uid,
                used=n_own,
            )
        detached = self._running[job] = Detached(job, call.agent)
        self._d.tasks.create_task(self._drive(detached, self._begin(detached, call.params)))
        try:
            return await self._follow(call, detached, 0)
        except asyncio.CancelledError:
            if not call.is_gone:  # its caller wants it to end, and is there to say so
                self._drop(detached)
            raise

    def drop_of(self, agent: AgentId) -> None:
        """End an agent's detached jobs, wherever they are."""
        for detached in self._running.values():
            if detached.agent == agent:
                self._drop(detached)

    def _drop(self, detached: Detached) -> None:
        detached.is_dropped = True
        self._d.driver.cancel(detached.id, Outcome.CANCELLED)

    def _check_wanted(self, detached: Detached) -> None:
        if detached.is_dropped:
            raise Cancelled(f"job {detached.id} was cancelled", job=detached.id)
        if self._d.is_stopping:
            raise Unavailable("the daemon is shutting down")

    async def resume(self) -> None:
        """After a restart: go on with what was running."""
        for saved in await self._d.database.read(saved_jobs.unfinished):
            detached = self._running[saved.id] = Detached(saved.id, saved.agent)
            self._d.tasks.create_task(self._drive(detached, self._go_on(detached, saved)))

    async def _drive(self, detached: Detached, life: Coroutine[Any, Any, None]) -> None:
        """A job's life, the daemon's and no connection's; it ends in a result or an error."""
        try:
            await life
        except SyscallError as error:
            detached.error = error
        except Exception:  # a bug: whoever follows is told, the daemon lives
            log.exception("bug", name="detached", job=detached.id)
        finally:
            if not detached.has_ended:
                detached.error = Internal(f"job {detached.id} ended on a bug; the log says more")
            del self._running[detached.id]
            detached.tell()

    async def _begin(self, detached: Detached, p: dict[str, Any]) -> None:
        job, agent = detached.id, detached.agent
        async with generate.held_context(self._d, agent, p.get("context"), job) as context:
            work = await generate.prepare(self._d, agent, p, context, job)
            self._check_wanted(detached)
            kept = {
                k: v for k, v in work.params.items() if k not in ("stream", "tag", "deadline_ms")
            }
            saved = SavedJob(
                job,
                agent,
                context.id if work.is_kept else None,
                {**kept, N_LOG: len(context.tokens)},
                work.turn.tokens,
                work.spec.sampling.seed,
                generate.now_ms(),
            )
            await self._d.database.write(lambda t: saved_jobs.create(t, saved))
            await self._live(work, detached)

    async def _go_on(self, detached: Detached, saved: SavedJob) -> None:
        p = {**saved.params, "seed": saved.seed}
        n_log = p.pop(N_LOG)
        context_id = None if saved.context is None else str(saved.context)
        try:
            async with generate.held_context(self._d, saved.agent, context_id, saved.id) as context:
                if len(context.tokens) != n_log:
                    raise EngineFailed(
                        f"context {context.id} has {len(context.tokens)} tokens, the job began "
                        f"after {n_log}: it can't go on"
                    )
                prepared = await generate.prepare(self._d, saved.agent, p, context, saved.id)
                # The tokens as they were, whatever the template says today.
                turn = Turn(saved.prompt, prepared.turn.messages, prepared.turn.is_open)
                spec = replace(
                    prepared.spec,
                    tokens=context.tokens + saved.prompt,
                    n_log=len(context.tokens),
                    output=saved.output,
                )
                work = replace(prepared, turn=turn, spec=spec)
                log.info("job_resumed", job=saved.id, n_output=len(saved.output))
                await self._live(work, detached)
        except Unavailable:
            raise  # the daemon goes down: it goes on another time
        except SyscallError as error:  # its context or model is gone
            await self._save_end(saved.agent, saved.id, FAILED, error.to_wire())
            raise

    async def _live(self, work: generate.Work, detached: Detached) -> None:
        """Run the job, which is on the disk, to its end, keeping what it says."""
        job = work.spec.job
        detached.n_saved = len(work.spec.output)
        record = generate.new_record(self._d, work)

        def note(chunk: dict[str, Any]) -> None:
            detached.text += chunk.get("text", "")
            detached.calls += chunk.get("tool_calls", ())

        hear = generate.listener(self._d, work, note)

        def on_output(output: Output) -> None:
            detached.tokens.extend(output.tokens)
            hear(output)
            if record.ending is None:  # a stop string may have had the last ones tokenised anew
                detached.n_sure = len(detached.tokens)
            detached.tell()

        def on_state(state: str, _position: int | None) -> None:
            detached.state = state
            detached.tell()

        record.on_output, record.on_state = on_output, on_state
        saver: asyncio.Task[None] | None = None
        try:
            await self._d.submitting.turn()
            with generate.counted(self._d, work.agent) as agent:
                self._check_wanted(detached)
                self._d.driver.submit(record)
                saver = self._d.tasks.create_task(self._save_output(detached))
                result = await record.done
                agent.n_tokens += result.cost.n_prompt + len(result.tokens)
            if result.outcome is Outcome.UNAVAILABLE:
                raise generate.error_of(job, result)
            await self._end(work, result, detached)
        except SyscallError as error:
            # Where the daemon goes down the job stays as it is, to go on; else it has failed.
            if not self._d.is_stopping:
                await self._save_end(work.agent, job, FAILED, error.to_wire())
            raise
        finally:
            if saver is not None:
                saver.cancel()

    async def _end(self, work: generate.Work, result: JobResult, detached: Detached) -> None:
        job, limit = work.spec.job, self._limits.detached_result_bytes
        self._d.telemetry.detached_ended(job, work.agent, result)
        if result.outcome is Outcome.DONE:
            state, value = DONE, generate.reply(work, result)
        else:
            state, value = FAILED, generate.error_of(job, result).to_wire()

        def also(transaction: Transaction) -> None:
            now = generate.now_ms()
            saved_jobs.finish(transaction, job, state, value, now_ms=now, max_result_bytes=limit)

        await generate.commit(self._d, work, result, also)
        if state == DONE:
            detached.result = value
        else:
            detached.error = from_wire(value)

    async def _save_end(
        self, agent: AgentId, job: JobId, state: str, value: dict[str, Any]
    ) -> None:
        """How the job ended; kept in memory, and tried again, while the disk refuses."""
        limit = self._limits.detached_result_bytes
        try:
            await self._d.database.write(
                lambda t: saved_jobs.finish(
                    t, job, state, value, now_ms=generate.now_ms(), max_result_bytes=limit
                )
            )
        except NotAsSaved:
            pass  # it never got as far as the disk
        except SyscallError as error:
            self._unsaved[job] = (agent, state, value)
            log.warning("job_end_not_saved", job=job, reason=error.message)

    async def _save_output(self, detached: Detached) -> None:
        """Save the output while it grows."""
        while True:
            changed = detached.changed
            start = detached.n_saved
            tokens = detached.tokens[start : detached.n_sure]
            if len(tokens) < SAVE_TOKENS:
                await changed.wait()
                continue
            try:
                await self._d.database.write(
                    partial(_append, detached.id, start, tokens, self._limits.max_tokens)
                )
            except (NotAsSaved, TooLarge):
                return  # it has ended meanwhile, or has said all that is kept
            except SyscallError as error:
                log.warning("output_not_saved", job=detached.id, reason=error.message)
                await changed.wait()
                continue
            detached.n_saved = start + len(tokens)

    async def tidy(self) -> None:
        """Save what couldn't be saved, and forget jobs that ended long ago."""
        for job, (agent, state, value) in list(self._unsaved.items()):
            del self._unsaved[job]
            await self._save_end(agent, job, state, value)
        limits = self._limits
        await self._d.database.write(
            lambda t: saved_jobs.expire(
                t,
                generate.now_ms(),
                keep_ms=limits.detached_keep_s * 1000,
                max_ended=limits.detached_ended,
                max_bytes=limits.detached_bytes,
            )
        )

    # ------------------------------------------------------------ following

    async def attach(self, call: Call) -> dict[str, Any]:
        """job.attach: the rest of a detached job, running or ended."""
        job, start = JobId(call.params["job"]), call.params["from_token"]
        detached = self._running.get(job)
        if detached is not None:
            await self._admit(call, detached.agent, job)
            return await self._follow(call, detached, start)
        if job in self._unsaved:
            agent, _state, error = self._unsaved[job]
            await self._admit(call, agent, job)
            raise from_wire(error)
        saved = await self._d.database.read(lambda t: saved_jobs.load(t, job))
        if saved is None or saved.result is None:
            raise NotFound(f"no job {job!r}", job=job)
        await self._admit(call, saved.agent, job)
        if saved.state != DONE:
            raise from_wire(saved.result)
        return self._rest(saved.result, start)

    async def _admit(self, call: Call, owner: AgentId, job: JobId) -> None:
        """Another agent may read what the job says where it may read the owner's things."""
        await self._d.access.admit(call, "read", Target("job", owner, job))

    async def _follow(self, call: Call, detached: Detached, start: int) -> dict[str, Any]:
        position, n_calls, state = start, 0, ""
        while not detached.has_ended:
            changed = detached.changed
            if call.params["stream"] and not call.session.is_stalled:
                if detached.state != state:
                    state = detached.state
                    call.emit(generate.news_of(detached.id, state, None))
                position, n_calls = self._emit(call, detached, position, n_calls)
            await changed.wait()
        if detached.result is None:
            assert detached.error is not None
            raise call.ended or detached.error
        if call.params["stream"]:
            self._emit(call, detached, position, n_calls)
        return self._rest(detached.result, start)

    def _emit(self, call: Call, detached: Detached, position: int, n_calls: int) -> tuple[int, int]:
        new, calls = detached.tokens[position:], detached.calls[n_calls:]
        if new:
            text = self._text_from(detached.tokens, position, detached.text)
            call.emit({"text": text, "tokens": new.tolist()})
        if calls:
            call.emit({"tool_calls": calls})
        return position + len(new), n_calls + len(calls)

    def _text_from(self, tokens: Sequence[int], start: int, text: str) -> str:
        """What the tokens from there on say; where they call tools, less than they are."""
        rest = self._d.prompter.detokenize(tokens[start:])
        if text.endswith(rest):
            return rest
        return text[len(self._d.prompter.detokenize(tokens[:start])) :]

    def _rest(self, result: dict[str, Any], start: int) -> dict[str, Any]:
        """A finished job's result from one of its tokens on."""
        if start == 0:
            return result
        text = self._text_from(result["tokens"], start, result["text"])
        rest = {**result, "tokens": result["tokens"][start:], "text": text}
        if "logprobs" in result:
            rest["logprobs"] = result["logprobs"][start:]
        return rest


def _append(
    job: JobId, start: int, tokens: array[int], max_tokens: int, transaction: Transaction
) -> None:
    saved_jobs.append(transaction, job, start, tokens, max_tokens)
