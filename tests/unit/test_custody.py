"""The chain of custody: whole when nothing was touched, and the right link is named when one byte of any file is."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import data.chain
import data.verify
import pipelines.custody.chain
import pipelines.custody.data
from configs.custody import Link, first_broken
from configs.errors import OutageError, UserError
from configs.folder import RunFolder, digest, is_as_written, write_json
from configs.load import read
from configs.schema import RunConfig
from data.chain import data_links
from pipelines.custody.chain import chain
from pipelines.custody.explain import lines, main
from pipelines.custody.seal import read_seal, sealed
from tests.corpus import changed
from tests.custody import finished_folds, finished_images, finished_text, link_of, write_program


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_text(tmp_path_factory.mktemp("text"), home)


@pytest.fixture(scope="module")
def drawn(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_images(tmp_path_factory.mktemp("images"), home)


@pytest.fixture(scope="module")
def crossed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_folds(tmp_path_factory.mktemp("folds"), home)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The links of the data without a child process; tests/integration/test_custody.py has one."""

    def links(folder: RunFolder, *, sources: bool) -> list[Link]:
        try:
            return data_links(folder, sources=sources)
        except UserError as error:
            return [Link("data", "", "unchecked", str(error))]

    monkeypatch.setattr(pipelines.custody.data, "ask_data", links)


@pytest.fixture(scope="module")
def parsed() -> dict[bytes, RunConfig]:
    return {}


