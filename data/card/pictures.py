"""Pictures for people: drawn with the characters of a terminal, and small PNG files for a page."""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_RAMP = " .:-=+*#%@"  # dark to bright


def draw(pixels: Pixels, *, columns: int, colour: bool) -> Iterator[str]:
    """Lines that show an image [H, W, C], a character two pixels above each other: in 24-bit colour, or a grey ramp."""
    width = min(columns, pixels.shape[1])
    rows = max(1, round(pixels.shape[0] * width / pixels.shape[1] / 2))
    return _blocks(pixels, width, rows) if colour else _greys(pixels, width, rows)


def _blocks(pixels: Pixels, width: int, rows: int) -> Iterator[str]:
    found = np.asarray(as_image(pixels).convert("RGB").resize((width, 2 * rows), Image.Resampling.BOX))
    for upper, lower in zip(found[::2].tolist(), found[1::2].tolist(), strict=True):
        cells = [
            "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*above, *below)
            for above, below in zip(upper, lower, strict=True)
        ]
        yield "".join(cells) + "\x1b[0m"


def _greys(pixels: Pixels, width: int, rows: int) -> Iterator[str]:
    found = np.asarray(as_image(pixels).convert("L").resize((width, rows), Image.Resampling.BOX), np.int64)
    for row in (found * len(_RAMP) // 256).tolist():
        yield "".join(_RAMP[level] for level in row)


def png(pixels: Pixels, most: int | None = None) -> bytes:
    """A PNG file of an image [H, W, C], made smaller where a side is longer than `most`; the same bytes every time."""
    image = as_image(pixels)
    if most and max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
