"""Token bytes to text, word by word: whole characters only, and never a part of a stop string.

Rule 1: the text of a job is always its tokens' bytes decoded as UTF-8, with U+FFFD for what is no
UTF-8.  A job cut by length in the middle of a character keeps those tokens and shows U+FFFD: the
next call on the context may complete the character.
Rule 2: text and tokens leave together, at borders between tokens that are borders between
characters, so what was released is never taken back.
Rule 3: a job ends with the token that completes a stop string.  If it completes several, the one
that begins first counts, and the longest of those.  Nothing waits for a longer one.
Rule 4: when a stop string begins inside a token, the text of that token before it is tokenised
anew; if that doesn't give the same text back, it is dropped, so that rule 1 holds.
Rule 5: from the marker on (calls.py) nothing is text: it goes out as calls, and stop strings don't
count in it.  A marker is watched for as a stop string is; one that is a control token has no text.
"""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from aiosd.engine.base import TokenLogprob, Vocabulary

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Words:
    """What may be shown now.  logprobs only for tokens that the model gave as they are.  calls:
    what the tokens say from the marker on."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: str = ""


@dataclass(slots=True)
class _Held:
    token: int
    logprob: TokenLogprob | None
    end: int  # of its text in the held text
    is_border: bool  # a character ends with it


class TextStream:
    """One job's words.  stop_string is set by the push that completes one; push no more then."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: tuple[str, ...] = (),
        marker: str | int | None = None,
    ) -> None:
        self._piece: Callable[[int], bytes] = vocabulary.piece
        self._vocabulary = vocabulary
        self._marker = marker
        self._stop = (*stop, marker) if isinstance(marker, str) and marker else stop
        self._stop_starts = frozenset(text[0] for text in self._stop)
        self._longest = max(map(len, self._stop), default=0)
        self._is_calling = marker == ""
        self._decoder = _utf8_decoder(errors="replace")
        self._held: list[_Held] = []
        self._text = ""  # of the held tokens, as far as it is decoded
        self.stop_string: str | None = None

    def push(self, token: int, logprob: TokenLogprob | None = None) -> Words | None:
        """Add a token; what may leave now, or None."""
        text = self._decoder.decode(self._piece(token))
        if self._is_calling or token == self._marker:
            return self._call(token, logprob, text)
        is_border = not self._decoder.getstate()[0]
        if is_border and not self._stop and not self._held:
            return Words(text, (token,), () if logprob is None else (logprob,))
        self._text += text
        self._held.append(_Held(token, logprob, len(self._text), is_border))
        if not self._stop:
            return self._release(len(self._text))
        found = min(
            (
                (place, -len(stop), stop)
                for stop in self._stop
                if (place := self._text.find(stop)) >= 0
            ),
            default=None,
        )
        if found is None:
            return self._release(self._safe_length())
        if found[2] == self._marker:
            return self._begin_calls(found[0])
        self.stop_string = found[2]
        return self._end_at(found[0])

    def finish(self, *, is_cut: bool = False) -> Words | None:
        """The job ends without a stop string: all that was held back.  is_cut: it had more to say,
        so that the beginning of a marker is no text."""
        self._text += self._decoder.decode(b"", final=True)
        if is_cut and self._held and isinstance(self._marker, str):
            for n in range(len(self._marker) - 1, 0, -1):
                if self._text.endswith(self._marker[:n]):
                    return self._begin_calls(len(self._text) - n)
        if self._held:
            self._held[-1].end = len(self._text)
            self._held[-1].is_border = True
        return self._release(len(self._text))

    def _begin_calls(self, length: int) -> Words:
        """All that was held leaves: as text up to there, as the beginning of calls from there."""
        self._is_calling = True
        words = Words(
            self._text[:length],
            tuple(held.token for held in self._held),
            tuple(held.logprob for held in self._held if held.logprob is not None),
            self._text[length:],
        )
        self._held.clear()
        self._text = ""
        return words

    def _call(self, token: int, logprob: TokenLogprob | None, text: str) -> Words:
        before = Words("", ()) if self._is_calling else self._begin_calls(len(self._text))
        logprobs = () if logprob is None else (logprob,)
        return Words(
            before.text, (*before.tokens, token), (*before.logprobs, *logprobs), before.calls + text
        )

    def _safe_length(self) -> int:
        """How much of the held text can't become part of a stop string."""
        text = self._text
        for place in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[place] in self._stop_starts:
                tail = text[place:]
                if any(stop.startswith(tail) for stop in self._stop):
                    return place
        return len(text)

    def _release(self, length: int) -> Words | None:
        """Let go of the tokens whose text lies within the first ``length`` held characters."""
        n_tokens = 0
        for index, held in enumerate(self._held):
            if held.end > length:
                break
            if held.is_border:
                n_tokens = index + 1
        if not n_tokens:
            return None
        leaving = self._held[:n_tokens]
        del self._held[:n_tokens]
        end = leaving[-1].end
        words = Words(
            self._text[:end],
            tuple(held.token for held in leaving),
            tuple(held.logprob for held in leaving if held.logprob is not None),
        )
        self._text = self._text[end:]
        for held in self._held:
            held.end -= end
        return words

    def _end_at(self, length: int) -> Words | None:
        """The last words: whole tokens before the stop string, and its own token's first part."""
        whole = self._release(length) or Words("", ())
        part = self._text[: length - len(whole.text)]
        self._held.clear()
        self._text = ""
        tokens = self._vocabulary.tokenize(part, special=False) if part else array("i")
        if b"".join(map(self._piece, tokens)) != part.encode():
            part, tokens = "", array("i")
        words = Words(whole.text + part, (*whole.tokens, *tokens), whole.logprobs)
        return words if words.tokens else None
