"""A prepared data set opened for reading: its splits' readers, and the order in which training draws samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from configs.errors import DamageError, DataError
from configs.folder import RunFolder
from configs.schema import RunConfig
from data.manifest import MANIFEST, Manifest, Split, read_manifest
from data.order import Order, Shards, Stream
from data.remote import RemoteShards
from data.samples import decode_array
from data.shards import ShardReader


@dataclass(frozen=True)
class Dataset:
    """What the other stages read: splits are named train, validation and test, also where there are folds."""

    manifest: Manifest
    readers: dict[str, ShardReader]
    order: Order
    """Of the train split"""

    @property
    def document_end(self) -> int | None:
        """The token that ends documents, where samples say which document each token is of."""
        return self.manifest.text.end_of_document_id if self.manifest.document_ids else None


def open_dataset(run: RunConfig, folder: RunFolder) -> Dataset:
    """Check the manifest and open its shards, here or in the run's object store. Raises DamageError."""
    manifest = read_manifest(folder.manifest).view(run.data.splits)
    remote = RemoteShards(run.data.store) if run.data.store else None
    fields = manifest.fields
    readers = {name: ShardReader(folder.data, split.shards, fields, remote) for name, split in manifest.splits.items()}
    return Dataset(manifest, readers, order_of(run, folder, manifest))


def order_of(run: RunConfig, folder: RunFolder, manifest: Manifest) -> Order:
    """Epochs of the train split; its parts repeated or drawn by weight, or its classes drawn equally often.

    Raises DataError when a window has no room for two samples of each class.
    """
    train, window = manifest.splits["train"], run.data.shuffle_window_samples
    shards = Shards.of([shard.samples for shard in train.shards])
    if run.data.balance == "classes":
        streams = class_streams(read_labels(folder.data, train))
        if (least := 2 * len(streams)) > window:
            raise DataError(
                f"data.balance=classes draws {len(streams)} classes equally often, each of them less than twice in "
                f"data.shuffle_window_samples={window}; set it to {least} or more"
            )
        return Order(shards, seed=run.seed, window=window, streams=streams)
    parts = {source.part: _of_part(shards, train, source.part) for source in manifest.sources}
    parts = {name: each for name, each in parts.items() if each.samples}
    weights = {source.part: source.weight for source in manifest.sources}
    if any(weights.values()):
        streams = [Stream(each, weights[name] or 0.0) for name, each in parts.items()]
        return Order(shards, seed=run.seed, window=window, streams=streams)
    repeats = {source.part: source.repeat or 1 for source in manifest.sources}
    whole = Shards((), ())
    for name, each in parts.items():
        whole += each.times(repeats[name])
    return Order(whole, seed=run.seed, window=window)


def _of_part(shards: Shards, split: Split, part: str) -> Shards:
    mine = [place for place, shard in enumerate(split.shards) if shard.part == part]
    return Shards(tuple(shards.sizes[place] for place in mine), tuple(shards.starts[place] for place in mine))


def class_streams(labels: NDArray[np.int32]) -> Sequence[Stream]:
    """One stream per class that has samples, all of the same weight."""
    found = [np.flatnonzero(labels == label).astype(np.int64) for label in np.unique(labels)]
    return [Stream(Shards.of([len(ids)]), 1.0, ids) for ids in found]


def read_labels(folder: Path, split: Split) -> NDArray[np.int32]:
    """The class of each sample of a split. Raises DamageError when a file is not what was written."""
    arrays = [np.empty(0, np.int32)]
    for labels in split.labels:
        path = folder / labels.file
        payload = path.read_bytes() if path.is_file() else b""
        if blake3(payload).hexdigest() != labels.blake3:
            raise DamageError(
                f"{path} is not what was written: its blake3 differs; restore the file, or remove "
                f"{folder / MANIFEST} and prepare again"
            )
        arrays.append(decode_array(payload).astype(np.int32))
    return np.concatenate(arrays)
