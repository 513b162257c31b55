"""Random changes to images: the numbers they are drawn from, each operation against Pillow or a plain loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from configs.vision import AugmentConfig
from trainer.augment.draws import Stream, philox, symmetric_beta, uniform
from trainer.augment.geometry import affine, centre, crop_sides, draw_flips, draw_maps, resize, warp
from trainer.augment.operations import alter
from trainer.augment.pipeline import Augmentation
from trainer.augment.policy import OPERATIONS, choose
from trainer.augment.rectangles import draw_erased, draw_mixture, inside

MANY = range(4000)
EVERYTHING: dict[str, Any] = {
    "crop_area": 0.3,
    "shift": 0.1,
    "rotate_degrees": 20,
    "flip": True,
    "policy": "randaugment",
    "erase": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


def pictures(number: int, *shape: int, top: int = 256, seed: int = 0) -> Tensor:
    """[number, C, H, W] of random whole levels, as float32."""
    levels = np.random.default_rng(seed).integers(0, top, (number, *shape))
    return torch.from_numpy(levels).float()


def make(*, image: tuple[int, int] = (12, 10), seen: tuple[int, int] | None = None, **fields: Any) -> Augmentation:
    return Augmentation(AugmentConfig(**fields), image=image, seen=seen or image)


def augmented(augmentation: Augmentation, images: Tensor, positions: list[int]) -> tuple[Tensor, Tensor | None]:
    drawn = augmentation.draw(positions)
    return augmentation.combine(augmentation.apply(images, drawn, augmentation.seen) / 255, drawn)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: str) -> None:
    """Those that its authors published with it (Random123, kat_vectors)."""
    first, second, third, fourth = (np.array([part], dtype=np.uint64) for part in counter)
    assert [f"{int(word):08x}" for word in philox((first, second, third, fourth), key)[0]] == words.split()


def test_numbers_of_a_position_are_the_same_beside_any_others() -> None:
    positions = [3, 2**40 + 1, 7, 0]
    together = uniform(positions, 6, stream=Stream.CROP)
    for position, row in zip(positions, together, strict=True):
        np.testing.assert_array_equal(uniform([position], 6, stream=Stream.CROP)[0], row)
    np.testing.assert_array_equal(uniform(positions, 3, stream=Stream.CROP), together[:, :3])
    assert not np.isin(uniform(positions, 6, stream=Stream.MOVE), together).any()


def test_numbers_are_uniform() -> None:
    numbers = np.sort(uniform(range(2000), 5, stream=Stream.ERASE).ravel())
    assert numbers[0] > 0
    assert numbers[-1] < 1
    assert np.abs(numbers - (np.arange(10_000) + 0.5) / 10_000).max() < 1.95 / 100  # Kolmogorov-Smirnov, 0.1 %


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5, 1.0, 8.0])
def test_symmetric_beta_numbers_have_the_distribution_of_torchs(alpha: float) -> None:
    numbers = np.sort(symmetric_beta(alpha, *uniform(range(20_000), 2, stream=Stream.MIX).T))
    torch.manual_seed(1)
    theirs = np.sort(torch.distributions.Beta(alpha, torch.tensor(alpha)).sample((20_000,)).numpy())
    assert np.isfinite(numbers).all()
    for level in (0.01, 0.2, 0.4, 0.6, 0.8, 0.99):
        shares = [(each < level).mean() for each in (numbers, theirs)]
        assert abs(shares[0] - shares[1]) < 1.95 * np.sqrt(2 / 20_000)


REFERENCES: dict[str, tuple[list[float], Callable[[Image.Image, float], Image.Image]]] = {
    "identity": ([0], lambda image, _: image),
    "auto_contrast": ([0], lambda image, _: ImageOps.autocontrast(image)),
    "equalize": ([0], lambda image, _: ImageOps.equalize(image)),
    "solarize": ([0, 100, 256], lambda image, amount: ImageOps.solarize(image, int(amount))),
    "posterize": ([2, 5, 8], lambda image, amount: ImageOps.posterize(image, int(amount))),
    "colour": ([0.1, 1, 1.9], lambda image, amount: ImageEnhance.Color(image).enhance(amount)),
    "contrast": ([0.1, 1, 1.45], lambda image, amount: ImageEnhance.Contrast(image).enhance(amount)),
    "brightness": ([0.1, 1, 1.9], lambda image, amount: ImageEnhance.Brightness(image).enhance(amount)),
    "sharpness": ([0.1, 1, 1.77], lambda image, amount: ImageEnhance.Sharpness(image).enhance(amount)),
}


def pil(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).byte().numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


@pytest.mark.parametrize("shape", [(3, 20, 31), (1, 28, 28), (3, 5, 3), (1, 2, 9)])
@pytest.mark.parametrize("top", [256, 90, 2])
def test_operations_are_pillows_to_the_last_level(shape: tuple[int, ...], top: int) -> None:
    cases = [(name, amount) for name, (amounts, _) in REFERENCES.items() for amount in amounts]
    images = pictures(len(cases), *shape, top=top)
    operations = torch.tensor([OPERATIONS.index(name) for name, _ in cases])
    ours = alter(images, operations, torch.tensor([float(amount) for _, amount in cases]))
    for (name, amount), image, got in zip(cases, images, ours, strict=True):
        theirs = np.asarray(REFERENCES[name][1](pil(image), amount)).reshape(*shape[1:], shape[0])
        np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), theirs, err_msg=f"{name} {amount}")


def test_every_operation_is_drawn_equally_often_and_strengths_stay_in_their_ranges() -> None:
    for policy, blend, bits in (("randaugment", 0.81, {4}), ("trivialaugment", 0.99, {2, 3, 4, 5, 6, 7, 8})):
        config = AugmentConfig.model_validate({"policy": policy, "operations": 2, "magnitude": 9})
        choice = choose(config, MANY, (20, 20))
        counts = np.bincount(choice.operations.ravel(), minlength=len(OPERATIONS))
        expected = choice.operations.size / len(OPERATIONS)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
        drawn = {name: choice.amounts[choice.operations == index] for index, name in enumerate(OPERATIONS)}
        assert np.abs(drawn["contrast"] - 1).max() == pytest.approx(blend, abs=0.01)
        assert {drawn["contrast"].min() < 1, drawn["contrast"].max() > 1} == {True}
        assert set(drawn["posterize"]) == bits
        assert 0 <= drawn["solarize"].min() <= drawn["solarize"].max() <= 256


def test_operations_without_strength_move_and_change_nothing() -> None:
    choice = choose(AugmentConfig(policy="randaugment", operations=3, magnitude=0), MANY, (9, 7))
    np.testing.assert_allclose(choice.maps, np.broadcast_to(np.eye(3), choice.maps.shape), atol=1e-12)
    strengthless = ~np.isin(choice.operations, [OPERATIONS.index("auto_contrast"), OPERATIONS.index("equalize")])
    images = pictures(8, 3, 9, 7)
    for operation, amount in set(zip(choice.operations[strengthless], choice.amounts[strengthless], strict=True)):
        assert torch.equal(alter(images, torch.full((8,), operation), torch.full((8,), amount)), images)


def read_by_loop(image: NDArray[np.float64], matrix: NDArray[np.float64], size: tuple[int, int]) -> Any:
    """[H, W] bilinear at the places of an affine map in half sides, mirrored at the edges; one pixel after another."""
    height, width = image.shape

    def level(row: int, column: int) -> Any:
        places = []
        for place, side in ((row, height), (column, width)):
            place %= 2 * side
            places.append(min(place, 2 * side - 1 - place))
        return image[places[0], places[1]]

    result = np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            x, y = matrix @ [(2 * j + 1) / size[1] - 1, (2 * i + 1) / size[0] - 1, 1]
            u, v = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            left, above = int(np.floor(u)), int(np.floor(v))
            a, b = u - left, v - above
            upper = (1 - a) * level(above, left) + a * level(above, left + 1)
            lower = (1 - a) * level(above + 1, left) + a * level(above + 1, left + 1)
            result[i, j] = (1 - b) * upper + b * lower
    return result


def test_a_warp_reads_where_a_plain_loop_does() -> None:
    config = AugmentConfig(crop_area=0.3, shift=0.3, rotate_degrees=90, flip=True)
    images, positions = pictures(6, 1, 9, 7), list(range(6))
    maps = draw_maps(config, positions, np.eye(3), image=(9, 7), seen=(6, 8))
    ours = warp(images, torch.from_numpy(maps).float(), (6, 8))
    for image, matrix, got in zip(images, maps, ours, strict=True):
        theirs = read_by_loop(image[0].double().numpy(), matrix, (6, 8))
        np.testing.assert_allclose(got[0].numpy(), theirs, atol=0.02)


def test_a_quarter_turn_is_rot90_and_a_mirror_is_flip() -> None:
    image = pictures(1, 3, 8, 8)
    turn = torch.from_numpy(affine(a=0, b=-1, d=1, e=0)[:, :2]).float()
    assert torch.equal(warp(image, turn, (8, 8)).round(), image.rot90(1, (2, 3)))
    mirror = torch.from_numpy(affine(a=-1)[:, :2]).float()
    assert torch.equal(warp(image, mirror, (8, 8)).round(), image.flip(3))


def test_parameters_that_change_nothing_leave_the_picture_as_it_is() -> None:
    images, positions = pictures(5, 3, 12, 10), list(range(5))
    policy: dict[str, Any] = {"policy": "randaugment", "magnitude": 0, "operations": 1}
    unchanging: list[dict[str, Any]] = [{}, policy, {"rotate_degrees": 1e-6}]
    for fields in unchanging:
        augmentation = make(**fields)
        drawn = augmentation.draw(positions)
        if "operations" in drawn:  # two of them have no strength to take away
            drawn["operations"].zero_()
        assert torch.equal(augmentation.apply(images, drawn, (12, 10)), images)
    mixed, shares = augmented(make(), images, positions)
    assert torch.equal(mixed, images / 255)
    assert shares is None


def test_a_crop_without_area_is_a_window_on_whole_pixels_anywhere() -> None:
    image, augmentation = pictures(1, 1, 9, 8), make(image=(9, 8), seen=(6, 7))
    windows = {image[0, 0, y : y + 6, x : x + 7].numpy().tobytes() for y in range(4) for x in range(2)}
    drawn = augmentation.draw(range(200))
    crops = augmentation.apply(image.expand(200, 1, 9, 8), drawn, (6, 7))
    assert {crop[0].numpy().tobytes() for crop in crops} == windows


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), share=st.floats(0.01, 1), number=st.floats(0, 1))
def test_crops_have_their_area_and_fit_and_are_as_square_as_they_can_be(
    height: int, width: int, share: float, number: float
) -> None:
    tall, wide = crop_sides(np.array([share]), np.array([number]), (height, width))
    assert tall[0] * wide[0] == pytest.approx(share * height * width)
    assert tall[0] <= height * (1 + 1e-9)
    assert wide[0] <= width * (1 + 1e-9)
    aspect = wide[0] / tall[0]
    if not 0.75 * (1 - 1e-9) <= aspect <= 4 / 3 * (1 + 1e-9):
        assert wide[0] == pytest.approx(width) or tall[0] == pytest.approx(height)


def test_random_crops_lie_inside_the_image() -> None:
    maps = draw_maps(AugmentConfig(crop_area=0.08), MANY, np.eye(3), image=(30, 40), seen=(16, 16))
    corners = np.array([[x, y, 1] for x in (-1, 1) for y in (-1, 1)]).T
    assert np.abs(maps @ corners).max() <= 1 + 1e-9
    areas = np.linalg.det(maps[:, :, :2])
    assert 0.08 <= areas.min() < 0.1
    assert 0.95 < areas.max() <= 1 + 1e-9
    assert areas.mean() == pytest.approx(0.54, abs=0.02)


def test_half_of_the_images_are_mirrored() -> None:
    assert draw_flips(AugmentConfig(flip=True), MANY).mean() == pytest.approx(0.5, abs=0.03)
    assert not draw_flips(AugmentConfig(), MANY).any()
    augmentation, images = make(flip=True), pictures(40, 1, 12, 10)
    assert set(augmentation.draw(range(40))) == {"flips"}, "images that are only mirrored are not warped"
    mirrored = draw_flips(AugmentConfig(flip=True), range(40))
    expected = torch.stack([each.flip(2) if flip else each for each, flip in zip(images, mirrored, strict=True)])
    assert torch.equal(augmented(augmentation, images, list(range(40)))[0], expected / 255)


def test_the_same_position_gives_the_same_picture_in_any_batch_of_pairs() -> None:
    augmentation, images = make(image=(12, 10), seen=(8, 8), **EVERYTHING), pictures(8, 3, 12, 10)
    positions = list(range(100, 108))
    whole, shares = augmented(augmentation, images, positions)
    for size in (2, 4):
        parts = [
            augmented(augmentation, images[start : start + size], positions[start : start + size])
            for start in range(0, 8, size)
        ]
        torch.testing.assert_close(torch.cat([part for part, _ in parts]), whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(torch.cat([each for _, each in parts if each is not None]), shares)
    assert not torch.equal(augmented(augmentation, images, [*range(200, 208)])[0], whole)


def test_erased_rectangles_have_their_areas_and_are_grey() -> None:
    boxes = draw_erased(AugmentConfig(erase=0.25), MANY)
    heights, widths = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    areas = (heights * widths)[heights > 0]
    assert len(areas) / len(boxes) == pytest.approx(0.25, abs=0.03)
    assert 0.02 <= areas.min() <= areas.max() <= 0.4
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-9
    augmentation, images = make(image=(20, 20), erase=1.0), pictures(30, 3, 20, 20) + 1
    erased, _ = augmented(augmentation, images, list(range(30)))
    gone = inside(augmentation.draw(range(30))["erased"], (20, 20)).expand_as(erased)
    assert torch.equal(erased == 0, gone)
    assert gone.float().mean((1, 2, 3)).min() > 0


def test_neighbours_are_mixed_and_one_without_is_left_alone() -> None:
    mixture = draw_mixture(AugmentConfig(mixup=1.0), [4, 5, 9, 6, 7])
    assert mixture.partners == (1, 0, 2, 4, 3)
    assert mixture.shares[2] == 0
    assert (mixture.shares[[0, 3]] == mixture.shares[[1, 4]]).all()
    images = pictures(5, 1, 12, 10)
    mixed, shares = augmented(make(mixup=1.0), images, [4, 5, 9, 6, 7])
    assert shares is not None
    partners = images[list(mixture.partners)]
    weight = shares[:, None, None, None]
    torch.testing.assert_close(mixed, ((1 - weight) * images + weight * partners) / 255)
    torch.testing.assert_close(shares, torch.from_numpy(mixture.shares).float())


def test_cutmix_puts_a_rectangle_of_the_partner_in_its_place() -> None:
    images = pictures(40, 1, 12, 10)
    mixed, shares = augmented(make(cutmix=1.0), images, list(range(40)))
    assert shares is not None
    partners = images.view(20, 2, 1, 12, 10).flip(1).view(40, 1, 12, 10)
    theirs = mixed == partners / 255
    assert torch.equal(torch.where(theirs, partners, images) / 255, mixed)
    torch.testing.assert_close(theirs.float().mean((1, 2, 3)), shares, atol=0.03, rtol=0)  # levels may agree by chance


def test_with_both_each_pair_takes_one_or_the_other() -> None:
    mixture = draw_mixture(AugmentConfig(mixup=1.0, cutmix=1.0), MANY)
    lightly, cut = mixture.shares > 0, (mixture.boxes != 0).any(1)
    assert (lightly ^ cut).all()
    assert cut.mean() == pytest.approx(0.5, abs=0.05)
    areas = np.clip(mixture.boxes, 0, 1)
    assert (((areas[:, 2] - areas[:, 0]) * (areas[:, 3] - areas[:, 1]))[cut] > 0).all()


def test_smaller_sides_are_averages_and_the_same_side_is_the_image_itself() -> None:
    image = pictures(1, 3, 8, 8)
    assert resize(image, (8, 8)) is image
    tent = torch.tensor([1, 3, 3, 1]) / 8  # the bilinear filter over the four pixels that are nearest
    by_hand = (image[0, :, 1:5, 3:7] * tent[:, None] * tent).sum((1, 2))
    torch.testing.assert_close(resize(image, (4, 4))[0, :, 1, 2], by_hand)
    assert torch.equal(centre(image, (4, 6)), image[:, :, 2:6, 1:7])


def test_at_a_lower_resolution_the_same_part_of_the_image_is_seen() -> None:
    augmentation = make(image=(32, 32), seen=(24, 24), crop_area=0.4)
    smooth = resize(pictures(4, 1, 4, 4), (32, 32))
    drawn = augmentation.draw(range(4))
    large = augmentation.apply(smooth, drawn, (24, 24))
    small = augmentation.apply(resize(smooth, (16, 16)), drawn, (12, 12))
    assert (resize(large, (12, 12)) - small).abs().mean() < 8
    assert small.shape == (4, 1, 12, 12)
