"""Long texts of one uid take turns, however their callers behave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from aiosd.server.workers import LONG_TEXT, Workers

LIMIT_S = 20


class Work:
    """Long pieces of work that end when told; counts how many run at once."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._n_running = 0
        self.n_done = 0
        self.most = 0

    def __call__(self) -> str:
        with self._lock:
            self._n_running += 1
            self.most = max(self.most, self._n_running)
        self.begun.release()
        assert self.may_end.acquire(timeout=LIMIT_S)
        with self._lock:
            self._n_running -= 1
            self.n_done += 1
        return "done"

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, True, LIMIT_S)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(body: Callable[[Workers, Work], object]) -> None:
    async def main() -> None:
        workers, work = Workers(asyncio.get_running_loop()), Work()
        try:
            async with asyncio.timeout(LIMIT_S):
                await body(workers, work)  # type: ignore[misc]  # every body here is a coroutine
        finally:
            work.may_end.release(100)
            workers.close()

    asyncio.run(main())


def test_of_one_uids_long_texts_one_is_worked_on_at_a_time() -> None:
    async def body(workers: Workers, work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            results = [tasks.create_task(workers.run(work, 1, LONG_TEXT)) for _ in range(5)]
            for n_done in range(5):
                await work.wait_begun()
                # One more comes while others wait: the turn is not to be made anew for it.
                if n_done < 3:
                    results.append(tasks.create_task(workers.run(work, 1, LONG_TEXT)))
                await settle()
                work.may_end.release()
            work.may_end.release(3)
        assert [task.result() for task in results] == ["done"] * 8
        assert work.most == 1
        assert workers.n_uids == 0

    run(body)


def test_another_uid_and_short_texts_dont_wait_for_a_long_one() -> None:
    async def body(workers: Workers, work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(workers.run(work, 1, LONG_TEXT))
            await work.wait_begun()
            assert await workers.run(lambda: "short", 1, LONG_TEXT - 1) == "short"
            assert await workers.run(lambda: "other", 2, LONG_TEXT) == "other"
            work.may_end.release()

    run(body)


def test_who_cancels_and_asks_again_waits_for_the_work_it_left() -> None:
    async def body(workers: Workers, work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            left = tasks.create_task(workers.run(work, 1, LONG_TEXT))
            await work.wait_begun()
            waiter = tasks.create_task(workers.run(work, 1, LONG_TEXT))
            await settle()
            left.cancel()
            waiter.cancel()
            again = tasks.create_task(workers.run(work, 1, LONG_TEXT))
            await settle()
            assert workers.n_uids == 1
            work.may_end.release(2)
            assert await again == "done"
        assert work.n_done == 2  # the one that was only waiting never began
        assert work.most == 1
        assert workers.n_uids == 0

    run(body)


def test_what_the_work_raises_is_raised_and_the_turn_passes_on() -> None:
    async def body(workers: Workers, work: Work) -> None:
        try:
            await workers.run(lambda: 1 // 0, 1, LONG_TEXT)
        except ZeroDivisionError:
            pass
        else:
            raise AssertionError("nothing was raised")
        assert await workers.run(lambda: "next", 1, LONG_TEXT) == "next"
        await settle()
        assert workers.n_uids == 0

    run(body)
