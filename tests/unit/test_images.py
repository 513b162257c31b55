"""Images: decoded as Pillow does or refused with a reason, fitted and stored exactly, measured in any order."""

import io
import struct
import zlib
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from configs.dataset import ImageConfig
from configs.errors import ConfigError, DamageError
from data.images import (
    CorruptImage,
    Pixels,
    decode,
    decode_stored,
    encode,
    fit,
    perceptual_key,
    pixel_sums,
    scale,
    unscale,
)
from data.manifest import PixelSums
from data.samples import IMAGE_FIELDS


def sized(height: int, width: int, **options: object) -> ImageConfig:
    return ImageConfig.model_validate({"height": height, "width": width, **options})


CONFIG = sized(32, 32)
GREY = sized(32, 32, colour="grey")
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def picture(height: int = 96, width: int = 120, *, seed: int = 0) -> Pixels:
    """Smooth colours with edges and a little noise, much as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 120)
    return np.clip(pixels + rng.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)


PIXELS = picture()


def encoded(image: Image.Image | Pixels, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(payload: bytes, mode: str = "RGB") -> Pixels:
    with Image.open(io.BytesIO(payload)) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def reason(payload: bytes, config: ImageConfig = CONFIG) -> str:
    with pytest.raises(CorruptImage) as caught:
        decode(payload, config)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_header(height: int, width: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize("quality", [50, 75, 92, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_within_one_level_of_pillow(quality: int, subsampling: int, progressive: bool):
    payload = encoded(PIXELS, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    assert np.abs(decode(payload, CONFIG).astype(int) - by_pillow(payload)).max() <= 1
    assert np.abs(decode(payload, GREY).astype(int) - by_pillow(payload, "L")).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_formats_are_as_pillow_has_them(form: str, mode: str):
    payload = encoded(Image.fromarray(PIXELS).convert(mode), form)
    pixels = decode(payload, CONFIG)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (96, 120, 3)
    assert np.array_equal(pixels, by_pillow(payload))
    assert np.array_equal(decode(payload, GREY), by_pillow(payload, "L"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_exif_orientation_is_made_upright(orientation: int, form: str, mode: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = encoded(Image.fromarray(PIXELS).convert(mode), form, exif=exif)
    assert np.array_equal(decode(payload, CONFIG), by_pillow(payload))
    assert decode(payload, CONFIG).shape == ((120, 96, 3) if orientation > 4 else (96, 120, 3))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_broken_exif_leaves_the_picture_as_it_is(content: bytes):
    plain = encoded(PIXELS, "JPEG")
    segment = b"Exif\0\0" + content
    payload = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert np.array_equal(decode(payload, CONFIG), by_pillow(plain))


def test_cmyk_jpegs_become_rgb_as_by_pillow():
    payload = encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")
    assert np.array_equal(decode(payload, CONFIG), by_pillow(payload))


def test_sixteen_bits_keep_the_high_byte():
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16 + 15
    for form in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(Image.fromarray(deep), form), GREY)[:, :, 0], deep >> 8)


def test_numbers_without_a_scale_are_refused():
    assert reason(encoded(Image.fromarray(np.eye(9, dtype=np.float32)), "TIFF")) == "numbers of no known scale"
    assert reason(encoded(Image.fromarray(np.eye(9, dtype=np.int32)), "TIFF")) == "numbers of no known scale"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_show_black(mode: str):
    alpha = np.full((96, 120), 255, np.uint8)
    alpha[:40], alpha[40:60] = 0, 128
    image = Image.fromarray(PIXELS).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    pixels = decode(encoded(image, "PNG"), CONFIG).astype(int)
    opaque = np.asarray(Image.fromarray(PIXELS).convert(mode[:-1]).convert("RGB")).astype(int)
    assert not pixels[:40].any()
    assert np.abs(pixels[40:60] - opaque[40:60] * 128 / 255).max() <= 1
    assert np.array_equal(pixels[60:], opaque[60:])


def test_palettes_become_colours_and_their_transparent_entry_black():
    image = Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 4).reshape(3, 4)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    red, green, blue = decode(encoded(image, "PNG"), CONFIG)[:, 0].tolist()
    assert (red, green, blue) == ([255, 0, 0], [0, 255, 0], [0, 0, 255])
    assert decode(encoded(image, "PNG", transparency=1), CONFIG)[1, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_counts(form: str):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue", "green")]
    pixels = decode(encoded(frames[0], form, save_all=True, append_images=frames[1:]), CONFIG)
    assert pixels.shape == (10, 20, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2


def test_zero_bytes_and_text_are_no_images():
    assert reason(b"") == "empty file"
    assert reason(b"once upon a time") == "not an image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == "not an image"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_file_is_truncated(form: str, share: float):
    payload = encoded(PIXELS, form)
    assert reason(payload[: int(len(payload) * share)]) == "truncated"


def test_a_jpeg_whose_data_does_not_decode_is_damaged():
    payload = bytearray(encoded(PIXELS, "JPEG", progressive=True))
    start = payload.rindex(b"\xff\xda") + 20
    payload[start : start + 40] = bytes(40)
    assert reason(bytes(payload)) == "damaged"


def test_a_flipped_byte_in_a_png_is_damaged():
    payload = bytearray(encoded(PIXELS, "PNG"))
    payload[len(payload) // 2] ^= 1
    assert reason(bytes(payload)) == "damaged"


def test_a_few_bytes_too_many_in_a_jpeg_do_no_harm():
    payload = encoded(PIXELS, "JPEG")
    assert np.array_equal(decode(payload[:-2] + b"abcd" + payload[-2:], CONFIG), by_pillow(payload))


def test_a_bomb_is_refused_by_its_header():
    assert reason(png_header(100_000, 100_000)) == "too many pixels"
    jpeg = bytearray(encoded(PIXELS, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    assert reason(bytes(jpeg)) == "too many pixels"


def test_a_small_tiff_with_a_huge_tile_is_a_bomb():
    entries = [(256, 4, 10), (257, 4, 10), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, 60000), (323, 4, 60000), (324, 4, 8), (325, 4, 100)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    payload = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(104)
    assert reason(payload) == "too many pixels"


def test_a_jpeg_of_countless_scans_is_a_bomb():
    payload = encoded(PIXELS, "JPEG", progressive=True)
    scan = payload[payload.rindex(b"\xff\xda") : -2]
    assert reason(payload[:-2] + scan * 100 + payload[-2:]) == "too many scans"


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_limit_of_pixels_is_the_configured_one(form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own does not count
    payload = encoded(PIXELS, form)
    assert decode(payload, CONFIG.model_copy(update={"max_pixels": 96 * 120})).shape == (96, 120, 3)
    assert reason(payload, CONFIG.model_copy(update={"max_pixels": 96 * 120 - 1})) == "too many pixels"
    assert Image.MAX_IMAGE_PIXELS == 10


@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]), st.randoms(use_true_random=False))
def test_any_damage_ends_in_pixels_or_a_reason(form: str, random):
    payload = bytearray(encoded(PIXELS[:20, :20], form))
    for _ in range(3):
        payload[random.randrange(len(payload))] = random.randrange(256)
    try:
        outcome = decode(bytes(payload[: random.randrange(1, 2 * len(payload))]), CONFIG).shape[2]
    except CorruptImage as error:
        outcome = error.reason
    assert outcome in {3, "not an image", "truncated", "damaged", "too many pixels", "numbers of no known scale"}


@pytest.mark.parametrize("kind", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(96, 120), (120, 96), (31, 200), (7, 5), (32, 32), (32, 33), (1, 90)])
@pytest.mark.parametrize("channels", [1, 3])
def test_fitted_images_have_the_size(kind: str, size: tuple[int, int], channels: int):
    config = sized(32, 24, fit=kind)
    fitted = fit(picture(*size)[:, :, :channels], config)
    assert (fitted.shape, fitted.dtype) == ((32, 24, channels), np.uint8)


@pytest.mark.parametrize("name", FILTERS)
def test_images_are_fitted_as_pillow_does(name: str):
    stretched = Image.fromarray(PIXELS).resize((24, 32), Image.Resampling[name.upper()])
    config = sized(32, 24, fit="stretch", filter=name)
    assert np.array_equal(fit(PIXELS, config), np.asarray(stretched))
    cropped = ImageOps.fit(Image.fromarray(PIXELS), (24, 32), Image.Resampling[name.upper()])
    config = sized(32, 24, fit="crop", filter=name)
    assert np.array_equal(fit(PIXELS, config), np.asarray(cropped))


def test_shrinking_is_antialiased_but_for_nearest():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[:, :, None]
    for name in FILTERS:
        shrunk = fit(stripes, sized(16, 16, filter=name)).astype(int)
        assert (np.abs(shrunk - 127).max() > 100) == (name == "nearest"), name


def test_padding_is_black_and_keeps_the_aspect():
    fitted = fit(np.full((10, 20, 3), 200, np.uint8), sized(40, 40, fit="pad"))
    assert (fitted[10:30] == 200).all()
    assert not fitted[:10].any()
    assert not fitted[30:].any()


def test_no_pixel_is_resampled_where_none_has_to_be():
    assert fit(PIXELS, sized(96, 120)) is PIXELS
    assert np.array_equal(fit(PIXELS, sized(96, 51)), PIXELS[:, 34:85])
    assert np.array_equal(fit(PIXELS, sized(51, 120)), PIXELS[22:73])
    padded = fit(PIXELS, sized(101, 120, fit="pad"))
    assert np.array_equal(padded[2:98], PIXELS)


@pytest.mark.parametrize(
    ("storage", "channels"), [("jpeg", 1), ("jpeg", 3), ("png", 1), ("png", 3), ("webp", 3), ("raw", 1), ("raw", 3)]
)
def test_what_is_stored_is_read_back(storage: str, channels: int):
    config = sized(96, 120, storage=storage)
    pixels = PIXELS[:, :, :channels]
    payload = encode(pixels, config)
    assert payload == encode(pixels.copy(), config)
    read = decode_stored(payload, IMAGE_FIELDS[storage])
    assert (read.shape, read.dtype) == (pixels.shape, np.uint8)
    error = np.abs(read.astype(int) - pixels)
    assert error.max() == 0 if storage in ("png", "raw") else error.mean() < 4


def test_raw_pixels_are_a_plain_npy_file():
    payload = encode(PIXELS, sized(96, 120, storage="raw"))
    assert payload[:8] == b"\x93NUMPY\x01\x00"
    assert np.array_equal(np.load(io.BytesIO(payload), allow_pickle=False), PIXELS)


def test_a_side_too_long_for_a_format_says_what_to_do():
    with pytest.raises(ConfigError, match=r"storage=webp holds at most 16383 .* got 16384 x 1; use png or raw"):
        encode(np.zeros((16384, 1, 3), np.uint8), sized(16384, 1, storage="webp"))


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


RAW = npy(PIXELS)


@pytest.mark.parametrize(
    ("payload", "extension"),
    [
        (b"", "png"),
        (b"nonsense", "jpg"),
        (encoded(PIXELS, "PNG"), "jpg"),
        (encoded(PIXELS, "JPEG"), "webp"),
        (encoded(PIXELS, "PNG")[:500], "png"),
        (png_header(100_000, 100_000), "png"),
        (b"", "npy"),
        (RAW[:100], "npy"),
        (RAW[:-1], "npy"),
        (RAW + b"\0", "npy"),
        (npy(PIXELS, (2, 0)), "npy"),
        (npy(PIXELS.astype(np.float32)), "npy"),
        (npy(PIXELS[:, :, 0]), "npy"),
        (npy(np.asfortranarray(PIXELS)), "npy"),
        (npy(np.zeros((2, 2, 4), np.uint8)), "npy"),
        (npy(np.array([[[{}]]], dtype=object)), "npy"),
        (RAW.replace(b"(96, 120, 3)", b"(-6, -20, 3)"), "npy"),
        (RAW, "pickle"),
    ],
)
def test_a_stored_field_that_is_nonsense_is_damage(payload: bytes, extension: str):
    with pytest.raises(DamageError, match=rf"a sample's \.{extension} field"):
        decode_stored(payload, extension)


def test_perceptual_keys_find_pictures_that_were_saved_again():
    pictures = [picture(256, 256, seed=seed) for seed in range(40)]
    keys = [perceptual_key(each) for each in pictures]
    assert len(set(keys)) == len(keys)
    again = [perceptual_key(decode(encoded(each, "JPEG", quality=90), CONFIG)) for each in pictures]
    assert sum(a == b for a, b in zip(keys, again, strict=True)) >= 34


def test_perceptual_keys_tell_flat_pictures_of_different_brightness_apart():
    assert len({perceptual_key(np.full((28, 28, 1), level, np.uint8)) for level in (0, 60, 128, 255)}) == 4


def test_perceptual_keys_of_noise_on_a_flat_picture_agree():
    rng = np.random.default_rng(0)
    keys = {perceptual_key(rng.integers(98, 103, (64, 64, 3), dtype=np.uint8)) for _ in range(20)}
    assert len(keys) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (5, 7), (8, 9), (300, 2)])
def test_perceptual_keys_take_any_size_and_grey_like_equal_colours(size: tuple[int, int]):
    grey = picture(*size)[:, :, :1]
    assert len(perceptual_key(grey)) == 9
    assert perceptual_key(grey) == perceptual_key(np.repeat(grey, 3, axis=2))


def test_a_perceptual_key_is_the_same_on_every_machine():
    ramp = (np.arange(48 * 64 * 3) * 7 % 251).reshape(48, 64, 3).astype(np.uint8)
    ramp[:24, 32:] = 255
    assert perceptual_key(ramp).hex() == "181818180002000809"


IMAGES = st.lists(st.integers(0, 2**31), min_size=1, max_size=6)


@given(IMAGES, st.randoms(use_true_random=False))
def test_channel_sums_are_equal_in_any_order_of_merging(seeds: list[int], random):
    images = [np.random.default_rng(seed).integers(0, 256, (seed % 5 + 1, 3, 3), dtype=np.uint8) for seed in seeds]
    parts = [pixel_sums(each) for each in images]
    together = reduce(PixelSums.__add__, parts)
    random.shuffle(parts)
    while len(parts) > 1:
        parts.append(parts.pop() + parts.pop(random.randrange(len(parts))))
    assert parts == [together]
    flat = np.concatenate([each.reshape(-1, 3) for each in images]) / 255
    assert together.count == len(flat)
    assert np.allclose(together.mean, flat.mean(axis=0), rtol=1e-12, atol=0)
    assert np.allclose(together.std, flat.std(axis=0), rtol=1e-9, atol=1e-12)


def test_channel_sums_do_not_overflow_or_cancel():
    white = pixel_sums(np.full((500, 500, 1), 255, np.uint8))
    many = PixelSums(
        count=white.count * 10**12, sums=(white.sums[0] * 10**12,), square_sums=(white.square_sums[0] * 10**12,)
    )
    assert (many.mean, many.std) == ((1.0,), (0.0,))
    with pytest.raises(ValueError, match="zip"):
        _ = white + pixel_sums(np.zeros((2, 2, 3), np.uint8))


def test_scaling_is_undone_exactly():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    scaled = scale(levels)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (-1, 1)
    assert np.array_equal(unscale(scaled), levels)
    assert unscale(np.array([-7, 1.5], np.float32)).tolist() == [0, 255]
