"""The nightly suite: its file, what becomes of each family, and the one verdict over all."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import pipelines.nightly
from configs.errors import ConfigError
from configs.suite_file import is_suite, load_run, read_suite
from pipelines.gate.readings import Reading
from pipelines.gate.verdicts import Judgement, Verdict
from pipelines.nightly import home_of, main

CONFIGS = Path(__file__).parents[2] / "configs"
CODE = {"files": {"a.py": "1"}, "packages": {}, "python": "3"}


def write_suite(path: Path, **changes: object) -> Path:
    runs = [{"name": name, "config": str(CONFIGS / "demo-lm.yaml")} for name in ("one", "two")]
    suite = {"name": "small", "runs": runs, "seeds": [0, 1], "gate": {"baseline": "base"}} | changes
    path.write_text(yaml.safe_dump({"suite": suite}))
    return path


def test_the_committed_suite_has_three_families_with_three_seeds():
    suite = read_suite(CONFIGS / "nightly.yaml")
    assert is_suite(CONFIGS / "nightly.yaml")
    runs = [load_run(CONFIGS / "nightly.yaml", each, seed) for each in suite.runs for seed in suite.seeds]
    assert len({run.task.kind for run in runs}) == 3
    assert [run.seed for run in runs] == [0, 1, 2] * 3
    assert not is_suite(CONFIGS / "demo-lm.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "must all differ"),
        ({"seeds": []}, "suite.seeds"),
        ({"gate": {"baseline": "base", "baseline_seeds": [0, 1, 1]}}, "gate.baseline_seeds=.*must all differ"),
        ({"runs": [{"name": "a", "config": str(CONFIGS / "demo-lm.yaml")}] * 2}, "a is the name of several"),
        ({"runs": [{"name": "a", "config": "absent.yaml"}]}, "absent.yaml"),
        (
            {"runs": [{"name": "a", "config": str(CONFIGS / "demo-lm.yaml"), "overrides": ["train.step=1"]}]},
            "train.step",
        ),
        ({"gate": {"baseline": "base", "minimum": {"beauty": 1.0}}}, "beauty"),
        ({"sedes": [1]}, "sedes"),
    ],
)
def test_a_mistake_in_a_suite_is_named_before_anything_runs(changes: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        read_suite(write_suite(tmp_path / "suite.yaml", **changes))


@pytest.mark.parametrize("text", ["name: demo\n", "[]", "suite: [", "suite: 3"])
def test_a_file_that_is_no_suite_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"suite\.yaml"):
        read_suite(path)


def test_runs_of_other_code_are_not_taken_for_this_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    suite = read_suite(write_suite(tmp_path / "suite.yaml"))
    homes = set()
    for files in ({"a.py": "1"}, {"a.py": "0"}, {"a.py": "1"}):
        monkeypatch.setattr(pipelines.nightly, "code_record", lambda files=files: CODE | {"files": files})
        homes.add(home_of(suite, tmp_path / "suite.yaml", tmp_path))
    assert len(homes) == 2


def test_runs_of_another_configuration_have_another_place_and_do_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipelines.nightly, "code_record", lambda: CODE)
    path = write_suite(tmp_path / "suite.yaml")
    homes = {home_of(read_suite(path), path, tmp_path)}
    other = {"name": "two", "config": str(CONFIGS / "demo-lm.yaml"), "overrides": ["train.steps=401"]}
    write_suite(path, runs=[{"name": "one", "config": str(CONFIGS / "demo-lm.yaml")}, other])
    homes.add(home_of(read_suite(path), path, tmp_path))
    assert len(homes) == 2


class Night:
    """A suite without the program: `codes` says how each run ends, `words` what the gate says of each family."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path, *, codes: dict[str, int], words: dict[str, str]):
        self.home, self.codes, self.words, self.begun = home, codes, words, list[str]()
        self.path = write_suite(home / "suite.yaml", gate={"baseline": "base", "baseline_seeds": [0, 1, 2]})
        monkeypatch.setattr(pipelines.nightly, "code_record", lambda: CODE)
        monkeypatch.setattr(pipelines.nightly, "run_command", self.run)
        monkeypatch.setattr(pipelines.nightly, "read_reading", lambda folder: folder.path.name)
        monkeypatch.setattr(pipelines.nightly, "load_baseline", lambda name, home: name)
        monkeypatch.setattr(pipelines.nightly, "store", lambda name, readings, home: f"{name} 0001")
        monkeypatch.setattr(pipelines.nightly, "holding", lambda name, readings, home: None)
        monkeypatch.setattr(pipelines.nightly, "gate", self.gate)

    def run(self, *words: object) -> int:
        name = str(words[-1])
        self.begun.append(name)
        home_of(read_suite(self.path), self.path, self.home / "runs").mkdir(parents=True, exist_ok=True)
        return self.codes.get(name, 0)

    def gate(self, readings: Sequence[Reading], baseline: str, home: Path, **options: object) -> Judgement:
        word = self.words.get(baseline.removeprefix("base-"), "same")
        verdict = Verdict("test/loss", word, "by chance", blocks=True)  # type: ignore[arg-type]
        return Judgement(baseline, tuple(map(str, readings)), (verdict,))

    def code(self, *options: str) -> int:
        return main([str(self.path), "--runs", str(self.home / "runs"), "--baselines", str(self.home), *options])

    @property
    def left(self) -> Path:
        return home_of(read_suite(self.path), self.path, self.home / "runs")

    @property
    def record(self) -> dict[str, dict[str, object]]:
        return {each["name"]: each for each in json.loads((self.left / "nightly.json").read_text())["families"]}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({}, 0),
        ({"one": "better"}, 0),
        ({"two": "worse"}, 1),
        ({"one": "not comparable"}, 2),
        ({"one": "not comparable", "two": "worse"}, 1),
    ],
)
def test_the_worst_family_decides_the_exit_code(
    words: dict[str, str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    night = Night(monkeypatch, tmp_path, codes={}, words=words)
    assert night.code() == code
    assert night.begun == ["one-seed-0", "two-seed-0", "one-seed-1", "two-seed-1"]
    assert {name: each["verdict"] for name, each in night.record.items()} == {"one": "same", "two": "same"} | words
    page = (night.left / "nightly.html").read_text()
    assert ("Worse or failed: two" in page) == (code == 1)


def test_a_failed_run_fails_the_suite_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    night = Night(monkeypatch, tmp_path, codes={"one-seed-0": 1}, words={})
    assert night.code() == 1
    assert len(night.begun) == 4
    assert night.record["one"]["verdict"] == "failed"
    assert night.record["one"]["failed"] == {"0": 1}
    assert night.record["two"]["verdict"] == "same"
    suites = ElementTree.parse(night.left / "nightly.xml").getroot()
    failures = [case.get("classname") for case in suites.iter("testcase") if case.find("failure") is not None]
    assert failures == ["run.one"]


def test_a_signal_ends_the_suite_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    night = Night(monkeypatch, tmp_path, codes={"one-seed-1": 143}, words={})
    assert night.code() == 143
    assert night.begun == ["one-seed-0", "two-seed-0", "one-seed-1"]
    assert not (night.left / "nightly.json").exists()


def test_a_baseline_is_stored_of_families_without_a_failed_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    night = Night(monkeypatch, tmp_path, codes={"two-seed-0": 1}, words={})
    assert night.code("--set-baseline") == 1
    assert night.record["one"]["verdict"] == "stored"
    assert night.record["one"]["note"] == "stored as base-one 0001"
    assert "not stored" in str(night.record["two"]["note"])
    assert [name for name in night.begun if name.startswith("one")] == ["one-seed-0", "one-seed-1", "one-seed-2"]


def test_a_family_that_a_stopped_suite_had_stored_is_not_stored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    night = Night(monkeypatch, tmp_path, codes={}, words={})
    monkeypatch.setattr(
        pipelines.nightly, "holding", lambda name, readings, home: f"{name} 0007" if "one" in name else 0
    )
    assert night.code("--set-baseline") == 0
    assert night.record["one"]["note"] == "is stored as base-one 0007"
    assert night.record["two"]["note"] == "stored as base-two 0001"


def test_without_a_baseline_nothing_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    night = Night(monkeypatch, tmp_path, codes={}, words={})
    monkeypatch.undo()
    monkeypatch.setattr(pipelines.nightly, "code_record", lambda: CODE)
    monkeypatch.setattr(pipelines.nightly, "run_command", night.run)
    monkeypatch.setattr(pipelines.nightly, "read_reading", lambda folder: folder.path.name)
    assert night.code() == 2
    assert night.record["one"]["verdict"] == "not comparable"
    assert "holds no baseline" in str(night.record["one"]["note"])
