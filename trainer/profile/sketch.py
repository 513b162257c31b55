"""A data set that is not there yet, as far as the configuration decides it, and samples as large as it may have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from configs.dataset import ImageData, TextData, TrainedTokenizer
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import data_key, read_record
from data.manifest import SCHEMA_VERSION, ImagesRecord, Manifest, Split, TokenizerRecord, read_manifest
from data.vocabulary import end_token, load_tokenizer, special_ids, special_tokens, stored_tokenizer, vocabulary_size
from trainer.task import Sample

UNKNOWN_CLASSES = 1000
"""What is assumed where neither data nor the command line says how many classes there are: ImageNet's"""


@dataclass(frozen=True)
class Outlook:
    """What is known of a run's data."""

    manifest: Manifest
    tokenizer: Tokenizer | None
    """None for images"""
    assumed: tuple[str, ...] = ()
    """What had to be assumed, in words"""


def look(run: RunConfig, folder: RunFolder, *, classes: int | None) -> Outlook:
    """The prepared data set or, before there is one, a sketch.

    Raises DamageError where the prepared manifest cannot be read, DataError for a tokenizer file that is not there.
    """
    if folder.manifest.exists() and read_record(folder.manifest).get("config") == data_key(run):
        manifest = read_manifest(folder.manifest).view(run.data.splits)
        return Outlook(manifest, stored_tokenizer(folder.tokenizer))
    assumed = ["the data is not prepared: its sizes are those that the configuration asks for"]
    if classes is None:
        assumed.append(f"{UNKNOWN_CLASSES:,} classes, where the task has any; --classes N says otherwise")
    tokenizer = stand_in(run.data) if isinstance(run.data, TextData) else None
    manifest = sketch(run, tokenizer, classes=UNKNOWN_CLASSES if classes is None else classes)
    return Outlook(manifest, tokenizer, tuple(assumed))


def stand_in(data: TextData) -> Tokenizer:
    """The tokenizer of the configuration's file, or one with as many tokens as training would give, of no meaning."""
    config = data.tokenizer
    if not isinstance(config, TrainedTokenizer):
        return load_tokenizer(Path(config.path), config.end_of_document)
    special = special_tokens(config)
    tokens = special + [f"token-{number}" for number in range(len(special), config.vocabulary_size)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=tokens[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def sketch(run: RunConfig, tokenizer: Tokenizer | None, *, classes: int) -> Manifest:
    """A manifest with every number that decides the shape of a network."""
    names = tuple(f"class-{number}" for number in range(classes))
    once = dict.fromkeys(names, 1)
    train = Split(documents=classes, bytes=classes, samples=classes, shards=(), classes=once, tags=once)
    shape: dict[str, Any] = {}
    if isinstance(run.data, ImageData):
        images = run.data.images
        channels = 1 if images.colour == "grey" else 3
        grey = (0.5,) * channels
        shape["images"] = ImagesRecord(height=images.height, width=images.width, channels=channels, mean=grey, std=grey)
    elif tokenizer is not None:
        shape |= {"tokenizer": record_of(tokenizer, run.data), "tags": names}
        shape |= {"block_tokens": run.data.block_tokens, "document_ids": run.data.document_ids}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        digest="",
        kind=run.data.kind,
        config=data_key(run),
        sources=(),
        fields=(),
        classes=names,
        splits={"train": train},
        dropped={},
        checks={},
        **shape,
    )


def record_of(tokenizer: Tokenizer, data: TextData) -> TokenizerRecord:
    special = special_ids(tokenizer, data.tokenizer)
    return TokenizerRecord(
        file="",
        sha256="",
        vocabulary_size=vocabulary_size(tokenizer),
        end_of_document=end_token(data.tokenizer),
        end_of_document_id=special["end"],
        special=special,
    )


def draw_samples(run: RunConfig, manifest: Manifest, positions: Sequence[int]) -> list[Sample]:
    """Samples as a loader gives them, as large as the data allows; where lengths may differ, they do."""
    numbers = np.random.default_rng(0)
    uneven = getattr(run.data, "packing", "") == "document"
    samples: list[Sample] = []
    for number, position in enumerate(positions):
        sample: Sample = {"position": position, "id": position, "label": 0}
        if manifest.images:
            shape = (manifest.images.height, manifest.images.width, manifest.images.channels)
            sample["image"] = numbers.integers(0, 256, shape, dtype=np.uint8)
        else:
            length = manifest.block_tokens - (uneven and number == 0)
            size, end = manifest.text.vocabulary_size, manifest.text.end_of_document_id
            ids = numbers.integers(0, size, length + 1)
            sample["tokens"] = np.where(ids == end, (end + 1) % size, ids).astype(np.uint32)
            sample["tags"] = np.zeros(length + 1, np.int64)
            if manifest.document_ids:
                sample["documents"] = np.zeros(length, np.int64)
        samples.append(sample)
    return samples
