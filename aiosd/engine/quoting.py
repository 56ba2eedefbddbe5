"""Who wrote what in a rendered text: so that what a message quotes of a control token makes none.

Characters of a message that could be part of a control token's text (it is in there, or its
beginning or end touches the template's text) are replaced one to one by private-use characters
before rendering, so that each says where it came from, and put back afterwards.  Not covered: a
template that rewrites the inside of messages (lower(), replace()) into a control text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiosd.engine.template import TemplateError


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text and whether texts of control tokens in it become them."""

    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """What to tokenise, segment by segment, in order."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


class Marker:
    """Knows the control texts, and which parts of a text could become part of one."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        texts = sorted({text for text in control_texts if text}, key=lambda t: (-len(t), t))
        self.texts = frozenset(texts)
        self.alphabet = sorted(set("".join(texts)))
        whole = "|".join(map(re.escape, texts)) or r"(?!)"
        self.overlapping = re.compile(f"(?=({whole}))", re.DOTALL)
        self.beginnings = {text[:n] for text in texts for n in range(1, len(text))}
        self.endings = {text[n:] for text in texts for n in range(1, len(text))}
        self.insides = "\0".join(texts)  # no text holds NUL: it ends C strings
        self.longest = max(map(len, texts), default=0)

    def spans(self, content: str) -> list[tuple[int, int]]:
        """The parts that are a control text, or could complete one with what is beside them."""
        spans = [match.span(1) for match in self.overlapping.finditer(content)]
        # Templates trim: what may come to stand at the edge counts as the edge too.
        start = len(content) - len(content.lstrip())
        end = len(content.rstrip())
        for low, high in {(0, len(content)), (start, end)}:
            size = high - low
            if size <= 0:
                continue
            if size < self.longest and content[low:high] in self.insides:
                spans.append((low, high))
            for n in range(min(size, self.longest - 1), 0, -1):
                if content[high - n : high] in self.beginnings:
                    spans.append((high - n, high))
                    break
            for n in range(min(size, self.longest - 1), 0, -1):
                if content[low : low + n] in self.endings:
                    spans.append((low, low + n))
                    break
        return spans

    def marks(self, texts: Sequence[str], source: str) -> Marks:
        """A block of private-use characters that neither the messages nor the template use."""
        private = re.compile("[\U000f0000-\U0010fffd]")
        used = set(private.findall(source))
        for text in texts:
            used.update(private.findall(text))
        size = len(self.alphabet)
        first, last = 0xF0000, 0xFFFFD - size
        free = (
            [
                base
                for base in range(first, last, max(size, 1))
                if not any(chr(point) in used for point in range(base, base + size))
            ]
            if used
            else [first]
        )
        if not free:
            raise TemplateError("the messages use the whole private-use plane U+F0000 of Unicode")
        return Marks(self, free[0])


class Marks:
    """A reversible disguise for the characters of control texts."""

    def __init__(self, marker: Marker, base: int) -> None:
        self._marker = marker
        self._to = {ord(c): base + i for i, c in enumerate(marker.alphabet)}
        self._back = {point: char for char, point in self._to.items()}
        size = len(marker.alphabet)
        self._marked = re.compile(f"[{chr(base)}-{chr(base + size - 1)}]+" if size else r"(?!)")

    def mark(self, content: str) -> str:
        spans = self._marker.spans(content)
        if not spans:
            return content
        chars = list(content)
        for low, high in spans:
            chars[low:high] = content[low:high].translate(self._to)
        return "".join(chars)

    def unmark(self, marked_text: str) -> str:
        return marked_text.translate(self._back)

    def segments(self, marked_text: str) -> list[Segment]:
        """Put the characters back, and cut where a message's would have made a control token."""
        text = self.unmark(marked_text)
        from_messages = [match.span() for match in self._marked.finditer(marked_text)]
        cuts: list[tuple[int, int]] = []
        if from_messages:
            is_marked = bytearray(len(text))
            for low, high in from_messages:
                is_marked[low:high] = b"\1" * (high - low)
            is_quoted = bytearray(len(text))
            for match in self._marker.overlapping.finditer(text):
                low, high = match.span(1)
                for i in range(low, high):
                    is_quoted[i] |= is_marked[i]
            cuts = [match.span() for match in re.finditer(b"\1+", is_quoted)]
        segments: list[Segment] = []
        position = 0
        for low, high in cuts:
            segments.append(Segment(text[position:low], special=True))
            segments.append(Segment(text[low:high], special=False))
            position = high
        segments.append(Segment(text[position:], special=True))
        return [segment for segment in segments if segment.text]
