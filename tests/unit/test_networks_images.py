"""Every image network: published sizes, images of any size, gradients everywhere, parts from input to head."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from configs.presets import PRESETS
from configs.vision import ImageNetworkConfig
from trainer.models.alexnet import AlexNet
from trainer.models.convnext import ConvNeXt
from trainer.models.convolution import Branches, initialise
from trainer.models.densenet import DenseNet
from trainer.models.googlenet import AuxiliaryHead, GoogLeNet
from trainer.models.image_heads import DenseHead, average_to
from trainer.models.inception_resnet import InceptionResidual, InceptionResNet
from trainer.models.lenet import LeNet
from trainer.models.residual import depth_rates, skip
from trainer.models.resnet import ResNet
from trainer.models.vgg import VGG
from trainer.parts import part_of

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "googlenet": GoogLeNet,
    "inception_resnet": InceptionResNet,
    "resnet": ResNet,
    "densenet": DenseNet,
    "convnext": ConvNeXt,
}
SMALL: Mapping[str, Mapping[str, Any]] = {
    "lenet": {"kind": "lenet"},
    "alexnet": {"kind": "alexnet", "width_factor": 0.05},
    "alexnet-pooled": {"kind": "alexnet", "width_factor": 0.05, "head": "pooled", "initialisation": "xavier"},
    "vgg": {"kind": "vgg", "blocks": [1, 2, 1], "width_factor": 0.05},
    "vgg-normalised-pooled": {
        "kind": "vgg",
        "blocks": [1, 1, 1, 1, 2],
        "width_factor": 0.05,
        "batch_norm": True,
        "head": "pooled",
    },
    "googlenet": {"kind": "googlenet", "width_factor": 0.06},
    "googlenet-alone": {"kind": "googlenet", "width_factor": 0.06, "auxiliary_weight": 0},
    "inception_resnet": {"kind": "inception_resnet", "blocks": [1, 1, 2], "width_factor": 0.05},
    "resnet": {"kind": "resnet", "blocks": [1, 2], "width": 4, "zero_init": False, "dropout": 0.1},
    "resnet-basic": {"kind": "resnet", "blocks": [1, 1, 1], "width": 4, "stem": "small", "bottleneck": False},
    "densenet": {"kind": "densenet", "blocks": [2, 2, 1], "growth": 4, "width": 8, "dropout": 0.1},
    "densenet-small-stem": {"kind": "densenet", "blocks": [2, 3], "growth": 4, "width": 8, "stem": "small"},
    "convnext": {"kind": "convnext", "blocks": [1, 2, 1], "width": 8, "stochastic_depth": 0.2},
}
PARAMETERS: Mapping[tuple[str, str | None], int] = {
    ("alexnet", None): 61_100_840,
    ("vgg", "vgg-16"): 138_357_544,
    ("vgg", "vgg-19"): 143_667_240,
    ("inception_resnet", None): 55_843_464,
    ("resnet", "resnet-18"): 11_689_512,
    ("resnet", "resnet-34"): 21_797_672,
    ("resnet", "resnet-50"): 25_557_032,
    ("resnet", "resnet-101"): 44_549_160,
    ("resnet", "resnet-152"): 60_192_808,
    ("densenet", "densenet-121"): 7_978_856,
    ("densenet", "densenet-161"): 28_681_000,
    ("densenet", "densenet-169"): 14_149_480,
    ("densenet", "densenet-201"): 20_013_928,
    ("convnext", "convnext-t"): 28_589_128,
    ("convnext", "convnext-s"): 50_223_688,
    ("convnext", "convnext-b"): 88_591_464,
    ("convnext", "convnext-l"): 197_767_336,
    ("convnext", "convnext-xl"): 350_196_968,
}
"""With 1000 classes, as torchvision's model pages tell them; of Inception-ResNet-v2 and ConvNeXt-XL as timm does.
Keras tells 55,873,736 of Inception-ResNet-v2: 60,544 running statistics more, 30,272 weights of norms fewer"""
OPERATIONS: Mapping[tuple[str, str | None], float] = {
    ("alexnet", None): 0.71,
    ("vgg", "vgg-16"): 15.47,
    ("resnet", "resnet-18"): 1.81,
    ("resnet", "resnet-50"): 4.09,
    ("densenet", "densenet-121"): 2.83,
    ("convnext", "convnext-t"): 4.46,
}
"""10^9 multiplications and additions for an image of 224 x 224, as torchvision's model pages tell them"""


