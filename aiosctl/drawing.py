"""The parts that a picture in SVG is made of: colours, fills, text, rectangles.  Pure."""

from __future__ import annotations

from html import escape

from aiosctl.render import one_line

Box = tuple[float, float, float, float]
"""x, y, width, height."""

PALETTE = (
    "#3b78b8", "#d9772b", "#2f9e8f", "#c94a53", "#9a6fb8", "#5b9a3c",
    "#b58a1b", "#d0649a", "#8a6a55", "#5f7f95",
)  # fmt: skip

STYLE = """
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #22262b; }
.bg { fill: #ffffff; } .dim { fill: #6a727c; } .small { font-size: 11px; }
.title { font-size: 15px; font-weight: 600; } .end { text-anchor: end; }
.mid { text-anchor: middle; }
.grid { stroke: #d8dde3; } .row { fill: #f1f3f6; } .load { fill: #9aa4b0; fill-opacity: .55; }
.on { fill: #ffffff; font-size: 11px; pointer-events: none; }
.stay { fill-opacity: .22; } .wait { fill-opacity: .22; stroke-dasharray: 3 2; }
.over { pointer-events: none; } .mark { stroke: #ffffff; stroke-width: .6; }
.s { stroke: #6a727c; stroke-width: .6; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e7eb; } .bg { fill: #17191d; } .dim { fill: #98a1ac; }
.grid { stroke: #353a42; } .row { fill: #20242a; } .load { fill: #7b8591; }
.mark { stroke: #17191d; } .on { fill: #ffffff; }
}
"""
PATTERNS = """<defs>
<pattern id="prefill" width="6" height="6" patternUnits="userSpaceOnUse" \
patternTransform="rotate(45)"><rect width="2.6" height="6" fill="#ffffff" fill-opacity=".6"/>\
</pattern>
<pattern id="reread" width="5" height="5" patternUnits="userSpaceOnUse">\
<circle cx="2.5" cy="2.5" r="1.4" fill="#ffffff" fill-opacity=".75"/></pattern>
</defs>"""


def colour(index: int) -> str:
    """One that differs from its neighbours, and can be read on white and on black."""
    if index < len(PALETTE):
        return PALETTE[index]
    return f"hsl({index * 137.5 % 360:.0f}, 45%, {46 + 8 * (index // 10 % 2)}%)"


def text(x: float, y: float, words: str, style: str = "") -> str:
    """style: classes of STYLE."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(one_line(words))}</text>'


def rect(box: Box, rest: str) -> str:
    """A rectangle; rest is what follows its place, up to the end of the element."""
    x, y, width, height = box
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" {rest}'


def filled(kind: str, box: Box, fill: str, tip: str) -> list[str]:
    """A rectangle that shows what was done, and says it when pointed at."""
    style = f'class="{kind}" fill="{fill}"'
    if kind == "wait":
        style += f' stroke="{fill}"'
    title = f"><title>{escape(tip)}</title></rect>" if tip else "/>"
    parts = [rect(box, style + title)]
    if kind in ("prefill", "reread"):
        parts.append(rect(box, f'class="over" fill="url(#{kind})"/>'))
    return parts
