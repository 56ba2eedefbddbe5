"""llm.generate: from checked params to a job, and from its end to a reply and a committed turn.

Invariant: a context's log changes only here and in context.append, after the work has ended; a
call that fails, is cancelled or times out leaves it as it was, unless keep_partial.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aios_sdk.errors import (
    Cancelled,
    ContextFull,
    DeadlineExceeded,
    EngineFailed,
    InvalidParams,
    NotFound,
    SyscallError,
    TooLarge,
    Unavailable,
)
from aiosd.driver import JobRecord, JobResult
from aiosd.engine.base import MAX_SEED, GrammarError, JobSpec, Output, Sampling, TokenLogprob
from aiosd.engine.calls import to_json
from aiosd.engine.schema import SchemaError, to_grammar
from aiosd.kernel.model import AgentId, JobId, Outcome, Priority
from aiosd.server import recall, telemetry
from aiosd.server.offers import Offer, check_choice
from aiosd.server.prompts import MAX_CHARS_PER_TOKEN
from aiosd.services import context as contexts
from aiosd.services import saved_agents
from aiosd.services.access import Target
from aiosd.services.agents import Agent
from aiosd.services.context import Context, Turn
from aiosd.services.database import Transaction
from aiosd.services.entries import Entry

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def now_ms() -> int:
    """Wall-clock time, for timestamps that people read."""
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)


def new_job_id() -> JobId:
    """Unguessable, so that an id is no hint of how many jobs others have."""
    return JobId("j" + secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Work:
    """One llm.generate, prepared: all that its job and its turn are made of.

    is_kept  the context outlives the call
    offer    the tools that the answer may call
    """

    agent: AgentId
    params: dict[str, Any]
    context: Context
    is_kept: bool
    turn: Turn
    spec: JobSpec
    offer: Offer | None = None

    def calls_in(self, result: JobResult) -> list[dict[str, Any]]:
        """What the job called, whole calls only, as tool_calls has them."""
        return [] if self.offer is None else self.offer.reader(self.spec.job).push(result.calls)


async def run(daemon: Daemon, call: Call) -> dict[str, Any]:
    """One llm.generate, from its arrival to its reply."""
    p = call.params
    check_model(daemon, p.get("model"))
    check_max_tokens(daemon, p)
    check_choice(p)
    daemon.driver.admission.check(call.agent)
    if "context" in p:
        await daemon.access.admit(call, "write", target_of(daemon.contexts.get(p["context"])))
    job = new_job_id()
    if p["detach"]:
        return await daemon.detached.run(call, job)
    async with held_context(daemon, call.agent, p.get("context"), job) as context:
        work = await prepare(daemon, call.agent, p, context, job)
        result = await await_job(daemon, call, work)
        call.facts = telemetry.facts_of(result)
        await commit(daemon, work, result)
        if result.outcome is not Outcome.DONE:
            raise call.ended or error_of(job, result)
        return reply(work, result)


@contextlib.asynccontextmanager
async def held_context(
    daemon: Daemon, agent: AgentId, id_: str | None, job: JobId
) -> AsyncIterator[Context]:
    """A context that the agent may write, busy with the job meanwhile; without an id one of its
    own, that ends with it."""
    if id_ is None:
        model = daemon.model.info.name
        context = Context(contexts.new_context_id(), agent, model, now_ms(), now_ms())
        try:
            yield context
        finally:
            daemon.driver.drop_context(context.id)
        return
    context = reached(daemon, agent, id_)
    check_model(daemon, context.model)
    async with context.lock:
        context = reached(daemon, agent, id_)  # a call before this one may have deleted it
        contexts.check_idle(context)
        context.busy_with = job
    try:
        yield context
    finally:
        context.busy_with = None


def target_of(context: Context) -> Target:
    """The context as what access decides on."""
    return Target("context", context.agent, context.id)


def reached(daemon: Daemon, agent: AgentId, id_: str) -> Context:
    """The context so named, if the agent may write it (and whoever must confirm that has)."""
    context = daemon.contexts.get(id_)
    subject = daemon.access.subject(agent)
    daemon.access.check(subject, "write", target_of(context), is_confirmed=True)
    return context


async def prepare(
    daemon: Daemon, agent: AgentId, p: dict[str, Any], context: Context, job: JobId
) -> Work:
    """Render, tokenise and check, before anything is read."""
    daemon.awaited.came_back(context.id)
    if "recall" in p:
        await check_size(daemon, p)
        p = await recall.with_memories(daemon, agent, p, context, now_ms())
    n_chars = await check_size(daemon, p)
    turn, grammar, offer = await daemon.in_worker(
        lambda: _prepare(daemon, context, p), agent.uid, n_chars
    )
    check_fits(daemon, context, turn)
    seed = p["seed"] if "seed" in p else secrets.randbelow(MAX_SEED + 1)
    spec = JobSpec(
        job=job,
        context=context.id,
        tokens=context.tokens + turn.tokens,
        n_log=len(context.tokens),
        max_tokens=p["max_tokens"],
        sampling=Sampling(seed=seed, **{name: p[name] for name in _SAMPLING}),
        stop=tuple(p.get("stop", ())),
        grammar=grammar if offer is None else offer.grammar,
        marker=None if offer is None else offer.marker,
        n_logprobs=p["logprobs"],
        ignore_eos=p["ignore_eos"],
        uid=agent.uid,
    )
    return Work(agent, p, context, "context" in p, turn, spec, offer)


async def commit(
    daemon: Daemon,
    work: Work,
    result: JobResult,
    also: Callable[[Transaction], None] | None = None,
) -> None:
    """The turn joins the log, if it has ended well (or is to be kept as it is), before anyone is
    told.  also: more for the same write."""
    is_done = result.outcome is Outcome.DONE
    if work.is_kept and (is_done or work.params["keep_partial"]):
        entry, tokens = joined(work, result)
        now = now_ms()
        n_used = result.cost.n_prompt + len(result.tokens)

        def more(transaction: Transaction) -> None:
            saved_agents.add(transaction, work.agent, now, n_used)
            if also is not None:
                also(transaction)

        with _saving(daemon, work, result):
            await daemon.contexts.append(work.context, entry, tokens, now, more)
    elif also is not None:
        with _saving(daemon, work, result):
            await daemon.database.write(also)


def joined(work: Work, result: JobResult) -> tuple[Entry, array[int]]:
    """What the turn adds to the log: what was given, and what the job said."""
    calls = work.calls_in(result)
    entry = contexts.entry_of(work.context, work.turn, result.text, len(result.tokens), calls)
    return entry, work.turn.tokens + result.tokens


@contextlib.contextmanager
def _saving(daemon: Daemon, work: Work, result: JobResult) -> Iterator[None]:
    """The job isn't the driver's any more, and nobody has been told its end: job.list knows it."""
    daemon.saving[work.spec.job] = (work, result)
    try:
        yield
    finally:
        daemon.saving.pop(work.spec.job, None)


async def prefetch(daemon: Daemon, call: Call, context: Context) -> int:
    """Read the context's tokens now; returns how many needn't be read by its next job."""
    job = new_job_id()
    async with held_context(daemon, context.agent, context.id, job):
        if len(context.tokens) < 2:
            return 0  # the last token is always read with what follows
        check_fits(daemon, context, Turn(array("i")))
        spec = JobSpec(
            job=job,
            context=context.id,
            tokens=context.tokens[:],
            n_log=len(context.tokens),
            max_tokens=0,
            sampling=Sampling(temperature=0),
            uid=context.agent.uid,
        )
        params = {"priority": "background", "stream": False}
        work = Work(call.agent, params, context, True, Turn(array("i")), spec)
        result = await await_job(daemon, call, work)
        if result.outcome is not Outcome.DONE:
            raise call.ended or error_of(job, result)
        return len(context.tokens) - 1


def check_model(daemon: Daemon, name: str | None) -> None:
    """NotFound unless it is the loaded model (or none was named)."""
    loaded = daemon.model.info.name
    if name is not None and name != loaded:
        raise NotFound(f"model {name!r} is not loaded; {loaded!r} is", model=name)


async def check_size(daemon: Daemon, params: Mapping[str, Any]) -> int:
    """Characters in a prompt; TooLarge if they can't be a context, before it is tokenised."""
    messages = params.get("messages", ())
    n_chars = sum(len(m["content"]) for m in messages) + len(params.get("prompt", ""))
    data = [m["tool_calls"] for m in messages if "tool_calls" in m]
    data += params.get("tools", ())
    if data:
        n_chars += await daemon.in_worker(lambda: sum(len(to_json(one)) for one in data))
    limit = MAX_CHARS_PER_TOKEN * daemon.model.info.slot_tokens
    if n_chars > limit:
        field = next(name for name in ("prompt", "messages", "tools") if name in params)
        raise TooLarge(
            f"{field}: {n_chars} characters, limit is {limit} for a context window of "
            f"{daemon.model.info.slot_tokens} tokens",
            field=field,
            limit=limit,
        )
    return n_chars


