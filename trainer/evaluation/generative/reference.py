"""What a feature net sees in a split's real images, kept beside the runs so that those with equal images share it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from configs.folder import RunFolder, digest, locked, write_atomic
from data.manifest import Manifest, split_digest
from data.progress import Progress, say
from data.samples import decode
from data.shards import ShardReader
from trainer.distributed import World
from trainer.evaluation.generative.blocks import block_size, blocks_of
from trainer.evaluation.generative.features.net import FeatureNet, Seen, see_all
from trainer.evaluation.generative.features.resize import Pixels


def cache_folder(folder: RunFolder) -> Path:
    """Where features of real images and brought weights are kept: one for all runs that lie beside each other."""
    return folder.path.parent / ".features"


def see_split(
    net: FeatureNet,
    reader: ShardReader,
    manifest: Manifest,
    split: str,
    world: World,
    *,
    images: int,
    batch: int,
    cache: Path,
) -> Seen:
    """What the net sees in `images` images, evenly spaced in a split, or in all of fewer; on rank 0."""
    count = min(images, len(reader))
    made = {"device": world.device.type, "images_together": block_size(batch)}  # both change the last digits
    asked = {"features": dict(net.protocol), "data": split_digest(manifest, split), "images": count, **made}
    key = digest(asked)
    path = cache / f"{key[:32]}.safetensors"
    kept = read_seen(path, key) if world.rank == 0 else None
    if float(world.sum(torch.tensor(float(kept is not None)))):
        return kept or Seen(torch.empty(0, 0), None)
    seen = see_all(net, _blocks(reader, world, split, count=count, batch=batch), blank_image(manifest), world)
    if world.rank == 0:
        with locked(cache, wait_s=600):
            write_seen(path, key, seen)
    return seen


def _blocks(
    reader: ShardReader, world: World, split: str, *, count: int, batch: int
) -> Iterator[tuple[list[int], Pixels]]:
    """This rank's images, evenly spaced in the split, and their places there."""
    progress = Progress("evaluate", count, f"{split} images seen", visible=world.rank == 0)
    for block in blocks_of(count, world, most=batch):
        places = [place * len(reader) // count for place in block]
        yield places, np.stack([decode(reader[place])["image"] for place in places])
        if progress.due():
            progress.show(min(block.stop + (world.size - 1) * len(block), count))


def blank_image(manifest: Manifest) -> Pixels:
    """A black image [1, H, W, C] of the data's size."""
    shape = manifest.images
    assert shape
    return np.zeros((1, shape.height, shape.width, shape.channels), np.uint8)


def write_seen(path: Path, key: str, seen: Seen) -> None:
    """With the digest of its own numbers, so that a reader can tell that they are those that were written."""
    tensors = {"features": seen.features.contiguous()}
    if seen.logits is not None:
        tensors["logits"] = seen.logits.contiguous()
    write_atomic(path, save(tensors, {"key": key, "digest": _content(tensors)}))


def read_seen(path: Path, key: str) -> Seen | None:
    """None when nothing is kept, or, said aloud, when it is not as it was written: it can be seen again."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            told: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        say("evaluate", f"{path} cannot be read and is made anew: {error}")
        return None
    if told.get("key") != key or told.get("digest") != _content(tensors):
        say("evaluate", f"{path} is not as it was written and is made anew")
        return None
    return Seen(tensors["features"], tensors.get("logits"))


def _content(tensors: dict[str, torch.Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(f"{name} {list(tensors[name].shape)} ".encode())
        whole.update(tensors[name].numpy().data)
    return whole.hexdigest()
