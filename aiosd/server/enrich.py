"""Agentic notes (A-MEM): the model writes keywords, a summary and tags for a note, which is then
linked with its nearest neighbours.  In the background, one note at a time, uids in turn.

Rule 1: the note is kept and found without it.  What waits is a mark in the database, so it is there
after a restart; how many of a uid may wait is limited.
Rule 2: a weak model can't break a note: what it writes is bounded twice (by the grammar, and here),
content and the person's tags stay, and a failure leaves the note as it was, marked `failed`.
Rule 3: a note whose content has changed meanwhile waits again.
Source: Xu et al., "A-MEM: Agentic Memory for LLM Agents", 2025: note construction, link generation.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from aios_sdk.errors import Busy, NotFound, SyscallError, Unavailable
from aios_sdk.syscalls import TABLE
from aiosd.kernel.model import AgentId, Outcome
from aiosd.server import generate
from aiosd.services import saved_notes
from aiosd.services.saved_notes import Note

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon

log = structlog.get_logger()

MAX_TOKENS = 256  # of an answer; the schema's longest is about as long
MAX_WORDS = 6  # keywords, and tags
WORD_CHARS = 40
SUMMARY_CHARS = 200
N_LINKS = 3
MAX_TAGS = 32  # of a note, the person's first

EXAMPLE = {
    "keywords": ["backup", "NAS", "disk full"],
    "context": "A nightly backup failed for lack of space.",
    "tags": ["operations", "storage"],
}
MESSAGES = (  # a small model follows an example where it would copy an instruction's words
    {"role": "system", "content": "You file notes: keywords, context, tags, as JSON."},
    {"role": "user", "content": "The nightly backup to the NAS failed: its disk was full."},
    {"role": "assistant", "content": json.dumps(EXAMPLE)},
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "keywords": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": WORD_CHARS},
            "minItems": 1,
            "maxItems": MAX_WORDS,
        },
        "context": {"type": "string", "minLength": 1, "maxLength": SUMMARY_CHARS},
        "tags": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": WORD_CHARS},
            "minItems": 1,
            "maxItems": MAX_WORDS,
        },
    },
    "required": ["keywords", "context", "tags"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Enrichment:
    """What the model wrote, within bounds."""

    keywords: tuple[str, ...]
    summary: str
    tags: tuple[str, ...]


def read(text: str) -> Enrichment | None:
    """What the model's answer says; None if it isn't what was asked for."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    match answer:
        case {"keywords": list(keywords), "context": str(context), "tags": list(tags)}:
            found = Enrichment(_words(keywords), _clean(context)[:SUMMARY_CHARS], _words(tags))
            return found if found.keywords or found.summary or found.tags else None
    return None


def _words(words: list[Any]) -> tuple[str, ...]:
    """Those that say something, each once."""
    clean = (_clean(word)[:WORD_CHARS].strip() for word in words if isinstance(word, str))
    told = (word for word in clean if any(letter.isalnum() for letter in word))
    return tuple(dict.fromkeys(told))[:MAX_WORDS]


def _clean(text: str) -> str:
    """Without what could leave its line."""
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text).strip()


class Turns:
    """Whose note is next: uids in turn, and within a uid its agents."""

    def __init__(self) -> None:
        self._uid = -1
        self._agent_of: dict[int, AgentId] = {}

    def next_of(self, waiting: Sequence[tuple[AgentId, str]]) -> tuple[AgentId, str]:
        """One of these, which are in the order of their agents and at least one."""
        uids = sorted({agent.uid for agent, _ in waiting})
        self._uid = next((uid for uid in uids if uid > self._uid), uids[0])
        of_uid = [one for one in waiting if one[0].uid == self._uid]
        last = self._agent_of.get(self._uid)
        chosen = next((one for one in of_uid if last is None or one[0] > last), of_uid[0])
        self._agent_of = {uid: self._agent_of[uid] for uid in uids if uid in self._agent_of}
        self._agent_of[self._uid] = chosen[0]
        return chosen


class Enricher:
    """The task that lets the model work on notes that wait for it."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A note waits, or what could not be done may go now."""
        self._wake.set()

    async def run(self) -> None:
        turns = Turns()
        put_off: set[AgentId] = set()  # till something happens
        while True:
            try:
                waiting = await self._d.database.read(saved_notes.waiting)
            except Unavailable:
                return  # the daemon goes down
            todo = [one for one in waiting if one[0] not in put_off]
            if not todo:
                await self._wake.wait()
                self._wake.clear()
                put_off.clear()
                continue
            agent, id_ = turns.next_of(todo)
            try:
                await self._enrich(agent, id_)
            except NotFound:
                pass  # it was deleted
            except SyscallError as error:
                log.info("enrichment_waits", agent=agent.name, uid=agent.uid, reason=error.message)
                put_off.add(agent)
            except Exception:  # a bug here is no reason to end the daemon
                log.exception("enrichment_bug", memory=id_, uid=agent.uid)
                put_off.add(agent)

    async def _enrich(self, agent: AgentId, id_: str) -> None:
        note = await self._d.database.read(lambda t: saved_notes.load(t, agent, id_))
        try:
            text = await self._ask(note)
        except (Busy, Unavailable):
            raise  # another time
        except SyscallError as error:  # it doesn't fit, was cancelled, the engine failed
            text = ""
            log.info("enrichment_failed", memory=id_, uid=agent.uid, reason=error.message)
        written = read(text)
        if written is None:
            await self._d.memory.enrich(note, enrichment=saved_notes.FAILED)
            return
        tags = tuple(dict.fromkeys((*note.tags, *written.tags)))[: max(MAX_TAGS, len(note.tags))]
        try:
            done = await self._d.memory.enrich(
                note,
                enrichment=saved_notes.DONE,
                keywords=written.keywords,
                summary=written.summary,
                tags=tags,
            )
        except SyscallError as error:  # a quota: the note stays as it was
            if isinstance(error, Unavailable | Busy | NotFound):
                raise
            log.info("enrichment_failed", memory=id_, uid=agent.uid, reason=error.message)
            await self._d.memory.enrich(note, enrichment=saved_notes.FAILED)
            return
        if done is not None:
            await self._d.memory.link(agent, id_, await self._d.memory.near(done, N_LINKS))

    async def _ask(self, note: Note) -> str:
        """The model's answer, as a job of the note's agent; "" if it was cut by length."""
        d, agent = self._d, note.agent
        d.driver.admission.check(agent)
        content = note.content[: d.model.info.slot_tokens]  # a token has a letter at least
        messages = [*MESSAGES, {"role": "user", "content": content}]
        p = TABLE["llm.generate"].validate(
            {
                "messages": messages,
                "schema": SCHEMA,
                "max_tokens": min(MAX_TOKENS, d.config.limits.max_tokens),
                "temperature": 0,
                "priority": "background",
            }
        )
        job = generate.new_job_id()
        async with generate.held_context(d, agent, None, job) as context:
            work = await generate.prepare(d, agent, p, context, job)
            record = generate.new_record(d, work)
            with generate.counted(d, agent):
                d.driver.submit(record)
                await asyncio.wait([record.done])  # not cancelled with us: the driver settles it
                result = record.done.result()
        if result.outcome is not Outcome.DONE:
            raise generate.error_of(job, result)
        assert result.ending is not None  # DONE comes with one
        return result.text if result.ending.finish == "stop" else ""
