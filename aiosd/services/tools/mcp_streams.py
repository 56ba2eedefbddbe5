"""What the SDK wants of a stream of messages beside sending or receiving: to be left and walked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio

T = TypeVar("T")


class Stream(ABC):
    """Closed when it is left."""

    @abstractmethod
    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


class Receiving(Stream, Generic[T]):
    """Gives messages one after another until EndOfStream."""

    @abstractmethod
    async def receive(self) -> T: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None
