"""The U-shaped network: against that of `diffusers`, and what a diffusion task asks of it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.diffusion import UNetConfig
from configs.presets import PRESETS
from tests.diffusion_peers import as_unet, gradients_of, their_unet, weights_of
from trainer.models.unet import UNet

torch.set_num_threads(1)
CLASSES = 10
CONVOLUTION = {"width": 16, "multipliers": [1, 2, 3], "num_blocks": 2, "attention_sides": [8, 4], "head_width": 8}
RESIDUAL = CONVOLUTION | {"resampling": "residual", "num_blocks": 1}
NO_ATTENTION = CONVOLUTION | {"multipliers": [1, 3, 2], "attention_sides": []}


def config(fields: Mapping[str, Any]) -> UNetConfig:
    return UNetConfig.model_validate({"kind": "unet", **fields})


def build(
    fields: Mapping[str, Any], *, channels: int = 3, outputs: int = 6, classes: int = CLASSES, side: Any = (16, 16)
) -> UNet:
    """A network whose zeros are gone, as after a first step."""
    torch.manual_seed(0)
    network = UNet(config(fields), channels=channels, outputs=outputs, classes=classes, side=side)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def batch(size: int = 3, side: tuple[int, int] = (16, 16)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, *side, generator=generator)
    return images, torch.linspace(0.25, 940, size), torch.arange(size) * 5 % (CLASSES + 1)


@pytest.mark.parametrize("fields", [CONVOLUTION, RESIDUAL, NO_ATTENTION], ids=["convolution", "residual", "plain"])
def test_outputs_and_gradients_equal_those_of_diffusers_given_its_weights(fields: Mapping[str, Any]) -> None:
    shape, ours = config(fields), build(fields)
    torch.manual_seed(2)
    theirs = their_unet(shape, channels=3, outputs=6, classes=CLASSES, side=16, groups=4)
    ours.load_state_dict(as_unet(weights_of(theirs), shape.num_blocks))
    images, level, labels = batch()
    mine, other = ours(images, level, labels), theirs(images, level, labels).sample
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    mine.square().mean().backward()
    other.square().mean().backward()
    expected = as_unet(gradients_of(theirs), shape.num_blocks)
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3, msg=name)


def test_channels_last_gives_the_same_images() -> None:
    network = build(CONVOLUTION).eval()
    images, level, labels = batch()
    expected = network(images, level, labels)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    got = network(images.to(memory_format=torch.channels_last), level, labels)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_adm_for_64_pixels_has_the_published_number_of_parameters() -> None:
    shape = config(PRESETS["unet"]["adm-64"])
    with torch.device("meta"):
        ours = UNet(shape, channels=3, outputs=6, classes=1000, side=(64, 64))
        theirs = their_unet(shape, channels=3, outputs=6, classes=1000, side=64, groups=32)
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters())
    row = 4 * shape.width  # for "no class", which ADM has not
    assert count - row == 295_904_454  # 296 M (Dhariwal and Nichol, 2021, table 11)


@pytest.mark.parametrize("side", [(16, 16), (16, 24), (40, 8)])
@pytest.mark.parametrize("size", [1, 4])
def test_any_number_of_images_and_both_sides_of_any_length(side: tuple[int, int], size: int) -> None:
    images, level, labels = batch(size, side)
    assert build(RESIDUAL, side=side)(images, level, labels).shape == (size, 6, *side)


def test_attention_is_where_the_smaller_side_says() -> None:
    network = build({"width": 8, "multipliers": [1, 1, 1], "attention_sides": [8], "head_width": 8}, side=(16, 32))
    attending = [name for name, _ in network.named_modules() if name.endswith(".attention")]
    assert attending == [
        *(f"{name}.attention" for name in ("down.3", "down.4", "middle.0", "up.3", "up.4", "up.5")),
    ]


def test_a_fresh_network_predicts_nothing() -> None:
    torch.manual_seed(0)
    network = UNet(config(CONVOLUTION), channels=3, outputs=6, classes=CLASSES, side=(16, 16))
    assert network(*batch()).abs().max() == 0


def test_every_parameter_gets_a_gradient_and_parts_cover_each_once() -> None:
    network = build(RESIDUAL)
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
    network = build(CONVOLUTION).eval()
    images, level, labels = batch()
    told = network(images, level, labels)
    none = network(images, level, None)
    assert not torch.allclose(told, network(images, level + 0.5, labels), atol=1e-4)
    assert not torch.allclose(told[0], none[0], atol=1e-4)
    torch.testing.assert_close(none, network(images, level, torch.full_like(labels, CLASSES)))


def test_without_classes_labels_are_not_read() -> None:
    network = build(CONVOLUTION, classes=0).eval()
    images, level, labels = batch()
    torch.testing.assert_close(network(images, level, labels), network(images, level, None))


def test_recompute_gives_equal_gradients_under_dropout() -> None:
    network = build(CONVOLUTION | {"dropout": 0.2})
    found = []
    for recompute in (False, True):
        network.recompute = recompute
        network.zero_grad()
        torch.manual_seed(5)
        network(*batch()).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(list(network.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_bf16_autocast_gives_nearly_the_same() -> None:
    network = build(RESIDUAL).eval()
    images, level, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = network(images, level, labels)
    expected = network(images, level, labels)
    assert (got.float() - expected).norm() < 0.05 * expected.norm()


def test_sides_that_do_not_halve_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="sides of 16 x 18 pixels must be multiples of 4"):
        build(CONVOLUTION, side=(16, 18))


@pytest.mark.parametrize(("width", "groups"), [(8, 2), (36, 9), (40, 10), (100, 25), (192, 32), (3, 1)])
def test_norms_have_at_least_four_maps_a_group(width: int, groups: int) -> None:
    with torch.device("meta"):
        network = build({"width": width, "multipliers": [1, 2], "attention_sides": []})
    assert {module.num_groups for module in network.modules() if isinstance(module, torch.nn.GroupNorm)} == {groups}
