"""The data stage as processes: the same bytes for any number of workers and parts, and whenever it is killed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from configs.folder import RunFolder
from configs.schema import RunConfig
from data.manifest import read_manifest
from tests.corpus import configuration, contents, sentences, write_paragraphs
from tests.runs import wait_until
from tests.tiny import write_images

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven files, so that there are several pieces; some documents stand in two of them."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(7):
        write_paragraphs(folder / f"{number}.txt", 150, seed=number // 2)
    (folder / "near.txt").write_text("\n\n".join(f"{text} Indeed." for text in sentences(40)), encoding="utf-8")
    return folder


def text_run(texts: Path, **overrides: Any) -> RunConfig:
    """Every phase has something to do."""
    return configuration(
        **{
            "data__source": {"kind": "files", "paths": [str(texts)], "document": "paragraph"},
            "data__text__near_duplicates": {"similarity": 0.6, "ngram_words": 2},
            "data__text__decontaminate": {"ngram_words": 3, "max_overlap": 0.5},
            "data__tokenizer": {"kind": "bpe", "vocabulary_size": 300},
            "data__packing": "best_fit",
            "data__block_tokens": 32,
            "data__shard_samples": 16,
            "data__splits": {"validation": 0.2, "test": 0.2},
            "task__evaluation__stride_tokens": 4,
        }
        | overrides
    )


def image_run(images: Path) -> RunConfig:
    return configuration(
        data={
            "kind": "images",
            "source": {"kind": "files", "paths": [str(images)], "label_field": "folder"},
            "images": {"height": 24, "width": 20, "max_corrupt": 1, "rare_classes": {"share": 0.9}},
            "splits": {"stratify": True, "validation": 0.2, "test": 0.2},
            "shard_samples": 16,
        },
        task={"kind": "image_classification", "model": {"kind": "lenet"}, "evaluation": {}},
    )


def make(run: RunConfig, path: Path, workers: int) -> RunFolder:
    """Prepare as the program does, in a process of its own."""
    folder = RunFolder(path)
    folder.open(run.model_copy(update={"world": run.world.model_copy(update={"prepare_workers": workers})}))
    outcome = subprocess.run(command(path), capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return folder


def command(path: Path, *phase: str) -> list[str]:
    return [sys.executable, "-m", "data.prepare", str(path), *phase]


@pytest.fixture(scope="module")
def done(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make(text_run(texts), tmp_path_factory.mktemp("runs") / "done", 1)


def test_the_corpus_gives_every_phase_something_to_do(done: RunFolder):
    dropped = read_manifest(done.manifest).dropped
    assert {"duplicate", "near duplicate", "overlaps the test split"} <= set(dropped)


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_makes_the_same_bytes(texts: Path, done: RunFolder, tmp_path: Path, workers: int):
    assert contents(make(text_run(texts), tmp_path, workers).data) == contents(done.data)


def test_any_number_of_workers_makes_the_same_bytes_of_images(tmp_path: Path):
    images = write_images(tmp_path / "images", classes=3, images=30)
    for number in range(20):
        (images / "class-0" / f"{number:03d}.png").unlink()
    (images / "class-1" / "cut.png").write_bytes((images / "class-1" / "000.png").read_bytes()[:200])
    Image.new("RGB", (30, 10)).save(images / "class-1" / "small.jpg")
    run = image_run(images)
    first, *others = (make(run, tmp_path / str(n), n) for n in (1, 2, 4))
    manifest = read_manifest(first.manifest)
    assert manifest.dropped == {"corrupt: truncated": 1}
    assert len(set(manifest.splits["train"].classes.values())) == 2, "the rare class has copies"
    for other in others:
        assert contents(other.data) == contents(first.data)


def test_parts_in_any_order_make_the_same_bytes(texts: Path, done: RunFolder, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.open(text_run(texts, world__prepare_workers=1))
    for phase in ("plan", "read", "decide", "overlap", "tokenizer", "encode", "cut", "write", "finish"):
        parts = ["3/3", "1/3", "2/3"] if phase in ("read", "encode", "write") else ["1/1"]
        for part in parts:
            outcome = subprocess.run(command(tmp_path, phase, part), capture_output=True, text=True, check=False)
            assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    make(text_run(texts), tmp_path, 1)  # says complete, and cleans up
    assert contents(folder.data) == contents(done.data)


def test_a_part_that_does_not_exist_is_refused(texts: Path, tmp_path: Path):
    RunFolder(tmp_path).open(text_run(texts))
    for words in (["read", "4/3"], ["decide", "1/2"], ["sort"], ["read", "x"]):
        outcome = subprocess.run(command(tmp_path, *words), capture_output=True, text=True, check=False)
        assert outcome.returncode == 2
        assert "expected a phase (plan, read, decide" in outcome.stdout


def test_killed_at_twenty_moments_it_ends_with_the_same_bytes(texts: Path, done: RunFolder, tmp_path: Path):
    """Each start is killed, with its workers, when the disk has changed a random number of times more."""
    rng, kills, round_ = random.Random(3), 0, 0
    while kills < KILLS:
        round_ += 1
        folder = RunFolder(tmp_path / str(round_))
        folder.open(text_run(texts, world__prepare_workers=2))
        while kills < KILLS:
            if not kill_after(folder, rng.randint(1, 12)):
                break
            kills += 1
        make(text_run(texts), folder.path, 2)
        assert contents(folder.data) == contents(done.data)


def kill_after(folder: RunFolder, changes: int) -> bool:
    """Start prepare and kill it, with its workers, after so many new files; False when it ended before."""
    before = files(folder)
    process = subprocess.Popen(command(folder.path), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and len(files(folder) - before) < changes:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    if process.poll() is not None:
        assert process.returncode == 0
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not session(process.pid)), "its workers end too"
    return True


def session(leader: int) -> list[int]:
    """Live processes of a session."""
    found = []
    for each in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(each.pid) == leader and each.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(each.pid)
    return found


def files(folder: RunFolder) -> set[Path]:
    return set(folder.data.rglob("*"))
