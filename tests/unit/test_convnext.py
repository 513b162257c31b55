"""ConvNeXt: the same answers and gradients as transformers' with its weights, in either memory format."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ConvNextConfig as TheirConfig
from transformers import ConvNextForImageClassification

from configs.vision import ConvNeXtConfig
from tests.image_peers import CONVNEXT, gradients, renamed
from trainer.models.convnext import ConvNeXt, ConvNeXtBlock, depthwise

FORMATS = [torch.contiguous_format, torch.channels_last]


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def convnext(*, classes: int = 5, **fields: Any) -> ConvNeXt:
    torch.manual_seed(0)
    return ConvNeXt(ConvNeXtConfig(kind="convnext", **fields), channels=3, classes=classes)


def both() -> tuple[ConvNeXt, ConvNextForImageClassification]:
    """The same small network by both, every weight at random and each branch as strong as what it is added to."""
    width, blocks = 8, (2, 1, 2, 1)
    config = TheirConfig(
        hidden_sizes=[width * 2**stage for stage in range(4)],
        depths=list(blocks),
        id2label={number: str(number) for number in range(5)},
    )
    torch.manual_seed(1)
    theirs = ConvNextForImageClassification(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    ours = convnext(width=width, blocks=blocks)
    ours.load_state_dict(renamed(theirs, CONVNEXT))
    return ours, theirs


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_logits_are_those_of_transformers(size: tuple[int, int], memory_format: torch.memory_format) -> None:
    ours, theirs = both()
    batch = images(2, 3, *size)
    with torch.inference_mode():
        ours.eval().to(memory_format=memory_format)  # type: ignore[call-overload]
        mine = ours(batch.to(memory_format=memory_format))
        torch.testing.assert_close(mine, theirs.eval()(batch).logits, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_transformers() -> None:
    ours, theirs = both()
    batch, weights = images(3, 3, 64, 64), images(3, 5)
    (ours.train()(batch) * weights).sum().backward()
    (theirs.train()(batch).logits * weights).sum().backward()
    expected = gradients(theirs, CONVNEXT)
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        difference = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert difference < 1e-3, name


@pytest.mark.parametrize("memory_format", FORMATS)
def test_blocks_work_channels_last_whatever_the_images_are(memory_format: torch.memory_format) -> None:
    seen: list[bool] = []
    net = convnext(width=8, blocks=(2, 2), patch=2)
    for module in net.modules():
        if isinstance(module, ConvNeXtBlock):
            module.register_forward_hook(
                lambda _, inputs, output: seen.extend(
                    x.is_contiguous(memory_format=torch.channels_last) for x in (inputs[0], output)
                )
            )
    net(images(2, 3, 16, 16).to(memory_format=memory_format))
    assert seen == [True] * 8


def test_blocks_without_layer_scale_add_their_whole_branch() -> None:
    scaled, whole = (convnext(width=8, blocks=(1,), layer_scale=scale) for scale in (1.0, 0.0))
    whole.load_state_dict({name: tensor for name, tensor in scaled.state_dict().items() if name != "stages.0.0.scale"})
    batch = images(2, 3, 16, 16)
    torch.testing.assert_close(whole(batch), scaled(batch))


def test_deeper_blocks_are_skipped_more_often_and_a_skipped_sample_keeps_its_maps() -> None:
    net = convnext(width=8, blocks=(1, 1), stochastic_depth=0.5, layer_scale=1.0)
    blocks = [module for module in net.modules() if isinstance(module, ConvNeXtBlock)]
    assert [block.depth_rate for block in blocks] == [0.25, 0.5]
    x = images(64, 16, 3, 3)
    y, half = blocks[1](x), blocks[1].eval()(x) - x
    skipped = [torch.equal(one, same) for one, same in zip(y, x, strict=True)]
    assert 15 < sum(skipped) < 49
    for number, was_skipped in enumerate(skipped):
        torch.testing.assert_close(y[number], x[number] if was_skipped else x[number] + half[number] / 0.5)


def test_weights_begin_small() -> None:
    net = convnext(width=32, blocks=(1, 1))
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("scale"):
            assert (parameter == 1e-6).all()
        else:
            assert (parameter == (1.0 if "norm.weight" in name else 0.0)).all(), name


def test_kernels_cut_to_small_maps_and_fp32_convolutions_change_nothing_but_rounding() -> None:
    convolution = nn.Conv2d(4, 4, kernel_size=7, padding=3, groups=4)
    for height, width in ((1, 1), (2, 5), (3, 9), (8, 8)):
        x = images(2, 4, height, width)
        torch.testing.assert_close(depthwise(convolution, x), convolution(x))
    half = deepcopy(convolution).bfloat16()
    found = depthwise(half, x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), convolution(x), rtol=2e-2, atol=2e-2)
