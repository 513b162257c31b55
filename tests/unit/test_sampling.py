"""The command that writes text or draws images with a trained run."""

import io
from pathlib import Path

import pytest
from PIL import Image

from configs.folder import RunFolder
from tests.tiny import CONFIGS, shrink, write_source
from tests.unit.test_diffusion_evaluation import prepared, small
from trainer.sampling.__main__ import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of four kinds, each with a checkpoint of a network as it begins."""
    root = tmp_path_factory.mktemp("runs")
    demos = {path.stem: path for path in CONFIGS}
    images = write_source(small(), root / "images")
    prepared(small(data__source=images, task__evaluation__judge=None), RunFolder(root / "drawing"))
    data = root / "drawing" / "data"
    plain = {"task__conditional": False, "task__drawing__guidance": 1.0, "task__evaluation__judge": None}
    prepared(small(data__source=images, **plain), RunFolder(root / "plain"), data=data)
    prepared(small(demos["demo-cnn"], data__source=images), RunFolder(root / "demo-cnn"), data=data)
    text = write_source(shrink(demos["demo-lm"]), root / "text")
    prepared(shrink(demos["demo-lm"], data__source=text), RunFolder(root / "demo-lm"))
    return root


def size(path: Path) -> tuple[int, int]:
    return Image.open(io.BytesIO(path.read_bytes())).size


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says when it refuses."""
    assert main([str(each) for each in arguments]) == 2
    return capsys.readouterr().err


def test_a_diffusion_run_draws_a_row_of_each_class_into_its_folder(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs / "drawing"), "--number", "3", "--steps", "2"]) == 0
    path = runs / "drawing" / "samples.png"
    assert capsys.readouterr().out == f"{path}\n"
    assert size(path) == (3 * 17 - 1, 4 * 17 - 1)
    assert not list(path.parent.glob("*.part"))


def test_classes_columns_and_the_file_are_as_asked_and_an_image_is_the_same_in_any_picture(
    runs: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    words = [str(runs / "drawing"), "--number", "2", "--columns", "2", "--seed", "5"]
    assert main([*words, "--class", "class-2", "--class", "class-0", "-o", str(first)]) == 0
    assert main([*words, "--class", "class-0", "-o", str(second)]) == 0
    whole, part = Image.open(first), Image.open(second)
    assert whole.size == (33, 33)
    assert whole.crop((0, 17, 33, 33)).tobytes() == part.tobytes()
    again = tmp_path / "again.png"
    assert main([*words, "--class", "class-0", "-o", str(again)]) == 0
    assert again.read_bytes() == second.read_bytes()


def test_a_strip_leads_from_one_noise_to_another(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    assert main([str(runs / "drawing"), "--class", "class-1", "--interpolate", "5", "-o", str(path)]) == 0
    assert size(path) == (5 * 17 - 1, 16)


def test_a_run_without_classes_draws_too_and_refuses_a_class(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.png"
    assert main([str(runs / "plain"), "--number", "4", "-o", str(path)]) == 0
    assert size(path) == (33, 33)
    assert "trained without classes" in failure(capsys, runs / "plain", "--class", "class-0")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--class", "clas-1"], "did you mean class-1? The classes are class-0, class-1"),
        (["--guidance", "-1"], "task.drawing.guidance"),
        (["--steps", "0"], "task.drawing.steps"),
        (["--steps", "2000"], "drawing.steps=2000 must not exceed noise.steps=1000; try 1000"),
        (["--sampler", "dim"], "did you mean"),
        (["--interpolate", "1"], "at least 2"),
        (["--number", "0"], "--number 0: it must be at least 1"),
        (["--seed", "-1"], "--seed -1"),
        (["-o", "picture.jpg"], "ends in .png"),
        (["-o", "nowhere/picture.png"], "name a file in a folder that is there"),
        (["--prompt", "To be"], "--prompt is not for runs of task.kind=diffusion, whose options are"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    runs: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in failure(capsys, runs / "drawing", *words)


def test_a_language_model_writes_on_the_screen_or_into_a_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(runs / "demo-lm"), "--prompt", "the king", "--max-tokens", "4", "--seed", "3"]
    assert main([*words, "--number", "2"]) == 0
    screen = capsys.readouterr().out
    assert screen.count("the king") == 2
    path = tmp_path / "text.txt"
    assert main([*words, "--number", "2", "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == screen


def test_settings_of_text_are_checked_as_a_configuration_is(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "task.evaluation.sampling.top_p" in failure(capsys, runs / "demo-lm", "--top-p", "2")
    assert "--steps is not for runs of task.kind=causal_lm" in failure(capsys, runs / "demo-lm", "--steps", "4")


def test_a_family_with_nothing_to_draw_says_which_have(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reason = failure(capsys, runs / "demo-cnn")
    assert "task.kind=image_classification has nothing to draw; those of causal_lm and diffusion have" in reason


def test_a_folder_that_is_no_run_or_has_no_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no folder" in failure(capsys, tmp_path / "nowhere")
    assert "holds no run.yaml" in failure(capsys, tmp_path)
