"""A diffusion run's drawn images against real ones, by the features of a run of our own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.diffusion import RunFeatures
from configs.folder import RunFolder
from configs.stages import evaluation_key
from tests.tiny import ALONE, on_ranks, open_readers, write_source
from tests.unit.test_diffusion_evaluation import JUDGE, Broken, prepared, scored, small
from trainer.distributed import World
from trainer.evaluation.generative import drawn
from trainer.evaluation.generative.features import trained
from trainer.evaluation.generative.features.net import FeatureNet
from trainer.evaluation.generative.reference import see_split
from trainer.trained import open_trained, read_run

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
    return scored(runs, *ranked, **{"images": 13, "shown": 0, "features": FEATURES} | evaluation)


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


@pytest.mark.parametrize(("images", "batch", "ranks"), [(7, 128, (2, 4)), (13, 4, (3,))])
def test_any_ranks_give_the_same_numbers_whether_they_share_a_cache_or_not(
    runs: Path, images: int, batch: int, ranks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A number that does not divide, and one of which a rank has none; each number of ranks sees real images itself."""
    found = {}
    for size in (1, *ranks):
        monkeypatch.setattr(drawn, "cache_folder", lambda _, size=size: tmp_path / str(size))
        found[size] = on_ranks(
            size, lambda world: compared(runs, world, images=images, batch_images=batch, judge="judge")
        )
    alone = found[1][0]
    assert {"samples/class_accuracy", "samples/kid_judge"} <= {metric.name for metric in alone.metrics}
    for size in ranks:
        first, *others = found[size]
        for ours, theirs in zip(first.metrics, alone.metrics, strict=True):
            if ours.name.startswith("test/"):  # of images shared out singly
                assert ours.value == pytest.approx(theirs.value, rel=1e-6)
            else:
                assert ours == theirs
        assert first.protocols == alone.protocols
        assert [figure["title"] for figure in first.figures] == [figure["title"] for figure in alone.figures]
        assert all(other.metrics == () for other in others)


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


def test_drawn_and_real_images_in_smaller_blocks_have_a_protocol_that_says_so(runs: Path) -> None:
    usual, few = compared(runs, batch_images=200), compared(runs, batch_images=4)
    for ours, theirs in zip(few.metrics, usual.metrics, strict=True):
        if not ours.name.startswith("test/"):
            assert few.protocols[ours.protocol] == usual.protocols[theirs.protocol] | {"images_together": 4}
    assert compared(runs, batch_images=32).protocols == usual.protocols, "more do not go together"


def test_real_images_that_were_seen_on_another_device_or_in_other_blocks_are_seen_anew(
    runs: Path, tmp_path: Path
) -> None:
    opened, asked = open_trained(runs / "drawing", ALONE.device), []

    def see(images: Any) -> tuple[torch.Tensor, None]:
        asked.append(len(images))
        return torch.zeros(len(images), 2), None

    def seen(batch: int, device: str) -> int:
        """How many images the net was asked about, a blank one among them."""
        asked.clear()
        world = World(rank=0, local_rank=0, size=1, device=torch.device(device))
        net, reader = FeatureNet("net", False, {}, see), open_readers(opened.folder, opened.manifest)["test"]
        see_split(net, reader, opened.manifest, "test", world, images=3, batch=batch, cache=tmp_path)
        return sum(asked)

    assert [seen(128, "cpu"), seen(200, "cpu")] == [4, 0]
    assert [seen(2, "cpu"), seen(2, "cpu")] == [4, 0]
    assert [seen(128, "meta"), seen(128, "meta")] == [4, 0]


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


def test_the_table_has_drawn_images_beside_real_ones(runs: Path) -> None:
    result = compared(runs, images=3)
    metrics = {metric.name: metric for metric in result.metrics}
    (table,) = (figure for figure in result.figures if figure["kind"] == "table")
    rows = {row[0]: row[1:] for row in table["rows"]}
    assert list(rows) == [f"{name}_judge" for name in ("frechet", "kid", "inception_score", "precision", "recall")]
    drawn_one, real = metrics["samples/kid_judge"], metrics["baseline/real/kid_judge"]
    assert rows["kid_judge"] == [drawn_one.value, drawn_one.stderr, real.value, real.stderr, "lower"]
    assert rows["frechet_judge"][0] is None
    assert "samples/frechet_judge is undefined: 3 images against" in table["note"]


def test_broken_images_leave_their_metrics_undefined_and_the_real_ones_alone(runs: Path) -> None:
    result = compared(runs, nets={"model": Broken()})
    metrics = {metric.name: metric for metric in result.metrics}
    assert metrics["samples/kid_judge"].undefined == "13 of 13 drawn images are not finite"
    assert metrics["baseline/real/kid_judge"].value is not None


def test_a_damaged_cache_is_noticed_and_made_anew(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = compared(runs)
    for path in (runs / ".features").glob("*.safetensors"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    capsys.readouterr()
    assert compared(runs).metrics == first.metrics
    assert "is not as it was written and is made anew" in capsys.readouterr().out
    assert compared(runs).metrics == first.metrics
    assert "made anew" not in capsys.readouterr().out


def test_a_feature_run_that_is_trained_again_is_another_protocol_and_has_the_images_compared_again(
    runs: Path, tmp_path: Path
) -> None:
    for name in ("drawing", "judge"):
        shutil.copytree(runs / name, tmp_path / name)
    run, folder = small(task__evaluation__features=FEATURES.model_dump()), RunFolder(tmp_path / "drawing")
    key, protocol = evaluation_key(run, folder), compared(tmp_path).metrics[0].protocol
    shutil.rmtree(tmp_path / "judge")
    judge = small(JUDGE, data__source=source_of(runs), task__model__width=2, seed=1)
    prepared(judge, RunFolder(tmp_path / "judge"), data=folder.data)
    assert evaluation_key(run, folder) != key
    assert compared(tmp_path).metrics[0].protocol != protocol
    shutil.rmtree(tmp_path / "judge")
    assert evaluation_key(run, folder) != key


def test_runs_that_differ_in_seed_alone_draw_from_one_noise_under_one_protocol(runs: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        shutil.copytree(runs / "judge", tmp_path / str(seed) / "judge")
        run = small(data__source=source_of(runs), seed=seed, task__evaluation__judge="judge")
        prepared(run, RunFolder(tmp_path / str(seed) / "drawing"), data=runs / "drawing" / "data")
        found.append(compared(tmp_path / str(seed)).metrics)
    protocols = [{metric.name: metric.protocol for metric in metrics} for metrics in found]
    assert protocols[0] == protocols[1]
    assert {"samples/class_accuracy", "samples/frechet_judge"} <= protocols[0].keys()
    drawn = [[metric.value for metric in metrics if metric.name.startswith("samples/")] for metrics in found]
    assert drawn[0] == drawn[1], "networks that are not trained yet leave the noise as it is"
    assert compared(tmp_path / "0", seed=7).metrics[0].protocol != found[0][0].protocol


def source_of(runs: Path) -> Any:
    return read_run(runs / "drawing").data.source.model_dump(mode="json")
