"""llm.generate: from checked params to a job, and from its end to a reply and a committed turn.

Invariant: a context's log changes only here and in context.append, after the work has ended; a
call that fails, is cancelled or times out leaves it as it was, unless keep_partial.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aios_sdk.errors import (
    Cancelled,
    ContextFull,
    DeadlineExceeded,
    EngineFailed,
    InvalidParams,
    NotFound,
    SyscallError,
    Unavailable,
)
from aiosd.driver import JobRecord, JobResult
from aiosd.engine.base import MAX_SEED, GrammarError, JobSpec, Output, Sampling, TokenLogprob
from aiosd.engine.schema import SchemaError, to_grammar
from aiosd.kernel.model import JobId, Outcome, Priority
from aiosd.services import context as contexts
from aiosd.services.context import Context, Turn

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


async def run(daemon: Daemon, call: Call) -> dict[str, Any]:
    """One llm.generate, from its arrival to its reply."""
    p = call.params
    check_model(daemon, p.get("model"))
    _check_params(daemon, p)
    daemon.driver.check_room(call.agent.uid)
    job = new_job_id()
    if "context" in p:
        context = daemon.contexts.get(p["context"], call.agent)
        async with context.lock:
            contexts.check_idle(context)
            context.busy_with = job
    else:
        id_ = contexts.new_context_id()
        context = Context(id_, call.agent, daemon.model.info.name, now_ms(), now_ms())
    try:
        turn, grammar = await daemon.in_worker(lambda: _prepare(daemon, context, p))
        check_fits(daemon, context, turn)
        spec = JobSpec(
            job=job,
            context=context.id,
            tokens=context.tokens + turn.tokens,
            n_log=len(context.tokens),
            max_tokens=p["max_tokens"],
            sampling=Sampling(
                seed=p["seed"] if "seed" in p else secrets.randbelow(MAX_SEED + 1),
                **{name: p[name] for name in _SAMPLING},
            ),
            stop=tuple(p.get("stop", ())),
            grammar=grammar,
            n_logprobs=p["logprobs"],
            ignore_eos=p["ignore_eos"],
            uid=call.agent.uid,
        )
        result = await _await_job(daemon, call, spec)
        is_done = result.outcome is Outcome.DONE
        if "context" in p and (is_done or p["keep_partial"]):
            kept = Turn(turn.tokens + result.tokens, turn.messages, turn.is_open)
            contexts.commit(context, kept, result.text, now_ms())
        if not is_done:
            raise _error(call, result)
        return _reply(call, spec, turn, result)
    finally:
        context.busy_with = None
        if "context" not in p:
            daemon.driver.drop_context(context.id)


def check_model(daemon: Daemon, name: str | None) -> None:
    """NotFound unless it is the loaded model (or none was named)."""
    loaded = daemon.model.info.name
    if name is not None and name != loaded:
        raise NotFound(f"model {name!r} is not loaded; {loaded!r} is", model=name)


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


def _check_params(daemon: Daemon, p: dict[str, Any]) -> None:
    limit = daemon.config.limits.max_tokens
    if p["max_tokens"] > limit:
        raise InvalidParams(
            f"max_tokens is {p['max_tokens']}, limit is {limit}", field="max_tokens", limit=limit
        )


def _prepare(daemon: Daemon, context: Context, p: dict[str, Any]) -> tuple[Turn, str | None]:
    """In a worker: the turn's tokens, and the grammar if one is asked for."""
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
    return turn, grammar


async def _await_job(daemon: Daemon, call: Call, spec: JobSpec) -> JobResult:
    """Submit the job and wait until nothing works on it any more."""
    if call.ended is not None:
        raise call.ended  # it was cancelled while the prompt was prepared
    is_streaming = call.params["stream"]
    record = JobRecord(
        spec=spec,
        agent=call.agent,
        priority=Priority[call.params["priority"].upper()],
        done=daemon.loop.create_future(),
    )
    if is_streaming:
        record.on_output = lambda output: call.emit(_words(output))
        record.on_state = lambda state, position: call.emit(
            {"job": spec.job, "state": state} | ({} if position is None else {"position": position})
        )
    call.job = spec.job
    agent = daemon.agents.enter(call.agent, now_ms())
    agent.n_jobs += 1
    try:
        daemon.driver.submit(record)
        if is_streaming and call.session.is_stalled:
            daemon.stall(spec.job, is_stalled=True)
        result = await record.done
        agent.n_tokens += result.cost.n_prompt + len(result.tokens)
        return result
    finally:
        agent.n_jobs -= 1
        daemon.agents.leave(call.agent)


def _words(output: Output) -> dict[str, Any]:
    chunk: dict[str, Any] = {"text": output.text, "tokens": list(output.tokens)}
    if output.logprobs:
        chunk["logprobs"] = [_logprob(entry) for entry in output.logprobs]
    return chunk


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    return {**asdict(entry), "top": [list(top) for top in entry.top]}


def _error(call: Call, result: JobResult) -> SyscallError:
    if call.ended is not None:
        return call.ended
    match result.outcome:
        case Outcome.DEADLINE:
            return DeadlineExceeded("not done by its deadline")
        case Outcome.UNAVAILABLE:
            return Unavailable("the daemon is shutting down")
        case Outcome.FAILED:
            words = result.ending.error if result.ending else None
            return EngineFailed(words or "the engine failed")
        case _:
            return Cancelled(f"job {call.job} was cancelled", job=call.job)


def _reply(call: Call, spec: JobSpec, turn: Turn, result: JobResult) -> dict[str, Any]:
    ending, cost = result.ending, result.cost
    assert ending is not None  # DONE comes from the engine, with an ending
    return {
        "text": result.text,
        "tokens": result.tokens.tolist(),
        "finish": ending.finish,
        **({} if ending.stop_string is None else {"stop_string": ending.stop_string}),
        **({"logprobs": [_logprob(entry) for entry in result.logprobs]} if spec.n_logprobs else {}),
        **({"context": spec.context} if "context" in call.params else {}),
        "job": spec.job,
        "seed": spec.sampling.seed,
        "usage": {
            "prompt_tokens": len(turn.tokens),
            "cached_tokens": result.n_cached,
            "output_tokens": len(result.tokens),
            "queue_ms": cost.queue_ns // 10**6,
            "waited_ms": cost.waited_ns // 10**6,
            "ttft_ms": (cost.total_ns if cost.ttft_ns is None else cost.ttft_ns) // 10**6,
            "total_ms": cost.total_ns // 10**6,
            "slices": cost.slices,
            "parks": cost.parks,
        },
    }
