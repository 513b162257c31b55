"""Files, overlays and overrides to a run: every mistake in one message, each with its place and the way out."""

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import TextData, TokenizerFile
from configs.errors import ConfigError
from configs.language import LanguageEvaluation
from configs.load import differences, dump, explain, load, read
from configs.optimisation import AdamWConfig, ConstantSchedule, CosineSchedule, InverseSchedule
from tests.corpus import COMPLETE


def problems(*arguments: str) -> list[str]:
    """The lines of the one error that loading raises."""
    with pytest.raises(ConfigError) as caught:
        load(arguments)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("the configuration has ")
    assert str(len(lines)) in first
    return [line.removeprefix("  - ") for line in lines]


def over(*arguments: str) -> list[str]:
    return problems(str(COMPLETE), *arguments)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_all_problems_stand_in_one_message_with_their_places(tmp_path: Path):
    overlay = write(tmp_path / "mistakes.yaml", "train:\n  stepz: 10\n  precision: fp8\nworld:\n  threads: many\n")
    found = problems(
        str(COMPLETE),
        overlay,
        "task.model.widht=128",
        "data.splits={validation: 0.6, test: 0.6}",
        "train.global_batch_samples=10",
        "data.source.kind=pakaged",
    )
    expected = [
        f"{overlay}:2: train.stepz: unknown key; did you mean train.steps?",
        f"{overlay}:3: train.precision: 'fp8' is not one of 'fp32', 'bf16' or 'fp16'",
        f"{overlay}:5: world.threads: input should be a valid integer, got 'many'",
        "command line: task.model.widht: unknown key; did you mean task.model.width?",
        "command line: data.splits: validation + test = 0.6 + 0.6 leaves nothing to train on; "
        "their sum must be below 1",
        "train.global_batch_samples=10 must be a multiple of world.micro_batch_samples x world.processes = "
        "16 x 2 = 32; try 32, or world.micro_batch_samples 5",
        "command line: data.source.kind: 'pakaged' is not one of 'packaged', 'files', 'webdataset', "
        "'huggingface', 'mixture'; did you mean 'packaged'?",
    ]
    assert sorted(found) == sorted(expected)


def test_an_unknown_key_finds_its_home_elsewhere():
    assert over("train.learning_rate=0.1") == [
        "command line: train.learning_rate: unknown key; did you mean train.optimizer.learning_rate?"
    ]
    assert over("block_tokens=64") == ["command line: block_tokens: unknown key; did you mean data.block_tokens?"]


def test_an_unknown_key_like_no_other_lists_what_is_allowed():
    (line,) = over("wandb.zzz=1")
    assert line == "command line: wandb.zzz: unknown key; allowed here: mode, project, entity"


def test_a_rule_is_not_applied_to_a_field_that_is_itself_wrong():
    assert over("task.model.width=-3") == [
        "command line: task.model.width: input should be greater than or equal to 1, got -3"
    ]
    assert len(over("world.processes=-3")) == 1
    assert len(over("data.splits.validation=" + "9" * 400)) == 1


def test_a_broken_rule_is_reported_beside_a_mistake_elsewhere():
    found = over("task.evaluation.stride_tokens=65", "task.model.width=130", "seed=x")
    assert len(found) == 3
    assert any("task.evaluation.stride_tokens=65 must not exceed" in line for line in found)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".1e-2", "0.001", "1.0e-3"])
def test_floats_with_an_exponent_are_floats(text: str):
    assert load([str(COMPLETE), f"train.optimizer.learning_rate={text}"]).train.optimizer.learning_rate == 0.001


def test_an_exponent_does_not_make_an_integer():
    assert "valid integer" in over("train.steps=1e3")[0]


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e400"])
def test_numbers_are_finite(text: str):
    assert "finite" in over(f"train.optimizer.learning_rate={text}")[0]


def test_text_that_looks_like_a_date_is_text():
    assert load([str(COMPLETE), "name=2024-01-01"]).name == "2024-01-01"
    assert len(over("seed=2024-01-01", "train.stepz=1")) == 2


