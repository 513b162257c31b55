"""How a trained diffusion model is scored: its error by image, and whether a judge recognises what it draws."""

import base64
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from configs.errors import DataError, UserError
from configs.folder import RunFolder, write_atomic
from configs.load import dump
from configs.schema import RunConfig
from configs.stages import train_key
from data.manifest import Manifest, read_manifest
from data.prepare import prepare
from data.shards import ShardReader
from tests.tiny import ALONE, CONFIGS, Memory, checkpoints, on_ranks, open_readers, shrink, write_source
from trainer.checkpoint import TrainState, weights
from trainer.diffusion.drawing import to_pixels
from trainer.distributed import World, seed_all
from trainer.evaluation.denoising import Errors, draw_errors, loss_metrics, loss_units
from trainer.evaluation.diffusion import evaluate
from trainer.evaluation.generative.blocks import TOGETHER, blocks_of
from trainer.evaluation.generative.drawing import Drawn, gather_first, wishes_in_turn
from trainer.evaluation.generative.judge import require_fit
from trainer.task import Batch
from trainer.tasks import build_task
from trainer.tasks.image_classification import ImageClassification
from trainer.trained import open_trained

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


def scored(runs: Path, world: World = ALONE, *, nets: dict[str, nn.Module] | None = None, **evaluation: Any) -> Any:
    trained = open_trained(runs / "drawing", ALONE.device)
    task = trained.run.task.model_copy(update={"evaluation": trained.run.task.evaluation.model_copy(update=evaluation)})
    run = trained.run.model_copy(update={"task": task})
    readers: dict[str, ShardReader] = open_readers(trained.folder, trained.manifest)
    built = build_task(run, trained.manifest)
    return evaluate(run, trained.folder, trained.manifest, readers, built, nets or trained.nets, world)


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
    alone, (first, second) = scored(runs), on_ranks(2, lambda world: scored(runs, world))
    assert second.samples == second.metrics == second.figures == ()
    assert first.samples == alone.samples
    for ours, theirs in zip(first.metrics, alone.metrics, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-6)
        assert (ours.name, ours.n, ours.protocol) == (theirs.name, theirs.n, theirs.protocol)


def test_smaller_blocks_give_the_same_numbers_but_for_rounding_under_a_protocol_that_says_so(runs: Path) -> None:
    usual, whole, few = scored(runs), scored(runs, batch_images=TOGETHER), scored(runs, batch_images=3)
    assert (whole.metrics, whole.protocols) == (usual.metrics, usual.protocols)
    assert few.samples == usual.samples
    for ours, theirs in zip(few.metrics, usual.metrics, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-6)
        if ours.name.startswith("test/"):
            assert ours.protocol == theirs.protocol, "no level is rounded in a loss"
        else:
            assert few.protocols[ours.protocol] == usual.protocols[theirs.protocol] | {"images_together": 3}


