"""ResNet: the same answers, statistics and gradients as transformers' with its weights, and how it learns."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig as TheirConfig
from transformers import ResNetForImageClassification

from configs.vision import ResNetConfig
from tests.image_peers import RESNET, gradients, renamed
from trainer.models.resnet import ResidualBlock, ResNet


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def resnet(*, classes: int = 5, **fields: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet(ResNetConfig(kind="resnet", **fields), channels=3, classes=classes)


def both(*, bottleneck: bool) -> tuple[ResNet, ResNetForImageClassification]:
    """The same small network by both, every weight and running statistic at random."""
    width, blocks = 8, (2, 1, 2)
    config = TheirConfig(
        embedding_size=width,
        hidden_sizes=[width * 2**stage * (4 if bottleneck else 1) for stage in range(len(blocks))],
        depths=list(blocks),
        layer_type="bottleneck" if bottleneck else "basic",
        id2label={number: str(number) for number in range(5)},
    )
    torch.manual_seed(1)
    theirs = ResNetForImageClassification(config)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.3)
    ours = resnet(bottleneck=bottleneck, width=width, blocks=blocks)
    ours.load_state_dict(renamed(theirs, RESNET))
    return ours, theirs


@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_logits_are_those_of_transformers(bottleneck: bool, size: tuple[int, int]) -> None:
    ours, theirs = both(bottleneck=bottleneck)
    batch = images(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(batch), theirs.eval()(batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_training_step_has_transformers_logits_gradients_and_statistics(bottleneck: bool) -> None:
    ours, theirs = both(bottleneck=bottleneck)
    batch, weights = images(6, 3, 64, 64), images(6, 5)
    mine, other = ours.train()(batch), theirs.train()(batch).logits
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    (mine * weights).sum().backward()
    (other * weights).sum().backward()
    expected = gradients(theirs, RESNET)
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        difference = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert difference < 1e-3, name
    torch.testing.assert_close(ours.state_dict(), renamed(theirs, RESNET), rtol=1e-4, atol=1e-5)


def test_each_block_begins_as_the_identity_if_asked_to() -> None:
    fields: dict[str, Any] = {"width": 8, "blocks": (2, 2), "bottleneck": False, "stem": "small"}
    x = images(4, 8, 6, 6).relu()
    for zero_init in (True, False):
        first = resnet(zero_init=zero_init, **fields).get_submodule("stages.0.0")
        assert torch.equal(first(x), x) is zero_init


def test_the_small_stem_keeps_the_side() -> None:
    seen = []
    for stem in ("large", "small"):
        net = resnet(width=4, blocks=(1, 1), stem=stem)
        net.stages[0].get_submodule("0").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
        net.eval()(images(1, 3, 28, 28))
    assert [tuple(size) for size in seen] == [(7, 7), (28, 28)]


def test_weights_begin_as_he_et_al_draw_them() -> None:
    net = resnet(width=64, blocks=(1, 1))
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
    assert net.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not net.head.bias.any()


def test_deeper_blocks_are_skipped_more_often() -> None:
    net = resnet(width=4, blocks=(1, 2, 1), stochastic_depth=0.2)
    rates = [module.depth_rate for module in net.modules() if isinstance(module, ResidualBlock)]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_a_skipped_sample_keeps_its_maps_and_the_others_branch_is_larger() -> None:
    net = resnet(width=4, blocks=(2,), stochastic_depth=0.5, zero_init=False, bottleneck=False)
    block = net.get_submodule("stages.0.1")
    assert isinstance(block, ResidualBlock)
    assert block.depth_rate == 0.5
    x = images(64, 4, 5, 5).relu()
    y = block(x)
    with torch.no_grad():
        kept = (x + block.layers(x) / 0.5).relu()
    skipped = [torch.equal(one, same) for one, same in zip(y, x, strict=True)]
    assert 15 < sum(skipped) < 49
    for number, was_skipped in enumerate(skipped):
        torch.testing.assert_close(y[number], x[number] if was_skipped else kept[number])
    block.eval()
    torch.testing.assert_close(block(x), (x + block.layers(x)).relu())
