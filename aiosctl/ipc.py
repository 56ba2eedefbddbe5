"""Messages between agents.  The noun `ipc`."""

from __future__ import annotations

import json
from typing import Any

import click

from aiosctl import render, standard_input, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group


def _text(body: Any) -> str:
    return body if isinstance(body, str) else render.compact(body)


COLUMNS = (
    render.Column("MESSAGE", "message"),
    render.Column("FROM", "from"),
    render.Column("AGE", "sent_ms", units.age, right=True),
    render.Column("TIMES", "deliveries", right=True),
    render.Column("BODY", "body", _text),
)
MAILBOXES = (
    render.Column("AGENT", "agent"),
    render.Column("MESSAGES", "messages", right=True),
    render.Column("SIZE", "bytes", units.size, right=True),
    render.Column("LEASED", "leased", right=True),
    render.Column("RECEIVERS", "receivers", right=True),
    render.Column("OLDEST", "oldest_ms", units.age, right=True),
)


@click.group(
    cls=Group,
    examples=(
        ("tell an agent something", 'aiosctl ipc send ada "Begin."'),
        ("as another agent, with data", "aiosctl --agent bob ipc send ada --data '{\"n\": 1}'"),
        ("what came, waiting up to a minute", "aiosctl --agent ada ipc receive --wait 60"),
        ("where something waits", "aiosctl ipc ls"),
    ),
)
def ipc() -> None:
    """Send messages to agents, receive an agent's (--agent), and see what waits."""


@ipc.command()
@click.argument("to", metavar="AGENT")
@click.argument("text", required=False)
@click.option("--data", metavar="JSON", help="A JSON value instead of a text.")
@click.option("--key", metavar="KEY", help="Sent again with the same key, it is one message.")
@pass_app
def send(app: App, to: str, text: str | None, data: str | None, key: str | None) -> None:
    """Put a message into AGENT's mailbox and print its id. TEXT '-' or none: standard input."""
    if text is not None and data is not None:
        raise click.UsageError("give TEXT or --data, not both")
    if data is not None:
        body = _parsed(data)
    else:
        body = standard_input.read_text("the text") if text in (None, "-") else text
    result = app.call("ipc.send", to=to, body=body, key=key)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["message"])


@ipc.command()
@click.option("--wait", type=click.FloatRange(0, 86400), default=0, metavar="S", help="So long.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 256), default=1, show_default=True, help="So many."
)
@click.option("--keep", is_flag=True, help="Look only: they are there for the next who receives.")
@pass_app
def receive(app: App, wait: float, limit: int, keep: bool) -> None:
    """Print what came into the agent's mailbox, and acknowledge it."""
    result = app.call("ipc.receive", timeout_ms=round(wait * 1000), limit=limit)
    messages = result["messages"]
    if app.is_json:
        render.document(result)
    else:
        render.table(messages, COLUMNS, nothing=f"no messages for agent {app.name}")
    render.flush()  # they are acknowledged when they have been shown
    if not keep:
        for message in messages:
            app.call("ipc.ack", message=message["message"])


@ipc.command("ls")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="So many."
)
@click.option("--after", metavar="AGENT", help="Those that come after this one.")
@pass_app
def list_(app: App, limit: int, after: str | None) -> None:
    """List the mailboxes that hold something, of all of your agents: figures, no words."""
    result = app.call("ipc.list", all=True, limit=limit, after=after)
    if app.is_json:
        render.document(result)
        return
    render.table(result["mailboxes"], MAILBOXES, nothing="no messages wait")
    if "next" in result:
        render.hint(f"there are more: --after {result['next']}")


@ipc.command()
@click.argument("owner", metavar="AGENT")
@pass_app
def clear(app: App, owner: str) -> None:
    """Forget all that waits in AGENT's mailbox."""
    result = app.call("ipc.clear", agent=owner)
    if app.is_json:
        render.document(result)
    else:
        render.line(str(result["messages"]))


def _parsed(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise click.UsageError(f"--data is not JSON: {error}") from error
