"""Image classification from samples to metrics."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from configs.errors import DamageError, DataError
from configs.folder import RunFolder
from configs.metrics import protocol_id
from configs.schema import RunConfig
from configs.vision import ImageClassificationConfig, LeNetConfig
from data.manifest import SCHEMA_VERSION, ImagesRecord, Manifest, Split
from data.shards import ShardReader, ShardWriter
from tests.tiny import ALONE, CONFIGS, on_ranks, open_readers, shrink
from trainer.distributed import World
from trainer.evaluation.class_metrics import AREAS, MEANS
from trainer.evaluation.classes import class_figures, class_sums
from trainer.evaluation.classification import describe_protocol, evaluate
from trainer.evaluation.contract import Result
from trainer.models.lenet import LeNet
from trainer.task import Batch, Sample
from trainer.tasks import build_task
from trainer.tasks.image_classification import ImageClassification

Pixels = NDArray[np.uint8]
CLASSES = ("cat", "dog", "eel", "fox")
SIDE = 6


def describe(training: Sequence[Pixels], splits: Mapping[str, Split]) -> Manifest:
    """The manifest of a data set with these training images."""
    pixels = np.stack(training) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        digest="d" * 64,
        kind="images",
        config="c" * 64,
        sources=(),
        images=ImagesRecord(height=SIDE, width=SIDE, channels=pixels.shape[-1], mean=tuple(mean), std=tuple(std)),
        fields=("png", "cls"),
        classes=CLASSES,
        splits=dict(splits),
        dropped={},
        checks={},
    )


def split_of(labels: Sequence[int], shards: Any = ()) -> Split:
    counts = {name: list(labels).count(index) for index, name in enumerate(CLASSES)}
    return Split(documents=len(labels), bytes=1, samples=len(labels), shards=shards, classes=counts)


def draw(number: int, channels: int = 3, seed: int = 0) -> list[Pixels]:
    shape = (number, SIDE, SIDE, channels)
    return list(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def make_task(manifest: Manifest, **fields: Any) -> ImageClassification:
    config = {"kind": "image_classification", "model": {"kind": "lenet"}} | fields
    return ImageClassification(ImageClassificationConfig.model_validate(config), manifest)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return describe(draw(6), {})


def samples(images: Sequence[Pixels], labels: Sequence[int]) -> list[Sample]:
    return [
        {"id": 10 + place, "position": place, "image": image, "label": label}
        for place, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


class Fixed(nn.Module):
    """Logits by the first pixel alone: the probabilities are known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([3.0, -2.0, 1.0, 0.5]))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :1] * self.scale


def test_collated_train_images_have_mean_0_and_variance_1_in_every_channel(manifest: Manifest) -> None:
    task = make_task(manifest)
    batch = task.collate(samples(draw(6), [0, 1, 1, 3, 1, 0]))
    assert batch.tensors["images"].dtype == torch.uint8
    images = task.inputs(batch)
    assert (images.shape, images.dtype) == ((6, 3, SIDE, SIDE), torch.float32)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), torch.ones(3))
    assert batch.tensors["labels"].tolist() == [0, 1, 1, 3, 1, 0]
    assert batch.tensors["labels"].dtype == torch.int64
    assert (batch.count, batch.ids) == (6, (10, 11, 12, 13, 14, 15))


def test_a_channel_that_never_changes_is_0() -> None:
    flat = [np.full((SIDE, SIDE, 1), 77, dtype=np.uint8)] * 3
    task = make_task(describe(flat, {}))
    assert task.inputs(task.collate(samples(flat, [0, 1, 2]))).abs().max() < 1e-6


@pytest.mark.parametrize("label", [-1, len(CLASSES)])
def test_a_label_that_is_no_class_is_named_with_its_sample(manifest: Manifest, label: int) -> None:
    with pytest.raises(DamageError, match=f"sample 11 has label {label}, the data has 4 classes"):
        make_task(manifest).collate(samples(draw(2), [0, label]))


@pytest.mark.parametrize(("classes", "got"), [((), "none"), (("cat",), "cat")])
def test_data_without_two_classes_says_which_setting_names_them(
    manifest: Manifest, classes: tuple[str, ...], got: str
) -> None:
    with pytest.raises(DataError, match=rf"at least 2 classes, the data has {got}; .*data\.source\.label_field"):
        make_task(manifest.model_copy(update={"classes": classes}))


