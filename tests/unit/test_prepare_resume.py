"""Prepare that is interrupted anywhere, by anything, and run again ends with the same bytes."""

import gc
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import data.phases.encoding
import data.phases.work
from configs.folder import RunFolder
from configs.stages import complete
from data.manifest import Shard, read_manifest
from data.phases.work import Work
from data.prepare import prepare
from data.shards import ShardWriter
from tests.corpus import changed, contents, tiny, write_paragraphs

# an interrupted writer cannot close its file
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed file.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Interruption(BaseException):
    """Stands for the end of the process."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> Callable[[], int]:
    """Let `calls` steps that change the disk happen, then end; returns how many there were."""
    happened = 0

    def counted(step: Callable):
        def wrapper(*arguments, **options):
            nonlocal happened
            if happened == calls:
                raise Interruption
            happened += 1
            return step(*arguments, **options)

        return wrapper

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    return lambda: happened


def interrupted(run, folder: RunFolder, arm: Callable):
    """Prepare until what `arm` set up ends it; returns what `arm` counts with."""
    with pytest.MonkeyPatch.context() as patch:
        counted = arm(patch)
        with pytest.raises(Interruption):
            prepare(run, folder)
    gc.collect()
    return counted


def test_stopped_at_every_step_in_turn_and_run_again_it_ends_the_same(run, done: RunFolder, tmp_path: Path):
    """One folder is interrupted again and again, each time a little later than before."""
    folder = RunFolder(tmp_path / "run")
    folder.open(run)
    for calls in range(1, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, calls)
            try:
                prepare(run, folder)
            except Interruption:
                continue
            break
    gc.collect()
    assert contents(folder.data) == contents(done.data)


@pytest.mark.parametrize("calls", [0, 3, 11, 12, 13, 14, 15, 16, 17, 60])
def test_stopped_at_any_one_step_and_run_again_it_ends_the_same(run, done: RunFolder, tmp_path: Path, calls: int):
    folder = RunFolder(tmp_path)
    folder.open(run)
    interrupted(run, folder, lambda patch: interrupt_after(patch, calls))
    assert not complete("prepare", run, folder)
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


def close_counting(monkeypatch: pytest.MonkeyPatch, *, stop_at: str | None = None) -> Counter[str]:
    """Count the shards that are written; end before the one named is closed."""
    written: Counter[str] = Counter()
    close = ShardWriter.close

    def counting(self: ShardWriter) -> Shard:
        if self.path.name == stop_at:
            raise Interruption
        written[self.path.name] += 1
        return close(self)

    monkeypatch.setattr(ShardWriter, "close", counting)
    return written


@pytest.mark.parametrize("stop_at", ["train-00002.tar", "validation-00000.tar", "test-00000.tar"])
def test_finished_shards_and_the_tokenizer_are_not_made_again(
    run, done: RunFolder, tmp_path: Path, stop_at: str, monkeypatch: pytest.MonkeyPatch
):
    folder = RunFolder(tmp_path)
    folder.open(run)
    first = interrupted(run, folder, partial(close_counting, stop_at=stop_at))
    second = close_counting(monkeypatch)
    monkeypatch.setattr(data.phases.encoding, "build_tokenizer", None)
    prepare(run, folder)
    shards = {shard.name for split in read_manifest(folder.manifest).splits.values() for shard in split.shards}
    assert set(first) | set(second) == shards
    assert set(first) & set(second) == set()
    assert contents(folder.data) == contents(done.data)


def test_a_shard_that_changed_while_interrupted_is_made_again(run, done: RunFolder, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(run)
    for stop_at in ("test-00000.tar", "train-00001.tar", "train-00000.tar"):  # the later stops are in the repair
        interrupted(run, folder, partial(close_counting, stop_at=stop_at))
        (folder.data / "train-00000.tar").write_bytes(b"changed")
        (folder.data / "train-00001.tar").unlink(missing_ok=True)
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


@pytest.mark.parametrize("content", [b'{"key": "other", "pieces": []}', b"{}"])
def test_work_of_other_data_is_begun_anew(run, done: RunFolder, tmp_path: Path, content: bytes):
    folder = RunFolder(tmp_path)
    folder.open(run)
    (folder.data / ".work" / "read").mkdir(parents=True)
    (folder.data / ".work" / "pieces.json").write_bytes(content)
    (folder.data / ".work" / "read" / "000000.json").write_bytes(content)
    (folder.data / "train-00099.tar").write_bytes(b"of an abandoned run")
    (folder.data / "train-00098.tar.index.npy").write_bytes(b"of an abandoned run")
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


@pytest.mark.parametrize("listed", [True, False])
def test_text_that_changed_while_interrupted_is_read_anew(
    run, done: RunFolder, corpus: Path, tmp_path: Path, listed: bool
):
    """Also where the kill came between the removal of the old listing and the new one."""
    folder = RunFolder(tmp_path / "run")
    folder.open(run)
    with changed(corpus, write_paragraphs(tmp_path / "other.txt", 90, seed=5).read_bytes()):
        interrupted(run, folder, partial(close_counting, stop_at="validation-00000.tar"))
    if not listed:
        (folder.data / ".work" / "pieces.json").unlink()
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)


def test_what_was_fetched_stays_when_the_work_is_begun_anew(run, tmp_path: Path):
    work = Work(run, RunFolder(tmp_path))
    (fetched := work.scratch / "0123456789abcdef").mkdir(parents=True)
    (unit := work.file("read", 0, "json")).parent.mkdir()
    for path in (fetched / "object", unit, work.plan):
        path.write_bytes(b"{}")
    assert not work.begin()
    assert {path.name for path in work.path.rglob("*") if path.is_file()} == {"object", "pieces.json"}
    assert work.begin(), "now it is its own"


def test_each_source_has_a_folder_of_its_own_for_what_it_fetches(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def folders(*patterns: str) -> list[Path]:
        """Where the parts of a mixture keep what they fetch."""
        parts = [
            {"name": f"part-{n}", "weight": 1.0, "source": {"kind": "files", "paths": [pattern]}}
            for n, pattern in enumerate(patterns)
        ]
        work = Work(tiny(data__source={"kind": "mixture", "parts": parts}), RunFolder(tmp_path))
        return [Path(str(source)) for source in work.sources]

    monkeypatch.setattr(data.phases.work, "open_source", lambda config, kind, scratch: scratch)
    one, other = folders(str(corpus), "other.txt")
    assert one != other
    assert folders("other.txt", str(corpus)) == [other, one], "whatever the order"


STAGE = """
import os, signal, sys
from data.shards import ShardWriter
close = ShardWriter.close
def closing(self):
    if self.path.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return close(self)
ShardWriter.close = closing
from configs.process import stage_main
from data.prepare import prepare
sys.exit(stage_main("prepare", prepare))
"""


def test_a_killed_process_leaves_a_folder_that_goes_on(run, done: RunFolder, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(run)
    command = [sys.executable, "-c", STAGE, str(tmp_path), "train-00001.tar"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert (folder.data / "train-00000.tar").exists()
    assert not folder.manifest.exists()
    prepare(run, folder)
    assert contents(folder.data) == contents(done.data)
