"""A daemon for the clients' tests that does exactly what its script says, over a real socket.

Each connection runs the next script, in a thread of its own; what goes wrong in a script fails
the test at stop().
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios_sdk.wire import (
    Decoder,
    Message,
    Notification,
    Request,
    encode_notification,
    encode_response,
)

PATIENCE_S = 20.0  # only reached when a test fails
HELLO = {
    "protocol": 1,
    "server": {"name": "peer", "version": "0"},
    "uid": 1000,
    "agent": "tester",
    "session": "s1",
    "limits": {},
    "rights": ["llm", "context"],
    "models": ["m"],
}

Script = Callable[["Conversation"], None]


class Conversation:
    """The peer's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = Decoder()
        self._messages: list[Message] = []

    def next(self) -> Message | None:
        """The client's next message; None when it has hung up."""
        while not self._messages:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._messages = self._decoder.feed(data)
        return self._messages.pop(0)

    def expect(self, method: str) -> Any:
        """The client's next message, which must be this one."""
        message = self.next()
        assert isinstance(message, Request | Notification), message
        assert message.method == method
        return message

    def expect_end(self) -> None:
        assert self.next() is None

    def hello(self) -> None:
        self.answer("sys.hello", HELLO)

    def answer(self, method: str, result: dict[str, object]) -> None:
        self.reply(self.expect(method), result)

    def reply(self, request: Request, result: object) -> None:
        self.send(encode_response(request.id, None, result))

    def refuse(self, request: Request, code: str, message: str, **data: object) -> None:
        error = {"code": code, "message": message, "data": data}
        self.send(encode_response(request.id, error, None))

    def chunk(self, request: Request, text: str) -> None:
        chunk = {"id": request.id, "text": text, "tokens": [len(text)]}
        self.send(encode_notification("stream", chunk))

    def news(self, request: Request, job: str, state: str = "running") -> None:
        chunk = {"id": request.id, "job": job, "state": state}
        self.send(encode_notification("stream", chunk))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)


class Peer:
    """Listens at .path and runs the scripts, one connection each, in order."""

    def __init__(self, path: Path, scripts: tuple[Script, ...]) -> None:
        self.path = str(path)
        self._scripts = list(scripts)
        self._faults: list[BaseException] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(PATIENCE_S)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """Wait for the scripts to end; raise what went wrong in them."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a script waits for the client"
        self._listener.close()
        if self._faults:
            raise self._faults[0]

    def _accept(self) -> None:
        try:
            for script in self._scripts:
                sock, _ = self._listener.accept()
                sock.settimeout(PATIENCE_S)
                thread = threading.Thread(target=self._run, args=(script, sock))
                self._threads.append(thread)
                thread.start()
        except BaseException as fault:
            self._faults.append(fault)

    def _run(self, script: Script, sock: socket.socket) -> None:
        with sock:
            try:
                script(Conversation(sock))
            except BaseException as fault:
                self._faults.append(fault)


def generation(text: str, **more: object) -> dict[str, object]:
    """A result of llm.generate."""
    usage = dict.fromkeys(
        ("prompt_tokens", "cached_tokens", "output_tokens", "queue_ms"), 1
    ) | dict.fromkeys(("ttft_ms", "total_ms", "slices", "parks"), 2)
    fixed = {"text": text, "tokens": [7], "finish": "stop", "seed": 5, "job": "j1", "usage": usage}
    return fixed | more
