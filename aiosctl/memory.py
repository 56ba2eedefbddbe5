"""Notes: what agents remember.  The noun `memory`."""

from __future__ import annotations

import json
from typing import Any

import click

from aiosctl import render, standard_input, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

COLUMNS = (
    render.Column("MEMORY", "memory"),
    render.Column("TAGS", "tags", ",".join),
    render.Column("AGE", "created_ms", units.age, right=True),
    render.Column("USED", "used_ms", units.age, right=True),
    render.Column("CONTENT", "content"),
)
FOUND = (
    render.Column("SCORE", "score", lambda score: f"{score:.3f}", right=True),
    render.Column("MEMORY", "memory"),
    render.Column("TAGS", "tags", ",".join),
    render.Column("CONTENT", "content"),
)
MODES = ("hybrid", "words", "vectors")

_tags = click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="May be repeated.")
_of = click.option(
    "--of", "owner", metavar="AGENT", help="Another agent's notes, where you may reach them."
)
_metadata = click.option("--metadata", metavar="JSON", help="A JSON object kept with it.")


@click.group(
    cls=Group,
    examples=(
        ("remember something", 'aiosctl memory add --tag user "The user likes tea."'),
        ("a whole file", "aiosctl memory add < notes.txt"),
        ("what is remembered of it", 'aiosctl memory search "what do they drink?"'),
        ("as another agent of yours", "aiosctl --agent ada memory ls"),
    ),
)
def memory() -> None:
    """Add, find, change and remove what an agent (--agent) remembers."""


@memory.command()
@click.argument("content", required=False)
@_tags
@_metadata
@click.option("--agentic", is_flag=True, help="Let the model add keywords, tags and links.")
@_of
@pass_app
def add(
    app: App,
    /,
    *,
    content: str | None,
    tags: tuple[str, ...],
    metadata: str | None,
    agentic: bool,
    owner: str | None,
) -> None:
    """Keep a note and print its id. CONTENT '-' or none: standard input."""
    result = app.call(
        "memory.add",
        content=_content(content),
        tags=list(tags) or None,
        metadata=_parsed(metadata),
        agentic=agentic,
        agent=owner,
    )
    if app.is_json:
        render.document(result)
    else:
        render.line(result["memory"])


@memory.command()
@click.argument("memory_id", metavar="MEMORY")
@pass_app
def get(app: App, memory_id: str) -> None:
    """Print a note's content; with --json all of it."""
    result = app.call("memory.get", memory=memory_id)
    if app.is_json:
        render.document(result)
    else:
        render.block(result["content"])


@memory.command()
@click.argument("memory_id", metavar="MEMORY")
@pass_app
def show(app: App, memory_id: str) -> None:
    """Show a note with its figures: tags, links, what the model wrote about it."""
    note = app.call("memory.get", memory=memory_id)
    if app.is_json:
        render.document(note)
        return
    render.record(
        [
            ("memory", note["memory"]),
            ("tags", ", ".join(note["tags"]) or None),
            ("metadata", render.compact(note["metadata"]) if note["metadata"] else None),
            ("keywords", ", ".join(note.get("keywords", [])) or None),
            ("summary", note.get("summary")),
            ("links", " ".join(note["links"]) or None),
            ("model's part", note["enrichment"]),
            ("size", units.size(note["bytes"])),
            ("age", units.age(note["created_ms"])),
            ("last used", units.age(note["used_ms"]) + " ago"),
        ]
    )
    render.line("")
    render.block(note["content"])


@memory.command("ls")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="So many."
)
@click.option("--after", metavar="MEMORY", help="Those that come after this one.")
@_of
@pass_app
def list_(app: App, limit: int, after: str | None, owner: str | None) -> None:
    """List an agent's notes in the order they were made."""
    result = app.call("memory.list", limit=limit, after=after, agent=owner)
    if app.is_json:
        render.document(result)
        return
    render.table(result["notes"], COLUMNS, nothing=f"no notes of agent {owner or app.name}")
    if "next" in result:
        render.hint(f"there are more: --after {result['next']}")


@memory.command()
@click.argument("query", required=False)
@click.option("-k", type=click.IntRange(1, 100), default=5, show_default=True, help="So many.")
@click.option(
    "-m", "--mode", type=click.Choice(MODES), default="hybrid", show_default=True, help="How."
)
@_tags
@_of
@pass_app
def search(
    app: App,
    /,
    *,
    query: str | None,
    k: int,
    mode: str,
    tags: tuple[str, ...],
    owner: str | None,
) -> None:
    """Find the notes that fit best: by words, by meaning (vectors), or both.

    A note must have all the tags. Without an embedding model only words count, and stderr says so.
    """
    result = app.call(
        "memory.search",
        query=_content(query, "query"),
        k=k,
        mode=mode,
        tags=list(tags) or None,
        agent=owner,
    )
    if app.is_json:
        render.document(result)
        return
    if "reason" in result:
        render.remark(result["reason"])
    render.table(
        result["results"], FOUND, nothing=f"agent {owner or app.name} remembers nothing of it"
    )


@memory.command()
@click.argument("memory_id", metavar="MEMORY")
@click.argument("content", required=False)
@_tags
@_metadata
@pass_app
def update(
    app: App, memory_id: str, content: str | None, tags: tuple[str, ...], metadata: str | None
) -> None:
    """Change a note's content ('-': standard input), tags or metadata; what isn't given stays."""
    if content is None and not tags and metadata is None:
        raise click.UsageError("nothing to change: give CONTENT, --tag or --metadata")
    result = app.call(
        "memory.update",
        memory=memory_id,
        content=None if content is None else _content(content),
        tags=list(tags) or None,
        metadata=_parsed(metadata),
    )
    if app.is_json:
        render.document(result)


@memory.command(examples=(("forget two of them", "aiosctl memory rm m1 m2"),))
@click.argument("memories", nargs=-1, required=True, metavar="MEMORY…")
@pass_app
def rm(app: App, memories: tuple[str, ...]) -> None:
    """Remove notes."""
    for_each(app, memories, lambda one: app.call("memory.delete", memory=one))


@memory.command()
@_of
@pass_app
def stats(app: App, owner: str | None) -> None:
    """Show an agent's notes in figures: on the disk, and the hot ones in RAM.

    FAULTS are notes that were read back from the disk, EVICTIONS those that had to leave the RAM.
    """
    result = app.call("memory.stats", agent=owner)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("notes", result["notes"]),
            ("size", f"{units.size(result['bytes'])} of {units.size(result['quota_bytes'])}"),
            ("hot notes", result["hot_notes"]),
            (
                "hot size",
                f"{units.size(result['hot_bytes'])} of {units.size(result['hot_limit_bytes'])}",
            ),
            ("hits", result["hits"]),
            ("faults", result["faults"]),
            ("evictions", result["evictions"]),
            ("without vector", result["without_vector"]),
            ("embedder", result.get("embedder")),
        ]
    )


def _content(given: str | None, what: str = "content") -> str:
    return standard_input.read_text(f"the {what}") if given in (None, "-") else str(given)


def _parsed(metadata: str | None) -> dict[str, Any] | None:
    if metadata is None:
        return None
    try:
        parsed = json.loads(metadata)
    except ValueError as error:
        raise click.UsageError(f"--metadata is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise click.UsageError("--metadata is not a JSON object")
    return parsed
