"""The end of prepare: what the units noted is put together into labels, statistics, card and manifest."""

import json
from functools import reduce
from typing import Any

import numpy as np
from blake3 import blake3

from configs.code import record_data_code
from configs.dataset import TextData
from configs.folder import RunFolder, digest, write_atomic, write_json
from configs.stages import data_key, read_record
from data.card.page import write_card
from data.manifest import (
    ASSIGNMENTS,
    SCHEMA_VERSION,
    STATISTICS,
    ImagesRecord,
    Labels,
    Manifest,
    PixelSums,
    Shard,
    SourceRecord,
    Split,
    TokenizerRecord,
    content_digest,
)
from data.phases.plan import plan_of
from data.phases.statistics import all_drops, collect, label_counts
from data.phases.work import Work
from data.phases.writing import fields_of
from data.progress import say
from data.samples import encode_array
from data.shards import file_blake3, index_path
from data.sources.tagged import OUTSIDE
from data.splits import trains


def finish_dataset(work: Work) -> None:
    """Write everything that describes the data set; the manifest last, which says that it is complete."""
    splits = gather_splits(work)
    statistics = json.dumps(collect(work, splits), indent=1, ensure_ascii=False) + "\n"
    write_atomic(work.folder.data / STATISTICS, statistics)
    manifest = make_manifest(work, splits, blake3(statistics.encode()).hexdigest())
    _remove_strangers(work.folder, splits)
    if manifest.dropped:
        say("prepare", "left out: " + ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items()))
    write_card(work.folder, manifest)
    record_data_code(work.folder, manifest.digest)
    write_json(work.folder.manifest, manifest.model_dump(mode="json"))


def gather_splits(work: Work) -> dict[str, Split]:
    """What the shards' records say, by split."""
    plan, decision = plan_of(work.plan), read_record(work.decision)
    records = [work.record("write", number) for number in range(len(plan.shards))]
    splits = {}
    for name in decision["splits"]:
        if mine := [record for record in records if record["split"] == name]:
            labels = [label for record in mine for label in record["labels"]]
            splits[name] = Split(
                **_counts(work, name, mine),
                samples=sum(record["shard"]["samples"] for record in mine),
                shards=tuple(Shard(**record["shard"]) for record in mine),
                classes=label_counts(labels, decision["classes"]),
                tags=_tag_counts(work, name, decision["tags"]),
                labels=_write_labels(work.folder, name, labels),
                pixels=_sum_pixels([PixelSums(**record["pixels"]) for record in mine if record["pixels"]]),
            )
    return splits


def _counts(work: Work, split: str, records: list[dict[str, Any]]) -> dict[str, int]:
    if work.run.data.kind == "images":
        count = read_record(work.decision)["splits"][split]["documents"]
        return {"documents": count, "bytes": sum(record["bytes"] for record in records)}
    each = [work.record("encode", number)["splits"].get(split, {}) for number in range(len(work.pieces))]
    names = {"documents": "documents", "bytes": "bytes", "words": "words", "tokens": "tokens"}
    names |= {"unknown_tokens": "unknown", "cut_tokens": "cut"}
    return {name: sum(record.get(key, 0) for record in each) for name, key in names.items()}


def tag_names(tags: list[str]) -> tuple[str, ...]:
    """Names by number, that of untagged text first; none where nothing is tagged."""
    return (OUTSIDE, *tags) if tags else ()


def _tag_counts(work: Work, split: str, tags: list[str]) -> dict[str, int]:
    names, total = tag_names(tags), np.zeros(len(tags) + 1, np.int64)
    for number in range(len(work.pieces) if tags else 0):
        total += np.array(work.record("encode", number)["splits"].get(split, {}).get("tags", 0), np.int64)
    return dict(zip(names, total.tolist(), strict=True)) if names else {}


def _write_labels(folder: RunFolder, split: str, labels: list[int]) -> tuple[Labels, ...]:
    if not labels:
        return ()
    path, payload = folder.data / f"{split}.labels.npy", encode_array(np.asarray(labels, "<i4"))
    write_atomic(path, payload)
    return (Labels(file=path.name, blake3=blake3(payload).hexdigest()),)


def _sum_pixels(sums: list[PixelSums]) -> PixelSums | None:
    return reduce(PixelSums.__add__, sums) if sums else None


def make_manifest(work: Work, splits: dict[str, Split], statistics: str) -> Manifest:
    """The record of it all, with its digest."""
    data, decision = work.run.data, read_record(work.decision)
    text = isinstance(data, TextData)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        digest="",
        kind=data.kind,
        config=data_key(work.run),
        sources=_source_records(work),
        tokenizer=_tokenizer_record(work) if text else None,
        images=None if text else _images_record(work, splits),
        block_tokens=data.block_tokens if text else 0,
        document_ids=data.document_ids if text else False,
        fields=fields_of(work),
        classes=tuple(decision["classes"]),
        tags=tag_names(decision["tags"]),
        splits=splits,
        dropped=dict(sorted(all_drops(work).counts.items())),
        near_duplicate_rate=decision["near_duplicate_rate"],
        checks=decision["checks"],
        statistics=statistics,
        assignments=file_blake3(work.folder.data / ASSIGNMENTS),
    )
    return manifest.model_copy(update={"digest": content_digest(manifest)})


def _source_records(work: Work) -> tuple[SourceRecord, ...]:
    found = []
    for number, (part, source) in enumerate(zip(work.parts, work.sources, strict=True)):
        records = [work.record("read", n) for n, (owner, _) in enumerate(work.pieces) if owner == number]
        found.append(
            SourceRecord(
                description=source.description,
                files=source.files,
                bytes=source.bytes,
                documents=sum(record["documents"] for record in records),
                digest=digest([record["digest"] for record in records]),
                part=part.name,
                weight=part.weight,
                repeat=part.repeat,
            )
        )
    return tuple(found)


def _tokenizer_record(work: Work) -> TokenizerRecord:
    note = read_record(work.tokenizer)
    return TokenizerRecord(
        file=work.folder.tokenizer.name,
        sha256=note["sha256"],
        vocabulary_size=note["vocabulary_size"],
        end_of_document=note["end"],
        end_of_document_id=note["end_id"],
        special=note["special"],
    )


def _images_record(work: Work, splits: dict[str, Split]) -> ImagesRecord:
    images = work.images.images
    sums = _sum_pixels([split.pixels for name, split in splits.items() if trains(name) and split.pixels])
    assert sums, "a data set without training images is refused before"
    channels = 3 if images.colour == "rgb" else 1
    return ImagesRecord(height=images.height, width=images.width, channels=channels, mean=sums.mean, std=sums.std)


def _remove_strangers(folder: RunFolder, splits: dict[str, Split]) -> None:
    """Shards of an earlier, abandoned configuration."""
    shards = [folder.data / shard.name for split in splits.values() for shard in split.shards]
    known = {*shards, *map(index_path, shards)}
    for pattern in ("*.tar", "*.tar.index.npy", "*.part"):
        for path in folder.data.glob(pattern):
            if path not in known:
                path.unlink()
