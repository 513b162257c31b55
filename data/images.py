"""Pictures: decoded safely, fitted to one size, stored and read back; their statistics over a split."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from configs.dataset import ImageConfig
from configs.errors import ConfigError, DamageError
from data.manifest import PixelSums
from data.samples import IMAGE_FIELDS

Pixels = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # others, such as EPS, could start programs
_STORED_FORMATS = {"jpg": ("JPEG",), "png": ("PNG",), "webp": ("WEBP",)}
_STORED_PIXELS = 1 << 28  # what was stored had the config's size: this only stops bombs in shards of others
_LONGEST_SIDE = {"jpeg": 65500, "webp": 16383}
_MAX_SCANS = 100  # a progressive JPEG has about ten; each is a pass over all pixels, even if it has 20 bytes
_ORDINARY = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}  # JPEG's colours -> ours
_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 0x0142, 0x0143  # tags of TIFF, the first also of EXIF
_TURNS = {  # EXIF orientation -> what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LEVELS = np.arange(256)
_LUMA = np.array([19595, 38470, 7471])  # ITU-R 601 in 1/65536, as Pillow has it


class CorruptImage(ValueError):  # noqa: N818  an outcome that is counted
    """An image that cannot be used; `reason` is one of few fixed phrases."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(payload: bytes, config: ImageConfig) -> Pixels:
    """The pixels [H, W, C] of an encoded image, upright, C = 3 (rgb) or 1 (grey).

    Transparent parts show black behind them, 16-bit channels keep their high byte, of animations and pages the first
    counts, colour profiles are ignored. Size is checked before anything is decoded; pixels may be read-only. Raises
    CorruptImage.
    """
    return _coloured(_decode(payload, config.max_pixels, _FORMATS), config.colour)


def decode_stored(payload: bytes, extension: str) -> Pixels:
    """The pixels [H, W, C] of a shard's field, by its extension; anything but such a field raises DamageError."""
    if extension == IMAGE_FIELDS["raw"]:
        return _array(payload)
    if extension not in _STORED_FORMATS:
        raise DamageError(f"a sample's .{extension} field: images are stored as {', '.join(IMAGE_FIELDS.values())}")
    try:
        return _decode(payload, _STORED_PIXELS, _STORED_FORMATS[extension])
    except CorruptImage as error:
        raise DamageError(f"a sample's .{extension} field is no image of that format: {error.reason}") from None


def _decode(payload: bytes, max_pixels: int, formats: tuple[str, ...]) -> Pixels:
    """Upright pixels with the channels they have: 3 or 1."""
    if not payload:
        raise CorruptImage("empty file")
    if payload.startswith(b"\xff\xd8") and "JPEG" in formats:
        if payload.count(b"\xff\xda") > _MAX_SCANS:
            raise CorruptImage("too many scans")
        if (pixels := _ordinary_jpeg(payload, max_pixels)) is not None:
            return pixels
    with _pillow():
        return _any_format(payload, max_pixels, formats)


def _ordinary_jpeg(payload: bytes, max_pixels: int) -> Pixels | None:
    """Pixels by libjpeg-turbo's own interface, equal to Pillow's and faster; None is for Pillow to decide."""
    try:
        header = simplejpeg.decode_jpeg_header(payload)
        height, width, colours = int(header[0]), int(header[1]), str(header[2])
        if colours not in _ORDINARY:
            return None
        _check_size(height * width, max_pixels)
        # The accurate transform and smooth upsampling are Pillow's; the fast ones differ by up to 50 levels
        pixels = simplejpeg.decode_jpeg(payload, colorspace=_ORDINARY[colours])
    except CorruptImage:
        raise
    except ValueError as error:
        # Pillow takes pixels after such an error as they come; a few bytes too many are common and do no harm
        if "Corrupt JPEG data" in str(error) and "extraneous bytes" not in str(error):
            raise CorruptImage("damaged") from None
        return None
    if b"\xff\xe1" not in payload:  # no EXIF; compressed data never has these two bytes
        return pixels
    unreadable = contextlib.suppress(OSError, ValueError, TypeError, LookupError)
    with _pillow(), unreadable, Image.open(io.BytesIO(payload), formats=("JPEG",)) as image:
        return _upright(pixels, _orientation(image))
    return pixels


