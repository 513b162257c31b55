"""The command line: quick help, every mistake at once, exit codes, and options in any place."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines.cli
from configs.errors import OutageError
from configs.folder import RunFolder
from configs.load import load
from pipelines.cli import COMMANDS, HANDLERS, OWN_COMMANDS, main
from tests.corpus import COMPLETE


def trainworks(*arguments: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "pipelines.cli"]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_names_every_command_and_the_exit_codes():
    done = trainworks("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^    {name}( |$)", done.stdout, re.MULTILINE) for name in (*COMMANDS, *OWN_COMMANDS))
    assert "130/137/143" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_the_grammar(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]" in " ".join(capsys.readouterr().out.split())


def test_every_command_has_a_handler():
    assert set(HANDLERS) == set(COMMANDS)


@pytest.mark.parametrize("command", OWN_COMMANDS)
def test_commands_with_options_of_their_own_run_as_modules_that_are_there(
    command: str, monkeypatch: pytest.MonkeyPatch
):
    module, _ = OWN_COMMANDS[command]
    asked: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda words, env: asked.append(words) or SimpleNamespace(wait=lambda: 3))
    assert main([command, "x", "--option", "y"]) == 3
    assert asked == [[sys.executable, "-m", module, "x", "--option", "y"]]
    path = Path(pipelines.cli.__file__).parents[1] / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


LIGHT = """
import sys
from pipelines.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "numpy", "deepspeed", "kfp", "datasets", "wandb", "tokenizers"} & set(sys.modules)
print("heavy:", sorted(heavy), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["run", "train", "config"])
def test_a_config_is_refused_before_anything_heavy_is_imported(command: str, tmp_path: Path):
    options = [] if command == "config" else ["--runs", tmp_path / "runs"]
    done = trainworks(command, COMPLETE, "train.stepz=3", *options, code=LIGHT)
    assert done.returncode == 2
    assert "train.stepz: unknown key; did you mean train.steps?" in done.stderr
    assert done.stderr.endswith("heavy: []\n")
    assert not (tmp_path / "runs").exists()


def test_help_imports_nothing_of_ours():
    code = LIGHT.replace('{"torch"', '{"configs.load", "pydantic", "yaml", "torch"')
    assert trainworks("--help", code=code).stderr == "heavy: []\n"


def test_seven_mistakes_are_reported_in_one_message_with_exit_code_2(tmp_path: Path):
    overlay = tmp_path / "seven.yaml"
    overlay.write_text(
        "train:\n"
        "  stepz: 100\n"
        "  precision: fp8\n"
        "  global_batch_samples: 31\n"
        "  schedule: {kind: cosin}\n"
        "task:\n"
        "  model: {width: wide}\n"
        "world: {loader_workers: -1}\n"
        "wandb: {projct: x}\n"
    )
    done = trainworks("run", COMPLETE, overlay, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("trainworks run: the configuration has 7 problems:\n")
    for mistake in (
        f"{overlay}:2: train.stepz: unknown key; did you mean train.steps?",
        f"{overlay}:3: train.precision: 'fp8' is not one of 'fp32', 'bf16' or 'fp16'",
        "train.global_batch_samples=31 must be a multiple of",
        f"{overlay}:5: train.schedule.kind: 'cosin' is not one of",
        f"{overlay}:7: task.model.width: input should be a valid integer, got 'wide'",
        f"{overlay}:8: world.loader_workers: input should be greater than or equal to 0, got -1",
        f"{overlay}:9: wandb.projct: unknown key; did you mean wandb.project?",
    ):
        assert mistake in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "--colour", str(COMPLETE)],
        ["config", str(COMPLETE), "-x"],
        ["config"],
        ["config", str(COMPLETE), "--runs", "x"],
        ["compile", str(COMPLETE)],
        ["trian", str(COMPLETE)],
        [],
    ],
)
def test_what_the_parser_does_not_know_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: trainworks" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs", "{runs}", "--name", "n", "{config}", "seed=1", "train.steps=60"],
        ["{config}", "--runs", "{runs}", "seed=1", "--name", "n", "train.steps=60"],
        ["{config}", "seed=1", "train.steps=60", "--runs={runs}", "--name=n"],
        ["{config}", "--name", "n", "--runs", "{runs}", "seed=1", "train.steps=60"],
    ],
)
def test_options_stand_anywhere_among_the_overrides(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[tuple[str, int, int]] = []

    def remember(self: RunFolder, run) -> None:
        opened.append((str(self.path), run.seed, run.train.steps))
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "open", remember)
    words = [word.format(runs=tmp_path, config=COMPLETE) for word in arguments]
    assert main(["train", *words]) == 130
    assert opened == [(f"{tmp_path}/n", 1, 60)]


def test_the_resolved_run_is_printed_with_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["config", str(COMPLETE), "train.steps=60"]) == 0
    out = capsys.readouterr().out
    assert "  steps: 60  # Updates in all" in out
    assert "timeout_s: 300  # Seconds without a sign" in out
    path = tmp_path / "printed.yaml"
    path.write_text(out, encoding="utf-8")
    assert load([str(path)]) == load([str(COMPLETE), "train.steps=60"])


def test_a_folder_of_another_run_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    RunFolder(tmp_path / "n").open(load([str(COMPLETE)]))
    assert main(["train", str(COMPLETE), "seed=1", "--runs", str(tmp_path), "--name", "n"]) == 2
    assert "seed: 1 here, 0 there" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "n").write_text("a file")
    assert main(["train", str(COMPLETE), "--runs", str(tmp_path), "--name", "n"]) == 1
    assert capsys.readouterr().err == f"trainworks train: {tmp_path}/n: Not a directory\n"


def test_an_outage_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def stay_away(arguments: object) -> int:
        raise OutageError("s3://bucket: no answer in time")

    monkeypatch.setitem(HANDLERS, "config", stay_away)
    assert main(["config", str(COMPLETE)]) == 1
    assert capsys.readouterr().err == "trainworks config: s3://bucket: no answer in time\n"


def test_a_stage_that_fails_shows_its_reason_and_its_code(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    source = f"data.source={{kind: files, paths: [{tmp_path}/empty.txt]}}"
    done = trainworks("prepare", COMPLETE, source, "--runs", tmp_path, "--name", "n")
    assert done.returncode == 2
    assert "trainworks prepare: " in done.stderr
    assert "no document with text in it" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../escape", "/tmp/elsewhere"])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["prepare", "configs/demo-lm.yaml", "--runs", str(tmp_path / "runs"), "--name", name]) == 2
    assert "must name one folder" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
