"""The transformer over patches: against that of `diffusers`, and what a diffusion task asks of it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.diffusion import DiTConfig
from configs.presets import PRESETS
from tests.diffusion_peers import as_dit, gradients_of, their_dit, weights_of
from trainer.models.conditioning import sinusoid
from trainer.models.dit import DiT

torch.set_num_threads(1)
CLASSES = 10
SMALL = {"patch": 2, "num_layers": 2, "width": 32, "num_heads": 4}


def config(fields: Mapping[str, Any]) -> DiTConfig:
    return DiTConfig.model_validate({"kind": "dit", **fields})


def build(fields: Mapping[str, Any], *, classes: int = CLASSES, side: Any = (8, 8)) -> DiT:
    """A network whose zeros are gone, as after a first step."""
    torch.manual_seed(0)
    network = DiT(config(fields), channels=3, outputs=6, classes=classes, side=side)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def batch(size: int = 3, side: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, *side, generator=generator)
    return images, torch.linspace(0.25, 940, size), torch.arange(size) * 5 % (CLASSES + 1)


@pytest.mark.parametrize("fields", [SMALL, SMALL | {"patch": 4, "num_heads": 2}], ids=["patch-2", "patch-4"])
def test_outputs_and_gradients_equal_those_of_diffusers_given_its_weights(fields: Mapping[str, Any]) -> None:
    shape, ours = config(fields), build(fields)
    torch.manual_seed(2)
    theirs = their_dit(shape, channels=3, outputs=6, classes=CLASSES, side=8)
    ours.load_state_dict(as_dit(weights_of(theirs)))
    images, level, labels = batch()
    mine, other = ours(images, level, labels), theirs(images, level, labels).sample
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    mine.square().mean().backward()
    other.square().mean().backward()
    expected = as_dit(gradients_of(theirs))
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize(("preset", "millions"), [("dit-s", 33), ("dit-b", 130), ("dit-l", 458), ("dit-xl", 675)])
def test_sizes_have_the_published_number_of_parameters(preset: str, millions: int, patch: int) -> None:
    shape = config({**PRESETS["dit"][preset], "patch": patch})
    with torch.device("meta"):
        ours = DiT(shape, channels=4, outputs=8, classes=1000, side=(32, 32))
    count = sum(parameter.numel() for parameter in ours.parameters())
    layers, width, pixels = shape.num_layers, shape.width, patch**2
    blocks = layers * (18 * width**2 + 15 * width)  # attention 4, feed-forward 8 and modulation 6, with their biases
    vector = 256 * width + width + width**2 + width + 1001 * width
    assert count == blocks + vector + (4 * pixels + 1) * width + (2 * width**2 + 2 * width) + 8 * pixels * (width + 1)
    if patch == 2:  # Peebles and Xie (2023), table 4
        assert count == pytest.approx(millions * 1e6, rel=0.005)


def test_xl_with_patches_of_2_has_as_many_as_the_authors_who_count_places_too() -> None:
    with torch.device("meta"):
        ours = DiT(config(PRESETS["dit"]["dit-xl"]), channels=4, outputs=8, classes=1000, side=(32, 32))
    assert sum(parameter.numel() for parameter in ours.parameters()) + ours.places.numel() == 675_129_632


@pytest.mark.parametrize("side", [(8, 8), (8, 12), (4, 16)])
@pytest.mark.parametrize("size", [1, 4])
def test_any_number_of_images_and_sides_of_any_length(side: tuple[int, int], size: int) -> None:
    images, level, labels = batch(size, side)
    assert build(SMALL, side=side)(images, level, labels).shape == (size, 6, *side)


def test_a_patch_of_a_wide_image_is_read_and_written_at_its_place() -> None:
    network = build(SMALL, side=(4, 8)).eval()
    images, level, labels = batch(1, (4, 8))
    with torch.no_grad():
        for name, parameter in network.blocks.named_parameters():
            if "modulation" in name:  # blocks that change nothing: nothing passes between patches
                parameter.zero_()
        changed = images.clone()
        changed[0, 1, 2:, 6:] += 1
        apart = (network(images, level, labels) - network(changed, level, labels)).abs().amax(dim=(0, 1))
    assert apart[2:, 6:].min() > 0
    apart[2:, 6:] = 0
    assert apart.max() == 0


def test_a_fresh_network_predicts_nothing_and_its_blocks_change_nothing() -> None:
    torch.manual_seed(0)
    network = DiT(config(SMALL), channels=3, outputs=6, classes=CLASSES, side=(8, 8))
    assert network(*batch()).abs().max() == 0
    x = torch.randn(2, 16, 32)
    assert torch.equal(network.blocks[0](x, torch.randn(2, 32)), x)


def test_every_parameter_gets_a_gradient_and_parts_cover_each_once() -> None:
    network = build(SMALL)
    images, level, _ = batch()
    network(images, level, torch.tensor([0, 3, CLASSES])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    prefixes = [prefix for part in network.parts() for prefix in part]
    for name, _ in network.named_parameters():
        assert sum(name.startswith(f"{prefix}.") for prefix in prefixes) == 1, name
    assert network.parts()[-1] == ("head",)


def test_level_and_class_are_heard_and_no_class_is_a_class_of_its_own() -> None:
    network = build(SMALL).eval()
    images, level, labels = batch()
    told = network(images, level, labels)
    none = network(images, level, None)
    assert not torch.allclose(told, network(images, level + 0.5, labels), atol=1e-4)
    assert not torch.allclose(told[0], none[0], atol=1e-4)
    torch.testing.assert_close(none, network(images, level, torch.full_like(labels, CLASSES)))


def test_without_classes_labels_are_not_read() -> None:
    network = build(SMALL, classes=0).eval()
    images, level, labels = batch()
    torch.testing.assert_close(network(images, level, labels), network(images, level, None))


def test_recompute_gives_equal_gradients() -> None:
    network = build(SMALL)
    found = []
    for recompute in (False, True):
        network.recompute = recompute
        network.zero_grad()
        network(*batch()).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(list(network.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_bf16_autocast_gives_nearly_the_same() -> None:
    network = build(SMALL).eval()
    images, level, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = network(images, level, labels)
    expected = network(images, level, labels)
    assert (got.float() - expected).norm() < 0.05 * expected.norm()


def test_sides_that_are_no_whole_patches_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="sides of 8 x 10 pixels must be multiples of the patch's 4"):
        build(SMALL | {"patch": 4}, side=(8, 10))


def test_sinusoids_are_cosines_then_sines_and_an_odd_width_ends_in_zero() -> None:
    found = sinusoid(torch.tensor([0.0, 2.0]), 5)
    slow = 2 * 10_000**-0.5
    expected = [[1, 1, 0, 0, 0], [*torch.tensor([2.0, slow]).cos(), *torch.tensor([2.0, slow]).sin(), 0]]
    torch.testing.assert_close(found, torch.tensor(expected))
