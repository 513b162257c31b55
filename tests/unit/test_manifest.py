"""The manifest: refused when it, or what stands beside it, is not what prepare wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import DamageError
from configs.folder import RunFolder, digest
from configs.stages import complete
from data.manifest import read_manifest
from data.prepare import prepare
from tests.corpus import changed


def test_a_tokenizer_that_changed_after_prepare_is_refused(run, done: RunFolder):
    text = done.tokenizer.read_bytes()
    for content in (text + b"\n", None):
        with changed(done.tokenizer, content), pytest.raises(DamageError, match="is not the tokenizer that made"):
            prepare(run, done)
    prepare(run, done)


def test_a_manifest_of_shards_that_are_gone_names_the_shard(run, done: RunFolder):
    with changed(done.data / "train-00001.tar", None), pytest.raises(DamageError, match=r"train-00001.tar: bytes is"):
        prepare(run, done)


def edited(manifest: Path, edit: Callable[[dict], object], *, seal: bool = False) -> bytes:
    record = json.loads(manifest.read_text(encoding="utf-8"))
    edit(record)
    if seal:
        record["digest"] = digest(record | {"digest": ""})
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m["splits"]["train"].update(tokens=1), "was changed after it was written"),
        (lambda m: m.update(schema_version=1, more=1), "has schema_version=1, this trainworks reads 3"),
        (lambda m: m.pop("fields"), "is not a manifest: fields: field required"),
        (lambda m: m["splits"]["train"].update(more=1), "is not a manifest: splits.train.more"),
    ],
)
def test_an_edited_manifest_is_refused(done: RunFolder, edit: Callable[[dict], object], says: str):
    with changed(done.manifest, edited(done.manifest, edit)), pytest.raises(DamageError, match=f"(?i){says}"):
        read_manifest(done.manifest)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_file_that_is_no_manifest_is_refused(done: RunFolder, content: bytes | None):
    with changed(done.manifest, content), pytest.raises(DamageError, match="manifest"):
        read_manifest(done.manifest)


@pytest.mark.parametrize("splits", [[], None, {"train": {}}, {"train": {"shards": [{}]}}])
def test_a_manifest_without_its_parts_is_damage_not_a_crash(run, done: RunFolder, splits: object):
    content = edited(done.manifest, lambda m: m.update(splits=splits))
    with changed(done.manifest, content), pytest.raises(DamageError, match="is not a manifest"):
        complete("prepare", run, done)
