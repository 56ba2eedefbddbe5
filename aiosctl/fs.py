"""Files that agents keep in the daemon.  The noun `fs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiosctl import render, transfer, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

if TYPE_CHECKING:
    from aios_sdk.storage import Storage

MODES = ("hybrid", "words", "vectors")
MAX_DIFF_BYTES = 8 * 1024 * 1024  # of one side; more is no reading for a person


FILES = (
    render.Column("VERSION", "version", right=True),
    render.Column("SIZE", "size", units.size, right=True),
    render.Column("CHANGED", "modified_ms", units.age, right=True),
    render.Column("PATH", "path"),  # the last one, since it alone may contain spaces
)
VERSIONS = (
    render.Column("VERSION", "version", right=True),
    render.Column("SIZE", "size", units.size, right=True),
    render.Column("AGE", "created_ms", units.age, right=True),
    render.Column("BY", "by"),
    render.Column("ACT", "op"),
    render.Column("SHA256", "sha256", lambda sha256: sha256[:16]),
)
FOUND = (
    render.Column("SCORE", "score", lambda score: f"{score:.3f}", right=True),
    render.Column("PATH", "path"),
    render.Column("TEXT", "snippet"),
)
GRANTS = (
    render.Column("GRANT", "grant"),
    render.Column("OF", "agent"),
    render.Column("TO", "holder"),
    render.Column("MODE", "mode"),
    render.Column("ENDS", "expires_ms", units.left, right=True),
    render.Column("PATH", "path", lambda path: path or "/"),
)


def _storage(app: App) -> Storage:
    return app.client.storage


@click.group(
    cls=Group,
    examples=(
        ("store a file", "aiosctl fs put report.pdf"),
        ("store what a program says", "date | aiosctl fs put - log.txt --append"),
        ("see what there is", "aiosctl fs ls -r"),
        ("go back to what it was", "aiosctl fs rollback log.txt"),
        ("let another agent read it", "aiosctl fs share log.txt ada"),
        ("as another agent of yours", "aiosctl --agent ada fs cat aiosctl:/log.txt"),
    ),
)
def fs() -> None:
    """Store, read and share an agent's (--agent) files; every write is a version.

    NAME:/PATH is another agent's file, where a grant or a group allows.
    """


# ---------------------------------------------------------------- looking


@fs.command("ls")
@click.argument("path", default="")
@click.option("-r", "--recursive", is_flag=True, help="What is below directories too.")
@pass_app
def list_(app: App, path: str, recursive: bool) -> None:
    """List a directory; directories end in a slash."""
    entries = list(_storage(app).list(path, recursive=recursive))
    if app.is_json:
        render.document({"entries": entries})
        return
    rows: list[dict[str, Any]] = [
        {**entry, "size": None, "path": f"{entry['path']}/"}
        if entry["kind"] == "directory"
        else dict(entry)
        for entry in entries
    ]
    where = f"in {path}" if path else f"of agent {app.name}"
    render.table(rows, FILES, nothing=f"no files {where}")


@fs.command()
@click.argument("path", default="")
@pass_app
def stat(app: App, path: str) -> None:
    """Show a file's figures; without PATH what is used of the quota."""
    result = app.call("storage.stat", path=path)
    if app.is_json:
        render.document(result)
        return
    usage = result.get("usage")
    if usage is not None:
        render.record(
            [
                ("bytes", f"{units.size(usage['bytes'])} of {units.size(usage['quota_bytes'])}"),
                ("files", f"{usage['files']} of {usage['quota_files']}"),
                (
                    "history",
                    f"{units.size(usage['history_bytes'])} of "
                    f"{units.size(usage['history_limit_bytes'])}",
                ),
            ]
        )
        return
    render.record(
        [
            ("path", result["path"]),
            ("kind", result["kind"]),
            ("size", units.size(result["size"])),
            ("changed", units.age(result["modified_ms"]) + " ago"),
            ("version", result.get("version")),
            ("sha256", result.get("sha256")),
        ]
    )


@fs.command()
@click.argument("path")
@pass_app
def log(app: App, path: str) -> None:
    """List a file's versions, newest first; also of one that was deleted."""
    result = app.call("storage.history", path=path)
    if app.is_json:
        render.document(result)
        return
    render.table(result["versions"], VERSIONS, nothing=f"no versions of {path}")


