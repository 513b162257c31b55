"""Generated corpora and the small runs over them, for tests of configuration and data: no torch."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from configs.folder import RunFolder
from configs.load import load
from configs.schema import RunConfig
from data.manifest import Manifest, read_manifest
from data.packing import unpack
from data.prepare import prepare
from data.samples import decode
from data.shards import ShardReader

COMPLETE = Path(__file__).with_name("complete.yaml")
_SYLLABLES = ("an", "be", "cor", "de", "el", "fi", "gra", "ho", "in", "lo", "mé", "no", "ру", "sta", "the", "ur", "字")


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """Made-up sentences, some of them in other scripts, the same every time."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(60)]
    return [" ".join(rng.choices(words, k=rng.randint(3, 12))).capitalize() + "." for _ in range(count)]


def write_paragraphs(path: Path, count: int = 60, *, seed: int = 0) -> Path:
    """One text file of `count` paragraphs, one sentence each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(sentences(count, seed=seed)), encoding="utf-8")
    return path


def configuration(**overrides: Any) -> RunConfig:
    """The tests' complete configuration over given keys; `__` stands for the dots."""
    words = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in overrides.items()]
    return load([str(COMPLETE), *words])


def tiny(*paths: Path, **overrides: Any) -> RunConfig:
    """A run over paragraphs of local files whose data stage takes a moment and fills several shards."""
    return configuration(
        **{
            "world__prepare_workers": 1,
            "data__source": {"kind": "files", "paths": [str(path) for path in paths], "document": "paragraph"},
            "data__tokenizer": {"kind": "bpe", "vocabulary_size": 300},
            "data__block_tokens": 8,
            "data__shard_samples": 16,
            "data__splits": {"validation": 0.2, "test": 0.2},
            "task__evaluation__stride_tokens": 4,
        }
        | overrides
    )


def prepared(run: RunConfig, path: Path) -> tuple[RunFolder, Manifest]:
    """Run the data stage in this process."""
    folder = RunFolder(path)
    folder.open(run)
    prepare(run, folder)
    return folder, read_manifest(folder.manifest)


def read_documents(folder: RunFolder, split: str) -> list[str]:
    """A split's documents, back from its shards."""
    manifest = read_manifest(folder.manifest)
    reader = ShardReader(folder.data, manifest.splits[split].shards, manifest.fields)
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    blocks = [decode(sample)["tokens"].astype(np.int64) for sample in reader]
    found = unpack(blocks, manifest.text.end_of_document_id)
    return [tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) for ids in found]


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file that a data stage leaves."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@contextlib.contextmanager
def changed(path: Path, content: bytes | None) -> Iterator[None]:
    """A file with other bytes, or without the file; as it was afterwards."""
    before = path.read_bytes()
    try:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)  # a process may still map what was there: bytes must not change under it
        path.write_bytes(before)
