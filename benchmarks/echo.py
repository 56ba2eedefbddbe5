"""The limit for a null syscall: a bare MessagePack-RPC echo on uvloop, with no daemon behind it.

`python -m benchmarks.echo SOCKET` serves until it is ended.  Same framing, same library, the
least there can be between a request and its response.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import msgpack
import uvloop


class Echo(asyncio.Protocol):
    """Answers every request with an empty map."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker()
        self._pack = msgpack.Packer().pack

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, no subclass of it

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        for message in self._unpacker:
            self._transport.write(self._pack([1, message[1], None, {}]))


async def serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1]))
