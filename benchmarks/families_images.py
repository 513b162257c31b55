"""Cases of the image networks against those of `transformers`.

On a CPU, images channels last make ResNet faster in bf16 alone; in fp32 the gradients of its weights are copied once
more. ConvNeXt turns to that format by itself.
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.families import Work, forward_backward_case
from configs.presets import PRESETS
from configs.vision import ConvNeXtConfig, ResNetConfig
from tests.image_peers import CONVNEXT, RESNET, Names, gradients, renamed
from trainer.models.convnext import ConvNeXt
from trainer.models.resnet import ResNet

IMAGES, CHANNELS, CLASSES = 24, 3, 1000
SIDES = {"resnet": 96, "convnext": 64}
NAMES = {number: str(number) for number in range(CLASSES)}
# how far apart gradients may be: norms over few values make the last bit of a sum matter
GRADIENTS = {
    ("resnet", "fp32"): 0.01,
    ("resnet", "bf16"): 0.3,
    ("convnext", "fp32"): 1e-3,
    ("convnext", "bf16"): 0.15,
}
OURS = {("resnet", "bf16"): "our_resnet_channels_last"}
BRANCH_WEIGHT = 0.2
WEIGHTS = "weights.safetensors"


def our_resnet(folder: Path) -> Work:
    """Opens ResNet-18 with the peer's weights."""
    config = ResNetConfig(kind="resnet", **PRESETS["resnet"]["resnet-18"])
    return _ours(ResNet(config, channels=CHANNELS, classes=CLASSES), SIDES["resnet"], folder)


def our_resnet_channels_last(folder: Path) -> Work:
    """The same with weights and images channels last in memory: world.channels_last."""
    work = our_resnet(folder)
    work.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = batch(SIDES["resnet"])
    images = images.to(memory_format=torch.channels_last)
    return replace(work, loss=lambda: F.cross_entropy(work.network(images).float(), labels))


def our_convnext(folder: Path) -> Work:
    """Opens ConvNeXt-T with the peer's weights."""
    config = ConvNeXtConfig(kind="convnext", **PRESETS["convnext"]["convnext-t"])
    return _ours(ConvNeXt(config, channels=CHANNELS, classes=CLASSES), SIDES["convnext"], folder)


def their_resnet(folder: Path) -> Work:
    """Opens `transformers`' ResNet-18 and leaves its weights; branches count little, as early in training.

    With branches in full a fresh network this deep multiplies the last bit of a sum to some per cent of its gradients.
    """
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    network = ResNetForImageClassification(
        ResNetConfig(id2label=NAMES, depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    )
    for name, module in network.named_modules():
        if name.endswith("layer.1.normalization"):
            nn.init.constant_(cast(nn.BatchNorm2d, module).weight, BRANCH_WEIGHT)
    return _theirs(network, RESNET, SIDES["resnet"], folder)


def their_convnext(folder: Path) -> Work:
    """Opens `transformers`' ConvNeXt-T and leaves its weights; branches count in full, lest the stem decide alone."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    torch.manual_seed(0)
    config = ConvNextConfig(id2label=NAMES, layer_scale_init_value=1.0)
    return _theirs(ConvNextForImageClassification(config), CONVNEXT, SIDES["convnext"], folder)


def _ours(network: nn.Module, side: int, folder: Path) -> Work:
    network.load_state_dict(load_file(folder / WEIGHTS))
    network.train()
    images, labels = batch(side)

    def found() -> dict[str, Tensor]:
        return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}

    return Work(network, lambda: F.cross_entropy(network(images).float(), labels), IMAGES, found)


def _theirs(network: nn.Module, names: Names, side: int, folder: Path) -> Work:
    save_file({name: tensor.contiguous() for name, tensor in renamed(network, names).items()}, folder / WEIGHTS)
    network.train()
    images, labels = batch(side)
    return Work(
        network,
        lambda: F.cross_entropy(network(images).logits.float(), labels),
        IMAGES,
        lambda: dict(gradients(network, names)),
    )


def batch(side: int) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] and labels [B], the same every time."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, CHANNELS, side, side, generator=generator)
    return images, torch.randint(CLASSES, (IMAGES,), generator=generator)


CASES = tuple(
    forward_backward_case(
        f"families/{family}-{precision}",
        measures=f"{network} on images of {SIDES[family]} pixels against transformers'",
        unit="images/s",
        ours=f"benchmarks.families_images:{OURS.get((family, precision), f'our_{family}')}",
        peer=f"benchmarks.families_images:their_{family}",
        precision=precision,
        libraries=("transformers",),
        steps=4 if precision == "fp32" else 1,
        loss=1e-4 if precision == "fp32" else 1e-2,
        gradient=GRADIENTS[family, precision],
    )
    for family, network in (("resnet", "ResNet-18"), ("convnext", "ConvNeXt-T"))
    for precision in ("fp32", "bf16")
)
