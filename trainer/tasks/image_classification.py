"""Image classification: predict the class of each image."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import DamageError, DataError
from configs.schema import ImageClassificationConfig
from data.manifest import Manifest
from trainer.models.lenet import LeNet
from trainer.task import Batch, Networks, Sample, Scalars, Sums


class ImageClassification:
    """Cross-entropy over the classes that the data names. Raises DataError when it names fewer than two."""

    turns = ("model",)

    def __init__(self, config: ImageClassificationConfig, manifest: Manifest) -> None:
        if len(manifest.classes) < 2:
            got = ", ".join(manifest.classes) or "none"
            raise DataError(
                f"task.kind=image_classification needs images of at least 2 classes, the data has {got}; "
                "name the column of the class with data.source.label_field and prepare again"
            )
        assert manifest.images, "the task reads images, so that the configuration is refused without them"
        self.config, self.classes = config, len(manifest.classes)
        self.channels = manifest.images.channels
        self.mean = torch.tensor(manifest.images.mean, dtype=torch.float32).view(-1, 1, 1)
        std = torch.tensor(manifest.images.std, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.where(std > 0, std, 1.0)  # a channel that never changes stays at 0

    def networks(self) -> dict[str, nn.Module]:
        return {"model": LeNet(self.config.model, channels=self.channels, classes=self.classes)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """images [B, C, H, W] float32, of mean 0 and variance 1 over the train split; labels [B] int64.

        Raises DamageError for a label that is no class.
        """
        pixels = torch.from_numpy(np.stack([sample["image"] for sample in samples]))  # [B, H, W, C] uint8
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        labels = torch.tensor([self._label(sample) for sample in samples])
        ids = tuple(sample["id"] for sample in samples)
        return Batch({"images": images.contiguous(), "labels": labels}, len(samples), ids)

    def _label(self, sample: Sample) -> int:
        if 0 <= sample["label"] < self.classes:
            return int(sample["label"])
        raise DamageError(
            f"sample {sample['id']} has label {sample['label']}, the data has {self.classes} classes, numbered from 0; "
            "prepare it again"
        )

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        logits, labels = nets[turn](batch.tensors["images"]).float(), batch.tensors["labels"]
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.config.label_smoothing)
        return loss, {"accuracy": (logits.argmax(1) == labels).sum()}

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums of the negative log-likelihood in nats and of its square, images and those found, by class too."""
        logits, labels = nets["model"](batch.tensors["images"]).float(), batch.tensors["labels"]
        nll = F.cross_entropy(logits, labels, reduction="none").double()  # [B]
        found = labels[logits.argmax(1) == labels]
        by_class = {
            f"{name}/{index}": count
            for name, chosen in (("images", labels), ("correct", found))
            for index, count in enumerate(torch.bincount(chosen, minlength=self.classes).double().unbind())
        }
        size, correct = (nll.new_tensor(len(chosen)) for chosen in (labels, found))
        return {"nll": nll.sum(), "nll_nll": (nll * nll).sum(), "images": size, "correct": correct} | by_class

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["nll"] / sums["images"], "accuracy": sums["correct"] / sums["images"]}
