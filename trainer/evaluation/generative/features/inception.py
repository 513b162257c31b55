"""The feature net of the literature: Inception v3 with weights from a file that is checked, never shipped."""

import http.client
import os
import pickle
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from configs.diffusion import InceptionFeatures
from configs.errors import OutageError, UserError
from configs.features import at_address, require_weights
from configs.folder import file_digest, locked, sync
from data.progress import say
from trainer.distributed import World
from trainer.evaluation.generative.features.net import FeatureNet
from trainer.evaluation.generative.features.resize import WORDS, Pixels, resized
from trainer.models.inception_v3 import SIDE, InceptionV3

STANDARD = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""sha256 of pt_inception-2015-12-05-6726825d.pth, the public port of the weights that FID is defined by"""
_DOWNLOAD_TIMEOUT_S = 60


def open_inception(config: InceptionFeatures, cache: Path, world: World) -> FeatureNet:
    """Every rank calls it. Raises UserError for a file that is not there, has another digest or other tensors."""
    path = weights_file(config, cache, world)
    require_weights(config, path)
    net = read_inception(path).to(world.device)

    def see(images: Pixels) -> tuple[Tensor, Tensor]:
        features = net((resized(images, SIDE, config.resize).to(world.device) - 128) / 128)
        return features, net.logits(features)

    protocol = {
        "net": "Inception v3 of 2015-12-05 (Szegedy et al., 2016)",
        "weights": config.sha256,
        "layer": "2048 means of the last maps",
        "resize": f"{config.resize}: {WORDS[config.resize]}, to {SIDE} x {SIDE}",
        "scale": "(level - 128) / 128, grey three times",
        "classes": "1008 logits without their bias",
    }
    return FeatureNet("inception", config.sha256 == STANDARD, protocol, see)


def weights_file(config: InceptionFeatures, cache: Path, world: World) -> Path:
    """Where the weights lie here: the file, or what rank 0 brings from the address, kept in the cache's folder."""
    if not at_address(config):
        return Path(config.weights)
    path = cache / f"weights-{config.sha256[:16]}{Path(config.weights).suffix}"
    if world.rank == 0:
        with locked(cache, wait_s=600):
            if not path.exists() or file_digest(path) != config.sha256:
                download(config, path)
    world.sum(torch.zeros(1))  # the others wait until it is there
    return path


def download(config: InceptionFeatures, path: Path) -> None:
    """Raises OutageError when the address does not give a whole file, UserError when it is another than was asked for.

    What is kept is what the digest says: another try begins anew.
    """
    address, part = config.weights, path.with_name(path.name + ".part")
    say("evaluate", f"bringing {address}")
    try:
        with urlopen(address, timeout=_DOWNLOAD_TIMEOUT_S) as response, part.open("wb") as file:
            told = response.headers.get("Content-Length")
            while block := response.read(1 << 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except (URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise OutageError(
            f"{address}: {error}; try again, or give a file as task.evaluation.features.weights"
        ) from None
    if told and part.stat().st_size != int(told):
        raise OutageError(f"{address}: {part.stat().st_size} of {told} bytes came; try again")
    require_weights(config, part)
    os.replace(part, path)
    sync(path.parent)


def read_inception(path: Path) -> InceptionV3:
    """The network with a file's tensors, in evaluation mode. Raises UserError when they are others."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        with torch.device("meta"):
            network = InceptionV3()
        wanted = {name: tensor.shape for name, tensor in network.state_dict().items() if "num_batches" not in name}
        found = {name: tensor.shape for name, tensor in tensors.items() if "num_batches" not in name}
    except (SafetensorError, pickle.UnpicklingError, AttributeError, EOFError, RuntimeError) as error:
        raise UserError(
            f"task.evaluation.features.weights={path} holds no weights that can be read ({type(error).__name__}); "
            "give a file of tensors alone: .safetensors, or what torch saves of them"
        ) from None
    if other := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise UserError(
            f"{path} holds other tensors than Inception v3 of 2015-12-05: {len(other)} differ, first {other[0]}: "
            f"{_shape(found.get(other[0]))} there, {_shape(wanted.get(other[0]))} wanted"
        )
    counts = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if "num_batches" in name}
    network.load_state_dict(counts | {name: tensors[name].float() for name in wanted}, assign=True)
    return network.eval().requires_grad_(False)


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape))
