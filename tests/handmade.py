"""Small prepared data sets, put together by hand so that a test can have any fault it likes in them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from configs.dataset import TrainedTokenizer
from configs.folder import RunFolder, file_digest, write_json
from data.card.pictures import png
from data.manifest import (
    SCHEMA_VERSION,
    STATISTICS,
    ImagesRecord,
    Labels,
    Manifest,
    Shard,
    SourceRecord,
    Split,
    TokenizerRecord,
    content_digest,
)
from data.packing import pack
from data.samples import encode_array
from data.shards import ShardWriter
from data.vocabulary import END_OF_DOCUMENT, id_of, train_tokenizer

BLOCK = 8
SPLITS = {"train": 24, "validation": 6, "test": 5}
"""Documents or images in each"""


def text_set(path: Path, documents: Sequence[str], **changes: Any) -> tuple[RunFolder, Manifest]:
    """Blocks of documents, divided over the splits in order; `changes` are fields of the manifest."""
    folder = RunFolder(path)
    folder.data.mkdir(parents=True)
    tokenizer = train_tokenizer(documents, TrainedTokenizer(kind="bpe", vocabulary_size=300))
    tokenizer.save(str(folder.tokenizer))
    end = id_of(tokenizer, END_OF_DOCUMENT)
    splits, histograms, rest = {}, {}, list(documents)
    for name, count in SPLITS.items():
        mine, rest = rest[:count], rest[count:]
        ids = [np.asarray([*tokenizer.encode(text).ids, end]) for text in mine]
        blocks = [encode_array(block.astype("<u2")) for block in pack(ids, length=BLOCK, context=end)]
        shards = write_shards(folder, name, [{"tokens.npy": block} for block in blocks])
        tokens, words = sum(map(len, ids)), sum(len(text.split()) for text in mine)
        length = sum(len(text.encode()) for text in mine)
        splits[name] = Split(
            documents=len(mine), bytes=length, samples=len(blocks), shards=shards, tokens=tokens, words=words
        )
        histograms[name] = np.bincount(np.log2([len(each) for each in ids]).astype(int), minlength=32).tolist()
    record = TokenizerRecord(
        file=folder.tokenizer.name,
        sha256=file_digest(folder.tokenizer),
        vocabulary_size=300,
        end_of_document=END_OF_DOCUMENT,
        end_of_document_id=end,
    )
    statistics = {
        "length_histogram": histograms,
        "zipf": [[rank, 600 // rank] for rank in (1, 2, 3, 5, 9, 20, 60)],
        "top_tokens": [["Ġthe", 600], ["<b>", 300]],
        "tokens_used": 60,
    }
    about = {"kind": "text", "tokenizer": record, "block_tokens": BLOCK, "fields": ("tokens.npy",)}
    return finish(folder, splits, statistics, **(about | changes))


def image_set(path: Path, *, classes: Sequence[str] = ("cat", "dog"), **changes: Any) -> tuple[RunFolder, Manifest]:
    """Colour images of 6 x 4 pixels; image n is of class n modulo their number."""
    folder = RunFolder(path)
    folder.data.mkdir(parents=True)
    splits = {}
    for seed, (name, count) in enumerate(SPLITS.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 4, 3), dtype=np.uint8)
        labels = [number % len(classes) for number in range(count)]
        samples = [{"png": png(image), "cls": b"%d" % label} for image, label in zip(pixels, labels, strict=True)]
        payload = encode_array(np.asarray(labels, "<i4"))
        (folder.data / f"{name}.labels.npy").write_bytes(payload)
        splits[name] = Split(
            documents=count,
            bytes=sum(len(sample["png"]) for sample in samples),
            samples=count,
            shards=write_shards(folder, name, samples),
            classes={each: labels.count(place) for place, each in enumerate(classes)},
            labels=(Labels(file=f"{name}.labels.npy", blake3=blake3(payload).hexdigest()),),
        )
    record = ImagesRecord(height=6, width=4, channels=3, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    about = {"kind": "images", "images": record, "classes": tuple(classes), "fields": ("png", "cls")}
    return finish(folder, splits, {"class_weights": dict.fromkeys(classes, 1.25)}, **(about | changes))


def write_shards(
    folder: RunFolder, split: str, samples: Sequence[dict[str, bytes]], *, size: int = 10
) -> tuple[Shard, ...]:
    """A split's samples, `size` a shard."""
    shards = []
    for place, first in enumerate(range(0, len(samples), size)):
        writer = ShardWriter(folder.data / f"{split}-{place:05d}.tar", tuple(samples[0]))
        for number, sample in enumerate(samples[first : first + size], first):
            writer.write(f"{split}-{number:09d}", sample)
        shards.append(writer.close())
    return tuple(shards)


def finish(
    folder: RunFolder, splits: dict[str, Split], statistics: dict[str, Any], **fields: Any
) -> tuple[RunFolder, Manifest]:
    """Statistics and manifest of given splits."""
    total = sum(split.documents for split in splits.values())
    source = SourceRecord(description="made up", files=1, bytes=1000, documents=total + 2, digest="5" * 64)
    drops = {"too short": {"count": 2, "examples": [{"origin": "a.txt:3", "excerpt": "No."}]}}
    text = json.dumps({"drops": drops, **statistics})
    (folder.data / STATISTICS).write_text(text, encoding="utf-8")
    about = {
        "schema_version": SCHEMA_VERSION,
        "config": "c" * 64,
        "sources": (source,),
        "splits": splits,
        "dropped": {"too short": 2},
        "checks": {"content in two splits": 0},
        "statistics": blake3(text.encode()).hexdigest(),
    }
    return folder, seal(folder, Manifest(digest="", **(about | fields)))


def seal(folder: RunFolder, manifest: Manifest) -> Manifest:
    """Write a manifest with the digest of its content."""
    manifest = manifest.model_copy(update={"digest": content_digest(manifest)})
    write_json(folder.manifest, manifest.model_dump(mode="json"))
    return manifest


def with_split(manifest: Manifest, name: str, **changes: Any) -> Manifest:
    """A manifest whose split says something else."""
    split = manifest.splits[name].model_copy(update=changes)
    return manifest.model_copy(update={"splits": manifest.splits | {name: split}})
