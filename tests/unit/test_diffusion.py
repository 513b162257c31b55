"""The diffusion task: what is drawn for each sample, its loss, and how a trained model is scored."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from configs.diffusion import DiffusionConfig
from configs.errors import ConfigError, DamageError, DataError
from configs.folder import RunFolder, write_atomic
from configs.load import dump
from configs.schema import RunConfig
from configs.stages import train_key
from data.manifest import ImagesRecord, Manifest, Split, read_manifest
from data.prepare import prepare
from data.shards import ShardReader
from tests.tiny import ALONE, CONFIGS, Memory, checkpoints, on_ranks, open_readers, shrink, write_source
from trainer.checkpoint import TrainState, weights
from trainer.distributed import World, seed_all
from trainer.evaluation.diffusion import evaluate, gather_first, require_fit, wishes_in_turn
from trainer.task import Sample
from trainer.tasks import build_task
from trainer.tasks.diffusion import BINS, Diffusion, level_share
from trainer.trained import open_trained


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
    assert sum(float(ours[f"error/{place}"]) for place in range(BINS)) == pytest.approx(float(ours["error"]))
    assert sum(float(ours[f"images/{place}"]) for place in range(BINS)) == 6


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
    with pytest.raises(ConfigError, match=r"task\.noise\.steps"):
        small(task__noise__steps=0)


# --- evaluation ---

DEMO = next(path for path in CONFIGS if path.stem == "demo-diffusion")
JUDGE = next(path for path in CONFIGS if path.stem == "demo-cnn")


def small(path: Path = DEMO, **overrides: Any) -> RunConfig:
    images = {"data__images__height": 16, "data__images__width": 16, "data__images__colour": "grey"}
    return shrink(path, **images, **overrides)


def prepared(run: RunConfig, folder: RunFolder, *, data: Path | None = None) -> Manifest:
    """A run folder with data, that of another run if given, and the checkpoint of a network as it begins."""
    folder.logs.mkdir(parents=True)
    write_atomic(folder.config, dump(run))
    if data:
        shutil.copytree(data, folder.data)
    else:
        prepare(run, folder)
    manifest = read_manifest(folder.manifest)
    seed_all(run.seed)
    nets = build_task(run, manifest).networks()
    state = {name: Memory({"weights": weights(net), "ema": dict(net.named_parameters())}) for name, net in nets.items()}
    origin = {"data": manifest.digest, "config": train_key(run)}
    checkpoints(folder.train, origin).save(state, TrainState(run.train.steps, 8, "00" * 32), {})
    return manifest


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs of the same images beside each other: one that draws, one that judges."""
    root = tmp_path_factory.mktemp("runs")
    source = write_source(small(), root / "raw")
    drawing = small(data__source=source, task__evaluation__images=10, task__evaluation__judge="judge")
    prepared(drawing, RunFolder(root / "drawing"))
    prepared(small(JUDGE, data__source=source), RunFolder(root / "judge"), data=root / "drawing" / "data")
    return root


def scored(runs: Path, world: World = ALONE, **evaluation: Any) -> Any:
    trained = open_trained(runs / "drawing", ALONE.device)
    task = trained.run.task.model_copy(update={"evaluation": trained.run.task.evaluation.model_copy(update=evaluation)})
    run = trained.run.model_copy(update={"task": task})
    readers: dict[str, ShardReader] = open_readers(trained.folder, trained.manifest)
    built = build_task(run, trained.manifest)
    return evaluate(run, trained.folder, trained.manifest, readers, built, trained.nets, world)


def test_a_run_is_scored_on_its_loss_and_by_what_the_judge_recognises(runs: Path) -> None:
    result = scored(runs)
    metrics = {metric.name: metric for metric in result.metrics}
    drawn, real = metrics["samples/class_accuracy"], metrics["baseline/real/class_accuracy"]
    assert drawn.protocol == real.protocol
    assert drawn.n == 10
    protocol = result.protocols[drawn.protocol]
    assert protocol["judge"] == open_trained(runs / "judge", ALONE.device).checkpoint
    assert protocol["drawing"] == small().task.drawing.model_dump(mode="json")  # type: ignore[union-attr]
    assert metrics["test/loss"].n == real.n
    assert metrics["test/loss"].value > 0
    assert metrics["test/loss"].stderr
    parts = [metric for name, metric in metrics.items() if name.startswith("test/loss_at_")]
    assert sum(part.n for part in parts) == real.n


def test_the_report_gets_a_picture_of_each_class_and_one_between_two_noises(runs: Path) -> None:
    *classes, between = scored(runs).samples
    assert [sample["class"] for sample in classes] == [f"class-{place}" for place in range(4)]
    assert classes[0]["recognised"].endswith("of 3")
    for sample, size in ((classes[0], (33, 33)), (between, (8 * 17 - 1, 4 * 17 - 1))):
        picture = base64.b64decode(sample["picture"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(picture)).size == size


def test_two_ranks_score_as_one_does(runs: Path) -> None:
    alone, (first, second) = scored(runs, batch_images=3), on_ranks(2, lambda world: scored(runs, world))
    assert second.samples == ()
    assert first.samples == alone.samples
    for ours, theirs in zip(first.metrics, alone.metrics, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5)
        assert (ours.name, ours.n, ours.protocol) == (theirs.name, theirs.n, theirs.protocol)


def test_without_the_judge_the_metric_is_left_out_aloud(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = scored(runs, judge="elsewhere")
    assert all("class_accuracy" not in metric.name for metric in result.metrics)
    assert "judge=elsewhere: there is no such run, so samples/class_accuracy is left out" in capsys.readouterr().out
    assert "recognised" not in result.samples[0]


def test_a_run_that_draws_nothing_is_scored_on_its_loss_alone(runs: Path) -> None:
    result = scored(runs, images=0)
    assert {metric.name.split("/")[0] for metric in result.metrics} == {"test"}
    assert result.samples == ()


def test_a_judge_of_other_images_or_classes_is_refused_with_both(runs: Path) -> None:
    judge = open_trained(runs / "judge", ALONE.device)
    manifest = judge.manifest
    assert manifest.images
    larger = manifest.model_copy(update={"images": manifest.images.model_copy(update={"height": 28})})
    with pytest.raises(DataError, match=r"sees images of 16 x 16 x 1 .* this run draws 28 x 16 x 1"):
        require_fit(judge, larger)
    with pytest.raises(DataError, match=r"knows the classes class-0, .* this run draws cat, dog"):
        require_fit(judge, manifest.model_copy(update={"classes": ("cat", "dog")}))
    with pytest.raises(DataError, match=r"is a run of task\.kind=diffusion; name one of image_classification"):
        require_fit(open_trained(runs / "drawing", ALONE.device), manifest)


def test_wishes_take_classes_in_turn() -> None:
    assert [(wish.number, wish.label) for wish in wishes_in_turn(5, 2)] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    assert {wish.label for wish in wishes_in_turn(3, 0)} == {0}


def test_the_first_images_are_gathered_in_their_order() -> None:
    wishes = wishes_in_turn(5, 0)
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)

    def gathered(world: World) -> Any:
        return gather_first(images[world.rank :: world.size], wishes, 4, (1, 2, 2), world)

    for found in on_ranks(3, gathered):
        assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
