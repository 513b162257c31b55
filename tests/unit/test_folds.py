"""Cross-validation: the runs of folds, what is made of their metrics, and what is refused."""

import math
from pathlib import Path

import pytest
import scipy.stats

from configs.errors import ConfigError, DamageError
from configs.folder import RunFolder
from configs.folds import cross_validates, fold_names, fold_run, open_fold
from configs.metrics import Evaluation, Metric
from configs.schema import RunConfig
from pipelines.folds.collect import collect_folds, mean_metrics
from pipelines.folds.interval import spread
from pipelines.folds.protocol import agreed
from pipelines.stages import run_stage
from tests.tiny import tiny_run

DIVISION = {"folds": 3, "data": "assignment"}


def crossed(**folds: object) -> RunConfig:
    return tiny_run(data__splits={"validation": 0, "test": 0.2, "folds": {"count": 3} | folds})


def evaluation(value: float | None, *, data: str, **protocol: object) -> Evaluation:
    metric = Metric(
        "test/accuracy", value, None, 10, "share", "higher", "p", undefined=None if value is not None else "no sample"
    )
    return Evaluation("c", "d", "e", {metric.name: metric}, {"p": {"metric": "share", "data": data} | protocol})


def test_the_interval_is_the_corrected_resampled_t():
    values = [0.8, 0.9, 0.85, 0.7, 0.95]
    found = spread(values, test_to_train=1 / 4)
    deviation = math.sqrt(sum((x - 0.84) ** 2 for x in values) / 4)
    reach = scipy.stats.t.ppf(0.975, 4) * math.sqrt(1 / 5 + 1 / 4) * deviation
    assert found.mean == pytest.approx(0.84)
    assert found.deviation == pytest.approx(deviation)
    assert found.interval == pytest.approx((0.84 - reach, 0.84 + reach))


def test_every_fold_of_every_repeat_is_a_run_with_one_fold_held_out():
    run = crossed(repeats=2)
    assert cross_validates(run)
    assert fold_names(run) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    fold = fold_run(run, "1-2")
    assert not cross_validates(fold)
    assert fold == crossed(repeat=1, held_out=2), "alone or among others, a fold is the same run"


def test_folds_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="held_out=3 must be below count=3"):
        crossed(held_out=3)
    with pytest.raises(ConfigError, match="is one fold of one repeat"):
        crossed(held_out=0, repeats=2)


def test_a_fold_reads_the_data_of_its_repeat_also_when_all_is_moved(tmp_path: Path):
    run, folder = crossed(repeats=2), RunFolder(tmp_path / "run")
    folder.open(run)
    for name, home in (("0-1", "data"), ("1-0", "folds/1/data")):
        assert open_fold(run, folder, name).data.resolve() == (folder.path / home).resolve()
    moved = RunFolder(folder.path.rename(tmp_path / "moved"))
    assert moved.fold("0-1").data.resolve() == moved.data.resolve()


def test_a_cross_validation_has_no_one_model_to_train(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.open(crossed())
    outcome = run_stage("train", crossed(), folder, lambda line: None)
    assert outcome.code == 2
    assert "`trainworks run` does it for every fold" in outcome.reason


def test_folds_that_are_not_there_are_named_and_nothing_is_averaged(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.open(crossed())
    with pytest.raises(DamageError, match="3 of 3 folds have no evaluation: 0-0, 0-1, 0-2; give the same command"):
        collect_folds(crossed(), folder)
    assert not folder.metrics.exists()


def test_a_metric_that_one_fold_lacks_is_undefined_and_says_which():
    evaluations = {
        "0-0": evaluation(0.5, data="a"),
        "0-1": evaluation(None, data="b"),
        "0-2": evaluation(0.7, data="c"),
    }
    (metric,), _, spreads = mean_metrics(evaluations, DIVISION)
    assert (metric.name, metric.value, metric.undefined) == ("cv/accuracy", None, "fold 0-1: no sample")
    assert spreads == {}


def test_the_mean_is_over_folds_and_its_protocol_names_the_assignment():
    evaluations = {f"0-{k}": evaluation(value, data=f"{k}") for k, value in enumerate((0.5, 0.6, 0.7))}
    (metric,), protocols, _ = mean_metrics(evaluations, DIVISION)
    assert metric.value == pytest.approx(0.6)
    assert metric.n == 3
    assert protocols[metric.protocol] == {"metric": "share", "folds": 3, "data": "assignment"}


def test_folds_under_unlike_protocols_have_no_mean():
    ours, theirs = {"data": "a", "stride_tokens": 8}, {"data": "b", "stride_tokens": 16}
    with pytest.raises(DamageError, match=r"folds 0-0 and 0-1 .*stride_tokens: 8 and 16"):
        agreed({"0-0": ours, "0-1": theirs})
