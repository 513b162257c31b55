"""Many small images as one picture."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_GAP = 1  # pixels between two images
_PAPER = 128  # grey, unlike the edges of most images


def grid(images: Pixels, columns: int) -> Pixels:
    """images [N, H, W, C] row by row as one [rows x (H + 1) - 1, columns x (W + 1) - 1, C], grey between and after."""
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    picture = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), _PAPER, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        picture[top : top + height, left : left + width] = image
    return picture
