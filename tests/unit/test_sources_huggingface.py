"""Hugging Face data sets, all of them local here: rows, labels, images, and every way in which one is refused."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from configs.dataset import HuggingFaceSource
from configs.errors import DataError
from data.records import Record
from data.sources import huggingface as module
from data.sources import open_source
from tests.raw import Kind, read


def rows(path: Path | str, scratch: Path, kind: Kind = "text", **options: Any) -> list[tuple[Any, ...]]:
    config = HuggingFaceSource(kind="huggingface", path=str(path), **options)
    found = read(config, kind, scratch)[0]
    return [(r.content, r.label, r.group) for r in found if isinstance(r, Record)]


def refusal(path: Path | str, scratch: Path, kind: Kind = "text", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        rows(path, scratch, kind, **options)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rows"
    made.mkdir()
    lines = "".join(f'{{"text": "text {n}", "author": "a{n % 3}", "y": {n % 2}}}\n' for n in range(20))
    (made / "train.jsonl").write_text(lines)
    return made


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["cat", "dog"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b", None], "y": [1, 0, 1]}, features=features)
    datasets.DatasetDict({"train": table, "extra": table.select([0])}).save_to_disk(path)
    return path


EXPECTED = [(f"text {n}", str(n % 2), f"a{n % 3}") for n in range(20)]
FIELDS: dict[str, Any] = {"label_field": "y", "group_field": "author"}


def test_a_folder_of_files_is_read_in_order_or_streamed(folder: Path, tmp_path: Path):
    assert rows(folder, tmp_path / "a", **FIELDS) == EXPECTED
    assert rows(folder, tmp_path / "b", streaming=True, **FIELDS) == EXPECTED


def test_pieces_are_runs_of_rows_whatever_reads_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = HuggingFaceSource(kind="huggingface", path=str(folder), **FIELDS)
    whole = read(config, "text", tmp_path / "a")
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    assert len(open_source(config, "text", tmp_path / "a").pieces()) > 3
    cut = read(config, "text", tmp_path / "a")
    assert cut == whole
    origins = [item.origin for item in cut[0]]
    assert (origins[0], origins[-1]) == (f"{folder} train row 1", f"{folder} train row 20")


def test_a_slice_of_a_split_is_only_that(folder: Path, tmp_path: Path):
    assert rows(folder, tmp_path / "a", split="train[5:7]", **FIELDS) == EXPECTED[5:7]
    assert rows(folder, tmp_path / "a", split="train[15:]+train[:1]", **FIELDS) == [*EXPECTED[15:], EXPECTED[0]]


def test_one_written_by_save_to_disk_is_read_with_the_names_of_its_classes(saved: Path, tmp_path: Path):
    expected = [("a", "dog", None), ("b", "cat", None), ("", "dog", None)]
    assert rows(saved, tmp_path / "a", label_field="y") == expected
    assert rows(saved, tmp_path / "a", label_field="y", streaming=True) == expected
    assert rows(saved, tmp_path / "a", label_field="y", split="extra") == expected[:1]
    assert rows(saved / "extra", tmp_path / "a", label_field="y") == expected[:1]
    assert "there is no 'test'; there are train, extra" in refusal(saved, tmp_path / "a", split="test")


def test_a_row_that_has_no_class_is_named(tmp_path: Path):
    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["cat", "dog"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "y": [0, -1]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    message = refusal(tmp_path / "saved", tmp_path, label_field="y")
    assert "train row 2: column 'y' is empty; every sample needs a class" in message


def test_a_class_number_out_of_range_is_named():
    with pytest.raises(DataError, match="here: label 2 is out of range; there are 2 classes"):
        module._class_name(2, ["cat", "dog"], "here")


def test_images_come_as_they_are_encoded(tmp_path: Path):
    features = datasets.Features({"image": datasets.Image(), "y": datasets.Value("int64")})
    cells = [{"bytes": b"not even a picture", "path": None}, {"bytes": b"two", "path": "x.png"}, None]
    table = datasets.Dataset.from_dict({"image": cells, "y": [0, 1, 2]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "rows").mkdir()
    table.to_parquet(tmp_path / "rows" / "train.parquet")
    expected = [(b"not even a picture", "0", None), (b"two", "1", None), (b"", "2", None)]
    assert rows(tmp_path / "saved", tmp_path / "a", "images", label_field="y") == expected
    for streaming in (False, True):
        found = rows(tmp_path / "rows", tmp_path / "a", "images", label_field="y", streaming=streaming)
        assert found == expected


def test_an_image_folder_is_read_with_its_classes(tmp_path: Path):
    for name, content in (("cat/1.png", b"one"), ("dog/2.png", b"two")):
        path = tmp_path / "pictures" / "train" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    found = rows(tmp_path / "pictures", tmp_path / "a", "images", label_field="label")
    assert sorted(found) == [(b"one", "cat", None), (b"two", "dog", None)]


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png"])
def test_a_table_that_names_an_image_elsewhere_is_refused(name: str, tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "poisoned").mkdir()
    table = pyarrow.table({"image": [{"bytes": None, "path": name}]}, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, tmp_path / "poisoned" / "train.parquet")
    choices: list[dict[str, Any]] = [{}, {"streaming": True}, {"split": "train[:1]"}]
    for options in choices:
        message = refusal(tmp_path / "poisoned", tmp_path / "a", "images", **options)
        assert "which is outside the data set; that is refused" in message


def test_what_was_fetched_is_used_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert rows(folder, tmp_path / "a", **FIELDS) == EXPECTED
    monkeypatch.setattr(datasets, "load_dataset", None)
    assert rows(folder, tmp_path / "a", **FIELDS) == EXPECTED
    next((tmp_path / "a" / "huggingface" / "cache").rglob("*.arrow")).unlink()
    assert "has vanished since it was fetched; remove" in refusal(folder, tmp_path / "a", **FIELDS)


def test_a_folder_that_changed_is_fetched_anew(folder: Path, tmp_path: Path):
    config = HuggingFaceSource(kind="huggingface", path=str(folder))
    before = open_source(config, "text", tmp_path / "a").fingerprint
    assert open_source(config, "text", tmp_path / "a").fingerprint == before
    assert len(rows(folder, tmp_path / "a")) == 20
    (folder / "train.jsonl").write_text('{"text": "another"}\n')
    assert open_source(config, "text", tmp_path / "a").fingerprint != before
    assert rows(folder, tmp_path / "a") == [("another", None, None)]


def test_columns_that_are_missing_or_of_another_kind_are_named(folder: Path, tmp_path: Path):
    message = refusal(folder, tmp_path / "a", text_field="body")
    assert message == f"{folder}: no column 'body'; there are text, author, y: set data.source.text_field"
    assert "column 'y' holds a number, expected text" in refusal(folder, tmp_path / "a", text_field="y")
    assert "no column 'z'" in refusal(folder, tmp_path / "a", label_field="z", streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_script_is_refused_and_not_run(tmp_path: Path, streaming: bool):
    for name in ("scripted/scripted.py", "other/dataset.py"):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
        message = refusal(path.parent, tmp_path / "a", streaming=streaming)
        assert message.startswith(str(path.parent))
        assert not (tmp_path / "executed").exists()
    assert "needs a loading script, and scripts are never run" in refusal(tmp_path / "scripted", tmp_path / "a")


def test_a_folder_without_data_or_with_broken_data_is_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty", tmp_path / "a").startswith(f"{tmp_path / 'empty'}: not readable by `datasets`")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 not really")
    assert refusal(tmp_path / "broken", tmp_path / "a").startswith(f"{tmp_path / 'broken'}: not readable by")


@pytest.mark.parametrize("path", ["a b", "a/b/c", "s3://bucket/x", "pipe:touch x", "../none", "x::y", ""])
def test_what_is_neither_a_folder_nor_a_name_is_refused(path: str, tmp_path: Path):
    if path:
        assert "is neither a folder nor a name on the hub, such as owner/name" in refusal(path, tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A hub on loopback that answers every request by the status, header and body that stand in the dictionary."""
    answer: dict[str, Any] = {"status": 200, "code": "", "body": b"{}", "hang": threading.Event(), "asked": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["asked"].append(self.path)
            if answer["status"] is None:
                answer["hang"].wait(30)
                return
            self.send_response(answer["status"])
            if answer["code"]:
                self.send_header("X-Error-Code", answer["code"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield answer
    answer["hang"].set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "is not on the hub, or is private"),
        (401, "", "is not on the hub, or is private"),
        (
            403,
            "GatedRepo",
            "is gated; accept its terms on the hub and give a token in the environment variable HF_TOKEN",
        ),
        (404, "RevisionNotFound", "has no revision 'main' on the hub"),
        (503, "", "the Hugging Face hub answered 503; run the same command again later"),
    ],
)
def test_what_the_hub_answers_is_explained(hub: dict[str, Any], status: int, code: str, says: str, tmp_path: Path):
    hub.update(status=status, code=code)
    message = refusal("owner/name", tmp_path, revision="main")
    assert message.startswith("owner/name: ")
    assert says in message


def test_a_hub_that_does_not_answer_or_is_not_there_is_named(
    hub: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "HUB_WAIT_S", 0.2)
    hub.update(status=None)
    assert "the Hugging Face hub cannot be reached" in refusal("owner/name", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the Hugging Face hub cannot be reached" in refusal("owner/name", tmp_path)


def test_the_commit_is_asked_for_once_and_recorded(
    hub: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub.update(body=f'{{"id": "owner/name", "sha": "{commit}"}}'.encode())
    config = HuggingFaceSource(kind="huggingface", path="owner/name", **FIELDS)
    asked = []
    load = datasets.load_dataset

    def from_folder(path: str, *options: Any, revision: str, **more: Any) -> Any:
        asked.append((path, revision))
        return load(str(folder), *options, **more)

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    source = open_source(config, "text", tmp_path / "a")
    assert source.description == f"Hugging Face: owner/name at {commit}, split train"
    assert len(read(config, "text", tmp_path / "a")[0]) == 20
    assert asked == [("owner/name", commit)]
    assert len(hub["asked"]) == 1
    assert open_source(config, "text", tmp_path / "a").fingerprint == source.fingerprint