def by_hand(task: ImageClassification, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log-probabilities [B, classes] and predictions [B] of Fixed, in fp64."""
    logits = Fixed().double()(task.inputs(batch).double()).detach().numpy()
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), logits.argmax(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_sum_over_images_of_the_smoothed_cross_entropy(manifest: Manifest, smoothing: float) -> None:
    task, labels = make_task(manifest, label_smoothing=smoothing), [0, 1, 1, 3, 1, 2]
    batch = task.collate(samples(draw(6, seed=3), labels))
    total, scalars = task.loss("model", {"model": Fixed()}, batch)
    log_probability, predicted = by_hand(task, batch)
    target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    assert total.item() == pytest.approx(-(target * log_probability).sum(), rel=1e-5)
    assert {name: float(value) for name, value in scalars.items()} == {"accuracy": float((predicted == labels).sum())}


class Twice(nn.Module):
    """A network with auxiliary heads: in training it answers three times."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = Fixed()(images)
        return logits, 2 * logits, 0 * logits


def test_auxiliary_heads_count_by_their_weight(manifest: Manifest) -> None:
    task = make_task(manifest, model={"kind": "googlenet", "auxiliary_weight": 0.3})
    batch = task.collate(samples(draw(5), [0, 1, 3, 2, 1]))
    total, _ = task.loss("model", {"model": Twice()}, batch)
    logits, labels = Fixed()(task.inputs(batch)), batch.tensors["labels"]
    losses = [F.cross_entropy(scale * logits, labels, reduction="sum") for scale in (1, 2, 0)]
    torch.testing.assert_close(total, losses[0] + 0.3 * losses[1] + 0.3 * losses[2])


def test_labels_of_rare_classes_weigh_more_and_their_mean_over_the_train_split_is_1() -> None:
    labels = [0, 1, 1, 3, 1, 0]
    task = make_task(describe(draw(6), {"train": split_of(labels)}), class_weights="inverse_frequency")
    batch = task.collate(samples(draw(6), labels))
    assert batch.tensors["weights"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 2, 2 / 3, 1])
    assert batch.tensors["weights"].mean() == pytest.approx(1)
    total, _ = task.loss("model", {"model": Fixed()}, batch)
    log_probability, _ = by_hand(task, batch)
    own = -log_probability[np.arange(6), labels]
    assert total.item() == pytest.approx((own * batch.tensors["weights"].numpy()).sum(), rel=1e-5)


