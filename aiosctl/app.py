"""What every command shares: where the daemon is, who we are there, and how to answer.

Rule: connecting happens at the first call, so that help and usage errors need no daemon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from aios_sdk.paths import given_agent
from aiosctl import render

if TYPE_CHECKING:
    from aios_sdk.client import Client
    from aios_sdk.stream import Stream

DEFAULT_AGENT = "aiosctl"


@dataclass(slots=True)
class App:
    """The global options, and the connection they lead to."""

    socket: str | None = None
    agent: str | None = None
    is_json: bool = False
    timeout_s: float | None = None  # how long the daemon may say nothing
    _client: Client | None = None

    @property
    def name(self) -> str:
        """The agent we act as."""
        return self.agent or given_agent(self.socket) or DEFAULT_AGENT

    @property
    def client(self) -> Client:
        """The connection to the daemon, made now if it isn't there yet."""
        if self._client is None:
            from aios_sdk.client import Client

            self._client = Client(
                self.socket, agent=self.name, timeout_s=self.timeout_s, on_waiting=_tell_waiting
            )
        return self._client

    @property
    def hello(self) -> dict[str, Any]:
        """What the daemon said of itself and of us, e.g. the uid it sees (in a container that may
        not be os.getuid())."""
        return self.client.hello

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.client.call(method, **params)

    def stream(self, method: str, **params: Any) -> Stream:
        return self.client.stream(method, **params)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _tell_waiting(chunk: dict[str, Any]) -> None:
    render.remark(f"waiting for a person: aiosctl approvals approve {chunk['request']}")


pass_app = click.make_pass_decorator(App)
