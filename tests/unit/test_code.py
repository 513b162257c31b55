"""The record of the code that made something: once under its digest, beside data and in checkpoints."""

import json
from pathlib import Path

import numpy as np
import torch

from configs.code import own_code, package_versions, record_code
from configs.folder import RunFolder, digest
from configs.stages import read_complete, read_record, step_folder
from tests.corpus import prepared, tiny, write_paragraphs
from tests.custody import at
from tests.tiny import Memory, checkpoints


def test_prepare_notes_which_code_made_the_data(tmp_path: Path):
    folder, manifest = prepared(tiny(write_paragraphs(tmp_path / "raw.txt")), tmp_path / "run")
    note = read_record(folder.data_code)
    assert note["data"] == manifest.digest
    assert digest(read_record(folder.code(note["code"]))) == note["code"] == own_code()[0]


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
        saver.save(memory, at(step), {}, changed=False)
    earlier = [read_complete(step_folder(tmp_path, step)).get("earlier_code") for step in range(1, 6)]
    assert earlier == [None, None, ["a"], ["a", "b"], ["b", "c"]]