@fs.command(
    examples=(
        ("what the last write changed", "aiosctl fs diff notes.txt"),
        ("what has changed since version 2", "aiosctl fs diff notes.txt 2"),
    )
)
@click.argument("path")
@click.argument("old", type=click.IntRange(min=1), required=False)
@click.argument("new", type=click.IntRange(min=1), required=False)
@pass_app
def diff(app: App, path: str, old: int | None, new: int | None) -> None:
    """Compare two versions of a text file: OLD (the one before) and NEW (the current one)."""
    import difflib

    kept = [v for v in _storage(app).history(path) if "sha256" in v]
    numbers = [v["version"] for v in kept]
    after = new if new is not None else max(numbers, default=1)
    before = old if old is not None else max((n for n in numbers if n < after), default=after)
    sizes = {v["version"]: v["size"] for v in kept}
    if max(sizes.get(before, 0), sizes.get(after, 0)) > MAX_DIFF_BYTES:
        raise click.UsageError(
            f"{path} has more than {units.size(MAX_DIFF_BYTES)}: get both versions and compare them"
        )
    texts = [_storage(app).read(path, version=number) for number in (before, after)]
    if any(b"\0" in text for text in texts):
        render.line(f"binary versions {before} and {after} " + _verdict(texts))
        return
    one, other = (text.decode(errors="replace").splitlines() for text in texts)
    names = f"{path} (version {before})", f"{path} (version {after})"
    for line in difflib.unified_diff(one, other, *names, lineterm=""):
        render.line(line)


def _verdict(texts: list[bytes]) -> str:
    return "are the same" if texts[0] == texts[1] else "differ"


@fs.command()
@click.argument("query")
@click.option("-k", type=click.IntRange(1, 100), default=5, show_default=True, help="So many.")
@click.option(
    "-m", "--mode", type=click.Choice(MODES), default="hybrid", show_default=True, help="How."
)
@click.option("--path", default="", metavar="DIR", help="Only below this directory.")
@pass_app
def search(app: App, query: str, k: int, mode: str, path: str) -> None:
    """Find text files: by words, by meaning (vectors), or both."""
    result = app.call("storage.search", query=query, k=k, mode=mode, path=path)
    if app.is_json:
        render.document(result)
        return
    if "reason" in result:
        render.remark(f"found by {result['mode']}: {result['reason']}")
    if result["pending"]:
        render.remark(f"{result['pending']} files aren't indexed yet")
    render.table(result["results"], FOUND, nothing="nothing found")


# ---------------------------------------------------------------- contents


@fs.command(examples=(("an earlier version", "aiosctl fs cat notes.txt --version 2"),))
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="As of 'fs log'.")
@pass_app
def cat(app: App, paths: tuple[str, ...], version: int | None) -> None:
    """Write files to standard output, as they are."""
    is_terminal = sys.stdout.isatty()
    for path in paths:
        with _storage(app).open(path, version=version) as file:
            if is_terminal:
                render.words(file.readall().decode(errors="replace"))
            else:
                transfer.receive(file, sys.stdout.buffer.write, lambda _n: None)
    render.flush()


@fs.command(
    examples=(
        ("under its own name", "aiosctl fs put report.pdf"),
        ("under another one", "aiosctl fs put report.pdf papers/2024.pdf"),
        ("from a pipe", "pg_dump | aiosctl fs put - dump.sql"),
    )
)
@click.argument("source", metavar="FILE")
@click.argument("path", required=False)
@click.option("-a", "--append", is_flag=True, help="To the end of what is there.")
@click.option("--create", is_flag=True, help="Only if there is nothing yet.")
@pass_app
def put(app: App, source: str, path: str | None, append: bool, create: bool) -> None:
    """Store a local FILE ('-': standard input) as PATH, and print the version.

    It is seen when all of it has come; Ctrl-C leaves everything as it was.
    """
    if append and create:
        raise click.UsageError("--append and --create exclude each other")
    if path is None and source == "-":
        raise click.UsageError("give a PATH: standard input has no name")
    name = path if path is not None else Path(source).name
    if path is not None and path.endswith("/") and source != "-":
        name = path + Path(source).name
    with transfer.local_source(source) as (file, size):
        target = _storage(app).open(name, "ab" if append else "xb" if create else "wb")
        with transfer.progress(name, size) as advance:
            transfer.send(file, target, advance)
    written = target.written
    assert written is not None  # or send() had raised
    if app.is_json:
        render.document(written)
    else:
        render.line(f"{written['path']} version {written['version']}")


