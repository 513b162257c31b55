"""Image classification: predict the class of each image."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import DataError
from configs.vision import GoogLeNetConfig, ImageClassificationConfig
from data.manifest import Manifest
from trainer.augment.geometry import Size, centre, resize
from trainer.augment.pipeline import Augmentation
from trainer.evaluation.classes import class_figures, class_sums
from trainer.task import Batch, Networks, Sample, Scalars, Sums
from trainer.tasks.labels import label_of, label_weights

NETWORKS = {
    "lenet": "trainer.models.lenet:LeNet",
    "alexnet": "trainer.models.alexnet:AlexNet",
    "vgg": "trainer.models.vgg:VGG",
    "googlenet": "trainer.models.googlenet:GoogLeNet",
    "inception_resnet": "trainer.models.inception_resnet:InceptionResNet",
    "resnet": "trainer.models.resnet:ResNet",
    "densenet": "trainer.models.densenet:DenseNet",
    "convnext": "trainer.models.convnext:ConvNeXt",
}
"""Where the network of each `task.model.kind` is; imported when it is built"""


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
        shape = manifest.images
        self.config, self.classes, self.channels = config, len(manifest.classes), shape.channels
        self.image: Size = (shape.height, shape.width)
        self.seen: Size = (config.side, config.side) if config.side else self.image
        self.mean = torch.tensor(shape.mean, dtype=torch.float32).view(-1, 1, 1)
        std = torch.tensor(shape.std, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.where(std > 0, std, 1.0)  # a channel that never changes stays at 0
        self.weights = label_weights(config.class_weights, manifest)
        augment = config.augment
        self.augmentation = Augmentation(augment, image=self.image, seen=self.seen) if augment else None

    def networks(self) -> dict[str, nn.Module]:
        module, name = NETWORKS[self.config.model.kind].split(":")
        network = getattr(import_module(module), name)
        return {"model": network(self.config.model, channels=self.channels, classes=self.classes)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """images [B, C, H, W] uint8 as stored, labels [B] int64, weights [B] of the labels, what augmentation draws.

        canvas [B, height, width, 0] holds nothing: its shape is the size at which training sees these images, which
        is known without asking the device. Raises DamageError for a label that is no class.
        """
        pixels = torch.from_numpy(np.stack([sample["image"] for sample in samples]))  # [B, H, W, C]
        labels = torch.tensor([label_of(sample, self.classes) for sample in samples])
        positions = [int(sample["position"]) for sample in samples]
        tensors = {
            "images": pixels.permute(0, 3, 1, 2).contiguous(),
            "labels": labels,
            "weights": self.weights[labels],
            "canvas": torch.empty(len(samples), *self._size_at(positions[0]), 0),
        }
        drawn = self.augmentation.draw(positions) if self.augmentation else {}
        return Batch(tensors | drawn, len(samples), tuple(sample["id"] for sample in samples))

    def _size_at(self, position: int) -> Size:
        """Height and width that training sees at a position: the shorter side is the resolution's."""
        stages = self.config.resolutions
        side = next((stage.side for stage in stages if position < stage.until_samples), min(self.seen))
        height, width = (round(each * side / min(self.seen)) for each in self.seen)
        return height, width

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        """The sum over images of their labels' cross-entropy; auxiliary heads' counts by its weight."""
        images, shares = self._altered(batch)
        outputs = nets[turn](images)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self._cross_entropy(logits, batch, shares)
        if isinstance(self.config.model, GoogLeNetConfig):
            for each in auxiliary:
                loss = loss + self.config.model.auxiliary_weight * self._cross_entropy(each, batch, shares)
        predicted = logits.argmax(1)
        accuracy = _over_labels(lambda labels, _: (predicted == labels).float(), batch, shares)
        return loss, {"accuracy": accuracy}

    def _cross_entropy(self, logits: Tensor, batch: Batch, shares: Tensor | None) -> Tensor:
        logits, smoothing = logits.float(), self.config.label_smoothing

        def entropies(labels: Tensor, weights: Tensor) -> Tensor:
            return weights * F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

        return _over_labels(entropies, batch, shares)

    def _altered(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Images as training sees them [B, C, H, W], and how much of each is its partner [B]; None where none is."""
        images, canvas = batch.tensors["images"].float(), batch.tensors["canvas"]
        size = (canvas.shape[1], canvas.shape[2])
        if self.augmentation is None:
            return self._scale(resize(centre(images, self.seen), size)), None
        before = tuple(round(whole * now / seen) for whole, now, seen in zip(self.image, size, self.seen, strict=True))
        images = resize(images, (before[0], before[1]))
        return self.augmentation.combine(
            self._scale(self.augmentation.apply(images, batch.tensors, size)), batch.tensors
        )

    def _scale(self, images: Tensor) -> Tensor:
        """Levels 0..255 to mean 0 and variance 1 over the train split."""
        mean, std = (each.to(images.device, non_blocking=True) for each in (self.mean, self.std))
        return (images / 255 - mean) / std

    def inputs(self, batch: Batch) -> Tensor:
        """What the network sees in evaluation: the middle of the images, scaled [B, C, H, W] float32."""
        return self._scale(centre(batch.tensors["images"], self.seen).float())

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums of the negative log-likelihood in nats and of its square, images and those found, by class too."""
        return class_sums(nets["model"](self.inputs(batch)).float(), batch.tensors["labels"])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return class_figures(sums)


def _over_labels(each: Callable[[Tensor, Tensor], Tensor], batch: Batch, shares: Tensor | None) -> Tensor:
    """The sum over images of `each`, which takes labels and their weights [B]: of mixed ones, of both labels."""
    labels, weights = batch.tensors["labels"], batch.tensors["weights"]
    own = each(labels, weights)  # [B]
    if shares is None:
        return own.sum()
    partners = batch.tensors["partners"]
    return torch.lerp(own, each(labels[partners], weights[partners]), shares).sum()