def test_mixed_images_are_scored_by_both_labels_and_each_counts_by_its_class() -> None:
    labels = [0, 1, 1, 3, 1, 0]
    split = {"train": split_of(labels)}
    task = make_task(
        describe(draw(6), split), augment={"mixup": 1.0}, class_weights="inverse_frequency", label_smoothing=0.1
    )
    batch = task.collate(samples(draw(6), labels))
    total, scalars = task.loss("model", {"model": Fixed()}, batch)
    shares, weights, partners = (batch.tensors[name] for name in ("shares", "weights", "partners"))
    assert partners.tolist() == [1, 0, 3, 2, 5, 4]
    images = task.inputs(batch)
    weight = shares[:, None, None, None]
    log_probability = torch.log_softmax(Fixed()((1 - weight) * images + weight * images[partners]), 1)
    target = F.one_hot(batch.tensors["labels"], 4) * 0.9 + 0.1 / 4
    target = target * weights[:, None]
    mixed = (1 - shares)[:, None] * target + shares[:, None] * target[partners]
    torch.testing.assert_close(total, -(mixed * log_probability).sum())
    hits = (log_probability.argmax(1) == batch.tensors["labels"]).float()
    other = (log_probability.argmax(1) == batch.tensors["labels"][partners]).float()
    torch.testing.assert_close(scalars["accuracy"], ((1 - shares) * hits + shares * other).sum())
    mass = (1 - shares) * weights + shares * weights[partners]
    assert mixed.sum(1).tolist() == pytest.approx(mass.tolist(), rel=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_the_loss_of_mixed_pairs_is_the_same_in_micro_batches_of_any_even_size(manifest: Manifest, size: int) -> None:
    augment = {"crop_area": 0.5, "policy": "trivialaugment", "mixup": 0.4, "cutmix": 1.0, "erase": 0.3}
    task, taken = make_task(manifest, augment=augment), samples(draw(8), [0, 1, 3, 2, 1, 0, 0, 2])
    whole, _ = task.loss("model", {"model": Fixed()}, task.collate(taken))
    parts = [
        task.loss("model", {"model": Fixed()}, task.collate(taken[start : start + size]))[0]
        for start in range(0, 8, size)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


class Sides(nn.Module):
    """Remembers the sizes of the images that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((images.shape[2], images.shape[3]))
        return Fixed()(images)


@pytest.mark.parametrize("augment", [None, {"crop_area": 0.5}, {"flip": True}])
def test_resolutions_grow_with_the_position_in_training_alone(manifest: Manifest, augment: Any) -> None:
    stages = [{"side": 2, "until_samples": 8}, {"side": 3, "until_samples": 16}]
    task, net = make_task(manifest, side=4, resolutions=stages, augment=augment), Sides()
    for position in (0, 6, 8, 14, 16, 100):
        pair = [sample | {"position": position + place} for place, sample in enumerate(samples(draw(2), [0, 1]))]
        batch = task.collate(pair)
        assert {len(tensor) for tensor in batch.tensors.values()} == {2}
        task.loss("model", {"model": net}, batch)
    assert net.seen == [(side, side) for side in (2, 2, 3, 3, 4, 4)]
    task.evaluate({"model": net}, batch)
    assert net.seen[-1] == (4, 4)


def test_evaluation_sees_the_middle_unaltered_whatever_training_does(manifest: Manifest) -> None:
    augment = {"crop_area": 0.1, "policy": "randaugment", "erase": 1.0, "mixup": 1.0, "flip": True}
    taken = samples(draw(4), [0, 1, 2, 3])
    plain, altered = make_task(manifest), make_task(manifest, augment=augment, side=4)
    middle = plain.inputs(plain.collate(taken))[:, :, 1:5, 1:5]
    assert torch.equal(altered.inputs(altered.collate(taken)), middle)


def test_training_without_augmentation_sees_the_middle_too(manifest: Manifest) -> None:
    task = make_task(manifest, side=4)
    batch = task.collate(samples(draw(4), [0, 1, 2, 3]))
    loss, _ = task.loss("model", {"model": Fixed()}, batch)
    expected = F.cross_entropy(Fixed()(task.inputs(batch)), batch.tensors["labels"], reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_with_more_than_five_classes_the_five_likeliest_count() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(40, 7, generator=generator), torch.arange(40) % 7
    sums = {name: float(value) for name, value in class_sums(logits, labels).items()}
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert sums["top5"] == (ranks < 5).sum()
    assert class_figures(sums)["top5_accuracy"] == pytest.approx(float((ranks < 5).float().mean()))


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_evaluate_counts_images_and_those_found_by_class(labels: list[int], seed: int) -> None:
    task = make_task(describe(draw(6), {}))
    batch = task.collate(samples(draw(len(labels), seed=seed), labels))
    with torch.inference_mode():
        sums = task.evaluate({"model": Fixed()}, batch)
    log_probability, predicted = by_hand(task, batch)
    nll = -log_probability[np.arange(len(labels)), labels]
    truth = np.array(labels)
    expected = {"nll": nll.sum()}
    for index in range(4):
        expected[f"samples/{index}"] = (truth == index).sum()
        expected[f"predicted/{index}"] = (predicted == index).sum()
        expected[f"correct/{index}"] = ((truth == index) & (predicted == index)).sum()
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert {(value.dtype, value.shape) for value in sums.values()} == {(torch.float64, torch.Size([]))}
    found = task.metrics({name: float(value) for name, value in sums.items()})
    assert (found["loss"], found["accuracy"]) == pytest.approx((nll.mean(), (predicted == truth).mean()), rel=1e-4)
    recalls = [(predicted[truth == index] == index).mean() for index in set(labels)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


class Prepared:
    """Shards of a few random pictures with labels, and a LeNet of random weights."""

    def __init__(self, folder: RunFolder) -> None:
        folder.data.mkdir(parents=True)
        rng = np.random.default_rng(8)
        self.images = {"train": draw(9, seed=1), "test": draw(23, seed=2)}
        self.labels = {"train": [0, 1, 1, 3, 1, 0, 1, 2, 3], "test": rng.choice([0, 1, 3], 23).tolist()}
        splits = {name: split_of(self.labels[name], self._write(folder, name)) for name in self.images}
        self.folder, self.manifest = folder, describe(self.images["train"], splits)
        self.readers: dict[str, ShardReader] = open_readers(folder, self.manifest)
        torch.manual_seed(0)
        self.net = LeNet(LeNetConfig(kind="lenet"), channels=3, classes=4).eval()

    def _write(self, folder: RunFolder, name: str) -> tuple[Any, ...]:
        writer = ShardWriter(folder.data / f"{name}-00000.tar", ("png", "cls"))
        for number, (image, label) in enumerate(zip(self.images[name], self.labels[name], strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            writer.write(f"{name}-{number:09d}", {"png": buffer.getvalue(), "cls": str(label).encode()})
        return (writer.close(),)

    def run(self, **evaluation: object) -> RunConfig:
        path = next(path for path in CONFIGS if path.stem == "patches")
        return shrink(path, **{f"task__evaluation__{name}": value for name, value in evaluation.items()})

    def evaluate(self, world: World = ALONE, **evaluation: object) -> Result:
        run = self.run(**evaluation)
        task = build_task(run, self.manifest)
        return evaluate(run, self.folder, self.manifest, self.readers, task, {"model": self.net}, world)


def task_of(prepared: Prepared) -> ImageClassification:
    task = build_task(prepared.run(), prepared.manifest)
    assert isinstance(task, ImageClassification)
    return task


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(RunFolder(tmp_path_factory.mktemp("images") / "run"))


def test_the_test_split_is_scored_beside_the_majority_class(prepared: Prepared) -> None:
    result = prepared.evaluate()
    values = {metric.name: metric.value for metric in result.metrics}
    names = ["accuracy", *MEANS, *AREAS, "calibration_error", "loss"]
    assert list(values) == [f"{subject}/{name}" for subject in ("test", "baseline/majority") for name in names]
    assert {metric.n for metric in result.metrics} == {23}
    assert {metric.protocol for metric in result.metrics} == set(result.protocols)
    truth = np.array(prepared.labels["test"])
    assert values["baseline/majority/accuracy"] == pytest.approx((truth == 1).mean())
    assert values["baseline/majority/balanced_accuracy"] == pytest.approx(1 / 3)  # the test split has no eel
    task = task_of(prepared)
    batch = task.collate(samples(prepared.images["test"], prepared.labels["test"]))
    with torch.inference_mode():
        logits = prepared.net(task.inputs(batch))
    predicted = logits.argmax(1).numpy()
    assert values["test/accuracy"] == pytest.approx((predicted == truth).mean())
    recalls = [(predicted[truth == index] == index).mean() for index in (0, 1, 3)]
    assert values["test/balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert values["test/loss"] == pytest.approx(F.cross_entropy(logits, torch.from_numpy(truth)).item(), rel=1e-5)


@pytest.mark.parametrize("size", [2, 4, 30])  # the last: more ranks than images
def test_the_result_is_the_same_on_any_number_of_ranks(prepared: Prepared, size: int) -> None:
    alone = prepared.evaluate(batch_images=4)
    for rank, result in enumerate(on_ranks(size, lambda world: prepared.evaluate(world, batch_images=4))):
        if rank:
            assert (result.metrics, result.samples, result.units) == ((), (), {})
            continue
        for ours, theirs in zip(result.metrics, alone.metrics, strict=True):
            assert (ours.name, ours.undefined) == (theirs.name, theirs.undefined)
            assert ours.value == pytest.approx(theirs.value, rel=1e-6)
            assert ours.stderr == (theirs.stderr and pytest.approx(theirs.stderr, rel=1e-5))
        assert result.samples == alone.samples
        for name, units in alone.units.items():
            np.testing.assert_array_equal(result.units[name].ids, units.ids)
            np.testing.assert_allclose(result.units[name].sums, units.sums, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_the_numbers_do_not_depend_on_the_batch_size(prepared: Prepared, batch: int) -> None:
    values = {metric.name: metric.value for metric in prepared.evaluate(batch_images=batch).metrics}
    assert values == pytest.approx({m.name: m.value for m in prepared.evaluate(batch_images=5).metrics}, rel=1e-6)


def test_the_worst_mistakes_are_shown_as_they_were_stored(prepared: Prepared) -> None:
    shown = prepared.evaluate(mistakes=5).samples
    everything = prepared.evaluate(mistakes=1000, batch_images=2).samples
    assert shown == everything[:5]
    assert len(everything) == round(23 * (1 - (prepared.evaluate().metrics[0].value or 0)))
    probabilities = [float(sample["probability of the label"]) for sample in everything]
    assert probabilities == sorted(probabilities)
    for sample in everything:
        kind, _, payload = sample["picture"].partition(",")
        assert kind == "data:image/png;base64"
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(base64.b64decode(payload)))), prepared.images["test"][sample["image"]]
        )
        assert sample["label"] == CLASSES[prepared.labels["test"][sample["image"]]] != sample["taken for"]
    assert prepared.evaluate(mistakes=0).samples == ()


def test_the_protocol_follows_the_data(prepared: Prepared) -> None:
    protocols, task = prepared.evaluate(batch_images=3, mistakes=0).protocols, task_of(prepared)
    assert protocols == {protocol_id(own): own for own in [describe_protocol(prepared.manifest, task)]}
    moved = prepared.manifest.model_copy(update={"digest": "e" * 64})
    assert protocol_id(describe_protocol(moved, task)) in protocols
    other = prepared.manifest.model_copy(update={"splits": {"test": prepared.manifest.splits["train"]}})
    assert protocol_id(describe_protocol(other, task)) not in protocols
    smaller = make_task(prepared.manifest, side=4)
    assert protocol_id(describe_protocol(prepared.manifest, smaller)) not in protocols
