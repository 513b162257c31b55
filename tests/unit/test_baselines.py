"""Baselines and the commands over them: what is stored, what is refused, and the exit codes of a gate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError, DamageError, UserError
from configs.metrics import unlike
from pipelines import baselines, compare
from pipelines.baselines import earlier_versions, holding, load_baseline, read_verdicts, store
from pipelines.gate.__main__ import main
from pipelines.gate.readings import read_reading
from tests.gated import PROTOCOL, evaluated, reading, repeats

STEPS = [
    {"event": "step", "step": n, "train/tokens_per_s": 100.0 + n, "train/memory_bytes": 5000 + n} for n in range(1, 21)
]
EVENTS = [
    {"event": "start", "step": 0, "device": "cpu", "world": 2, "since_launch_s": 9.0},
    *STEPS,
    {"event": "start", "step": 20, "device": "cpu", "world": 2, "since_launch_s": 4.0},
]


def three(root: Path, prefix: str, *values: float, **changes: Any) -> list[str]:
    for seed, value in enumerate(values):
        evaluated(root, f"{prefix}-{seed}", f"seed={seed}", value=value, **changes)
    return [f"{prefix}-{seed}" for seed in range(len(values))]


def places(root: Path) -> list[str]:
    return ["--runs", str(root), "--baselines", str(root / "baselines")]


def test_a_run_is_read_with_its_machine_and_without_the_baselines_that_no_training_changes(tmp_path: Path):
    run = read_reading(evaluated(tmp_path, "run", events=EVENTS, units=[1.0, 2.0]))
    assert {name: metric.value for name, metric in run.metrics.items()} == {
        "test/bits_per_byte": 2.0,
        "train/tokens_per_s": 111.5,
        "train/memory_bytes": 5020.0,
        "train/resume_s": 4.0,
    }
    assert run.protocols[run.metrics["train/resume_s"].protocol]["device"] == "abacus"
    assert run.units["test/bits_per_byte"].sums.tolist() == [1.0, 2.0]


def test_a_run_that_is_not_there_or_not_evaluated_is_refused(tmp_path: Path):
    folder = evaluated(tmp_path, "run")
    folder.metrics.unlink()
    with pytest.raises(UserError, match="not evaluated"):
        read_reading(folder)
    folder.config.unlink()
    with pytest.raises(UserError, match="no run is there"):
        read_reading(folder)


def test_units_that_are_no_units_are_damage(tmp_path: Path):
    folder = evaluated(tmp_path, "run", units=[1.0])
    folder.units.write_bytes(b"nothing")
    with pytest.raises(DamageError, match="evaluate again"):
        read_reading(folder)


def test_a_baseline_is_read_as_it_was_stored_and_no_version_is_ever_overwritten(tmp_path: Path):
    units = {"test/bits_per_byte": [1.0, 2.0, 3.0]}
    old = [reading(seed, *repeats([2.0])[0].metrics.values(), units=units) for seed in (0, 1)]
    store("demo", old, tmp_path)
    first = (tmp_path / "demo" / "0001.json").read_bytes()
    store("demo", repeats([1.0, 1.1, 1.2]), tmp_path)
    assert (tmp_path / "demo" / "0001.json").read_bytes() == first
    back = load_baseline("demo", tmp_path, 1)
    assert [each.metrics for each in back.readings] == [each.metrics for each in old]
    assert np.array_equal(back.readings[0].units["test/bits_per_byte"].sums, [1.0, 2.0, 3.0])
    newest = load_baseline("demo", tmp_path)
    assert (str(newest), len(newest.readings)) == ("demo 0002", 3)
    assert [len(group) for group in earlier_versions(newest, tmp_path)] == [2]


def test_runs_that_differ_in_more_than_seed_and_name_are_refused_with_the_keys(tmp_path: Path):
    evaluated(tmp_path, "a", "seed=1")
    evaluated(tmp_path, "b", "seed=2", "train.steps=700")
    runs = [read_reading(evaluated_folder) for evaluated_folder in baselines.find_runs(["a", "b"], tmp_path)]
    with pytest.raises(ConfigError, match=r"train\.steps: 800 here, 700 there"):
        store("demo", runs, tmp_path)
    with pytest.raises(ConfigError, match="the same seed 1"):
        store("demo", [runs[0], runs[0]], tmp_path)
    assert not (tmp_path / "demo" / "0001.json").exists()


def test_a_stored_file_that_was_altered_is_named(tmp_path: Path):
    units = {"test/bits_per_byte": [1.0, 2.0]}
    store("demo", [reading(0, *repeats([2.0])[0].metrics.values(), units=units)], tmp_path)
    (tmp_path / "demo" / "0001-seed-0.safetensors").write_bytes(b"other")
    with pytest.raises(DamageError, match="0001-seed-0"):
        load_baseline("demo", tmp_path)
    path = tmp_path / "demo" / "0001.json"
    path.write_text(path.read_text().replace("2.0", "1.0"))
    with pytest.raises(DamageError, match=r"0001\.json: its digest"):
        load_baseline("demo", tmp_path)


def test_the_newest_version_is_known_again_by_its_evaluations(tmp_path: Path):
    runs = repeats([1.0, 1.1])
    assert holding("demo", runs, tmp_path) is None
    store("demo", runs, tmp_path)
    assert str(holding("demo", runs, tmp_path)) == "demo 0001"
    assert holding("demo", runs[:1], tmp_path) is None
    store("demo", repeats([1.0, 1.2]), tmp_path)
    assert holding("demo", runs, tmp_path) is None


def test_a_baseline_that_is_not_there_is_told_with_those_that_are(tmp_path: Path):
    store("other", repeats([1.0]), tmp_path)
    with pytest.raises(UserError, match=r"there: other\).*baseline set demo RUN"):
        load_baseline("demo", tmp_path)
    with pytest.raises(UserError, match="no version 4; it has 1"):
        load_baseline("other", tmp_path, 4)
    with pytest.raises(ConfigError, match="must be a name"):
        load_baseline("../x", tmp_path)


def test_the_gate_ends_with_0_1_or_2_and_leaves_its_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old = three(tmp_path, "old", 2.0, 2.001, 1.999)
    assert baselines.main(["set", "demo", *old, *places(tmp_path)]) == 0
    same, worse = (
        three(tmp_path, "same", 2.0, 2.001, 1.999),
        three(tmp_path, "worse", 2.04, 2.041, 2.039, code="f" * 64),
    )
    gate = ["--baseline", "demo", *places(tmp_path)]
    assert main([*same, *gate]) == 0
    files = {kind: tmp_path / f"verdicts.{kind}" for kind in ("json", "junit", "html")}
    assert main([*worse, *gate, *(word for kind, path in files.items() for word in (f"--{kind}", str(path)))]) == 1
    assert json.loads(files["json"].read_text())["verdict"] == "worse"
    assert "<failure" in files["junit"].read_text()
    assert "Worse than the baseline" in files["html"].read_text()
    assert main([*worse, *gate, "--minimum", "5"]) == 0
    unlike = three(tmp_path, "unlike", 2.0, protocol={**PROTOCOL, "stride_tokens": 64})
    capsys.readouterr()
    assert main([*unlike, *gate]) == 2
    assert "stride_tokens: 64 and 32" in capsys.readouterr().out
    assert main([*same, "--baseline", "absent", *places(tmp_path)]) == 2
    told = [each["verdict"] for each in read_verdicts("demo", tmp_path / "baselines")]
    assert told == ["same", "worse", "same", "not comparable"]


def test_a_gate_that_is_repeated_stands_in_the_history_once(tmp_path: Path):
    runs = three(tmp_path, "run", 2.0, 2.001)
    baselines.main(["set", "demo", *runs, *places(tmp_path)])
    for _ in range(2):
        main([*runs, "--baseline", "demo", *places(tmp_path)])
    assert len(read_verdicts("demo", tmp_path / "baselines")) == 1


def test_a_metric_in_quarantine_is_shown_and_does_not_fail_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = three(tmp_path, "run", 2.0, 2.001, 1.999)
    baselines.main(["set", "demo", *runs, *places(tmp_path)])
    worse = [three(tmp_path, f"worse{n}", 2.04 + n / 1e4, 2.041, 2.039, code=code * 64) for n, code in enumerate("fge")]
    gate = ["--baseline", "demo", *places(tmp_path)]
    assert [main([*names, *gate]) for names in (worse[0], runs, worse[1])] == [1, 0, 1], "other code each time"
    assert main([*worse[2], *gate]) == 2  # the code of `runs`, and nothing is left to count
    assert "in quarantine" in capsys.readouterr().out
    baselines.main(["show", "demo", "--baselines", str(tmp_path / "baselines")])
    assert "test/bits_per_byte (quality, bits/byte, lower is better)" in (shown := capsys.readouterr().out)
    assert "; in quarantine" in shown
    baselines.main(["history", "demo", "--baselines", str(tmp_path / "baselines")])
    assert "worse (test/bits_per_byte)" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--minimum", "x"], ["--minimum", "taste=3"], ["--alpha", "2"], ["--minimum", "-1"]])
def test_a_wrong_option_is_a_mistake(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["run", "--baseline", "demo", *words])
    assert caught.value.code == 2
    assert words[1] in capsys.readouterr().err


def test_runs_are_compared_by_units_in_a_table_and_unlike_protocols_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    units = np.random.default_rng(0).normal(2.0, 0.5, 50)
    evaluated(tmp_path, "one", value=float(units.mean()), units=units.tolist(), events=EVENTS)
    evaluated(tmp_path, "two", value=float(units.mean()) * 1.1, units=(units * 1.1).tolist(), events=EVENTS)
    assert compare.main(["one", "two", "--runs", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "10 % worse" in told
    assert "50 paired units, no seed noise" in told
    evaluated(tmp_path, "other", protocol={**PROTOCOL, "stride_tokens": 64})
    assert compare.main(["one", "other", "--runs", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "stride_tokens: 64 and 32" in captured.err
    assert "test/bits_per_byte" not in captured.out
    assert compare.main(["one", "--runs", str(tmp_path)]) == 2


@pytest.mark.parametrize("name", ["units.safetensors", "cost.json"])
def test_a_file_beside_the_metrics_that_is_not_what_was_written_is_damage(name: str, tmp_path: Path):
    folder = evaluated(tmp_path, "run", units=[1.0, 2.0])
    path = folder.evaluation / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamageError, match=rf"{name}.*metrics\.json says.*evaluate again"):
        read_reading(folder)
    path.unlink()
    with pytest.raises(DamageError, match=f"{name}.*missing"):
        read_reading(folder)


def test_speed_on_another_number_of_threads_is_not_compared_and_a_restart_changes_nothing(tmp_path: Path):
    protocols = []
    for name, override in (("a", "world.threads=1"), ("b", "world.threads=8"), ("c", "world.restarts=9")):
        run = read_reading(evaluated(tmp_path, name, override, events=EVENTS))
        protocols.append(run.protocols[run.metrics["train/tokens_per_s"].protocol])
    assert unlike(protocols[0], protocols[1]) == ["world.threads: 1 and 8"]
    assert unlike(protocols[0], protocols[2]) == []


def test_a_version_of_another_configuration_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, steps in (("a", 10), ("b", 10), ("c", 20)):
        evaluated(tmp_path, name, f"train.steps={steps}", "train.schedule.warmup_steps=1")
    for name, noted in (("a", False), ("b", False), ("c", True)):
        assert baselines.main(["set", "demo", name, *places(tmp_path)]) == 0
        assert ("note: of another configuration than demo 0002" in capsys.readouterr().out) == noted


def test_verdicts_that_could_not_be_written_are_refused_before_any_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = three(tmp_path, "run", 2.0, 2.01, 1.99)
    baselines.main(["set", "demo", *runs, *places(tmp_path)])
    for option in ("--json", "--junit", "--html"):
        assert main([*runs, "--baseline", "demo", option, str(tmp_path / "absent/x"), *places(tmp_path)]) == 2
        assert f"{option} {tmp_path}/absent/x: name a file" in capsys.readouterr().err
    assert read_verdicts("demo", tmp_path / "baselines") == []


def test_repeats_of_different_code_are_no_repeats(tmp_path: Path):
    for seed in (0, 1):
        evaluated(tmp_path, f"run-{seed}", f"seed={seed}", code=f"{seed}" * 64)
    assert baselines.main(["set", "demo", "run-0", "run-1", *places(tmp_path)]) == 2


def test_a_line_of_the_history_that_is_none_is_named_and_no_gate_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    three(tmp_path, "run", 2.0, 2.01, 1.99)
    assert baselines.main(["set", "demo", "run-0", "run-1", "run-2", *places(tmp_path)]) == 0
    assert main(["run-0", "--baseline", "demo", *places(tmp_path)]) == 0
    path = tmp_path / "baselines/demo/verdicts.jsonl"
    broken = path.read_text().replace("{", "", 1)
    path.write_text(broken)
    assert main(["run-1", "--baseline", "demo", *places(tmp_path)]) == 1
    assert "verdicts.jsonl, line 1 is not as a gate wrote it" in capsys.readouterr().err
    assert path.read_text() == broken


def test_one_run_of_another_seed_against_one_is_not_called_worse_by_a_gate_and_compared_as_weights_by_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rng = np.random.default_rng(0)
    units = rng.normal(2.0, 0.5, 200)
    evaluated(tmp_path, "old", "seed=0", value=float(units.mean()), units=units.tolist())
    worse = units + 0.05
    evaluated(tmp_path, "new", "seed=1", value=float(worse.mean()), units=worse.tolist(), checkpoint="f" * 64)
    assert baselines.main(["set", "demo", "old", *places(tmp_path)]) == 0
    assert main(["new", "--baseline", "demo", *places(tmp_path)]) == 2
    assert "of unlike seeds" in capsys.readouterr().out
    assert compare.main(["old", "new", "--runs", str(tmp_path)]) == 0
    assert "% worse" in capsys.readouterr().out