@pytest.fixture(autouse=True)
def parsed_once(parsed: dict[bytes, RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same bytes is the same configuration; parsing it hundreds of times took most of the time."""

    def remembered(path: Path) -> RunConfig:
        content = path.read_bytes() if path.is_file() else b""
        if content not in parsed:
            parsed[content] = read(path)
        return parsed[content]

    monkeypatch.setattr(pipelines.custody.chain, "read", remembered)
    monkeypatch.setattr(data.chain, "read", remembered)


def flipped(content: bytes, share: float) -> bytes:
    """One bit of the byte at that share of the length is another."""
    at = int(share * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def states(links: list[Link]) -> dict[str, str]:
    return {link.name: link.state for link in links}


DATA = ("data settings", "tokenizer", "data files", "shards", "manifest", "data code")
REST = ("settings", "code", "weights", "checkpoint", "result", "evaluation files", "metrics", "report")


def test_a_run_that_nobody_touched_is_verified_from_the_raw_bytes_to_the_report(
    finished: Path, drawn: Path, home: Path
):
    text, images = (chain(RunFolder(place / "run"), sources=True, home=home) for place in (finished, drawn))
    assert states(text) == dict.fromkeys(("source", *DATA, "first weights", *REST), "verified")
    names = [name for name in ("source", *DATA, "judge", *REST) if name not in ("tokenizer", "result")]
    assert states(images) == dict.fromkeys(names, "verified")
    assert all(len(link.digest) == 64 for link in [*text, *images])
    assert lines(text)[-1] == "16 links are verified"


def files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def flipped_at(share: float) -> Callable[[bytes], bytes]:
    return lambda content: flipped(content, share)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "first byte": flipped_at(0.0),
    "middle byte": flipped_at(0.5),
    "last byte": flipped_at(1.0),
    "truncated": lambda content: content[: len(content) // 2],
    "one byte more": lambda content: content + b" ",
}


FAMILIES = ["finished", "drawn", "crossed"]


ALTERED = [(family, damage) for family in FAMILIES for damage in DAMAGE if family != "crossed" or "middle" in damage]


@pytest.mark.parametrize(("family", "damage"), ALTERED)
def test_whatever_file_is_altered_its_link_is_the_first_that_is_broken(
    family: str, damage: str, home: Path, request: pytest.FixtureRequest
):
    place = request.getfixturevalue(family)
    named = {path: link_of(path, place) for path in files_of(place)}
    found = {}
    for path, link in named.items():
        before = path.read_bytes()
        if not before:
            assert link is None, f"{path} is empty"
            continue
        with changed(path, DAMAGE[damage](before)):
            broken = first_broken(chain(RunFolder(place / "run"), sources=link == "source", home=home))
        found[path] = broken and broken.name
    assert found == {path: link for path, link in named.items() if path in found}
    links = {(link or "").removeprefix("fold 0-1 ") for link in named.values()}
    assert links >= {"source", "shards", "manifest", "data code", "settings", "code", "weights", "checkpoint", "report"}


ABSENT = {"raw.txt", "data.json", "report.html"}
"""Of a file that is not there the chain cannot know that there was one, and breaks no link"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_file_breaks_its_link_first(family: str, home: Path, request: pytest.FixtureRequest):
    place = request.getfixturevalue(family)
    for path in files_of(place):
        link = link_of(path, place)
        if family == "drawn" and link == "source":
            continue  # one of several files: its own test
        with changed(path, None):
            links = chain(RunFolder(place / "run"), sources=link == "source", home=home)
        broken = first_broken(links)
        if path.name in ABSENT:
            assert broken is None, path
            assert states(links)[link or ""] == "unchecked"
        else:
            assert (broken and broken.name) == link, path


def test_one_image_of_a_source_that_is_gone_breaks_the_source(drawn: Path, home: Path):
    with changed(next((drawn / "raw").rglob("*.png")), None):
        broken = first_broken(chain(RunFolder(drawn / "run"), sources=True, home=home))
    assert broken is not None
    assert broken.name == "source"
    assert "files of" in broken.detail


ADDED = {
    "run/data/train-00099.tar": "shards",
    "run/data/test-00099.tar.index.npy": "shards",
    "run/code/0123456789abcdef.json": "code",
    "run/train/step-00000002/model.weights.rank-00001.safetensors": "weights",
    "run/notes.txt": None,
    "run/evaluation/notes.txt": None,
}
"""Files that somebody puts into the folder of a run, and the link that they break: none where nothing reads them"""


@pytest.mark.parametrize(("name", "link"), ADDED.items())
def test_an_added_file_breaks_the_link_that_it_pretends_to_be_of(
    name: str, link: str | None, finished: Path, home: Path
):
    path = finished / name
    path.write_bytes(b"{}\n")
    try:
        broken = first_broken(chain(RunFolder(finished / "run"), sources=False, home=home))
    finally:
        path.unlink()
    assert (broken and broken.name) == link


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
    ("run/train/step-00000002/complete.json", lambda text: "[]", "checkpoint"),
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
        ("train/step-00000002/complete.json", {"data": "0" * 64}, "checkpoint"),
        ("train/step-00000002/complete.json", {"config": "0" * 64}, "settings"),
        ("train/step-00000002/complete.json", {"step": 5}, "result"),
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


def test_every_fold_of_a_cross_validation_has_its_links_and_what_was_collected_its_own(crossed: Path, home: Path):
    links = chain(RunFolder(crossed / "run"), sources=True, home=home)
    of_fold = [name for name in REST if name != "result"]
    collected = [name for name in of_fold if name not in ("weights", "checkpoint")]
    names = ["source", *DATA, *(f"fold {fold} {name}" for fold in ("0-0", "0-1") for name in of_fold), *collected]
    assert states(links) == dict.fromkeys(names, "verified")


def test_a_fold_that_was_evaluated_anew_is_not_the_one_that_was_collected(crossed: Path, home: Path):
    path = crossed / "run/folds/0-1/evaluation/metrics.json"
    with changed(crossed / "run/folds/0-1/report.html", None), changed(path, resealed(path, metrics=[1])):
        broken = first_broken(chain(RunFolder(crossed / "run"), sources=False, home=home))
    assert broken is not None
    assert broken.name == "metrics"
    assert "fold 0-1" in broken.detail


def test_a_fold_that_is_gone_is_named(crossed: Path, home: Path, tmp_path: Path):
    shutil.copytree(crossed / "run", tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run/folds/0-1")
    broken = first_broken(chain(RunFolder(tmp_path / "run"), sources=False, home=home))
    assert broken is not None
    assert broken.name == "fold 0-1 settings"


def test_a_judge_that_was_trained_anew_is_another_one(drawn: Path, home: Path, tmp_path: Path):
    shutil.copytree(drawn, tmp_path / "all")
    path = tmp_path / "all/judge/train/step-00000004/complete.json"
    path.write_bytes(resealed(path, position=5))
    links = chain(RunFolder(tmp_path / "all/run"), sources=False, home=home)
    broken = first_broken(links)
    assert broken is not None
    assert broken.name == "judge"
    assert states(links)["settings"] == "verified"


@pytest.mark.parametrize(
    ("family", "gone", "link"), [("drawn", "judge", "judge"), ("finished", "origin", "first weights")]
)
def test_another_run_that_is_gone_cannot_be_checked(
    family: str, gone: str, link: str, home: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    shutil.copytree(request.getfixturevalue(family), tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / gone)
    links = chain(RunFolder(tmp_path / "all/run"), sources=False, home=home)
    assert first_broken(links) is None
    assert states(links)[link] == "unchecked"


def unreachable(*_: object, **__: object) -> None:
    raise OutageError("the store does not answer")


def test_shards_in_a_store_are_verified_there_and_cannot_be_checked_without_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, store = RunFolder(tmp_path / "run"), tmp_path / "store"
    shutil.copytree(finished / "run/data", folder.data)
    store.mkdir()
    for path in folder.data.glob("*.tar*"):
        path.rename(store / path.name)
    text = (finished / "run/run.yaml").read_text()
    folder.config.write_text(re.sub("\n  store: .*", f"\n  store: {{url: 'file://{store}'}}", text))
    assert states(data_links(folder, sources=False))["shards"] == "verified"
    with changed(store / "train-00000.tar", b"others"):
        broken = first_broken(data_links(folder, sources=False))
    assert broken is not None
    assert broken.name == "shards"
    monkeypatch.setattr(data.verify, "open_store", unreachable)
    assert states(data_links(folder, sources=False))["shards"] == "unchecked"


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


def test_a_report_of_metrics_that_are_gone_says_that_there_were_some(finished: Path, home: Path, tmp_path: Path):
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/evaluation")
    links = chain(RunFolder(tmp_path / "run"), sources=False, home=home)
    broken = first_broken(links)
    assert broken, links
    assert (broken.name, broken.state) == ("metrics", "altered")
    assert "metrics.json is missing" in broken.detail


@pytest.fixture
def other_code(home: Path, tmp_path: Path) -> Path:
    """The program with a module changed."""
    other = tmp_path / "program"
    shutil.copytree(home, other)
    (other / "trainer/two.py").write_text("NAME = 2\n")
    return other


def test_other_code_of_the_same_release_is_named(finished: Path, other_code: Path):
    broken = first_broken(chain(RunFolder(finished / "run"), sources=False, home=other_code))
    assert broken is not None
    assert broken.name == "code"
    assert "trainer/two.py" in broken.detail


def test_code_of_another_release_cannot_be_checked(finished: Path, other_code: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("configs.code.release", lambda home: "9.9.9")
    links = chain(RunFolder(finished / "run"), sources=False, home=other_code)
    code = next(link for link in links if link.name == "code")
    assert code.state == "unchecked"
    assert "9.9.9" in code.detail
    assert first_broken(links) is None


def test_settings_that_other_code_reads_otherwise_are_not_called_altered(
    finished: Path, other_code: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("configs.code.release", lambda home: "9.9.9")
    monkeypatch.setattr("pipelines.custody.links.evaluation_key", lambda run, folder: "f" * 64)  # a field is new
    assert states(chain(RunFolder(finished / "run"), sources=False, home=other_code))["settings"] == "unchecked"
    path = finished / "run/run.yaml"
    with changed(path, path.read_bytes() + b"# later\n"):
        links = chain(RunFolder(finished / "run"), sources=False, home=other_code)
    broken = first_broken(links)
    assert broken, "its bytes are others"
    assert broken.name == "settings"


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