def test_a_key_set_twice_is_refused_with_both_places(tmp_path: Path):
    path = write(tmp_path / "twice.yaml", COMPLETE.read_text(encoding="utf-8") + "\nseed: 1\n")
    (line,) = problems(path)
    assert line.endswith(f"seed is set twice; first at {path}:3")


def test_a_nested_key_set_twice_is_refused(tmp_path: Path):
    overlay = write(tmp_path / "twice.yaml", "train:\n  ema:\n    decay: 0.9\n    decay: 0.99\n")
    assert over(overlay) == [f"{overlay}:4: train.ema.decay is set twice; first at {overlay}:3"]
    assert over("train.ema={decay: 0.9, decay: 0.99}") == [
        "command line: train.ema.decay is set twice; first at command line"
    ]


def test_later_layers_win_key_by_key(tmp_path: Path):
    first = write(tmp_path / "a.yaml", "train: {steps: 10, schedule: {warmup_steps: 2}}\n")
    second = write(tmp_path / "b.yaml", "train: {steps: 20}\nseed: 5\n")
    run = load([str(COMPLETE), first, "train.steps=15", second, "seed=6"])
    assert (run.train.steps, run.train.schedule.warmup_steps, run.seed) == (20, 2, 6)
    assert run.train.optimizer == load([str(COMPLETE)]).train.optimizer


def test_a_list_is_replaced_whole():
    optimizer = load([str(COMPLETE), "train.optimizer.betas=[0.8, 0.9]"]).train.optimizer
    assert isinstance(optimizer, AdamWConfig)
    assert optimizer.betas == (0.8, 0.9)


def test_null_removes_an_optional_section():
    evaluation = load([str(COMPLETE), "task.evaluation.sampling=null"]).task.evaluation
    assert isinstance(evaluation, LanguageEvaluation)
    assert evaluation.sampling is None


def test_another_kind_replaces_the_section(tmp_path: Path):
    run = load([str(COMPLETE), "train.schedule={kind: constant}"])
    assert run.train.schedule == ConstantSchedule(kind="constant")
    overlay = write(tmp_path / "file.yaml", "data:\n  tokenizer: {kind: file, path: t.json}\n")
    data = load([str(COMPLETE), overlay]).data
    assert isinstance(data, TextData)
    assert data.tokenizer == TokenizerFile(kind="file", path="t.json")
    dotted = load([str(COMPLETE), "train.schedule.kind=inverse", "train.schedule.decay=0.1"])
    assert dotted.train.schedule == InverseSchedule(kind="inverse", decay=0.1)


def test_the_same_kind_keeps_the_section():
    run = load([str(COMPLETE), "train.schedule={kind: cosine, final: 0.2}"])
    assert isinstance(run.train.schedule, CosineSchedule)
    assert run.train.schedule == CosineSchedule(kind="cosine", warmup_steps=50, final=0.2)


def test_a_mistake_inside_an_override_of_a_section_is_blamed_on_the_command_line():
    (line,) = over("train.schedule={kind: cosine, final: 2}")
    assert line.startswith("command line: train.schedule.final:")


def test_a_missing_key_is_not_blamed_on_the_kind_that_was_replaced(tmp_path: Path):
    overlay = write(tmp_path / "exp.yaml", "train:\n  schedule:\n    kind: exponential\n    decay: 0.1\n")
    (line,) = over(overlay, "train.schedule={kind: inverse}")
    assert line == "command line: train.schedule.decay: required, but not set"


