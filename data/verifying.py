"""One shard re-read: its bytes against the manifest, its samples against their checksums and what they have to be."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from configs.errors import DamageError
from data.found import Found
from data.manifest import Shard
from data.samples import decode
from data.shards import ShardReader, file_blake3, index_path
from data.store import Object, open_store

_NAMED = 3  # samples of a damaged shard that are named one by one


@dataclass(frozen=True)
class Expected:
    """A shard to check."""

    found: Found
    shard: Shard
    fields: tuple[str, ...]
    limits: Mapping[str, Any] | None
    """What decoded samples have to be; None when none is decoded"""
    objects: tuple[Object | None, Object | None] | None
    """Tar and index in the object store; None when they are files here"""

    @property
    def name(self) -> str:
        """Where it lies, for people."""
        place = self.found.store.url.rstrip("/") if self.found.store else self.found.folder
        return f"{place}/{self.shard.name}"


@dataclass(frozen=True)
class Checked:
    """What came out of a shard, or of several."""

    shards: int = 0
    samples: int = 0
    bytes: int = 0
    tokens: int = 0
    """To predict, in the decoded samples"""
    labels: tuple[int, ...] = ()
    blake3: str = ""
    problems: tuple[str, ...] = ()

    def __add__(self, other: "Checked") -> "Checked":
        """The sums of what is counted."""
        names = ("shards", "samples", "bytes", "tokens")
        return Checked(**{name: getattr(self, name) + getattr(other, name) for name in names})


def check_shard(task: Expected, scratch: Path) -> Checked:
    """Re-read a shard; one in an object store is fetched to `scratch` first. Raises DataError when the store fails."""
    if task.objects is None:
        return _check(task, task.found.folder)
    problems = [*_misplaced(task)]
    if problems:
        return Checked(problems=tuple(problems))
    assert task.found.store, "objects are listed in a store alone"
    config, names = task.found.store, (task.shard.name, index_path(Path(task.shard.name)).name)
    store = open_store(config.url, endpoint=config.endpoint, region=config.region, stage="verify")
    try:
        for name, there in zip(names, task.objects, strict=True):
            assert there, "what is missing was reported"
            store.download(there, scratch / name)
        return _check(task, scratch)
    finally:
        for name in names:
            (scratch / name).unlink(missing_ok=True)


def _misplaced(task: Expected) -> Iterator[str]:
    """What is wrong by the store's listing alone."""
    assert task.objects
    tar, index = task.objects
    if tar is None:
        yield f"{task.name}: there is no such object"
    elif tar.size != task.shard.bytes:
        yield f"{task.name}: bytes is {tar.size}, the manifest says {task.shard.bytes}"
    if index is None:
        yield f"{task.name}.index.npy: there is no such object"


def _check(task: Expected, folder: Path) -> Checked:
    """The files of a shard in a folder."""
    shard, path, problems = task.shard, folder / task.shard.name, []
    length = path.stat().st_size if path.is_file() else None
    whole = file_blake3(path) if length else ""
    if length != shard.bytes:
        got = "no file" if length is None else length
        problems.append(f"{task.name}: bytes is {got}, the manifest says {shard.bytes}")
    elif whole != shard.blake3:
        problems.append(f"{task.name}: blake3 is {whole[:12]}, the manifest says {shard.blake3[:12]}")
    index = index_path(path)
    payload = index.read_bytes() if index.is_file() else None
    noted = "no file" if payload is None else blake3(payload).hexdigest()
    if payload is None or noted != shard.index_blake3:
        problems.append(f"{task.name}.index.npy: blake3 is {noted[:12]}, the manifest says {shard.index_blake3[:12]}")
    elif (count := len(np.load(io.BytesIO(payload), allow_pickle=False))) != shard.samples:
        problems.append(f"{task.name}: samples is {count}, the manifest says {shard.samples}")
    elif length == shard.bytes:
        return _check_samples(task, folder, whole, problems)
    return Checked(1, 0, length or 0, blake3=whole, problems=tuple(problems))


def _check_samples(task: Expected, folder: Path, whole: str, problems: list[str]) -> Checked:
    """Every sample by its checksum and, where asked for, by what it decodes to."""
    damaged, unfit, tokens, labels, keys = [], [], 0, [], set()
    reader = ShardReader(folder, [task.shard], task.fields)
    for row in range(len(reader)):
        try:
            sample = reader[row]
        except DamageError:  # sizes and index are right, so that its checksum is not
            damaged.append(f"{task.name}: sample {row} is not what was written, its checksum differs")
            continue
        keys.add(sample["__key__"])
        if task.limits is None:
            continue
        try:
            values = _decoded(sample, task.limits)
        except DamageError as error:
            unfit.append(f"{task.name}: sample {row} ({sample['__key__'].decode(errors='replace')}): {error}")
            continue
        tokens += len(values["tokens"]) - 1 if "tokens" in values else 0
        labels.append(values.get("label", -1))
    problems += [*_named(task, damaged), *_named(task, unfit)]
    if whole != task.shard.blake3 and not damaged:
        problems.append(f"{task.name}: its samples are whole, the bytes that differ stand after the last one")
    if repeated := len(reader) - len(damaged) - len(keys):
        problems.append(f"{task.name}: {repeated} of its samples have the key of another one")
    return Checked(1, len(reader), task.shard.bytes, tokens, tuple(labels), whole, tuple(problems))


def _named(task: Expected, problems: list[str]) -> list[str]:
    """The first few, and how many there are."""
    more = len(problems) - _NAMED
    return problems[:_NAMED] + ([f"{task.name}: and {more:,} more of its samples"] if more > 0 else [])


def _decoded(sample: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's values. Raises DamageError when they are not what a sample of this data set may hold."""
    values = decode(sample)
    if "vocabulary" in limits:
        _check_tokens(values.get("tokens"), limits)
    if "shape" in limits:
        image = values.get("image")
        if image is None or image.shape != limits["shape"] or image.dtype != np.uint8:
            got = "no image" if image is None else f"an image of {image.shape} {image.dtype}"
            raise DamageError(f"{got}, the manifest says {limits['shape']} uint8")
    if "label" in values and values["label"] >= limits["classes"]:
        raise DamageError(f"label {values['label']}, the manifest has {limits['classes']} classes")
    return values


def _check_tokens(tokens: Any, limits: Mapping[str, Any]) -> None:
    if tokens is None or tokens.dtype.kind != "u":
        raise DamageError("no tokens" if tokens is None else f"tokens of type {tokens.dtype}")
    if not 2 <= len(tokens) <= limits["block"]:
        raise DamageError(f"{len(tokens)} tokens, expected 2 to {limits['block']}")
    if (largest := int(tokens.max())) >= limits["vocabulary"]:
        raise DamageError(f"token {largest}, the vocabulary has {limits['vocabulary']}")
