"""The chain of custody: whole when nothing was touched, and the right link is named when one byte of any file is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import pipelines.custody.chain
from configs.code import code_record, package_versions, record_code
from configs.custody import Link, first_broken
from configs.errors import UserError
from configs.folder import RunFolder, digest, file_digest, is_as_written, write_atomic, write_json
from configs.load import read
from configs.schema import identity
from configs.stages import evaluation_key, read_complete, step_folder, train_key
from data.chain import data_links
from pipelines.custody.chain import chain
from pipelines.custody.explain import lines, main
from pipelines.custody.seal import read_seal, sealed
from tests.corpus import changed, prepared, tiny, write_paragraphs
from tests.tiny import BEGINNING, Memory, checkpoints

STEP = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of two files that stands on one package."""
    home = tmp_path_factory.mktemp("program")
    (home / "requirements.lock").write_text("numpy==0.0\n")
    for name in ("configs/one.py", "trainer/two.py"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(f"NAME = {name!r}\n")
    return home


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw text and a run over it with everything that the stages leave."""
    place = tmp_path_factory.mktemp("whole")
    folder, manifest = prepared(tiny(write_paragraphs(place / "raw.txt")), place / "run")
    run = read(folder.config)
    record = code_record(home)
    code = digest(record)
    folder.code(code).parent.mkdir()
    write_json(folder.code(code), record)
    saver = checkpoints(
        folder.train,
        {"data": manifest.digest, "config": train_key(run)},
        identity=identity(run),
    )
    saver.facts["code"] = code
    saver.save({"model": Memory({"weights": {"w": torch.arange(6.0)}})}, _at(STEP), {})
    complete = read_complete(step_folder(folder.train, STEP))
    folder.evaluation.mkdir()
    write_json(folder.samples, [{"text": "a sample"}])
    write_json(folder.figures, [{"kind": "table", "title": "rows", "columns": ["a"], "rows": [[1]]}])
    write_json(folder.cost, {"parameters": 6})
    write_atomic(folder.units, save({"test/loss/ids": np.arange(3)}))
    files = {path.name: file_digest(path) for path in (folder.samples, folder.figures, folder.units, folder.cost)}
    written = {"checkpoint": complete["digest"], "data": manifest.digest, "config": evaluation_key(run, folder)}
    written |= {"run": file_digest(folder.config), "code": code, "metrics": [], "protocols": {}, "files": files}
    write_json(folder.metrics, written | {"digest": digest(written)})
    write_atomic(folder.report, sealed("<html>a report</html>", digest(written)))
    return place


def _at(step: int) -> Any:
    return type(BEGINNING)(step=step, position=step, samples_digest="00" * 32)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The links of the data without a child process; tests/integration/test_custody.py has one."""

    def links(folder: RunFolder, *, sources: bool) -> list[Link]:
        try:
            return data_links(folder, sources=sources)
        except UserError as error:
            return [Link("data", "", "unchecked", str(error))]

    monkeypatch.setattr(pipelines.custody.chain, "data_links", links)


def flipped(content: bytes, share: float) -> bytes:
    """One bit of the byte at that share of the length is another."""
    at = int(share * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def states(links: list[Link]) -> dict[str, str]:
    return {link.name: link.state for link in links}


def test_a_run_that_nobody_touched_is_verified_from_the_raw_bytes_to_the_report(finished: Path, home: Path):
    links = chain(RunFolder(finished / "run"), sources=True, home=home)
    names = [
        *("source", "data settings", "tokenizer", "data files", "shards", "manifest", "settings", "code"),
        *("weights", "checkpoint", "evaluation files", "metrics", "report"),
    ]
    assert states(links) == dict.fromkeys(names, "verified")
    assert all(len(link.digest) == 64 for link in links)
    assert lines(links)[-1] == "13 links are verified"


ALTERED = [
    ("raw.txt", "source"),
    ("run/data/tokenizer.json", "tokenizer"),
    ("run/data/statistics.json", "data files"),
    ("run/data/assignments.parquet", "data files"),
    ("run/data/train-00000.tar", "shards"),
    ("run/data/validation-00000.tar", "shards"),
    ("run/data/test-00000.tar.index.npy", "shards"),
    ("run/data/manifest.json", "manifest"),
    ("run/run.yaml", "settings"),
    ("run/code/*.json", "code"),
    ("run/train/step-00000004/model.weights.rank-00000.safetensors", "weights"),
    ("run/train/step-00000004/complete.json", "checkpoint"),
    ("run/evaluation/samples.json", "evaluation files"),
    ("run/evaluation/figures.json", "evaluation files"),
    ("run/evaluation/units.safetensors", "evaluation files"),
    ("run/evaluation/cost.json", "evaluation files"),
    ("run/evaluation/metrics.json", "metrics"),
    ("run/report.html", "report"),
]


@pytest.mark.parametrize(("name", "link"), ALTERED)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_altered_byte_breaks_the_link_of_its_file_first(
    name: str, link: str, share: float, finished: Path, home: Path
):
    path = next(finished.glob(name))
    content = flipped(path.read_bytes(), share)
    assert first_broken_with(path, content, finished, home, sources=link == "source") == link


@pytest.mark.parametrize(
    ("name", "link"), [each for each in ALTERED if each[1] not in ("source", "report")]
)  # without these two nothing is claimed
def test_a_missing_file_breaks_its_link_first(name: str, link: str, finished: Path, home: Path):
    assert first_broken_with(next(finished.glob(name)), None, finished, home) == link


def first_broken_with(path: Path, content: bytes | None, finished: Path, home: Path, *, sources: bool = False) -> str:
    """The name of the first broken link while a file has other bytes, or is not there."""
    with changed(path, content):
        broken = first_broken(chain(RunFolder(finished / "run"), sources=sources, home=home))
    assert broken is not None
    assert broken.detail
    return broken.name


EDITS: list[tuple[str, Callable[[str], str], str]] = [
    ("run/run.yaml", lambda text: text.replace("block_tokens: 8", "block_tokens: 9"), "data settings"),
    ("run/run.yaml", lambda text: text.replace("steps: ", "steps: 1", 1), "settings"),
    ("run/run.yaml", lambda text: text + "\n", "settings"),
    ("run/run.yaml", lambda text: "name: [", "settings"),
    ("run/data/manifest.json", lambda text: text + " ", "manifest"),
    ("run/evaluation/metrics.json", lambda text: json.dumps(json.loads(text)), "metrics"),
    ("run/train/step-00000004/complete.json", lambda text: "[]", "checkpoint"),
    ("run/report.html", lambda text: text.replace("<!--", "<!- "), "report"),
]


@pytest.mark.parametrize(("name", "edit", "link"), EDITS)
def test_an_edit_that_leaves_the_file_readable_is_found_too(
    name: str, edit: Callable[[str], str], link: str, finished: Path, home: Path
):
    before = (finished / name).read_text()
    assert edit(before) != before
    assert first_broken_with(finished / name, edit(before).encode(), finished, home) == link


def resealed(path: Path, **changes: Any) -> bytes:
    """A record with other content and a digest that fits it, as somebody who covers tracks leaves it."""
    record = json.loads(path.read_text()) | changes
    record["digest"] = digest({key: value for key, value in record.items() if key != "digest"})
    return (json.dumps(record, indent=1) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "changes", "link"),
    [
        ("train/step-00000004/complete.json", {"data": "0" * 64}, "checkpoint"),
        ("train/step-00000004/complete.json", {"config": "0" * 64}, "settings"),
        ("train/step-00000004/complete.json", {"step": 5}, "metrics"),
        ("evaluation/metrics.json", {"checkpoint": "0" * 64}, "metrics"),
        ("evaluation/metrics.json", {"data": "0" * 64}, "metrics"),
        ("evaluation/metrics.json", {"metrics": [1]}, "report"),
    ],
)
def test_a_record_that_was_written_anew_does_not_fit_its_neighbours(
    name: str, changes: dict[str, Any], link: str, finished: Path, home: Path
):
    path = finished / "run" / name
    assert first_broken_with(path, resealed(path, **changes), finished, home) == link


def test_what_lies_behind_a_broken_record_is_not_blamed(finished: Path, home: Path):
    path = finished / "run/data/manifest.json"
    with changed(path, flipped(path.read_bytes(), 0.5)):
        found = states(chain(RunFolder(finished / "run"), sources=True, home=home))
    assert [name for name, state in found.items() if state == "altered"] == ["manifest"]
    assert {found[name] for name in ("source", "tokenizer", "shards")} == {"unchecked"}
    assert found["metrics"] == "verified"


def test_a_source_that_is_gone_cannot_be_checked_and_breaks_nothing(finished: Path, home: Path):
    with changed(finished / "raw.txt", None):
        links = chain(RunFolder(finished / "run"), sources=True, home=home)
    assert first_broken(links) is None
    assert links[0].state == "unchecked"
    assert "does not exist" in links[0].detail


def test_sources_are_left_unread_when_asked(finished: Path, home: Path):
    links = chain(RunFolder(finished / "run"), sources=False, home=home)
    assert links[0].state == "unchecked"
    assert "--no-sources" in links[0].detail


def test_stages_that_have_not_been_are_not_broken(finished: Path, tmp_path: Path, home: Path):
    shutil.copytree(finished / "run/data", tmp_path / "data")
    shutil.copy(finished / "run/run.yaml", tmp_path / "run.yaml")
    found = states(chain(RunFolder(tmp_path), sources=False, home=home))
    assert {found[name] for name in ("code", "checkpoint", "metrics", "report", "settings")} == {"unchecked"}


def test_other_code_of_the_same_release_is_named(finished: Path, home: Path, tmp_path: Path):
    other = tmp_path / "program"
    shutil.copytree(home, other)
    (other / "trainer/two.py").write_text("NAME = 2\n")
    broken = first_broken(chain(RunFolder(finished / "run"), sources=False, home=other))
    assert broken is not None
    assert broken.name == "code"
    assert "trainer/two.py" in broken.detail


def test_code_of_another_release_cannot_be_checked(
    finished: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "program"
    shutil.copytree(home, other)
    (other / "trainer/two.py").write_text("NAME = 2\n")
    monkeypatch.setattr("configs.code.release", lambda home: "9.9.9")
    links = chain(RunFolder(finished / "run"), sources=False, home=other)
    code = next(link for link in links if link.name == "code")
    assert code.state == "unchecked"
    assert "9.9.9" in code.detail
    assert first_broken(links) is None


def test_the_code_is_recorded_once_under_its_digest(tmp_path: Path):
    folder = RunFolder(tmp_path)
    told = record_code(folder)
    written = folder.code(told).stat().st_mtime_ns
    assert record_code(folder) == told
    assert folder.code(told).stat().st_mtime_ns == written
    record = json.loads(folder.code(told).read_text())
    assert digest(record) == told
    assert "trainer/loop.py" in record["files"]
    assert record["packages"]["torch"]


def test_without_a_lock_all_installed_packages_count(tmp_path: Path):
    versions = package_versions(tmp_path)
    assert versions["numpy"] == np.__version__


def test_code_that_trained_earlier_steps_stays_in_the_record(tmp_path: Path):
    memory = {"model": Memory({"weights": {"w": torch.arange(6.0)}})}
    for step, code in enumerate("aabca", 1):
        saver = checkpoints(tmp_path, {})
        saver.facts["code"] = code
        if step > 1:
            saver.load(step - 1, memory)
        saver.save(memory, _at(step), {}, changed=False)
    earlier = [read_complete(step_folder(tmp_path, step)).get("earlier_code") for step in range(1, 6)]
    assert earlier == [None, None, ["a"], ["a", "b"], ["b", "c"]]


def test_a_folder_without_a_run_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_seal_is_of_all_bytes_before_it():
    page = sealed("<p>text</p>", "a" * 64)
    assert read_seal(page) == ("a" * 64, True)
    assert read_seal(page.replace("text", "test")) == ("a" * 64, False)
    assert read_seal("<p>text</p>\n") is None


@pytest.mark.parametrize("text", ['{"a": 1}', '{\n "a": 1.00\n}\n', '{\n "a": 1,\n "a": 1\n}\n', "{", ""])
def test_json_in_another_form_is_not_as_it_was_written(text: str, tmp_path: Path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    assert is_as_written(path)
    path.write_text(text)
    assert not is_as_written(path)
