"""A diffusion run's drawn images against real ones, by the features of a run of our own."""

from pathlib import Path
from typing import Any

import pytest

from configs.diffusion import RunFeatures
from configs.folder import RunFolder
from configs.stages import evaluation_key
from tests.tiny import ALONE, on_ranks, write_source
from tests.unit.test_diffusion import JUDGE, prepared, scored, small
from trainer.evaluation.generative.features import trained
from trainer.trained import open_trained

FEATURES = RunFeatures(kind="run", run="judge")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that draws, and one of a network with four features beside it."""
    root = tmp_path_factory.mktemp("runs")
    source = write_source(small(), root / "raw")
    prepared(small(data__source=source), RunFolder(root / "drawing"))
    judge = small(JUDGE, data__source=source, task__model__width=2)
    prepared(judge, RunFolder(root / "judge"), data=root / "drawing" / "data")
    return root


def compared(runs: Path, *ranked: Any, **evaluation: Any) -> Any:
    return scored(runs, *ranked, **{"images": 13, "features": FEATURES} | evaluation)


def test_drawn_images_are_compared_with_the_train_split_and_test_images_beside_them(runs: Path) -> None:
    result = compared(runs)
    metrics = {metric.name: metric for metric in result.metrics}
    for name in ("frechet", "kid", "inception_score", "precision", "recall"):
        drawn, real = metrics[f"samples/{name}_judge"], metrics[f"baseline/real/{name}_judge"]
        assert drawn.protocol == real.protocol
        assert drawn.value is not None
        assert real.value is not None
        assert drawn.n == real.n
    assert metrics["baseline/real/frechet_judge"].value < metrics["samples/frechet_judge"].value
    protocol = result.protocols[metrics["samples/frechet_judge"].protocol]
    assert protocol["features"]["weights"] == open_trained(runs / "judge", ALONE.device).checkpoint
    assert protocol["images"] == 13
    assert protocol["reference"].endswith("images of the train split, evenly spaced")
    assert result.units["samples/precision_judge"].ids.tolist() == list(range(13))


def test_more_drawn_images_than_real_ones_are_left_have_a_protocol_of_their_own(runs: Path) -> None:
    result = compared(runs, images=40)
    metrics = {metric.name: metric for metric in result.metrics}
    drawn, real = metrics["samples/kid_judge"], metrics["baseline/real/kid_judge"]
    assert real.n < drawn.n
    assert drawn.protocol != real.protocol
    assert result.protocols[real.protocol]["images"] == real.n


def test_any_ranks_and_batches_give_the_same_numbers(runs: Path) -> None:
    alone, (first, *others) = compared(runs, batch_images=4), on_ranks(3, lambda world: compared(runs, world))
    for ours, theirs in zip(first.metrics, alone.metrics, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5, abs=1e-6)
        assert (ours.name, ours.n, ours.protocol) == (theirs.name, theirs.n, theirs.protocol)
    assert all("judge" not in metric.name for other in others for metric in other.metrics)


def test_real_images_are_seen_once_and_shared_between_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(runs)
    asked: list[int] = []
    original = trained.last_features

    def counted(network: Any, images: Any) -> Any:
        asked.append(len(images))
        return original(network, images)

    monkeypatch.setattr(trained, "last_features", counted)
    assert [metric.value for metric in compared(runs).metrics] == [metric.value for metric in first.metrics]
    assert sum(asked) == 13 + 1, "the drawn images, and a blank one"


def test_without_the_run_the_distance_has_a_reason_in_place_of_a_value(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compared(runs, features=RunFeatures(kind="run", run="elsewhere"))
    metric = next(metric for metric in result.metrics if "frechet" in metric.name)
    assert metric.name == "samples/frechet_elsewhere"
    assert metric.value is None
    assert str(metric.undefined).startswith("there is no run elsewhere for its features; train")
    assert "features.run=elsewhere: there is no run" in capsys.readouterr().out


def test_nothing_is_compared_where_nothing_is_drawn_or_asked(runs: Path) -> None:
    for evaluation in ({"images": 0}, {"features": None}):
        names = [metric.name for metric in compared(runs, **evaluation).metrics]
        assert all(name.startswith("test/") for name in names)


def test_a_feature_run_that_is_trained_again_has_the_images_compared_again(runs: Path) -> None:
    run = small(task__evaluation__features={"kind": "run", "run": "judge"})
    there, gone = (
        evaluation_key(run, RunFolder(runs / "drawing")),
        evaluation_key(run, RunFolder(runs / "x" / "drawing")),
    )
    assert there != gone