def build(fields: Mapping[str, Any], *, channels: int = 3, classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    config = TypeAdapter(ImageNetworkConfig).validate_python(dict(fields))
    return NETWORKS[config.kind](config, channels=channels, classes=classes)


def on_meta(kind: str, preset: str | None, **fields: Any) -> nn.Module:
    with torch.device("meta"):
        shape = PRESETS[kind][preset] if preset else {}
        return build({"kind": kind, **shape, **fields}, classes=1000).eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def logits_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize(("kind", "preset"), PARAMETERS)
def test_parameters_are_as_many_as_published(kind: str, preset: str | None) -> None:
    assert size(on_meta(kind, preset)) == PARAMETERS[kind, preset]


@pytest.mark.parametrize(("kind", "preset"), OPERATIONS)
def test_operations_are_as_many_as_published(kind: str, preset: str | None) -> None:
    network = on_meta(kind, preset)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(OPERATIONS[kind, preset], abs=0.006)


def test_every_preset_has_its_parameters_checked() -> None:
    kinds = {kind for kind, _ in PARAMETERS}
    presets = {(kind, preset) for kind in kinds for preset in PRESETS.get(kind, {}) if preset != "laptop"}
    assert presets - PARAMETERS.keys() == {("densenet", "densenet-264")}


def test_densenet_264_has_as_many_parameters_as_its_layers_add_up_to() -> None:
    growth, maps = 32, 64
    expected = 3 * maps * 49 + 2 * maps
    for stage, num_layers in enumerate((6, 12, 64, 48)):
        if stage:
            expected += 2 * maps + maps * maps // 2
            maps //= 2
        for _ in range(num_layers):
            expected += 2 * maps + maps * 4 * growth + 2 * 4 * growth + 9 * 4 * growth * growth
            maps += growth
    expected += 2 * maps + maps * 1000 + 1000
    assert size(on_meta("densenet", "densenet-264")) == expected == 33_337_704


def test_googlenet_has_the_papers_modules() -> None:
    """Table 1 counts weights in units of 1024; torchvision has 3 x 3 where the paper has 5 x 5."""
    network = on_meta("googlenet", None)
    kibi = {
        name: sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 4) / 1024
        for name, module in network.get_submodule("inceptions").named_children()
    }
    assert (kibi["3a"], kibi["3b"]) == (pytest.approx(159, abs=1), pytest.approx(380, abs=1))
    five_by_five = [
        module for module in network.modules() if isinstance(module, nn.Conv2d) if module.kernel_size[0] == 5
    ]
    more = sum(module.in_channels * module.out_channels * (25 - 9) for module in five_by_five)
    assert size(network) == 13_004_888 + more
    assert size(on_meta("googlenet", None, auxiliary_weight=0)) == 6_624_904 + more


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("channels", "height", "width"), [(1, 28, 28), (3, 33, 47), (3, 64, 64), (1, 5, 90), (3, 1, 1)]
)
def test_images_of_any_size_have_logits(name: str, channels: int, height: int, width: int) -> None:
    network = build(SMALL[name], channels=channels).eval()
    with torch.inference_mode():
        logits = network(images(2, channels, height, width))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    fields = {**SMALL[name], "zero_init": False} if SMALL[name]["kind"] == "resnet" else SMALL[name]
    network = build(fields).train()
    loss = sum(F.cross_entropy(logits, torch.arange(8) % 7) for logits in logits_of(network(images(8, 3, 96, 96))))
    assert isinstance(loss, Tensor)
    loss.backward()
    still = [key for key, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", SMALL)
def test_parts_hold_every_parameter_once_and_end_with_what_makes_the_logits(name: str) -> None:
    network = build(SMALL[name])
    parts = network.parts()  # type: ignore[operator]
    prefixes = [prefix for part in parts for prefix in part]
    assert len(set(prefixes)) == len(prefixes)
    places = [part_of(key, parts) for key, _ in network.named_parameters()]
    assert set(places) == set(range(len(parts)))
    other = dict(build(SMALL[name], classes=9).named_parameters())
    changed = [part_of(key, parts) for key, each in network.named_parameters() if each.shape != other[key].shape]
    assert set(changed) == {len(parts) - 1}


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_is_the_same_each_time_and_for_each_image_alone(name: str) -> None:
    network = build(SMALL[name]).eval()
    batch = images(3, 3, 40, 40)
    with torch.inference_mode():
        logits = network(batch)
        assert torch.equal(network(batch), logits)
        alone = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_memory_stays_channels_last(name: str) -> None:
    network = build(SMALL[name]).eval()
    batch = images(2, 3, 96, 96)
    expected = network(batch)
    seen: list[tuple[str, bool]] = []

    def note(key: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append((key, inputs[0].is_contiguous(memory_format=torch.channels_last)))

    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(partial(note, key))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = network(batch.to(memory_format=torch.channels_last))
    assert [key for key, stays in seen if not stays] == []
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "lenet" and "alexnet" not in name])
def test_recomputed_blocks_learn_the_same_and_count_a_batch_once(name: str) -> None:
    states: list[dict[str, Tensor]] = []
    for recompute in (False, True):
        network = build(SMALL[name]).train()
        assert network.recompute is False
        network.recompute = recompute  # type: ignore[assignment]
        torch.manual_seed(1)
        torch.stack([logits.square().sum() for logits in logits_of(network(images(3, 3, 48, 48)))]).sum().backward()
        found = {f"gradient of {key}": each.grad for key, each in network.named_parameters() if each.grad is not None}
        states.append(network.state_dict() | found)
    assert states[0].keys() == states[1].keys()
    assert [key for key, tensor in states[0].items() if not torch.equal(tensor, states[1][key])] == []


