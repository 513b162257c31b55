"""Diffusion: remove noise from images, and so learn to draw them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn

from configs.diffusion import DiffusionConfig
from configs.errors import DataError
from data.manifest import Manifest
from trainer.diffusion.drawing import from_pixels, generator
from trainer.diffusion.schedules import StepNoise, build_noise
from trainer.diffusion.targets import over, squared_error, variational_bits, wanted
from trainer.task import Batch, Networks, Sample, Scalars, Sums
from trainer.tasks.labels import label_of

NETWORKS = {"unet": "trainer.models.unet:UNet", "dit": "trainer.models.dit:DiT"}
"""By `kind`; imported when a run of it starts"""
_STREAM = 20_200_619  # sets this family's random numbers apart from others'
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_VARIANCE_WEIGHT = 0.001  # of the variational bound in the hybrid loss (Nichol and Dhariwal, 2021, 3.1)


class Diffusion:
    """Mean squared error of what the network predicts, at levels of noise drawn for each image."""

    turns = ("model",)

    def __init__(self, config: DiffusionConfig, manifest: Manifest) -> None:
        """Raises DataError when classes are wanted and the data has none."""
        assert manifest.images, "the task reads images, so that the configuration is refused without them"
        if config.conditional and not manifest.classes:
            raise DataError(
                "task.conditional=true needs images with classes, the data has none; set task.conditional=false, or "
                "name the column of the class with data.source.label_field and prepare again"
            )
        shape = manifest.images
        self.config, self.noise = config, build_noise(config.noise)
        self.shape = (shape.channels, shape.height, shape.width)
        self.classes = len(manifest.classes) if config.conditional else 0

    def networks(self) -> dict[str, nn.Module]:
        module, name = NETWORKS[self.config.model.kind].split(":")
        channels, *side = self.shape
        outputs = channels * (2 if self.noise.learned_variance else 1)
        network = getattr(import_module(module), name)
        return {
            "model": network(
                self.config.model, channels=channels, outputs=outputs, classes=self.classes, side=tuple(side)
            )
        }

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Images with what happens to each in training, drawn from its position alone.

        images and noise [B, C, H, W] float32, of [-1, 1] and of variance 1; sigma and level [B] float64, and the share
        of the levels' distribution below them; labels [B] int64; hidden and mirrored [B] bool, which evaluation does
        not read. Raises DamageError for a label that is no class.
        """
        pixels = torch.from_numpy(np.stack([sample["image"] for sample in samples]))  # [B, H, W, C] uint8
        streams = [generator(_STREAM, sample["position"]) for sample in samples]
        chances = torch.from_numpy(np.stack([stream.random(2) for stream in streams]))
        share = torch.tensor([level_share(sample["position"]) for sample in samples], dtype=torch.float64)
        sigma, level = self.noise.draw(share)
        tensors = {
            "images": from_pixels(pixels),
            "noise": torch.from_numpy(np.stack([each.standard_normal(self.shape, np.float32) for each in streams])),
            "share": share,
            "sigma": sigma,
            "level": level,
            "labels": torch.tensor([label_of(sample, self.classes) if self.classes else 0 for sample in samples]),
            "hidden": chances[:, 0] < self.config.label_drop,
            "mirrored": (chances[:, 1] < 0.5) & self.config.flip,
        }
        return Batch(tensors, len(samples), tuple(sample["id"] for sample in samples))

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        """The weighted error of each image, plus the bound of the variance where that is learned."""
        given = batch.tensors
        images = torch.where(given["mirrored"].view(-1, 1, 1, 1), given["images"].flip(3), given["images"])
        labels = torch.where(given["hidden"], self.classes, given["labels"])
        sigma, level, noise = given["sigma"], given["level"], given["noise"]
        output, share = self.predict(nets[turn], images, noise, sigma, level, labels)
        error = squared_error(output, wanted(self.noise.scales(sigma), sigma, images, noise))  # [B]
        loss = (error * self.noise.weight(sigma).to(error)).sum()
        if share is not None:
            loss = loss + self._bound(output, share, images, noise, level)
        return loss, {"squared_error": error.sum()}

    def predict(
        self,
        network: Callable[..., Tensor],
        images: Tensor,
        noise: Tensor,
        sigma: Tensor,
        level: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """The network's output [B, C, H, W], and the share of the log-variance where it is learned."""
        inside = self.noise.scales(sigma).inside
        inputs = over(inside, images) * images + over(inside * sigma, images) * noise
        output = network(inputs, level.float(), labels if self.classes else None).float()
        if not self.noise.learned_variance:
            return output, None
        output, share = output.chunk(2, dim=1)
        return output, (share + 1) / 2

    def _bound(self, output: Tensor, share: Tensor, images: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Its gradient teaches the variance alone: the mean is detached."""
        assert isinstance(self.noise, StepNoise)
        sigmas, steps = self.noise.sigmas.to(images.device), level.long()
        sigma = sigmas[steps]
        scales = self.noise.scales(sigma)
        noisy = images + over(sigma, images) * noise
        found = over(scales.skip, images) * noisy + over(scales.out, images) * output.detach()
        return _VARIANCE_WEIGHT * len(sigmas) * variational_bits(sigmas, steps, images, found, share).sum()

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        """Sums of the unweighted error and of images."""
        error = self.errors(nets, batch)
        return {"error": error.sum(), "images": error.new_tensor(len(error))}

    def errors(self, nets: Networks, batch: Batch) -> Tensor:
        """Each image's unweighted error, [B] float64: unaltered and with its class, at its own level."""
        given = batch.tensors
        images, noise, sigma = given["images"], given["noise"], given["sigma"]
        output, _ = self.predict(nets["model"], images, noise, sigma, given["level"], given["labels"])
        return squared_error(output, wanted(self.noise.scales(sigma), sigma, images, noise)).double()

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["error"] / sums["images"]}


def level_share(position: int) -> float:
    """Where the level of a sample lies in its distribution, in (0, 1): multiples of the golden ratio, modulo 1.

    Any run of consecutive positions is spread more evenly than chance would, so that the loss is less noisy (as Kingma
    et al., 2021, appendix I.1, have it within a batch).
    """
    return ((((position + 1) * _GOLDEN) % 2**64 >> 11) + 0.5) / 2**53