@fs.command(
    examples=(("an earlier version, to another name", "aiosctl fs get a.txt old --version 2"),)
)
@click.argument("path")
@click.argument("target", required=False, metavar="FILE")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="As of 'fs log'.")
@click.option("-f", "--force", is_flag=True, help="Replace a local file.")
@pass_app
def get(app: App, path: str, target: str | None, version: int | None, force: bool) -> None:
    """Copy a stored file to a local FILE ('-': standard output).

    The local file is there when all of it has come; Ctrl-C leaves none.
    """
    with _storage(app).open(path, version=version) as file:
        if target == "-":
            transfer.receive(file, sys.stdout.buffer.write, lambda _n: None)
            render.flush()
            return
        local = Path(target or Path(path).name)
        if local.is_dir():
            local = local / Path(path).name
        with (
            transfer.local_target(local, replaces=force) as out,
            transfer.progress(path, file.size) as advance,
        ):
            transfer.receive(file, out.write, advance)
    if app.is_json:
        render.document({"path": path, "version": file.version, "file": str(local)})
    else:
        render.line(str(local))


# ---------------------------------------------------------------- changing


@fs.command(examples=(("a directory with all in it", "aiosctl fs rm -r old"),))
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("-r", "--recursive", is_flag=True, help="Directories with all in them.")
@pass_app
def rm(app: App, paths: tuple[str, ...], recursive: bool) -> None:
    """Delete files. Their versions stay for a while: 'fs rollback' brings a file back."""
    for_each(app, paths, lambda one: app.call("storage.delete", path=one, recursive=recursive))


@fs.command()
@click.argument("path")
@click.argument("to")
@click.option("-f", "--replace", is_flag=True, help="In the place of a file that is there.")
@pass_app
def mv(app: App, path: str, to: str, replace: bool) -> None:
    """Move a file, with its history, or a directory."""
    result = app.call("storage.rename", path=path, to=to, replace=replace)
    if app.is_json:
        render.document(result)


@fs.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@pass_app
def mkdir(app: App, paths: tuple[str, ...]) -> None:
    """Make directories, and those above them."""
    for_each(app, paths, lambda one: app.call("storage.mkdir", path=one))


@fs.command(
    examples=(
        ("undo the last write, or a deletion", "aiosctl fs rollback notes.txt"),
        ("to a version of 'fs log'", "aiosctl fs rollback notes.txt --version 2"),
    )
)
@click.argument("path")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="As of 'fs log'.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="So many versions back.")
@pass_app
def rollback(app: App, path: str, version: int | None, steps: int | None) -> None:
    """Make what an earlier version held the current one; that is a new version itself."""
    if version is not None and steps is not None:
        raise click.UsageError("give --version or --steps, not both")
    result = app.call("storage.rollback", path=path, version=version, steps=steps)
    if app.is_json:
        render.document(result)
    else:
        render.line(f"{result['path']} version {result['version']}")


# ---------------------------------------------------------------- sharing


@fs.command(
    examples=(
        ("an agent may read a directory", "aiosctl fs share papers ada"),
        ("a group may write for a day", "aiosctl fs share papers @team --write --for 86400"),
    )
)
@click.argument("path")
@click.argument("with_", metavar="AGENT|@GROUP")
@click.option("-w", "--write", is_flag=True, help="It may write and delete too.")
@click.option("--for", "expires_s", type=click.IntRange(min=1), metavar="S", help="For S seconds.")
@pass_app
def share(app: App, path: str, with_: str, write: bool, expires_s: int | None) -> None:
    """Let another agent of yours at a file, or a directory with all in it ('.': all files).

    Prints the grant's id. The other agent names the file as YOURS:/PATH.
    """
    given = {"path": path, "with": with_, "mode": "write" if write else "read"}
    result = app.call("storage.share", **given, expires_s=expires_s)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["grant"])


@fs.command()
@pass_app
def grants(app: App) -> None:
    """List what this agent shares, and what is shared with it."""
    result = app.call("storage.grants")
    if app.is_json:
        render.document(result)
        return
    render.table([*result["given"], *result["held"]], GRANTS, nothing="nothing is shared")


@fs.command()
@click.argument("grants", nargs=-1, required=True, metavar="GRANT…")
@pass_app
def revoke(app: App, grants: tuple[str, ...]) -> None:
    """End grants of this agent's."""
    for_each(app, grants, lambda one: app.call("storage.revoke", grant=one))
