"""Plots as numbers that a page's template draws: where bars, points and ticks stand, the same on every machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data.card.display import short

WIDTH, HEIGHT = 360, 220  # of the drawing; a phone shows it at about this size, so letters stay readable
LEFT, RIGHT, TOP, BOTTOM = 46, 340, 10, 176


class Bar(NamedTuple):
    """A rectangle and what it says."""

    x: str
    y: str
    width: str
    height: str
    says: str


class Tick(NamedTuple):
    """A place on an axis."""

    at: str
    label: str


@dataclass(frozen=True)
class Plot:
    """Everything a template needs to draw it, and its content in words."""

    title: str
    caption: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...] = ()
    points: tuple[tuple[str, str], ...] = ()


def histogram(title: str, counts: Sequence[int], *, x_label: str, y_label: str) -> Plot:
    """Bars of counts [bins], bin k of values from 2^k to below 2^(k+1); empty ends are left out."""
    full = [place for place, count in enumerate(counts) if count]
    first, last = full[0], full[-1] + 1
    step = (RIGHT - LEFT) / (last - first)
    tops = _even_ticks(max(counts))
    scale = (BOTTOM - TOP) / tops[-1]
    bars = tuple(
        Bar(
            _at(LEFT + (place - first) * step + 1),
            _at(BOTTOM - counts[place] * scale),
            _at(max(1.0, step - 2)),
            _at(counts[place] * scale),
            f"{bin_name(place)}: {counts[place]:,}",
        )
        for place in range(first, last)
    )
    every = -(-(last - first) // 8)
    x_ticks = tuple(
        Tick(_at(LEFT + (place - first) * step), short(2**place)) for place in range(first, last + 1, every)
    )
    y_ticks = tuple(Tick(_at(BOTTOM - top * scale), short(top)) for top in tops)
    commonest = max(full, key=lambda place: counts[place])
    caption = (
        f"{sum(counts):,} {y_label} of {2**first:,} to {2**last - 1:,} {x_label}; most often {bin_name(commonest)}. "
        "Each bar is twice as wide a range as the one before it."
    )
    return Plot(title, caption, x_label, y_label, x_ticks, y_ticks, bars=bars)


def bin_name(place: int) -> str:
    """The values of a histogram's bin."""
    return f"{2**place:,} to {2 ** (place + 1) - 1:,}" if place else "1"


def rank_frequency(title: str, points: Sequence[tuple[int, int]]) -> Plot:
    """How often the n-th commonest token stands, on two logarithmic axes (Zipf, 1949), and the exponent that fits."""
    right = max(1, math.ceil(math.log10(points[-1][0])))
    top = max(1, math.ceil(math.log10(points[0][1])))
    x_step, y_step = (RIGHT - LEFT) / right, (BOTTOM - TOP) / top
    drawn = tuple(
        (_at(LEFT + math.log10(rank) * x_step), _at(BOTTOM - math.log10(count) * y_step)) for rank, count in points
    )
    x_ticks = tuple(Tick(_at(LEFT + power * x_step), short(10**power)) for power in range(right + 1))
    y_ticks = tuple(Tick(_at(BOTTOM - power * y_step), short(10**power)) for power in range(top + 1))
    caption = (
        f"The commonest token stands {points[0][1]:,} times, the rarest, of rank {points[-1][0]:,}, {points[-1][1]:,}."
    )
    if (slope := _slope(points)) is not None:
        caption += f" Frequency falls with rank to the power of {-slope:.2f}; words of natural language have about 1."
    return Plot(title, caption, "rank", "times it stands", x_ticks, y_ticks, points=drawn)


def _slope(points: Sequence[tuple[int, int]]) -> float | None:
    """Of the line through the logarithms that fits best, or None for fewer than three points."""
    if len(points) < 3:
        return None
    x, y = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    x_mean, y_mean = math.fsum(x) / len(x), math.fsum(y) / len(y)
    spread = math.fsum((a - x_mean) ** 2 for a in x)
    return math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / spread


def _even_ticks(largest: int) -> list[int]:
    """About four round numbers from 0 to at least `largest`."""
    step = next(
        digit * 10**power
        for power in range(len(str(largest)))
        for digit in (1, 2, 5)
        if digit * 10**power * 5 >= largest
    )
    return list(range(0, largest + step, step))


def _at(place: float) -> str:
    return f"{place:.1f}".replace("-0.0", "0.0")