def check_fits(daemon: Daemon, context: Context, turn: Turn) -> None:
    """ContextFull, with both numbers, when a turn leaves no room for a single token."""
    limit = daemon.model.info.slot_tokens
    n_tokens = len(context.tokens) + len(turn.tokens)
    if n_tokens + 1 > limit:
        raise ContextFull(
            f"{n_tokens} tokens ({len(context.tokens)} in the context, {len(turn.tokens)} new) and "
            f"at least one to answer with don't fit; the context window is {limit} tokens",
            limit_tokens=limit,
            n_tokens=n_tokens,
        )


def check_max_tokens(daemon: Daemon, p: Mapping[str, Any]) -> None:
    """InvalidParams if it asks for longer answers than the configuration allows."""
    limit = daemon.config.limits.max_tokens
    if p["max_tokens"] > limit:
        raise InvalidParams(
            f"max_tokens is {p['max_tokens']}, limit is {limit}", field="max_tokens", limit=limit
        )


def _prepare(
    daemon: Daemon, context: Context, p: dict[str, Any]
) -> tuple[Turn, str | None, Offer | None]:
    """In a worker: the turn's tokens, the grammar if one is asked for, and the tools if any are."""
    turn = daemon.prompter.turn(context, p, generate=True)
    grammar: str | None = None
    if "schema" in p:
        try:
            grammar = to_grammar(p["schema"])
        except SchemaError as error:
            raise InvalidParams(str(error), field="schema") from error
    elif "grammar" in p:
        grammar = p["grammar"]
    if grammar is not None:
        try:
            daemon.model.grammar(grammar).close()
        except GrammarError as error:
            field = "schema" if "schema" in p else "grammar"
            raise InvalidParams(f"{field}: {error}", field=field) from error
    return turn, grammar, daemon.offers.of(p)