def test_any_ranks_ask_the_judge_about_the_same_real_images_together(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    original = ImageClassification.inputs

    def counted(task: ImageClassification, batch: Batch) -> Any:
        asked.append(tuple(batch.ids))
        return original(task, batch)

    monkeypatch.setattr(ImageClassification, "inputs", counted)
    found = []
    for size in (1, 2):
        asked.clear()
        on_ranks(size, lambda world: scored(runs, world, batch_images=3))
        found.append(sorted(asked))
    assert found[0] == found[1]
    assert (0, 1, 2) in found[0]


def test_each_image_s_part_of_a_metric_adds_up_to_it(runs: Path) -> None:
    result = scored(runs)
    metrics = {metric.name: metric for metric in result.metrics}
    assert set(result.units) == {"test/loss", "samples/class_accuracy", "baseline/real/class_accuracy"}
    for name, units in result.units.items():
        assert units.sums.sum() / units.sizes.sum() == pytest.approx(metrics[name].value, rel=1e-12)
        assert len(units.ids) == metrics[name].n
        assert (np.diff(units.ids) > 0).all()
    assert metrics["test/loss"].stderr == pytest.approx(
        result.units["test/loss"].sums.std(ddof=1) / np.sqrt(metrics["test/loss"].n)
    )
    assert metrics["samples/class_accuracy"].interval is not None


def test_the_report_gets_the_error_by_noise_and_what_the_judge_takes_each_class_for(runs: Path) -> None:
    bars, matrix, levels = scored(runs).figures
    names = [f"class-{place}" for place in range(4)]
    assert (bars["kind"], bars["x"], len(bars["y"]), len(bars["reference"])) == ("bars", names, 4, 4)
    assert (matrix["kind"], matrix["rows"], np.sum(matrix["values"])) == ("matrix", names, 10)
    assert np.sum(matrix["values"], 1).tolist() == [3, 3, 2, 2], "classes in turn"
    assert (levels["kind"], len(levels["x"]), len(levels["y"])) == ("bars", 10, 10)


def test_without_the_judge_the_metric_has_a_reason_and_it_is_said_aloud(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = scored(runs, judge="elsewhere")
    (metric,) = (metric for metric in result.metrics if "class_accuracy" in metric.name)
    assert metric.value is None
    assert str(metric.undefined).startswith("there is no run elsewhere to judge; train")
    assert result.protocols[metric.protocol]["judge"] == "a run elsewhere that is not there"
    assert "judge=elsewhere: there is no run elsewhere to judge" in capsys.readouterr().out
    assert "recognised" not in result.samples[0]


class Broken(nn.Module):
    """A network that says no numbers."""

    def forward(self, x: Any, level: Any, labels: Any) -> Any:
        return torch.full_like(x, torch.nan)


def test_a_network_that_says_no_numbers_has_reasons_in_place_of_metrics(runs: Path) -> None:
    alone, (first, _) = (
        scored(runs, nets={"model": Broken()}),
        on_ranks(2, lambda world: scored(runs, world, nets={"model": Broken()})),
    )
    for result in (alone, first):
        metrics = {metric.name: metric for metric in result.metrics}
        assert metrics["samples/class_accuracy"].undefined == "10 of 10 drawn images are not finite"
        size = metrics["test/loss"].n
        assert metrics["test/loss"].undefined == f"the errors of {size} of {size} images are not finite"
        assert metrics["baseline/real/class_accuracy"].value is not None
        assert set(result.units) == {"baseline/real/class_accuracy"}
    with pytest.raises(UserError, match="1 of 2 drawn images are not finite: the network's weights"):
        to_pixels(torch.tensor([0.0, torch.nan]).view(2, 1, 1, 1))


def errors_of(values: Any, shares: Any) -> Errors:
    return Errors(np.arange(len(values)), np.array(values, float), np.array(shares, float))


def test_levels_without_an_image_and_an_empty_split_have_a_reason() -> None:
    metrics = {metric.name: metric for metric in loss_metrics(errors_of([1.0, 3.0, 5.0], [0.1, 0.2, 0.9]), "p")}
    assert metrics["test/loss"].value == 3
    assert metrics["test/loss_at_least_noise"].value == 2
    assert metrics["test/loss_at_most_noise"].stderr is None
    assert metrics["test/loss_at_less_noise"].undefined == "no image of the split is at one of these levels"
    (figure,) = draw_errors(errors_of([1.0, 3.0, 5.0], [0.1, 0.2, 0.9]))
    assert figure["y"] == [None, 1.0, 3.0, *[None] * 6, 5.0]
    empty = errors_of([], [])
    assert {metric.undefined for metric in loss_metrics(empty, "p")} == {"the split is empty"}
    assert (draw_errors(empty), loss_units(empty)) == ([], {})


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


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_ranks_have_the_same_blocks_of_images(size: int) -> None:
    blocks = [each for blocks in on_ranks(size, lambda world: blocks_of(70, world, most=1000)) for each in blocks]
    assert sorted(blocks, key=lambda block: block.start) == [range(TOGETHER), range(TOGETHER, 64), range(64, 70)]


def test_the_first_images_are_gathered_in_their_order() -> None:
    wishes = wishes_in_turn(5, 0)
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)

    def gathered(world: World) -> Any:
        blocks = blocks_of(5, world, most=2)
        mine = images[[place for block in blocks for place in block]]
        return gather_first(Drawn(wishes, blocks, mine, 0), 4, world)

    for found in on_ranks(3, gathered):
        assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
