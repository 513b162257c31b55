"""What verify-resume tries, how it judges fabricated logs and checkpoints, and what it says."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError, UserError
from configs.folder import RunFolder
from pipelines.resume.judge import Curves, compare_curves, judge_tensors, relative, steps_of
from pipelines.resume.plan import Plan, build_plan, saving_interval
from pipelines.resume.rows import Row, header, line, reference_line
from pipelines.resume.trial import Steps, Trial
from pipelines.verify_resume import judge, outcome, parse, summary, work_folder
from tests.runs import tiny_config

STEPS = 6


def step(number: int, **changes: Any) -> dict[str, Any]:
    loss, rate = 5.0 - number / 10, number / 1000
    usual = {"train/loss": loss, "train/learning_rate": rate, "samples_digest": f"{number:064d}", "position": number}
    return {"event": "step", "step": number, "time": 10.0 + number} | usual | changes


def start(world: int, after: int = 0) -> dict[str, Any]:
    return {"event": "start", "world": world, "step": after}


REFERENCE = steps_of([step(number) for number in range(1, STEPS + 3)], STEPS)


def compared(*events: dict[str, Any], tolerance: float = 1e-4) -> Curves:
    return compare_curves(REFERENCE, events, world=2, last=STEPS, tolerance=tolerance)


def until(last: int, first: int = 1, **changes: Any) -> list[dict[str, Any]]:
    return [step(number, **changes) for number in range(first, last + 1)]


def test_a_killed_training_that_repeats_its_steps_is_the_uninterrupted_one() -> None:
    found = compared(start(2), *until(4), start(2, after=3), *until(STEPS + 2, first=4))
    assert found == Curves(digest=True, rate=True, loss=0.0, problems=[])


def test_the_first_other_loss_is_named_with_its_step_and_both_values() -> None:
    wrong = step(5, **{"train/loss": 4.25})
    found = compared(start(2), *until(4), wrong, step(6, **{"train/loss": 4.0}))
    assert found.problems == ["step 5: train/loss is 4.25, uninterrupted 4.5"]
    assert found.loss == pytest.approx(0.4 / 4.4)  # that of step 6
    assert (found.digest, found.rate) == (True, True)


def test_on_the_same_world_the_last_bit_counts_and_on_another_the_tolerance_does() -> None:
    near = [step(5, **{"train/loss": 4.5 * (1 + 1e-6)}), step(6)]
    same = compared(start(2), *until(4), start(2, after=4), *near)
    assert same.problems == [f"step 5: train/loss is {near[0]['train/loss']}, uninterrupted 4.5"]
    other = compared(start(2), *until(4), start(1, after=4), *near)
    assert other.problems == []
    assert other.loss == pytest.approx(1e-6, rel=1e-3)
    assert compared(start(2), *until(4), start(1, after=4), *near, tolerance=1e-7).problems != []


def test_what_ran_before_the_other_world_has_to_be_equal_to_the_last_bit() -> None:
    near = step(3, **{"train/loss": REFERENCE[3]["train/loss"] * (1 + 1e-6)})
    found = compared(start(2), *until(2), near, start(4, after=3), *until(STEPS, first=4))
    assert found.problems[0].startswith("step 3: train/loss")


def test_other_samples_and_another_learning_rate_are_wrong_on_any_world() -> None:
    samples = compared(start(1), *until(5), step(6, samples_digest="f" * 64))
    assert (samples.digest, samples.rate) == (False, True)
    assert samples.problems == ["step 6: samples_digest is ffffffffffff, uninterrupted 000000000000"]
    rate = compared(start(1), *until(5), step(6, **{"train/learning_rate": 0.006 * (1 + 1e-12)}))
    assert (rate.digest, rate.rate) == (True, False)


def test_a_wrong_step_that_was_repeated_rightly_is_found_all_the_same() -> None:
    wrong = step(4, samples_digest="f" * 64)
    assert not compared(start(2), *until(3), wrong, start(2, after=3), *until(STEPS, first=4)).digest


def test_a_step_that_is_missing_is_named() -> None:
    found = compared(start(2), *until(3), start(2, after=4), step(6))
    assert found.problems == ["step 4 is not in the log, nor are 1 more"]
    assert found.loss == float("inf")


def test_a_loss_that_is_no_number_and_so_not_logged_differs_from_one_that_is() -> None:
    lost = step(6)
    del lost["train/loss"]
    assert compared(start(1), *until(5), lost).problems == ["step 6: train/loss is None, uninterrupted 4.4"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_relative_difference_has_no_direction_and_is_none_only_between_equals(a: float, b: float) -> None:
    assert relative(a, b) == relative(b, a)
    assert relative(a, b) >= 0
    assert relative(a, a) == 0


def tensors(difference: float | None, *, equal: bool = False) -> dict[str, dict[str, Any]]:
    return {"ema": {"equal": equal, "difference": difference, "worst": "model/head.weight"}}


def test_tensors_are_judged_by_bits_on_the_same_world_and_by_distance_on_others() -> None:
    assert judge_tensors(tensors(0.0, equal=True), exact=True, tolerance=0.0) == []
    assert judge_tensors(tensors(1e-5), exact=False, tolerance=1e-4) == []
    (exact,) = judge_tensors(tensors(1e-5), exact=True, tolerance=1e-4)
    assert exact == "ema: not bit-equal, 1e-05 apart, most in model/head.weight"
    (far,) = judge_tensors(tensors(1e-3), exact=False, tolerance=1e-4)
    assert far == "ema: 0.001 apart, most in model/head.weight"
    (missing,) = judge_tensors(tensors(None), exact=False, tolerance=1.0)
    assert missing.startswith("ema: model/head.weight is missing")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    return tiny_config(folder, folder)  # a global batch of 16 on 2 ranks x 4 samples x 2


def plan(config: Path, *overrides: str, **changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "runs": config.parent,
        "stages": None,
        "worlds": None,
        "steps": 12,
        "kills": 1,
        "seed": 0,
        "tolerance": 1e-4,
    }
    return build_plan([str(config), *overrides], **usual | changes)


def test_by_default_the_runs_own_stage_is_tried_on_its_own_world_and_on_1_2_and_4(config: Path) -> None:
    found = plan(config)
    assert (found.stages, found.worlds, found.reference_world) == ((0,), (2, 1, 4), 2)
    assert {world: run.accumulation for (_, world), run in found.runs.items()} == {2: 2, 1: 4, 4: 1}
    assert all(run.micro_batch == 4 for run in found.runs.values())


def test_trainings_keep_the_runs_schedule_and_save_often_enough_to_be_resumed(config: Path) -> None:
    found = plan(config, "train.checkpoint.keep=1")
    run = found.runs[0, 1]
    assert (run.train.steps, found.steps, found.every_steps) == (40, 12, 3)
    assert run.train.checkpoint.every_steps == 3
    assert run.train.checkpoint.permanent_every_steps == 12  # what is compared outlasts the steps that follow
    assert run.train.log_every_steps == 1
    assert run.wandb.mode == "disabled"
    assert plan(config, "train.steps=8", "train.schedule.warmup_steps=2").steps == 8


@pytest.mark.parametrize(("steps", "expected"), [(12, 3), (13, 1), (20, 5), (10, 2), (3, 1), (64, 16)])
def test_the_interval_between_saves_divides_the_steps(steps: int, expected: int) -> None:
    assert saving_interval(steps) == expected


def test_a_micro_batch_that_does_not_fit_a_world_shrinks_on_all_and_is_told(config: Path) -> None:
    found = plan(config, worlds=(2, 8))
    assert {run.micro_batch for run in found.runs.values()} == {2}
    assert any("world.micro_batch_samples is 2, not 4" in note for note in found.notes)


def test_a_world_that_cannot_keep_the_global_batch_is_refused_with_those_that_can(config: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"3 ranks cannot share train.global_batch_samples=16 .* that can: 1, 2, 4, 8"
    ):
        plan(config, worlds=(1, 3))


def test_a_stage_that_the_optimizer_cannot_take_is_refused_by_name(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)stage 2 on 2 ranks: .*muon reads whole matrices"):
        plan(config, "train.optimizer.kind=muon", "train.optimizer.learning_rate=0.02", stages=(0, 2))
    with pytest.raises(ConfigError, match="stage 7 on 2 ranks"):
        plan(config, stages=(7,))


def test_a_micro_batch_that_has_still_to_be_found_is_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match="give a number"):
        plan(config, "world.micro_batch_samples=auto")


def test_a_run_that_gives_the_first_weights_is_found_beside_the_others_or_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match="init_from=first: there is no folder"):
        plan(config, "task.model.init_from=first")
    (config.parent / "first").mkdir(exist_ok=True)
    (config.parent / "first" / "config.json").write_text("{}")
    found = plan(config, "task.model.init_from=first")
    assert found.runs[0, 1].task.model.init_from == str((config.parent / "first").resolve())


def test_more_kills_than_there_are_steps_for_them_are_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match="9 kills between the first checkpoint"):
        plan(config, kills=9)


def events_file(path: Path, events: Iterable[dict[str, Any]]) -> RunFolder:
    folder = RunFolder(path)
    folder.train.mkdir(parents=True, exist_ok=True)
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_a_trial_is_judged_by_its_log_and_its_checkpoint(config: Path, tmp_path: Path) -> None:
    found = plan(config, steps=STEPS)
    folder = events_file(tmp_path, [start(2), *until(5), start(1, after=3), *until(STEPS, first=4)])
    trial = Trial(folder, killed_at=(5,), resumed_from=(3,))
    row = judge(found, 0, 1, trial, list(REFERENCE.values()), tensors(1e-6), seconds=2.0)
    assert row.equal
    assert (row.repeated, row.tensors, row.exact) == (2, {"ema": 1e-6}, False)
    assert " ".join(line(row).split()) == "0 1 5 3 2 same same 0 - 1.0e-06 - 2 equal within the tolerance"
    exact = judge(found, 0, 2, trial, list(REFERENCE.values()), tensors(1e-6), seconds=2.0)
    assert exact.problems == ("ema: not bit-equal, 1e-06 apart, most in model/head.weight",)
    assert line(exact).endswith("DIFFERS")


def test_the_last_line_says_how_many_are_equal_or_the_first_difference(config: Path) -> None:
    found = plan(config)
    good, bad = Row(0, 2, True, 1.0), Row(1, 4, False, 1.0, problems=("step 5: train/loss is 1, uninterrupted 2",))
    assert summary(found, [good]) == (
        "1 of 1 resumed trainings are the uninterrupted one: 1 to the last bit, 0 within 0.0001"
    )
    assert summary(found, [good, bad]) == (
        "1 of 2 resumed trainings are not the uninterrupted one; first, stage 1 on 4 ranks: step 5: train/loss is 1, "
        "uninterrupted 2"
    )
    told = json.loads(json.dumps(outcome(found, [good, bad]), allow_nan=False))
    assert (told["equal"], [row["equal"] for row in told["rows"]]) == (False, [True, False])


def test_rows_stand_below_their_names(config: Path) -> None:
    row = Row(3, 4, False, 9.0, (4, 9), (3, 9), 1, True, True, 1.2e-7, {"weights": 0.0, "ema": None})
    place = header().index("ema") + 3
    assert line(row)[:place].endswith("missing")
    assert reference_line(3, 2, 8.0).index("the reference") == header().index("verdict")
    assert json.loads(json.dumps(Row(0, 1, True, 1.0, loss=float("inf")).record(), allow_nan=False))["loss"] is None


def test_the_log_is_followed_from_where_it_ended_without_its_torn_line(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    assert Steps(log).look() == 0
    log.write_text(json.dumps(step(4)) + '\n{"event": "st')
    tail = Steps(log)
    assert tail.look() == 0  # steps of earlier starts are none of its own
    log.write_text("".join(json.dumps(each) + "\n" for each in (step(4), start(2, after=3), step(4), step(5))))
    assert tail.look() == 5
    assert tail.pace_s == 1.0


def test_work_is_done_in_an_empty_folder_that_is_gone_afterwards(tmp_path: Path) -> None:
    with work_folder(tmp_path / "new", keep=False) as path:
        (path / "file").touch()
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), work_folder(None, keep=False) as path:
        raise KeyboardInterrupt
    assert not path.exists()
    with work_folder(tmp_path / "kept", keep=True) as path:
        (path / "file").touch()
    assert path.exists()
    with pytest.raises(UserError, match="not an empty folder"), work_folder(path, keep=False):
        pass
    assert (path / "file").exists()


def test_overrides_may_stand_after_options() -> None:
    options = parse(["a.yaml", "--worlds", "1,2", "train.steps=9", "--keep"])
    assert options.config == ["a.yaml", "train.steps=9"]
    assert options.worlds == (1, 2)


@pytest.mark.parametrize("wrong", [["--kills", "0"], ["--worlds", "two"], ["--worlds", "1,0"], ["--unheard-of"]])
def test_a_wrong_option_is_a_mistake_of_the_user(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["a.yaml", *wrong])
    assert caught.value.code == 2
