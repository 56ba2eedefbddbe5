"""One llm.generate or job.attach, shown while it happens: words, what the job waits for, Ctrl-C.

Rule 1: stdout gets the model's words and nothing else.
Rule 2: Ctrl-C reaches the daemon as a cancel before anything else happens here.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from aios_sdk.errors import Cancelled
from aiosctl import render, units
from aiosctl.app import App

if TYPE_CHECKING:
    from aios_sdk.stream import Stream

# Draw at the cursor and come back, so that news can stand in the middle of an answer's line.
_REMEMBER, _RETURN_AND_ERASE = "\x1b7", "\x1b8\x1b[J"


def generate(
    app: App,
    params: dict[str, Any],
    *,
    show: Callable[[dict[str, Any]], None],
    is_patient: bool,
    shows_news: bool = False,
    method: str = "llm.generate",
) -> dict[str, Any]:
    """Make the call; ``show`` gets each chunk of words (and of news, if asked); the result.

    is_patient  what Ctrl-C does after it has cancelled: wait until the daemon confirms and raise
                Interrupted (the connection can go on; a second Ctrl-C doesn't wait), or raise
                KeyboardInterrupt at once
    """
    with (
        app.stream(method, **params) as stream,
        _Waiting() as waiting,
        interrupts(stream, is_patient=is_patient),
    ):
        for chunk in stream:
            is_news = "state" in chunk
            if is_news:
                waiting.tell(chunk)
            else:
                waiting.end()
            if shows_news or not is_news:
                show(chunk)
        return stream.result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the job, and the daemon has said so."""


class Printer:
    """Prints words as they come, and at the end what hadn't come as a chunk."""

    def __init__(self, *, is_immediate: bool = True) -> None:
        self._is_immediate = is_immediate
        self._n_printed = 0
        self._last = ""

    def show(self, chunk: dict[str, Any]) -> None:
        if self._is_immediate:
            self._print(chunk["text"])

    def finish(self, text: str) -> None:
        """The rest of the text, and the newline that a line needs to be one."""
        self._print(text[self._n_printed :])
        self.end_line()

    def end_line(self) -> None:
        if self._n_printed and self._last != "\n":
            render.verbatim("\n")
            render.flush()

    def _print(self, text: str) -> None:
        if text:
            self._n_printed += len(text)  # first: Ctrl-C may come as soon as the words are out
            self._last = text[-1]
            render.words(text)


def remark_on(result: dict[str, Any], max_tokens: int) -> None:
    """Tell a person why the answer ends in mid-sentence."""
    if result["finish"] == "length":
        render.hint(f"the answer was cut at {max_tokens} tokens; --max-tokens allows more")


def cost(result: dict[str, Any]) -> str:
    """What it cost, on one line."""
    usage = result["usage"]
    return (
        f"{usage['prompt_tokens']} prompt + {usage['cached_tokens']} cached + "
        f"{usage['output_tokens']} output tokens, "
        f"queued {units.milliseconds(usage['queue_ms'])}, "
        f"first token {units.milliseconds(usage['ttft_ms'])}, "
        f"total {units.milliseconds(usage['total_ms'])} "
        f"({units.milliseconds(usage['waited_ms'])} waiting), "
        f"slices {usage['slices']}, parks {usage['parks']}, "
        f"seed {result['seed']}, finish {result['finish']}"
    )


@contextmanager
def interrupts(stream: Stream, *, is_patient: bool) -> Iterator[None]:
    """Ctrl-C cancels the call, as generate() says of is_patient."""
    is_cancelled = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_cancelled
        is_cancelled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one doesn't wait
        stream.cancel()
        if not is_patient:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except Cancelled:
        if is_cancelled:
            raise Interrupted from None
        raise  # someone else ended the job
    finally:
        signal.signal(signal.SIGINT, before)


class _Waiting:
    """What the job waits for, on stderr, for someone who watches; gone when it goes on."""

    def __init__(self) -> None:
        self._is_watched = render.is_terminal(sys.stderr)
        self._is_shown = False
        self._has_words = False

    def __enter__(self) -> _Waiting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._erase()

    def tell(self, chunk: dict[str, Any]) -> None:
        # Once words flow, taking turns is nobody's business; only a pause explains the silence.
        self._erase()
        state = chunk["state"]
        if not self._is_watched or state in ("running", "resumed"):
            return
        if self._has_words and state == "queued":
            return
        sys.stderr.write(_REMEMBER + render.one_line(_says(chunk)))
        sys.stderr.flush()
        self._is_shown = True

    def end(self) -> None:
        self._erase()
        self._has_words = True

    def _erase(self) -> None:
        if self._is_shown:
            sys.stderr.write(_RETURN_AND_ERASE)
            sys.stderr.flush()
            self._is_shown = False


def _says(chunk: dict[str, Any]) -> str:
    match chunk:
        case {"state": "queued", "position": int(position)}:
            return f"queued, position {position}…"
        case {"state": "queued"}:
            return "queued…"
        case {"state": "waiting_approval", "request": request}:
            return f"[waits for a person: aiosctl approvals approve {request}]"
        case {"state": "paused", "job": job}:
            return f"[paused; aiosctl job resume {job}]"
        case {"state": state}:
            return f"[{state}]"
        case _:
            return ""
