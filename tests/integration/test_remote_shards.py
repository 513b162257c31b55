"""Shards in a real object store: put there by prepare, read by two ranks while the store is killed for two seconds."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import complete
from data.dataset import open_dataset
from tests.corpus import configuration
from tests.runs import run as trainworks
from tests.swift import INSTALLED, SECRET, Swift, swift
from tests.tiny import write_images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="the package swift is not installed: pip install -r requirements.lock"),
]
AWAY_S = 2.0
BEFORE = 5  # batches that each rank reads before the store is killed
READ = """
import json, sys
from itertools import islice
from pathlib import Path
from blake3 import blake3
from configs.folder import RunFolder
from configs.load import read
from data.dataset import open_dataset
from data.loader import loader
from data.order import Sampler

def collate(samples):
    return [(s["position"], s["id"], blake3(s["image"].tobytes()).hexdigest()) for s in samples]

if __name__ == "__main__":
    folder, rank, batches = RunFolder(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    data = open_dataset(read(folder.config), folder)
    sampler = Sampler(data.order, micro=4, rank=rank, world=2)
    for number, batch in enumerate(islice(loader(data.readers["train"], sampler, collate, workers=rank), batches)):
        if number == int(sys.argv[4]):
            sys.stdin.readline()
        print(json.dumps(batch), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with swift(tmp_path_factory.mktemp("swift")) as running:
        yield running


def run_of(images: Path, url: str | None, endpoint: str | None = None, **store: Any) -> RunConfig:
    """Raw images, so that there are many megabytes and few of them fit in the cache."""
    return configuration(
        data={
            "kind": "images",
            "source": {"kind": "files", "paths": [str(images)], "label_field": "folder"},
            "images": {"height": 96, "width": 96, "storage": "raw"},
            "splits": {"validation": 0.0, "test": 0.2},
            "shard_samples": 40,
            "shuffle_window_samples": 60,
            "store": {"url": url, "endpoint": endpoint, "cache_bytes": 1 << 20} if url else None,
        },
        task={"kind": "image_classification", "model": {"kind": "lenet"}, "evaluation": {}},
    )


def prepare(run: RunConfig, path: Path, environment: dict[str, str]) -> tuple[RunFolder, str, int]:
    folder = RunFolder(path)
    folder.open(run)
    command = [sys.executable, "-m", "data.prepare", str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return folder, ended.stdout + ended.stderr, ended.returncode


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("raw") / "images", classes=4, images=100, side=48)


@pytest.fixture(scope="module")
def local(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder, said, code = prepare(run_of(images, None), tmp_path_factory.mktemp("local") / "run", dict(os.environ))
    assert code == 0, said
    return folder


def test_two_ranks_read_every_sample_once_though_the_store_is_killed(
    server: Swift, images: Path, local: RunFolder, tmp_path: Path
):
    environment = os.environ | server.environment
    run = run_of(images, f"{server.bucket('shards')}/mnist", server.endpoint)
    folder, said, code = prepare(run, tmp_path / "run", environment)
    assert code == 0, said
    assert list(folder.data.glob("*.tar*")) == [], "the shards are in the store alone"
    assert complete("prepare", run, folder)
    samples = open_dataset(run_of(images, None), local).readers["train"].__len__()
    batches = -(-samples // 8)
    ranks = [Rank(folder, rank, batches, environment) for rank in (0, 1)]
    try:
        while min(len(rank.batches) for rank in ranks) < BEFORE:
            assert all(rank.process.poll() is None for rank in ranks), [rank.errors() for rank in ranks]
            time.sleep(0.01)
        server.stop()
        away = time.monotonic()
        for rank in ranks:
            rank.go_on()
        while time.monotonic() < away + AWAY_S:
            time.sleep(0.05)
        assert max(len(rank.batches) for rank in ranks) < batches, "shards were still being read"
        server.restart()
        for rank in ranks:
            assert rank.process.wait(timeout=120) == 0, rank.errors()
    finally:
        for rank in ranks:
            rank.end()
    assert [len(rank.batches) for rank in ranks] == [batches, batches]
    found = sorted(tuple(each) for rank in ranks for batch in rank.batches for each in batch)
    assert [position for position, _, _ in found] == list(range(8 * batches))
    assert sorted(index for position, index, _ in found if position < samples) == list(range(samples))
    assert {index: digest for _, index, digest in found} == local_digests(run_of(images, None), local)


class Rank:
    """One rank's process; its batches are gathered as they arrive."""

    def __init__(self, folder: RunFolder, rank: int, batches: int, environment: dict[str, str]) -> None:
        script = folder.path / f"read-{rank}.py"
        script.write_text(READ)  # a file, because the loader's worker is spawned
        self.log = folder.path / f"rank-{rank}.log"
        with self.log.open("w") as errors:
            self.process = self._start(script, folder, rank, batches, environment, errors)
        self.batches: list[list[list[Any]]] = []
        self.thread = threading.Thread(target=self._gather)
        self.thread.start()

    def _start(
        self, script: Path, folder: RunFolder, rank: int, batches: int, environment: dict[str, str], errors: Any
    ):
        root = str(Path(__file__).parents[2])
        return subprocess.Popen(
            [sys.executable, str(script), str(folder.path), str(rank), str(batches), str(BEFORE)],
            env=environment | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def _gather(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("["):
                self.batches.append(json.loads(line))

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()

    def errors(self) -> str:
        return self.log.read_text()


def local_digests(run: RunConfig, folder: RunFolder) -> dict[int, str]:
    """What each sample's pixels are, from shards that lie here."""
    from blake3 import blake3

    from data.samples import decode

    reader = open_dataset(run, folder).readers["train"]
    return {
        n: blake3(np.ascontiguousarray(decode(reader[n])["image"]).tobytes()).hexdigest() for n in range(len(reader))
    }


def test_a_wrong_secret_is_refused_in_one_line(server: Swift, images: Path, tmp_path: Path):
    environment = os.environ | server.environment | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    run = run_of(images, f"{server.bucket('shards')}/refused", server.endpoint)
    _, said, code = prepare(run, tmp_path / "run", environment)
    assert code == 2
    assert "the store refused the credentials (HTTP 403 SignatureDoesNotMatch)" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "wrong-secret" not in said
    assert SECRET not in said
    assert "Traceback" not in said


def test_training_reads_from_the_store(server: Swift, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    run = run_of(images, f"{server.bucket('shards')}/trained", server.endpoint)
    small: dict[str, Any] = {"steps": 4, "global_batch_samples": 8, "validate_every_steps": 4}
    small["schedule"] = run.train.schedule.model_copy(update={"warmup_steps": 0})
    changes = {"train": run.train.model_copy(update=small), "wandb": run.wandb.model_copy(update={"mode": "disabled"})}
    changes["world"] = run.world.model_copy(update={"micro_batch_samples": 4})
    folder = RunFolder(tmp_path / "runs" / run.name)
    folder.open(run.model_copy(update=changes))
    ended = trainworks("run", folder.config, "--runs", tmp_path / "runs", timeout_s=400)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "accuracy" in ended.stdout
