"""Cross-validation: the runs of folds, what is made of their metrics, and what is refused."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, load_file, save

from configs.errors import ConfigError, DamageError
from configs.folder import RunFolder, digest, file_digest, write_atomic, write_json
from configs.folds import cross_validates, fold_names, fold_run, open_fold, repeat_folder, repeats_of
from configs.metrics import Evaluation, Metric, protocol_id, read_evaluation
from configs.schema import RunConfig
from configs.stages import complete, evaluation_key, step_folder
from pipelines.folds.classes import lacking_class, withhold
from pipelines.folds.collect import collect_folds, fold_table, mean_metrics
from pipelines.folds.interval import spread
from pipelines.folds.pooled import Arrays, pool
from pipelines.folds.protocol import agreed
from pipelines.parameters import encode_config
from pipelines.stages import run_stage
from pipelines.steps import STOPPING, run_step
from tests.tiny import tiny_run
from trainer.evaluation.__main__ import tensors_of
from trainer.evaluation.contract import Units

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
    with pytest.raises(DamageError, match="3 of 3 folds have no whole evaluation: 0-0, 0-1, 0-2; give"):
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


def test_data_of_another_run_must_agree_between_folds_and_their_own_need_not():
    own = {"reference_data": "test of fold", "baseline_data": "train of fold", "data": "test of fold"}
    folds = {f"0-{k}": {name: f"{text} {k}" for name, text in own.items()} | {"judge_data": "j"} for k in range(2)}
    assert agreed(folds) == {"judge_data": "j"}
    folds["0-1"]["judge_data"] = "another"
    with pytest.raises(DamageError, match="judge_data: j and another"):
        agreed(folds)


@given(
    st.floats(-1e3, 1e3).filter(lambda value: not value or abs(value) > 1e-3),
    st.integers(2, 10),
    st.sampled_from([0, 1e-15]),
)
def test_equal_folds_have_a_mean_and_no_interval(value: float, count: int, rounding: float):
    values = [value * (1 + rounding * (k % 2)) for k in range(count)]
    found = spread(values, test_to_train=1 / (count - 1))
    assert found.mean == pytest.approx(value)
    assert (found.deviation, found.stderr, found.interval) == (0.0, None, None)


def test_equal_folds_leave_a_metric_without_an_error_and_gaps_in_the_table():
    evaluations = {f"0-{k}": evaluation(0.5, data=f"{k}") for k in range(3)}
    (metric,), _, spreads = mean_metrics(evaluations, DIVISION)
    assert (metric.value, metric.stderr, metric.interval) == (0.5, None, None)
    table = fold_table(evaluations, [metric], spreads)
    assert table["columns"] == ["metric", "0-0", "0-1", "0-2", "mean", "standard deviation", "95 % from", "to"]
    assert table["rows"] == [["cv/accuracy", 0.5, 0.5, 0.5, 0.5, 0.0, None, None]]


def test_a_metric_that_a_fold_does_not_know_is_undefined_and_the_table_shows_the_others():
    evaluations = {f"0-{k}": evaluation(0.5 + k, data=f"{k}") for k in range(3)}
    evaluations["0-1"] = Evaluation("c", "d", "e", {}, {})
    (metric,), _, spreads = mean_metrics(evaluations, DIVISION)
    assert (metric.value, metric.undefined) == (None, "fold 0-1 does not have it")
    assert fold_table(evaluations, [metric], spreads)["rows"] == [["cv/accuracy", 0.5, None, 2.5, *[None] * 4]]


def arrays(sums: list[float], *, ids: list[int]) -> Arrays:
    return {"ids": np.array(ids), "sums": np.array(sums), "sizes": np.ones(len(sums))}


def test_samples_of_all_folds_are_pooled_where_a_metric_is_their_plain_ratio_in_every_fold():
    evaluations = {"0-0": evaluation(0.5, data="a"), "0-1": evaluation(1.0, data="b")}
    units = {
        "0-0": {"test/accuracy": arrays([1, 0], ids=[3, 9])},
        "0-1": {"test/accuracy": arrays([1, 1, 1], ids=[0, 3, 4])},
    }
    pooled = pool(evaluations, units)["test/accuracy"]
    assert pooled["ids"].tolist() == [0, 1, 2, 3, 4]
    assert pooled["sums"].tolist() == [1, 0, 1, 1, 1]
    assert pool(evaluations | {"0-1": evaluation(math.e, data="b")}, units) == {}, "a function of its ratio is not it"
    assert pool(evaluations | {"0-1": evaluation(None, data="b")}, units) == {}, "undefined in one fold"
    assert pool(evaluations, units | {"0-1": {}}) == {}


def test_scores_that_are_a_column_of_a_table_are_read_as_they_were():
    table = np.arange(20.0).reshape(4, 5)
    units = Units(table[:, 4].astype(np.int64), table[:, 2], table[:, 0])
    found = load(save(tensors_of({"test/loss": units})))
    assert found["test/loss/sums"].tolist() == [2.0, 7.0, 12.0, 17.0]
    assert found["test/loss/sizes"].tolist() == [0.0, 5.0, 10.0, 15.0]
    assert found["test/loss/ids"].tolist() == [4, 9, 14, 19]


def write_fold(run: RunConfig, folder: RunFolder, name: str, value: float, **protocol: Any) -> None:
    """What the training and the evaluation of a fold leave, its network and samples apart."""
    inside, own = open_fold(run, folder, name), fold_run(run, name)
    saved: dict[str, Any] = {"step": own.train.steps, "files": {}, "name": name}
    step_folder(inside.train, own.train.steps).mkdir(parents=True)
    write_json(step_folder(inside.train, own.train.steps) / "complete.json", saved | {"digest": digest(saved)})
    inside.evaluation.mkdir()
    write_json(inside.samples, [{"from": name}])
    write_json(inside.figures, [])
    write_json(inside.cost, {"parameters": 7})
    right = np.array([1.0] * round(value * 10) + [0.0] * round(10 - value * 10))
    units = {"ids": np.arange(10), "sums": right, "sizes": np.ones(10)}
    write_atomic(inside.units, save({f"test/accuracy/{part}": array for part, array in units.items()}))
    protocol = {"metric": "share", "data": name} | protocol
    metric = Metric("test/accuracy", value, 0.1, 10, "share", "higher", protocol_id(protocol))
    record: dict[str, Any] = {
        "checkpoint": digest(saved),
        "data": "d",
        "config": evaluation_key(own, inside),
        "metrics": [asdict(metric)],
        "protocols": {metric.protocol: protocol},
        "files": {path.name: file_digest(path) for path in (inside.samples, inside.figures, inside.units, inside.cost)},
    }
    write_json(inside.metrics, record | {"digest": digest(record)})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def scored(run: RunConfig, folder: RunFolder, values: Mapping[str, float]) -> None:
    """A cross-validation whose folds all have been evaluated."""
    folder.open(run)
    for repeat in repeats_of(run):
        home = repeat_folder(run, folder, repeat)
        home.data.mkdir(parents=True)
        shards = [{"blake3": str(repeat), "samples": 10}]
        splits = {f"fold-{k}": {"shards": shards, "classes": {"common": 9, "rare": 1}} for k in range(3)}
        write_json(home.manifest, {"digest": f"data {repeat}", "splits": splits})
    for name, value in values.items():
        write_fold(run, folder, name, value)


VALUES = {"0-0": 0.5, "0-1": 0.7, "0-2": 0.9}


def test_what_is_collected_is_complete_and_holds_the_first_folds_cost_and_samples(folder: RunFolder):
    run = crossed()
    scored(run, folder, VALUES)
    assert complete("evaluate", run, folder) is None
    assert collect_folds(run, folder) == f"3 folds: 2 metrics written to {folder.metrics}"
    assert complete("evaluate", run, folder) == f"2 metrics of 3 folds in {folder.metrics}"
    metrics = read_evaluation(folder).metrics
    assert metrics["cv/accuracy"].value == pytest.approx(0.7)
    reach = scipy.stats.t.ppf(0.975, 2) * math.sqrt(1 / 3 + 1 / 2) * 0.2
    assert metrics["cv/accuracy"].interval == pytest.approx((0.7 - reach, 0.7 + reach))
    assert (metrics["pooled/accuracy"].value, metrics["pooled/accuracy"].n) == (0.7, 30)
    assert metrics["pooled/accuracy"].stderr is None
    assert load_file(folder.units)["pooled/accuracy/sums"].sum() == 21
    assert json.loads(folder.samples.read_text()) == [{"from": "0-0"}]
    assert json.loads(folder.cost.read_text()) == {"parameters": 7}
    told = json.loads(folder.metrics.read_text())["files"]
    assert told == {path.name: file_digest(path) for path in folder.evaluation.iterdir() if path.name in told}
    assert len(told) == 4


def test_a_fold_that_is_evaluated_again_is_collected_again(folder: RunFolder):
    run = crossed()
    scored(run, folder, VALUES)
    collect_folds(run, folder)
    folder.fold("0-2").metrics.unlink()
    assert complete("evaluate", run, folder) is None
    before = folder.metrics.read_bytes()
    with pytest.raises(DamageError, match=r"1 of 3 folds have no whole evaluation: 0-2; give the same command"):
        collect_folds(run, folder)
    assert folder.metrics.read_bytes() == before, "no mean without it"


@pytest.mark.parametrize("part", ["units", "cost", "samples"])
def test_a_fold_with_a_file_that_is_not_what_was_written_is_evaluated_again(folder: RunFolder, part: str):
    run = crossed()
    scored(run, folder, VALUES)
    path: Path = getattr(folder.fold("0-0"), part)
    path.write_bytes(path.read_bytes() + b" ")
    assert complete("evaluate", fold_run(run, "0-0"), folder.fold("0-0")) is None
    with pytest.raises(DamageError, match="1 of 3 folds have no whole evaluation: 0-0; give the same command again"):
        collect_folds(run, folder)
    assert not folder.metrics.exists()


def test_samples_of_several_divisions_are_no_units_for_a_paired_test(folder: RunFolder):
    run = crossed(repeats=2)
    scored(run, folder, VALUES | {"1-0": 0.6, "1-1": 0.6, "1-2": 0.9})
    collect_folds(run, folder)
    assert load_file(folder.units) == {}, "every sample is there twice"
    found = read_evaluation(folder)
    assert found.metrics["cv/accuracy"].n == 6
    protocol = found.protocols[found.metrics["cv/accuracy"].protocol]
    assert (protocol["folds"], protocol["repeats"]) == (3, 2)
    assert protocol["stderr"] == "corrected resampled, over folds (Nadeau and Bengio, 2003)"
    assert protocol["tokenizer_trained_on"] == "the texts of all folds, held-out ones among them"
    pooled = found.metrics["pooled/accuracy"]
    assert pooled.n == 30, "samples, each of which was scored twice"
    protocol = found.protocols[pooled.protocol]
    assert (protocol["scored"], protocol["stderr"]) == ("every sample 2 x, held out", "none")


def test_a_class_that_a_fold_lacks_leaves_plain_means_over_samples_alone(folder: RunFolder):
    run = crossed()
    scored(run, folder, VALUES)
    manifest = json.loads(folder.manifest.read_text())
    manifest["splits"]["fold-1"]["classes"]["rare"] = 0
    write_json(folder.manifest, manifest)
    assert lacking_class(run, folder) == "fold 0-1 holds no sample of class 'rare'"
    collect_folds(run, folder)
    assert read_evaluation(folder).metrics["cv/accuracy"].value == pytest.approx(0.7)


def test_what_a_missing_class_makes_unlike_has_a_reason_in_place_of_a_value():
    given: dict[str, Any] = {"stderr": 0.1, "n": 3, "unit": "share", "better": "higher", "interval": (0.4, 0.6)}
    names = ("cv/accuracy", "baseline/majority/accuracy", "cv/f1_macro", "cv/bits_per_byte")
    metrics = [Metric(name, 0.5, protocol="b" if "bits" in name else "c", **given) for name in names]
    found = withhold(metrics, {"c": {"classes": 2}, "b": {}}, "fold 0-1 holds no sample of class 'rare'", {"accuracy"})
    assert [metric.value for metric in found] == [0.5, 0.5, None, 0.5]
    assert found[2].undefined == (
        "fold 0-1 holds no sample of class 'rare', so that only plain means over samples are alike in all folds; "
        "data.splits.stratify=true gives every class to every fold"
    )
    assert (found[2].stderr, found[2].interval) == (None, None)


def test_another_division_is_another_protocol(folder: RunFolder):
    run = crossed()
    scored(run, folder, VALUES)
    collect_folds(run, folder)
    ours = read_evaluation(folder).metrics["cv/accuracy"].protocol
    manifest = json.loads(folder.manifest.read_text())
    manifest["splits"]["fold-0"]["shards"][0]["blake3"] = "other samples"
    write_json(folder.manifest, manifest)
    collect_folds(run, folder)
    assert read_evaluation(folder).metrics["cv/accuracy"].protocol != ours


def test_a_fold_that_is_started_while_the_pipeline_ends_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.steps.die_with_session", lambda: None)
    monkeypatch.setenv(STOPPING, "1")
    with pytest.raises(SystemExit) as ended:
        run_step("train", encode_config(crossed()), tmp_path / "run", "0-1")
    assert ended.value.code == 143
    assert not (tmp_path / "run").exists()


def test_one_fold_is_no_cross_validation():
    with pytest.raises(ConfigError, match=r"data\.splits\.folds\.count: .*greater than or equal to 2"):
        crossed(count=1)
