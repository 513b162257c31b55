"""The diffusion task: what is drawn for each sample, and its loss."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.diffusion import DiffusionConfig
from configs.errors import ConfigError, DamageError, DataError
from data.manifest import ImagesRecord, Manifest, Split
from tests.tiny import CONFIGS, shrink
from trainer.task import Sample
from trainer.tasks.diffusion import Diffusion, level_share


def manifest_of(classes: tuple[str, ...] = ("a", "b", "c")) -> Manifest:
    split = Split(documents=8, bytes=8, samples=8, shards=(), classes=dict.fromkeys(classes, 3))
    return Manifest(
        schema_version=2,
        digest="d",
        kind="images",
        config="c",
        sources=(),
        images=ImagesRecord(height=8, width=8, channels=1, mean=(0.5,), std=(0.2,)),
        fields=("png", "cls"),
        classes=classes,
        splits=dict.fromkeys(("train", "validation", "test"), split),
        dropped={},
        checks={},
    )


def task_of(manifest: Manifest | None = None, **changes: Any) -> Diffusion:
    tree = {
        "kind": "diffusion",
        "model": {"kind": "dit", "patch": 4, "num_layers": 1, "width": 16, "num_heads": 2},
        "noise": {"kind": "linear", "steps": 100},
    }
    return Diffusion(DiffusionConfig.model_validate_json(json.dumps(tree | changes)), manifest or manifest_of())


def samples_of(count: int, *, first: int = 0) -> list[Sample]:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return [
        {"image": image, "label": place % 3, "id": place, "position": first + place}
        for place, image in enumerate(images)
    ]


class Recorder(nn.Module):
    """Keeps what it is asked and answers with a constant."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        self.asked = (x, level, labels)
        return self.constant.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


def test_each_sample_draws_from_its_position_alone() -> None:
    task, samples = task_of(label_drop=0.5, flip=True), samples_of(6, first=40)
    whole = task.collate(samples).tensors
    alone = task.collate(samples[4:5]).tensors
    for name, tensor in whole.items():
        assert torch.equal(tensor[4:5], alone[name]), name
    moved = task.collate([sample | {"position": 7} for sample in samples[4:5]]).tensors
    assert not torch.equal(moved["noise"], alone["noise"])


def test_images_span_minus_one_to_one_and_noise_is_standard_normal() -> None:
    tensors = task_of().collate(samples_of(64)).tensors
    assert tensors["images"].shape == (64, 1, 8, 8)
    assert tensors["images"].min() == -1
    assert tensors["images"].max() == 1
    assert tensors["noise"].mean() == pytest.approx(0, abs=0.05)
    assert tensors["noise"].std() == pytest.approx(1, abs=0.05)


def test_levels_of_consecutive_positions_are_spread_evenly() -> None:
    for first in (0, 1000, 3_000_000_001):
        shares = np.sort([level_share(position) for position in range(first, first + 64)])
        assert shares[0] > 0
        assert shares[-1] < 1
        assert np.diff(shares).max() < 2.7 / 64, "chance would leave gaps of about 5 / 64"


def test_a_share_of_labels_is_hidden_and_a_half_of_images_mirrored_in_training_alone() -> None:
    task, samples = task_of(label_drop=0.3, flip=True), samples_of(400)
    batch, network = task.collate(samples), Recorder()
    hidden, mirrored = batch.tensors["hidden"], batch.tensors["mirrored"]
    assert hidden.double().mean() == pytest.approx(0.3, abs=0.08)
    assert mirrored.double().mean() == pytest.approx(0.5, abs=0.08)
    task.loss("model", {"model": network}, batch)
    assert network.asked[2] is not None
    assert torch.equal(network.asked[2] == 3, hidden)
    trained_on = network.asked[0]
    task.evaluate({"model": network}, batch)
    assert network.asked[2] is not None
    assert torch.equal(network.asked[2], batch.tensors["labels"])
    same = (network.asked[0] == trained_on).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)


def test_the_loss_is_the_sum_of_each_images_mean_squared_error() -> None:
    task, network = task_of(), Recorder()
    batch = task.collate(samples_of(5))
    loss, scalars = task.loss("model", {"model": network}, batch)
    expected = ((0.5 - batch.tensors["noise"]) ** 2).flatten(1).mean(1).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scalars["squared_error"], expected)
    x, level, _ = network.asked
    sigma = batch.tensors["sigma"].view(-1, 1, 1, 1)
    noisy = (batch.tensors["images"] + sigma * batch.tensors["noise"]) / (1 + sigma**2).sqrt()
    torch.testing.assert_close(x, noisy.float())
    assert torch.equal(level, batch.tensors["level"].float())


def test_evaluation_leaves_out_the_weights_of_training() -> None:
    noise = {"kind": "linear", "steps": 100, "target": "v"}
    plain, weighted = task_of(noise=noise), task_of(noise=noise | {"min_snr": 1.0})
    batch, nets = plain.collate(samples_of(6)), {"model": Recorder()}
    assert weighted.loss("model", nets, batch)[0] < plain.loss("model", nets, batch)[0]
    with torch.inference_mode():
        ours, theirs = weighted.evaluate(nets, batch), plain.evaluate(nets, batch)
    assert ours["error"] == theirs["error"]
    assert float(ours["images"]) == 6
    assert weighted.metrics({name: float(value) for name, value in ours.items()})["loss"] == ours["error"] / 6


def test_a_learned_variance_is_taught_by_the_bound_and_the_mean_by_the_error_alone() -> None:
    noise = {"kind": "cosine", "steps": 100, "learned_variance": True}
    task, network = task_of(noise=noise), Recorder(channels=2)
    batch = task.collate(samples_of(32))
    loss, scalars = task.loss("model", {"model": network}, batch)
    loss.backward()
    both = network.constant.grad
    assert both is not None
    assert both[1] != 0
    network.constant.grad = None
    task.loss("model", {"model": network}, batch)[1]["squared_error"].backward()
    assert network.constant.grad is not None
    torch.testing.assert_close(network.constant.grad[0], both[0])
    assert loss > scalars["squared_error"]


@pytest.mark.parametrize(
    "noise",
    [
        {"kind": "cosine", "target": "x0", "min_snr": 5.0},
        {"kind": "linear", "target": "v", "learned_variance": True},
        {"kind": "edm"},
    ],
)
@pytest.mark.parametrize("conditional", [True, False])
def test_every_noise_gives_a_finite_loss_with_and_without_classes(noise: dict[str, Any], conditional: bool) -> None:
    task = task_of(noise=noise, conditional=conditional)
    nets = task.networks()
    batch = task.collate(samples_of(4))
    assert torch.isfinite(task.loss("model", nets, batch)[0])
    with torch.inference_mode():
        sums = {name: float(value) for name, value in task.evaluate(nets, batch).items()}
    assert np.isfinite(task.metrics(sums)["loss"])


def test_classes_that_the_data_lacks_are_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"set task\.conditional=false"):
        task_of(manifest_of(()))
    task = task_of(manifest_of(()), conditional=False)
    assert task.classes == 0
    sample = {key: value for key, value in samples_of(1)[0].items() if key != "label"}
    assert task.collate([sample]).tensors["labels"].tolist() == [0]


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(DamageError, match="sample 1 has label 9, the data has 3 classes"):
        task_of().collate([samples_of(2)[1] | {"label": 9}])


def test_a_schedule_without_levels_is_refused() -> None:
    demo = next(path for path in CONFIGS if path.stem == "demo-diffusion")
    with pytest.raises(ConfigError, match=r"task\.noise\.steps"):
        shrink(demo, task__noise__steps=0)
