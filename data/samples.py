"""What the bytes of a sample mean: arrays, labels and images, by the extensions of its fields."""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import DamageError

IMAGE_FIELDS = {"jpeg": "jpg", "png": "png", "webp": "webp", "raw": "npy"}
"""The extension of an image by how it is stored"""
LABEL = "cls"
_IMAGES = frozenset(IMAGE_FIELDS.values())


def encode_array(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a .npy file, which webdataset's own decoder reads too."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@lru_cache(maxsize=64)
def npy_header(dtype: np.dtype[Any], count: int) -> bytes:
    """What stands before the numbers in the .npy file of a one-dimensional array."""
    whole = encode_array(np.zeros(count, dtype))
    return whole[: len(whole) - count * dtype.itemsize]


def decode_array(payload: bytes | memoryview) -> NDArray[Any]:
    """A one-dimensional .npy payload, without a copy; pickled objects and anything else raise DamageError."""
    size = 10 + int.from_bytes(payload[8:10], "little")
    dtype, count = _header(bytes(payload[:size]))
    if len(payload) != size + count * dtype.itemsize:
        raise DamageError(f"a sample's .npy field has {len(payload) - size} bytes for {count} numbers of {dtype}")
    return np.frombuffer(payload, dtype=dtype, offset=size)


@lru_cache(maxsize=64)
def _header(header: bytes) -> tuple[np.dtype[Any], int]:
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise DamageError("a sample's .npy field is not of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise DamageError(f"a sample's .npy field has no header: {error}") from None
    if len(shape) != 1 or dtype.hasobject:
        raise DamageError(
            f"a sample's .npy field has shape {shape} and type {dtype}; expected one dimension of numbers"
        )
    return dtype, shape[0]


def decode(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's values by name: `tokens.npy` is the array tokens, `cls` the number label, `png` and such the image."""
    values: dict[str, Any] = {}
    for name, payload in sample.items():
        if name in _IMAGES:
            from data.images import decode_stored

            values["image"] = decode_stored(payload if name == "npy" else bytes(payload), name)
        elif name.endswith(".npy"):
            values[name.removesuffix(".npy")] = decode_array(payload)
        elif name == LABEL:
            values["label"] = _label(payload)
    return values


def _label(payload: bytes | memoryview) -> int:
    digits = bytes(payload)
    if not digits.isdigit():
        raise DamageError(f"a sample's label is {digits[:20]!r}; expected the number of a class")
    return int(digits)