def test_an_alias_is_a_copy(tmp_path: Path):
    path = write(tmp_path / "alias.yaml", "world: &x {threads: 3}\ncluster: *x\n")
    found = problems(path, "world.processes=5")
    assert any("cluster.threads: unknown key" in line for line in found)
    assert not any("cluster.processes" in line for line in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected keys and values at the top, got nothing"),
        ("# only a comment\n", "got nothing"),
        ("- a\n- b\n", "got list"),
        ("text", "got str"),
        ("a: [1,", "not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("? [a]\n: 3\n", "not YAML"),
        ("a: &a\n  b: *a\n", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not YAML"),
        ("seed: \x07\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, says: str):
    path = write(tmp_path / "bad.yaml", text)
    (line,) = problems(path)
    assert line.startswith(f"{path}: ")
    assert says in line


def test_keys_that_are_not_text_are_unknown(tmp_path: Path):
    path = write(tmp_path / "odd.yaml", "1: 3\nnull: 4\n")
    found = over(path)
    assert [line.split(";")[0] for line in found] == [f"{path}:1: 1: unknown key", f"{path}:2: null: unknown key"]


def test_a_file_that_is_not_utf_8_is_named_with_the_byte(tmp_path: Path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert problems(str(path)) == [f"{path}: not UTF-8 at byte 9; save it as UTF-8"]


def test_a_missing_file_names_the_nearest():
    (line,) = problems(str(COMPLETE.with_name("compleet.yaml")))
    assert "cannot be read: No such file" in line
    assert line.endswith(f"did you mean {COMPLETE}?")


def test_all_files_that_cannot_be_read_are_named(tmp_path: Path):
    assert len(problems(str(tmp_path), str(tmp_path / "none.yaml"), "train.steps=[")) == 3


def test_an_override_without_a_file_asks_for_one():
    assert problems("seed=1", "name=foo.yaml") == ["no configuration file: name one, such as configs/demo-lm.yaml"]
    assert problems() == ["no configuration file: name one, such as configs/demo-lm.yaml"]


def test_an_override_with_a_hyphen_is_an_unknown_key():
    (line,) = over("train.global-batch-samples=3")
    assert line == "command line: train.global-batch-samples: unknown key; did you mean train.global_batch_samples?"


def test_an_override_may_hold_an_equals_sign():
    assert load([str(COMPLETE), "wandb.project=a=b"]).wandb.project == "a=b"


def test_a_section_given_as_text_is_refused():
    assert len(over("data.source=shakespeare", "train.schedule=cosine", "name.x=3")) == 3


def test_an_empty_value_is_not_a_default():
    assert over("train.steps=") == ["command line: train.steps: input should be a valid integer, got None"]


def test_the_dump_is_read_back_equal(tmp_path: Path):
    run = load([str(COMPLETE), "name='1e3'", "train.optimizer.learning_rate=1e-5", "train.ema.decay=0.999"])
    assert read(Path(write(tmp_path / "run.yaml", dump(run)))) == run


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text(string.printable, max_size=8))
def test_any_text_survives_the_dump_and_the_explanation(tmp_path_factory: pytest.TempPathFactory, text: str):
    run = load([str(COMPLETE)])
    sampling = run.task.evaluation.sampling.model_copy(update={"prompts": (text, "x")})  # type: ignore[union-attr]
    evaluation = run.task.evaluation.model_copy(update={"sampling": sampling})
    run = run.model_copy(update={"task": run.task.model_copy(update={"evaluation": evaluation})})
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    for written in (dump(run), explain(run)):
        path.write_text(written, encoding="utf-8")
        assert read(path) == run


def test_an_explanation_is_the_run_with_derived_numbers(tmp_path: Path):
    run = load([str(COMPLETE), "world.micro_batch_samples=8"])
    text = explain(run)
    assert "samples x 2 accumulation" in text
    assert "tokens per step: 2,048; tokens in all: 2,048,000" in text
    assert read(Path(write(tmp_path / "explained.yaml", text))) == run
    assert yaml.safe_load(text)["world"]["processes"] == 2


def test_differences_name_each_key_with_both_values():
    ours = {"a": {"b": 1, "c": [1]}, "d": 2}
    theirs = {"a": {"b": 1, "c": [2]}, "e": 3}
    assert list(differences(ours, theirs)) == [
        "a.c: [1] here, [2] there",
        "d: 2 here, None there",
        "e: None here, 3 there",
    ]
    assert list(differences(ours, ours)) == []
