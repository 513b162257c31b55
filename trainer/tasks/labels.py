"""Labels of samples, and what each counts in a loss."""

import torch
from torch import Tensor

from configs.errors import DamageError
from data.augment import class_weights
from data.manifest import Manifest
from trainer.task import Sample


def label_of(sample: Sample, classes: int) -> int:
    """A sample's class. Raises DamageError for a number that is none."""
    if 0 <= sample["label"] < classes:
        return int(sample["label"])
    raise DamageError(
        f"sample {sample['id']} has label {sample['label']}, the data has {classes} classes, numbered from 0; "
        "prepare it again"
    )


def label_weights(kind: str, manifest: Manifest, *, tags: bool = False) -> Tensor:
    """What each class, or with `tags` each tag, counts in the loss, float32: by how often the train split has it."""
    names = manifest.tags if tags else manifest.classes
    if kind == "none":
        return torch.ones(len(names))
    train = manifest.splits["train"]
    counts = train.tags if tags else train.classes
    weights = class_weights({name: counts.get(name, 0) for name in names})
    return torch.tensor([weights[name] for name in names], dtype=torch.float32)