def _any_format(payload: bytes, max_pixels: int, formats: tuple[str, ...]) -> Pixels:
    try:
        with Image.open(io.BytesIO(payload), formats=formats) as image:
            tags = getattr(image, "tag_v2", {})
            tile = tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_LENGTH, 1)  # is held whole, and may exceed the image
            _check_size(max(image.width * image.height, tile), max_pixels)
            image.load()
            return _upright(_eight_bits(image), _orientation(image))
    except (CorruptImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise CorruptImage("not an image") from None
    except Exception as error:  # on damaged bytes Pillow raises nearly every exception there is
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise CorruptImage("truncated" if cut else "damaged") from None


def _check_size(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise CorruptImage("too many pixels")


@contextlib.contextmanager
def _pillow() -> Iterator[None]:
    """Pillow without its warnings about odd metadata and its own limit of pixels: ours is checked, and may be more."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _eight_bits(image: Image.Image) -> Pixels:
    """A loaded image of any mode as [H, W, 1 or 3]."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image)[:, :, None] >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise CorruptImage("numbers of no known scale")
    if image.has_transparency_data:
        premultiplied = image.convert("RGBA").convert("RGBa")  # the sum with black behind it
        return np.ascontiguousarray(np.asarray(premultiplied)[:, :, :3])
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read, as viewers do."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # see _any_format; the pixels are good all the same
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    turn = _TURNS.get(orientation)
    return pixels if turn is None else _pixels(_image(pixels).transpose(turn))


def _coloured(pixels: Pixels, colour: Literal["rgb", "grey"]) -> Pixels:
    if colour == "rgb":
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    return pixels if pixels.shape[2] == 1 else _pixels(_image(pixels).convert("L"))


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


def _pixels(image: Image.Image) -> Pixels:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def fit(pixels: Pixels, config: ImageConfig) -> Pixels:
    """[H, W, C] -> [height, width, C]; pixels are resampled once, and only where their number changes."""
    (high, wide), (height, width) = pixels.shape[:2], (config.height, config.width)
    if (high, wide) == (height, width):
        return pixels
    if config.fit == "stretch":
        return _resized(pixels, height, width, config.filter, (0, 0, wide, high))
    wider = wide * height > high * width  # than the wanted aspect
    if config.fit == "pad":
        inner_height = max(1, (2 * high * width + wide) // (2 * wide)) if wider else height  # rounded
        inner_width = width if wider else max(1, (2 * wide * height + high) // (2 * high))
        inner = pixels
        if (inner_height, inner_width) != (high, wide):
            inner = _resized(pixels, inner_height, inner_width, config.filter, (0, 0, wide, high))
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        rest = ((top, height - inner_height - top), (left, width - inner_width - left), (0, 0))
        return np.pad(inner, rest)
    if height == high if wider else width == wide:  # a cut at whole pixels is no resampling
        top, left = (high - height) // 2, (wide - width) // 2
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])
    box_height, box_width = (high, high * width / height) if wider else (wide * height / width, wide)
    top, left = (high - box_height) / 2, (wide - box_width) / 2
    return _resized(pixels, height, width, config.filter, (left, top, left + box_width, top + box_height))


def _resized(pixels: Pixels, height: int, width: int, name: str, box: tuple[float, float, float, float]) -> Pixels:
    return _pixels(_image(pixels).resize((width, height), Image.Resampling[name.upper()], box=box))


def encode(pixels: Pixels, config: ImageConfig) -> bytes:
    """[H, W, C] as the config stores it; the bytes depend on pixels, config and the libraries' versions alone.

    jpeg and webp keep colour at half the resolution (4:2:0), raw is a .npy file of version 1.0.
    """
    longest = _LONGEST_SIDE.get(config.storage)
    if longest is not None and max(pixels.shape) > longest:
        raise ConfigError(
            f"data.images.storage={config.storage} holds at most {longest} pixels a side, got {pixels.shape[0]} x"
            f" {pixels.shape[1]}; use png or raw, or make the images smaller"
        )
    if config.storage == "jpeg":
        colour, sampling = ("RGB", "420") if pixels.shape[2] == 3 else ("GRAY", "Gray")
        contiguous = np.ascontiguousarray(pixels)
        return simplejpeg.encode_jpeg(contiguous, quality=config.quality, colorspace=colour, colorsubsampling=sampling)
    buffer = io.BytesIO()
    if config.storage == "raw":
        np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    elif config.storage == "png":  # less than half the time of level 6 for 8 % more bytes
        _image(pixels).save(buffer, "PNG", compress_level=3)
    else:
        _image(pixels).save(buffer, "WEBP", quality=config.quality, method=4)
    return buffer.getvalue()


def _array(payload: bytes) -> Pixels:
    """A .npy payload of uint8 [H, W, 1 or 3], read-only and not copied."""
    stream = io.BytesIO(payload[:1024])  # a header of version 1.0 and three numbers has 128 bytes
    try:
        version = np.lib.format.read_magic(stream)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, SyntaxError) as error:
        raise DamageError(f"a sample's .npy field has no header: {error}") from None
    right = version == (1, 0) and dtype == np.uint8 and not by_columns and len(shape) == 3 and shape[2] in (1, 3)
    if not right or len(payload) - stream.tell() != math.prod(shape):
        raise DamageError(
            f"a sample's .npy field has {len(payload) - stream.tell()} bytes for shape {shape} of {dtype};"
            " expected uint8 [height, width, 1 or 3] in rows, version 1.0"
        )
    return np.frombuffer(payload, np.uint8, offset=stream.tell()).reshape(shape)


def perceptual_key(pixels: Pixels) -> bytes:
    """A key that nearly equal pictures share: a difference hash (Krawetz, 2013) of 8 x 8 bits, and the brightness.

    A bit says that the mean of one of 8 x 9 parts is more than 8 levels brighter than its left neighbour's; the last
    byte is the mean in steps of 16. As keys are compared for equality, 16 x 16 bits without that margin are too fine:
    they found 32 % of photographs (256 x 256) again that were saved as JPEG at quality 85, these find 95 %. Of 5000
    digits of 28 x 28, 375 share a key with another one. All arithmetic is in integers.
    """
    for axis, parts in ((0, 8), (1, 9)):
        if (size := pixels.shape[axis]) < parts:
            pixels = pixels.take(np.arange(parts) * size // parts, axis)
    rows, columns = (np.arange(n + 1) * size // n for n, size in zip((8, 9), pixels.shape[:2], strict=True))
    bands = [pixels[a:b].sum(axis=0, dtype=np.int64) for a, b in pairwise(rows)]  # a third of reduceat's time
    sums = np.add.reduceat(np.stack(bands), columns[:-1], axis=1)  # [8, 9, C]
    luma = sums @ _LUMA if pixels.shape[2] == 3 else sums[:, :, 0] << 16  # in 1/65536 of a level
    means = luma // np.outer(np.diff(rows), np.diff(columns))
    brightness = int(luma.sum()) // (pixels.shape[0] * pixels.shape[1]) >> 20
    return np.packbits(np.diff(means, axis=1) > 8 << 16).tobytes() + bytes([brightness])


def pixel_sums(pixels: Pixels) -> PixelSums:
    """Sums over the pixels of one image [H, W, C], by channel."""
    height, width, channels = pixels.shape
    counts = np.array(_image(pixels).histogram()).reshape(channels, 256)  # a ninth of the time of sums of squares
    sums, squares = counts @ _LEVELS, counts @ _LEVELS**2
    return PixelSums(count=height * width, sums=tuple(sums.tolist()), square_sums=tuple(squares.tolist()))


def scale(pixels: Pixels) -> NDArray[np.float32]:
    """uint8 -> [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def unscale(values: NDArray[np.float32]) -> Pixels:
    """[-1, 1] -> uint8, the inverse of `scale`; what lies outside is clipped."""
    return np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
