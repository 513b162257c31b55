"""Cases of the diffusion networks: ours against those of `diffusers`."""

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.families import Work, forward_backward_case
from configs.diffusion import DiTConfig, UNetConfig
from configs.presets import PRESETS
from tests.diffusion_peers import as_dit, as_unet, gradients_of, their_dit, their_unet, weights_of
from trainer.models.dit import DiT
from trainer.models.unet import UNet

SIDE, CLASSES = 32, 10
UNET = UNetConfig(
    kind="unet", width=64, multipliers=(1, 2, 2), num_blocks=2, attention_sides=(16, 8), head_width=32, dropout=0.0
)
UNET_IMAGES, UNET_CHANNELS, UNET_OUTPUTS, UNET_GROUPS = 8, 3, 3, 16
DIT = DiTConfig.model_validate({"kind": "dit", **PRESETS["dit"]["dit-s"], "num_layers": 4})  # all blocks are alike
DIT_IMAGES, DIT_CHANNELS, DIT_OUTPUTS = 4, 4, 8
WEIGHTS = "weights.safetensors"
# in bf16 each side's gradients are up to 3 % from its own in fp32
PRECISIONS: tuple[tuple[Literal["fp32", "bf16"], dict[str, float]], ...] = (
    ("fp32", {}),
    ("bf16", {"loss": 1e-3, "gradient": 4e-2}),
)


def our_unet(folder: Path) -> Work:
    """Opens a UNet with the peer's weights, channels last in memory as a run has them."""
    network = UNet(UNET, channels=UNET_CHANNELS, outputs=UNET_OUTPUTS, classes=CLASSES, side=(SIDE, SIDE))
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images, level, labels = batch(UNET_IMAGES, UNET_CHANNELS)
    return _ours(network, (images.to(memory_format=torch.channels_last), level, labels), folder)


def our_dit(folder: Path) -> Work:
    """Opens four blocks of DiT-S/2 with the peer's weights."""
    network = DiT(DIT, channels=DIT_CHANNELS, outputs=DIT_OUTPUTS, classes=CLASSES, side=(SIDE, SIDE))
    return _ours(network, batch(DIT_IMAGES, DIT_CHANNELS), folder)


def their_unet_side(folder: Path) -> Work:
    """Opens UNet2DModel and leaves its weights."""
    torch.manual_seed(0)
    network = their_unet(
        UNET, channels=UNET_CHANNELS, outputs=UNET_OUTPUTS, classes=CLASSES, side=SIDE, groups=UNET_GROUPS
    )
    save_file(as_unet(weights_of(network), UNET.num_blocks), folder / WEIGHTS)
    inputs = batch(UNET_IMAGES, UNET_CHANNELS)
    return Work(
        network.train(),
        lambda: loss(network(*inputs, return_dict=False)[0]),
        UNET_IMAGES,
        lambda: as_unet(gradients_of(network), UNET.num_blocks),
    )


def their_dit_side(folder: Path) -> Work:
    """Opens DiTTransformer2DModel and leaves its weights."""
    torch.manual_seed(0)
    network = their_dit(DIT, channels=DIT_CHANNELS, outputs=DIT_OUTPUTS, classes=CLASSES, side=SIDE)
    save_file(as_dit(weights_of(network)), folder / WEIGHTS)
    inputs = batch(DIT_IMAGES, DIT_CHANNELS)
    return Work(
        network.train(),
        lambda: loss(network(*inputs, return_dict=False)[0]),
        DIT_IMAGES,
        lambda: as_dit(gradients_of(network)),
    )


def _ours(network: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], folder: Path) -> Work:
    network.load_state_dict(load_file(folder / WEIGHTS))

    def gradients() -> dict[str, Tensor]:
        return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}

    return Work(network.train(), lambda: loss(network(*inputs)), len(inputs[0]), gradients)


def loss(found: Tensor) -> Tensor:
    """A number that every pixel moves, by as much as its own value."""
    return found.float().square().mean()


def batch(images: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images [B, C, H, W], their levels [B] and labels [B], "no class" among them, the same every time."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(images, channels, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    labels[0] = CLASSES
    return noisy, torch.linspace(0, 999, images), labels


CASES = tuple(
    forward_backward_case(
        f"families/{family}-{precision}",
        measures=measures,
        unit="images/s",
        ours=f"benchmarks.families_diffusion:our_{family}",
        peer=f"benchmarks.families_diffusion:their_{family}_side",
        precision=precision,
        libraries=("diffusers",),
        steps=1,
        **tolerances,
    )
    for family, measures in (
        ("unet", "UNet of 64 maps on images of 32 pixels, channels last, against UNet2DModel with the same weights"),
        ("dit", "four blocks of DiT-S/2 on 32 x 32 x 4 latents against DiTTransformer2DModel with the same weights"),
    )
    for precision, tolerances in PRECISIONS
)