async def await_job(daemon: Daemon, call: Call, work: Work) -> JobResult:
    """Submit the job and wait until nothing works on it any more."""
    await daemon.submitting.turn()
    if call.ended is not None:
        raise call.ended  # it was cancelled while the prompt was prepared
    job = work.spec.job
    is_streaming = work.params["stream"]
    record = new_record(daemon, work)
    record.on_output = listener(daemon, work, call.emit if is_streaming else None)
    if is_streaming:
        record.on_state = lambda state, position: call.emit(news_of(job, state, position))
    call.job = job
    with counted(daemon, work.agent) as agent:
        daemon.driver.submit(record)
        if is_streaming and call.session.is_stalled:
            daemon.stall(job, is_stalled=True)
        result = await record.done
        agent.n_tokens += result.cost.n_prompt + len(result.tokens)
        return result


def listener(
    daemon: Daemon, work: Work, emit: Callable[[dict[str, Any]], None] | None
) -> Callable[[Output], None]:
    """Hears what a job says: chunks go out, of words as they come and of calls as each is whole,
    and a context that calls tools is expected back."""
    calls = None if work.offer is None else work.offer.reader(work.spec.job)
    names: list[str] = []

    def hear(output: Output) -> None:
        if emit is not None:
            emit(words_of(output))
        found = [] if calls is None else calls.push(output.calls)
        if not found:
            return
        if emit is not None:
            emit({"tool_calls": found})
        names.extend(call["name"] for call in found)
        daemon.awaited.called(work.context.id, work.agent.uid, names)

    return hear


