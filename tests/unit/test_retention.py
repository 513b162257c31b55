"""Which checkpoints stay."""

from pathlib import Path

import pytest

from configs.engine import CheckpointConfig
from configs.folder import write_json
from configs.stages import step_folder, steps_in
from tests.unit.test_checkpoint_kills import died
from trainer.checkpoint.retention import Retention, survivors

Scores = dict[int, dict[str, float]]


def config(**settings: object) -> CheckpointConfig:
    return CheckpointConfig.model_validate({"every_steps": 1, "keep": 1} | settings)


def scored(*values: float, every: int = 1) -> Scores:
    """Losses of steps 1, 2, ..."""
    return {number * every: {"validation/loss": value} for number, value in enumerate(values, 1)}


def committed(root: Path, metrics: Scores) -> Path:
    for step, each in metrics.items():
        folder = step_folder(root, step)
        folder.mkdir(parents=True)
        write_json(folder / "complete.json", {"metrics": each})
    return root


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep": 1}, {6}),
        ({"keep": 2}, {5, 6}),
        ({"keep": 9}, {1, 2, 3, 4, 5, 6}),
        ({"permanent_every_steps": 2}, {2, 4, 6}),
        ({"keep": 2, "permanent_every_steps": 3}, {3, 5, 6}),
        ({"best": {"metric": "validation/loss"}}, {2, 6}),
        ({"best": {"metric": "validation/loss", "count": 2}}, {2, 4, 6}),  # of 3 and 4, which are equal, the later
        ({"best": {"metric": "validation/loss", "better": "higher"}}, {5, 6}),
        ({"best": {"metric": "validation/loss", "count": 2}, "permanent_every_steps": 5, "keep": 2}, {2, 4, 5, 6}),
    ],
)
def test_the_newest_the_permanent_and_the_best_stay(settings: dict[str, object], kept: set[int]) -> None:
    assert survivors(scored(0.9, 0.1, 0.2, 0.2, 1.5, 0.7), config(**settings)) == kept


def test_a_checkpoint_without_the_metric_is_not_the_best_and_the_newest_stays_without_it() -> None:
    metrics = scored(0.9, 0.1) | {3: {"train/loss": 0.0}, 4: {}}
    assert survivors(metrics, config(best={"metric": "validation/loss"})) == {2, 4}


def test_what_need_not_stay_is_removed_and_nothing_else(tmp_path: Path) -> None:
    committed(tmp_path, scored(3, 2, 1))
    (tmp_path / "events.jsonl").write_text("")
    Retention(tmp_path, config(keep=2)).apply(newest=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "step-00000002", "step-00000003"]


def test_only_committed_checkpoints_count(tmp_path: Path) -> None:
    committed(tmp_path, scored(3, 2, 1))
    step_folder(tmp_path, 2).joinpath("complete.json").write_text("{")
    Retention(tmp_path, config(keep=2)).apply(newest=3)
    assert steps_in(tmp_path) == [3, 1]


def test_later_ones_than_the_one_just_saved_were_damaged_and_go(tmp_path: Path) -> None:
    Retention(committed(tmp_path, scored(4, 3, 2, 1)), config(keep=2)).apply(newest=2)
    assert steps_in(tmp_path) == [2, 1]


def test_the_order_is_that_of_the_steps_whatever_the_clock_said(tmp_path: Path) -> None:
    import os

    committed(tmp_path, scored(3, 2, 1))
    for step in (1, 2, 3):
        os.utime(step_folder(tmp_path, step), (10**9 - step, 10**9 - step))
    Retention(tmp_path, config(keep=1)).apply(newest=3)
    assert steps_in(tmp_path) == [3]


def test_a_metric_that_no_checkpoint_has_is_said_once_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unscored = committed(tmp_path, {1: {"train/loss": 3.0}})
    retention = Retention(unscored, config(best={"metric": "validation/accuracy"}))
    retention.apply(newest=1)
    assert "validation/accuracy" not in capsys.readouterr().out  # nothing has been validated yet
    for step in (2, 3):
        committed(tmp_path, {step: {"validation/loss": 2.0, "train/loss": 1.0}})
        retention.apply(newest=step)
    (line,) = capsys.readouterr().out.splitlines()
    assert "train.checkpoint.best.metric=validation/accuracy is in no checkpoint" in line
    assert line.endswith("the metrics there: train/loss, validation/loss")
    assert steps_in(tmp_path) == [3]


def test_a_removal_that_is_killed_leaves_no_half_a_checkpoint_under_its_name(tmp_path: Path) -> None:
    root, number = tmp_path, 0
    for number in range(1, 50):
        root = committed(tmp_path / str(number), scored(3, 2, 1))
        killed = died(lambda root=root: Retention(root, config(keep=1)).apply(newest=3), at=number)
        assert all((step_folder(root, step) / "complete.json").exists() for step in steps_in(root))
        assert steps_in(root)[0] == 3
        if not killed:
            break
    assert number > 6
    assert steps_in(root) == [3]
