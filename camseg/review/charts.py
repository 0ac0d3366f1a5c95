"""Values -> charts as SVG text, which stand in a page without any file or script beside it."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 200, 44, 34, 10
"""The size of a chart and of its margins, in pixels."""
_RIGHT: Final = 12


def histogram(values: Sequence[float], title: str, *, low: float = 0.0, high: float = 1.0, bins: int = 20) -> str:
    """How many values lie in each of ``bins`` equal parts of [low, high]; those beyond count at the ends."""
    counts = [0] * bins
    for value in values:
        share = (value - low) / (high - low) if high > low else 0.0
        counts[min(bins - 1, max(0, int(share * bins)))] += 1
    top = max(1, *counts)
    step = (WIDTH - LEFT - _RIGHT) / bins
    bars = []
    for place, count in enumerate(counts):
        tall = (HEIGHT - TOP - BOTTOM) * count / top
        start, end = (low + (high - low) * edge / bins for edge in (place, place + 1))
        bars.append(
            f'<rect class="bar" x="{LEFT + place * step + 1:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
            f'width="{step - 2:.1f}" height="{tall:.1f}"><title>{start:.3g} to {end:.3g}: {count}</title></rect>'
        )
    described = f"{title}: {len(values)} masks, median {_median(values):.3g}" if values else f"{title}: none known"
    return _chart(title, described, bars, (low, high), (0, top), "masks")


def curves(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str, across: str, up: str, described: str
) -> str:
    """Named lines of (x, y) points over [0, 1], x across; ``described`` says in words what they show."""
    top = max((max(ys) for _, _, ys in lines), default=1.0) or 1.0
    drawn = []
    for place, (name, xs, ys) in enumerate(lines):
        wide, tall = WIDTH - LEFT - _RIGHT, HEIGHT - TOP - BOTTOM
        every = max(1, len(xs) // 300)
        kept = [*range(0, len(xs), every), *([len(xs) - 1] if len(xs) else [])]
        points = " ".join(
            f"{LEFT + wide * xs[n]:.1f},{HEIGHT - BOTTOM - tall * ys[n] / top:.1f}" for n in dict.fromkeys(kept)
        )
        drawn.append(f'<polyline class="line line{place}" points="{points}"><title>{escape(name)}</title></polyline>')
        x = LEFT + 8 + place * 96
        drawn.append(f'<line class="line line{place}" x1="{x}" y1="{TOP + 6}" x2="{x + 16}" y2="{TOP + 6}"/>')
        drawn.append(f'<text x="{x + 20}" y="{TOP + 10}">{escape(name)}</text>')
    return _chart(title, described, drawn, (0.0, 1.0), (0.0, top), up, across)


def _chart(
    title: str,
    described: str,
    marks: Sequence[str],
    across: tuple[float, float],
    up: tuple[float, float],
    up_name: str,
    across_name: str = "",
) -> str:
    base = HEIGHT - BOTTOM
    ticks = [
        f'<text x="{LEFT + (WIDTH - LEFT - _RIGHT) * share:.0f}" y="{base + 14}" text-anchor="middle">'
        f"{_number(across[0] + (across[1] - across[0]) * share)}</text>"
        for share in (0.0, 0.5, 1.0)
    ]
    ticks += [
        f'<text x="{LEFT - 4}" y="{base + 4 - (base - TOP) * share:.0f}" text-anchor="end">'
        f"{_number(up[0] + (up[1] - up[0]) * share)}</text>"
        for share in (0.0, 1.0)
    ]
    middle, right = (LEFT + WIDTH - _RIGHT) // 2, WIDTH - _RIGHT
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{right}" y2="{base}"/>{"".join(marks)}{"".join(ticks)}'
        f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(across_name)}</text>'
        f'<text x="12" y="{(base + TOP) // 2}" text-anchor="middle" transform="rotate(-90 12 {(base + TOP) // 2})">'
        f"{escape(up_name)}</text></svg><figcaption>{escape(title)}</figcaption></figure>"
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 or value == math.floor(value) else f"{value:.2g}"


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