def new_record(daemon: Daemon, work: Work) -> JobRecord:
    """The job as the driver takes it.  QuotaExceeded if its agent has used up its tokens."""
    return JobRecord(
        meter=daemon.processes.meter(work.agent),
        spec=work.spec,
        agent=work.agent,
        priority=Priority[work.params["priority"].upper()],
        done=daemon.loop.create_future(),
    )


@contextlib.contextmanager
def counted(daemon: Daemon, id_: AgentId) -> Iterator[Agent]:
    """The agent has one job more meanwhile."""
    agent = daemon.agents.enter(id_, now_ms())
    agent.n_jobs += 1
    try:
        yield agent
    finally:
        agent.n_jobs -= 1
        daemon.agents.leave(id_)


def news_of(job: JobId, state: str, position: int | None) -> dict[str, Any]:
    """A chunk that tells what happens to a job."""
    return {"job": job, "state": state} | ({} if position is None else {"position": position})


def words_of(output: Output) -> dict[str, Any]:
    """A chunk of words."""
    chunk: dict[str, Any] = {"text": output.text, "tokens": list(output.tokens)}
    if output.logprobs:
        chunk["logprobs"] = [_logprob(entry) for entry in output.logprobs]
    return chunk


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    return {
        "token": entry.token,
        "text": entry.text,
        "logprob": entry.logprob,
        "top": entry.top,
    }


def error_of(job: JobId, result: JobResult) -> SyscallError:
    """What a job that hasn't ended well is answered with."""
    match result.outcome:
        case Outcome.DEADLINE:
            return DeadlineExceeded("not done by its deadline")
        case Outcome.UNAVAILABLE:
            return Unavailable("the daemon is shutting down")
        case Outcome.FAILED:
            words = result.ending.error if result.ending else None
            return EngineFailed(words or "the engine failed")
        case _:
            return Cancelled(f"job {job} was cancelled", job=job)


def reply(work: Work, result: JobResult) -> dict[str, Any]:
    """The result of an llm.generate that ended well."""
    spec, ending = work.spec, result.ending
    assert ending is not None  # DONE comes from the engine, with an ending
    calls = work.calls_in(result)
    return {
        "text": result.text,
        "tokens": result.tokens.tolist(),
        "finish": "tool_calls" if calls and ending.finish == "stop" else ending.finish,
        **({} if work.offer is None else {"tool_calls": calls}),
        **({} if ending.stop_string is None else {"stop_string": ending.stop_string}),
        **({"logprobs": [_logprob(entry) for entry in result.logprobs]} if spec.n_logprobs else {}),
        **({"context": spec.context} if work.is_kept else {}),
        **({"recalled": work.params["recalled"]} if "recalled" in work.params else {}),
        "job": spec.job,
        "seed": spec.sampling.seed,
        "usage": usage_of(work, result),
    }


def usage_of(work: Work, result: JobResult) -> dict[str, int]:
    """What a job cost."""
    cost = result.cost
    return {
        "prompt_tokens": len(work.turn.tokens),
        "cached_tokens": result.n_cached,
        "output_tokens": len(result.tokens),
        "queue_ms": cost.queue_ns // 10**6,
        "waited_ms": cost.waited_ns // 10**6,
        "ttft_ms": (cost.total_ns if cost.ttft_ns is None else cost.ttft_ns) // 10**6,
        "total_ms": cost.total_ns // 10**6,
        "slices": cost.slices,
        "parks": cost.parks,
    }
