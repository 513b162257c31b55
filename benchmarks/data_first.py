"""Time to the first batch, at a position far into the data and at its beginning: both sides are ours."""

import multiprocessing
import statistics
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Round, Stopwatch
from configs.folder import RunFolder, digest, file_digest, write_json
from configs.load import load, read

SHARDS, SHARD_SAMPLES, BLOCK = 1024, 1024, 64
POSITION = 10_000_000
BATCH = 32
CHILDREN = 9


def make_data(path: Path) -> None:
    """A prepared text data set of a million samples in a thousand shards, of random tokens."""
    from tokenizers import Tokenizer, models

    from data.manifest import SCHEMA_VERSION, Manifest, SourceRecord, Split, TokenizerRecord, content_digest
    from data.shards import ShardWriter

    folder = RunFolder(path)
    folder.open(
        load(
            [
                str(Path(__file__).with_name("data.yaml")),
                f"data.block_tokens={BLOCK}",
                "task.evaluation.stride_tokens=32",
            ]
        )
    )
    folder.data.mkdir()
    Tokenizer(models.BPE()).save(str(folder.tokenizer))
    rng, shards = np.random.default_rng(0), []
    for place in range(SHARDS):
        writer = ShardWriter(folder.data / f"train-{place:05d}.tar", ("tokens.npy",))
        blocks = rng.integers(0, 8192, (SHARD_SAMPLES, BLOCK + 1)).astype("<u2")
        writer.write_blocks("train", place * SHARD_SAMPLES, blocks)
        shards.append(writer.close())
    samples = SHARDS * SHARD_SAMPLES
    tokenizer = TokenizerRecord(
        file=folder.tokenizer.name,
        sha256=file_digest(folder.tokenizer),
        vocabulary_size=8192,
        end_of_document="<|endoftext|>",
        end_of_document_id=0,
    )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        digest="",
        kind="text",
        config=digest([]),
        sources=(SourceRecord(description="random tokens", files=1, bytes=1, documents=1, digest=digest([])),),
        tokenizer=tokenizer,
        block_tokens=BLOCK,
        fields=("tokens.npy",),
        splits={"train": Split(documents=1, bytes=1, samples=samples, shards=tuple(shards), tokens=samples * BLOCK)},
        dropped={},
        checks={},
    )
    sealed = manifest.model_copy(update={"digest": content_digest(manifest)})
    write_json(folder.manifest, sealed.model_dump(mode="json"))


class Beginning:
    """A fresh process's first batch: manifest, reader, order, sampler and loader, as training makes them."""

    position = 0

    def __init__(self, path: Path) -> None:
        import torch.utils.data  # noqa: F401  each round's process has imported what it needs

        import data.dataset
        import data.loader  # noqa: F401

        self.path = path

    def round(self) -> Round:
        """The median of several, each in a child forked before anything was opened, which so remembers nothing."""
        context = multiprocessing.get_context("fork")
        found = []
        for _ in range(CHILDREN):
            here, there = context.Pipe(duplex=False)
            child = context.Process(target=first_batch, args=(self.path, self.position, there))
            child.start()
            there.close()  # so that a child that fails ends the wait
            found.append(here.recv())
            child.join()
        seconds, cpu_s = (statistics.median(times) for times in list(zip(*found, strict=True))[:2])
        return Round(1, seconds, cpu_s, {"right": all(right for *_, right in found)})


class FarIn(Beginning):
    """The same at position 10,000,000."""

    position = POSITION


def first_batch(path: Path, position: int, answer: Connection) -> None:
    """Open the data set, take the batch at a position, and send how long that took and whether it is the right one."""
    from data.dataset import open_dataset
    from data.loader import loader
    from data.order import Sampler

    folder = RunFolder(path)
    run = read(folder.config)
    watch = Stopwatch()
    watch.start()
    opened = open_dataset(run, folder)
    sampler = Sampler(opened.order, micro=BATCH, rank=0, world=1, position=position)
    batch = next(loader(opened.readers["train"], sampler, collate, workers=0))
    watch.stop()
    right = [sample["position"] for sample in batch] == list(range(position, position + BATCH))
    answer.send((watch.seconds, watch.cpu_s, right and all(len(sample["tokens"]) == BLOCK + 1 for sample in batch)))


def collate(samples: Sequence[Any]) -> Sequence[Any]:
    return samples


def wrong(ours: Any, peer: Any) -> str | None:
    """Both batches are those of their positions."""
    return None if ours["right"] and peer["right"] else "a batch is not the one of its position"
