"""Shards that move to a store: never removed here before they are there, and read from there as from here."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.errors import DamageError, DataError
from configs.schema import RunConfig
from configs.stages import complete
from data.dataset import open_dataset
from data.prepare import prepare
from data.samples import decode
from tests.corpus import prepared, tiny, write_paragraphs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paragraphs(tmp_path_factory.mktemp("corpus") / "text.txt", 120)


def stored(corpus: Path, store: Path, **overrides: Any) -> RunConfig:
    store.mkdir(exist_ok=True)
    return tiny(corpus, data__store={"url": f"file://{store}"}, **overrides)


def tokens(run: RunConfig, folder: Any) -> list[list[int]]:
    return [decode(sample)["tokens"].tolist() for sample in open_dataset(run, folder).readers["train"]]


def test_shards_are_in_the_store_alone_and_read_from_there(corpus: Path, tmp_path: Path):
    local, manifest = prepared(tiny(corpus), tmp_path / "local")
    run = stored(corpus, tmp_path / "store")
    folder, same = prepared(run, tmp_path / "run")
    assert same == manifest, "where shards lie changes nothing that is said of them"
    assert list(folder.data.glob("*.tar*")) == []
    assert complete("prepare", run, folder)
    assert tokens(run, folder) == tokens(tiny(corpus), local)


def test_a_store_that_is_named_later_gets_the_shards_before_they_are_removed(corpus: Path, tmp_path: Path):
    folder, manifest = prepared(tiny(corpus), tmp_path / "run")
    names = {shard.name for split in manifest.splits.values() for shard in split.shards}
    run = stored(corpus, tmp_path / "store")
    assert complete("prepare", run, folder) is None, "they have still to go there"
    prepare(run, folder)
    assert names <= {path.name for path in (tmp_path / "store").iterdir()}
    assert tokens(run, folder)


def test_an_upload_that_was_interrupted_goes_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = stored(corpus, tmp_path / "store")
    unlink, calls = Path.unlink, 0

    def stop(self: Path, missing_ok: bool = False) -> None:
        nonlocal calls
        calls += self.suffix == ".tar"
        if calls == 4:
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stop)
    with pytest.raises(KeyboardInterrupt):
        prepared(run, tmp_path / "run")
    monkeypatch.undo()
    folder, _ = prepared(run, tmp_path / "run")
    assert list(folder.data.glob("*.tar*")) == []
    assert tokens(run, folder)


def test_shards_that_are_neither_here_nor_there_are_named(corpus: Path, tmp_path: Path):
    run = stored(corpus, tmp_path / "store")
    folder, _ = prepared(run, tmp_path / "run")
    (tmp_path / "store" / "train-00001.tar").unlink()
    with pytest.raises(DamageError, match=r"train-00001.tar is not in the store, and its shard is not in"):
        prepare(run, folder)
    with pytest.raises(DataError, match=r"train-00001.tar: there is no such object"):
        tokens(run, folder)
    other = stored(corpus, tmp_path / "other")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(DamageError, match="name the store that has it"):
        prepare(other, folder)


def test_an_object_of_another_size_is_refused(corpus: Path, tmp_path: Path):
    run = stored(corpus, tmp_path / "store")
    folder, _ = prepared(run, tmp_path / "run")
    path = tmp_path / "store" / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:-10240])
    with pytest.raises(DamageError, match="has 10240 bytes, the manifest says 20480"):
        tokens(run, folder)
