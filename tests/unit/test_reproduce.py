"""What `trainworks reproduce` refuses before it runs anything, and how it calls what came out."""

import shutil
from pathlib import Path

import pytest

import pipelines.custody.reproduce
from configs.code import code_record
from configs.folder import RunFolder, digest, write_json
from configs.stages import read_complete, step_folder
from pipelines.custody.reproduce import Equality, fresh_folder, main, result_of
from tests.custody import finished_folds, finished_images, finished_text, write_program


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of three kinds in folders of their own, and the program that made them."""
    place = tmp_path_factory.mktemp("whole")
    for name in ("home", "text", "images", "folds"):
        (place / name).mkdir()
    home = write_program(place / "home")
    finished_text(place / "text", home)
    finished_images(place / "images", home)
    finished_folds(place / "folds", home)
    return place


@pytest.fixture
def started(whole: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The commands that would have been run; each of them fails. The code that is here is the recorded one."""
    asked: list[tuple[object, ...]] = []

    def note(*words: object) -> int:
        asked.append(words)
        return 1

    monkeypatch.setattr(pipelines.custody.reproduce, "run_command", note)
    monkeypatch.setattr(pipelines.custody.reproduce, "code_record", lambda: code_record(whole / "home"))
    return asked


@pytest.mark.parametrize("kind", ["text", "images", "folds"])
def test_a_run_of_this_code_is_done_again_beside_it(kind: str, whole: Path, started: list[tuple[object, ...]]):
    assert main([str(whole / kind / "run")]) == 1
    assert started == [
        ("run", whole / kind / "run/run.yaml", "--runs", whole / kind, "--name", "run-again"),
    ]


@pytest.mark.parametrize(
    ("kind", "file"), [("text", "trainer/two.py"), ("images", "data/one.py"), ("folds", "data/one.py")]
)
def test_other_code_is_refused_with_the_files_that_changed(
    kind: str,
    file: str,
    whole: Path,
    tmp_path: Path,
    started: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    other = tmp_path / "home"
    shutil.copytree(whole / "home", other)
    (other / file).write_text("NAME = 2\n")
    monkeypatch.setattr(pipelines.custody.reproduce, "code_record", lambda: code_record(other))
    assert main([str(whole / kind / "run")]) == 2
    told = capsys.readouterr().err
    assert file in told
    assert "--any-code" in told
    assert not started
    assert main([str(whole / kind / "run"), "--any-code"]) == 1
    assert len(started) == 1
    assert f"{file} differ" in capsys.readouterr().out


def test_code_that_trained_earlier_steps_counts_too(
    whole: Path, tmp_path: Path, started: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(whole / "images", tmp_path / "all")
    folder = RunFolder(tmp_path / "all/run")
    earlier = code_record(whole / "home") | {"files": {"trainer/two.py": "0" * 64}}
    write_json(folder.code(digest(earlier)), earlier)
    path = step_folder(folder.train, 4) / "complete.json"
    record = read_complete(path.parent) | {"earlier_code": [digest(earlier)]}
    record.pop("digest")
    write_json(path, record | {"digest": digest(record)})
    assert main([str(folder.path)]) == 2
    assert "trainer/two.py" in capsys.readouterr().err
    assert not started


@pytest.mark.parametrize(("kind", "what"), [("images", "judge"), ("text", "init_from")])
def test_a_run_that_took_something_from_its_neighbour_is_not_done_again_elsewhere(
    kind: str,
    what: str,
    whole: Path,
    tmp_path: Path,
    started: list[tuple[object, ...]],
    capsys: pytest.CaptureFixture[str],
):
    assert main([str(whole / kind / "run"), "--runs", str(tmp_path)]) == 2
    assert what in capsys.readouterr().err
    assert not started


def test_the_result_is_compared_and_not_the_last_checkpoint(whole: Path):
    assert result_of(RunFolder(whole / "text/run")).name == "step-00000002"


def test_every_reproduction_has_a_folder_of_its_own(tmp_path: Path):
    original = RunFolder(tmp_path / "one")
    names = []
    for _ in range(3):
        names.append(fresh_folder(original, None, None).path.name)
        (tmp_path / names[-1]).mkdir()
    assert names == ["one-again", "one-again-2", "one-again-3"]


def test_equality_is_told_by_kind():
    assert str(Equality({"weights": True, "metrics": True})) == "equal to the last bit: weights, metrics"
    assert str(Equality({"weights": False, "metrics": True})) == "equal to the last bit: metrics; not equal: weights"


def test_a_run_that_is_not_evaluated_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 2
    assert "no run is there" in capsys.readouterr().err