def test_googlenet_has_auxiliary_logits_while_training_alone() -> None:
    network = build(SMALL["googlenet"])
    batch = images(2, 3, 64, 64)
    assert [tuple(logits.shape) for logits in network.train()(batch)] == [(2, 7)] * 3
    assert network.eval()(batch).shape == (2, 7)
    assert build(SMALL["googlenet-alone"]).train()(batch).shape == (2, 7)


def test_an_auxiliary_head_averages_14_places_as_the_paper_does() -> None:
    head = AuxiliaryHead(16, 7, 1.0).eval()
    x = images(2, 16, 14, 14)
    plain = head.dense(head.convolution(F.avg_pool2d(x, 5, stride=3)).flatten(1)).relu()
    torch.testing.assert_close(head(x), head.head(plain))


def test_alexnet_of_224_pixels_is_the_layers_of_the_paper() -> None:
    net = build({"kind": "alexnet", "width_factor": 0.1}).eval()
    assert isinstance(net, AlexNet)
    assert isinstance(net.head, DenseHead)
    plain = nn.Sequential(
        *(net.c1, nn.ReLU(), nn.MaxPool2d(3, 2), net.c2, nn.ReLU(), nn.MaxPool2d(3, 2), net.c3, nn.ReLU()),
        *(net.c4, nn.ReLU(), net.c5, nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(net.head.first, nn.ReLU(), net.head.second, nn.ReLU(), net.head.last),
    )
    batch = images(1, 3, 224, 224)
    torch.testing.assert_close(net(batch), plain(batch))


def test_vgg_of_224_pixels_is_the_layers_of_the_paper() -> None:
    net = build({"kind": "vgg", "blocks": [1, 1, 1, 1, 2], "width_factor": 0.05}).eval()
    assert isinstance(net.head, DenseHead)
    layers: list[nn.Module] = []
    for stage in net.get_submodule("stages").children():
        for layer in stage.children():
            layers += [layer.get_submodule("convolution"), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    head = (nn.Flatten(), net.head.first, nn.ReLU(), net.head.second, nn.ReLU(), net.head.last)
    batch = images(1, 3, 224, 224)
    torch.testing.assert_close(net(batch), nn.Sequential(*layers, *head)(batch))


def test_densenet_layers_see_all_maps_before_them() -> None:
    net = build({"kind": "densenet", "blocks": [2, 1], "growth": 4, "width": 8, "stem": "small"}).eval()

    def layer(prefix: str, x: Tensor) -> Tensor:
        part = net.get_submodule(prefix)
        x = part.get_submodule("inside.convolution")(F.relu(part.get_submodule("norm")(x)))
        return part.get_submodule("convolution")(F.relu(part.get_submodule("inside.norm")(x)))

    batch = images(2, 3, 12, 12)
    x = net.get_submodule("stem")(batch)
    x = torch.cat([x, layer("stages.0.0", x)], dim=1)
    x = torch.cat([x, layer("stages.0.1", x)], dim=1)
    x = net.get_submodule("stages.1.0.convolution")(F.relu(net.get_submodule("stages.1.0.norm")(x)))
    x = F.avg_pool2d(x, 2)
    x = torch.cat([x, layer("stages.1.1", x)], dim=1)
    expected = net.get_submodule("head")(F.relu(net.get_submodule("norm")(x)).mean((2, 3)))
    torch.testing.assert_close(net(batch), expected)


def test_inception_resnet_has_the_papers_grids() -> None:
    net = on_meta("inception_resnet", None, blocks=[1, 1, 1])
    grids: list[tuple[int, ...]] = []
    for stage in net.get_submodule("stages").children():
        stage.get_submodule("0").register_forward_hook(lambda _, __, output: grids.append(tuple(output.shape[1:])))
    net(torch.empty(1, 3, 299, 299, device="meta"))
    assert grids == [(320, 35, 35), (1088, 17, 17), (2080, 8, 8)]


def test_the_last_inception_residual_alone_is_a_plain_sum() -> None:
    net = build({**SMALL["inception_resnet"], "blocks": [2, 2, 3]})
    blocks = [module for module in net.modules() if isinstance(module, InceptionResidual)]
    assert [block.scale for block in blocks] == [0.17] * 2 + [0.10] * 2 + [0.20] * 2 + [1.0]
    assert [block.rectified for block in blocks] == [True] * 6 + [False]


def test_an_inception_residual_adds_its_scaled_branches() -> None:
    block = build(SMALL["inception_resnet"]).eval().get_submodule("stages.1.1")
    assert isinstance(block, InceptionResidual)
    x = images(2, block.project.out_channels, 5, 5).relu()
    branches = torch.cat([branch(x) for branch in block.branches], dim=1)
    torch.testing.assert_close(block(x), (x + 0.10 * block.project(branches)).relu())


def test_branches_stand_side_by_side() -> None:
    x = images(1, 2, 3, 3)
    assert torch.equal(Branches([nn.Identity(), nn.ReLU()])(x), torch.cat([x, x.relu()], dim=1))


@pytest.mark.parametrize(("given", "side"), [(12, 6), (6, 6), (7, 7), (3, 6), (1, 7), (2, 4)])
def test_averages_over_equal_windows_are_those_of_adaptive_pooling(given: int, side: int) -> None:
    x = images(2, 3, given, given)
    torch.testing.assert_close(average_to(x, side), F.adaptive_avg_pool2d(x, side))


def test_averages_of_any_size_have_the_side_asked_for() -> None:
    for height in range(1, 16):
        assert average_to(torch.ones(1, 2, height, 16 - height), 5).equal(torch.ones(1, 2, 5, 5))


@pytest.mark.parametrize(("scheme", "variance"), [("he", 2 / (40 * 9)), ("xavier", 2 / (100 * 9))])
def test_weights_begin_with_the_variance_of_their_scheme(scheme: str, variance: float) -> None:
    layer = nn.Conv2d(40, 60, 3)
    initialise(layer, scheme)
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.05)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_depth_rates_grow_linearly_to_the_last() -> None:
    assert depth_rates(0.4, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert depth_rates(0.0, 2) == [0.0, 0.0]


def test_skipping_keeps_the_mean_and_skips_whole_samples() -> None:
    torch.manual_seed(0)
    branch = skip(torch.ones(20_000, 2, 1), 0.3)
    assert branch.mean().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(branch.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert torch.equal(branch[:, 0], branch[:, 1])


def test_a_network_can_be_copied_with_its_weights() -> None:
    network = build(SMALL["resnet"]).eval()
    batch = images(1, 3, 16, 16)
    assert torch.equal(deepcopy(network)(batch), network(batch))
