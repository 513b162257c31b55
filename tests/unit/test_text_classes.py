"""The evaluation of a classifier of texts: metrics beside the majority class, and its worst mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.folder import RunFolder
from configs.schema import RunConfig
from data.manifest import Manifest, read_manifest
from data.prepare import prepare
from data.shards import ShardReader
from data.vocabulary import stored_tokenizer
from tests.tiny import ALONE, CONFIGS, WORDS, on_ranks, open_readers, read_samples, shrink
from trainer.distributed import World, seed_all
from trainer.evaluation.class_metrics import AREAS, MEANS
from trainer.evaluation.contract import Result
from trainer.evaluation.text_classes import evaluate
from trainer.tasks import build_task
from trainer.tasks.sequence_classification import SequenceClassification


def write_folders(root: Path, *, classes: int = 3, documents: int = 20) -> Path:
    """Short texts in a folder for each class; the same every time."""
    rng = np.random.default_rng(7)
    for label in range(classes):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True)
        for number in range(documents):
            text = " ".join([*rng.choice(WORDS, rng.integers(2, 12)), f"of {label}"])
            (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return root


class Prepared:
    """Shards of a few generated texts with labels, and a small encoder of random weights."""

    def __init__(self, root: Path) -> None:
        source = f"{{kind: files, paths: ['{write_folders(root / 'raw')}'], label_field: folder}}"
        path = next(path for path in CONFIGS if path.stem == "genre")
        self.run: RunConfig = shrink(path, data__source=source, task__evaluation__mistakes=4)
        self.folder = RunFolder(root / "run")
        self.folder.logs.mkdir(parents=True)
        prepare(self.run, self.folder)
        self.manifest: Manifest = read_manifest(self.folder.manifest)
        self.readers: dict[str, ShardReader] = open_readers(self.folder, self.manifest)
        task = build_task(self.run, self.manifest, stored_tokenizer(self.folder.tokenizer))
        assert isinstance(task, SequenceClassification)
        self.task = task
        seed_all(0)
        self.net = task.networks()["model"].eval()

    def evaluate(self, world: World = ALONE) -> Result:
        nets = {"model": self.net}
        return evaluate(self.run, self.folder, self.manifest, self.readers, self.task, nets, world)

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities that the model gives each test sample's classes [N, classes], and the labels [N]."""
        batch = self.task.collate(read_samples(self.readers["test"], range(len(self.readers["test"]))))
        with torch.inference_mode():
            logits = self.task.logits(self.net, batch)
        return logits.double().softmax(1).numpy(), batch.tensors["labels"].numpy()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("texts"))


def test_the_test_split_is_scored_beside_the_majority_class(prepared: Prepared) -> None:
    result = prepared.evaluate()
    values = {metric.name: metric.value for metric in result.metrics}
    names = ["accuracy", *MEANS, *AREAS, "calibration_error", "loss"]
    assert list(values) == [f"{subject}/{name}" for subject in ("test", "baseline/majority") for name in names]
    assert {metric.protocol for metric in result.metrics} == set(result.protocols)
    shares, labels = prepared.shares()
    assert {metric.n for metric in result.metrics} == {len(labels)}
    assert values["test/accuracy"] == pytest.approx((shares.argmax(1) == labels).mean())
    assert values["test/loss"] == pytest.approx(-np.log(shares[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    counts = prepared.manifest.splits["train"].classes
    largest = max(prepared.manifest.classes, key=lambda name: counts[name])
    here = prepared.manifest.splits["test"].classes[largest]
    assert values["baseline/majority/accuracy"] == pytest.approx(here / len(labels))


def test_the_numbers_are_the_same_for_any_number_of_ranks(prepared: Prepared) -> None:
    alone = prepared.evaluate()
    first, *others = on_ranks(3, prepared.evaluate)
    for ours, theirs in zip(first.metrics, alone.metrics, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-6)
    assert first.samples == alone.samples
    assert all((result.metrics, result.samples) == ((), ()) for result in others)


def test_the_worst_mistakes_are_shown_with_their_text(prepared: Prepared) -> None:
    shares, labels = prepared.shares()
    wrong = np.flatnonzero(shares.argmax(1) != labels)
    order = wrong[np.argsort(shares[wrong, labels[wrong]], kind="stable")][:4]
    samples = prepared.evaluate().samples
    assert [sample["sample"] for sample in samples] == [str(number) for number in order]
    for sample, number in zip(samples, order, strict=True):
        assert sample["label"] == prepared.manifest.classes[labels[number]]
        assert sample["taken for"] == prepared.manifest.classes[shares[number].argmax()]
        assert float(sample["probability of the label"]) == pytest.approx(shares[number, labels[number]], rel=0.05)
        assert sample["passage"].endswith(f"of {sample['label'][-1]}")
