"""Phase read: a piece's records, cleaned, spilled with the facts by which the global view decides."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from configs.dataset import ImageData, TextData
from configs.errors import DataError
from configs.folder import sync
from data.phases.work import Work
from data.records import Drop, Record
from data.splits import place
from data.view.decide import FACTS, placements_of
from data.view.duplicates import Signer, content_key

EXAMPLES = 10
"""Examples of each reason that the data card shows"""
CORRUPT = "corrupt: "
"""What the reasons of images that cannot be decoded begin with"""
_FLUSH_BYTES = 4 << 20
_FLUSH_ROWS = 4096
_TAG = pa.struct([("begin", pa.int32()), ("end", pa.int32()), ("name", pa.string())])
_TEXT = pa.schema(
    [("row", pa.int32()), ("content", pa.large_string()), ("label", pa.string()), ("tags", pa.list_(_TAG))]
)
_IMAGE = pa.schema(
    [
        ("row", pa.int32()),
        ("content", pa.large_binary()),
        ("label", pa.string()),
        ("pixels", pa.int64()),
        ("sums", pa.list_(pa.int64())),
        ("square_sums", pa.list_(pa.int64())),
    ]
)


def read_piece(work: Work, number: int) -> None:
    """Read, clean and spill one piece: NUMBER.arrow, facts, and the counts of what was dropped."""
    part, piece = work.pieces[number]
    digest, drops, names = blake3(), Drops(), set[str]()
    records = work.sources[part].read(piece, digest)
    text = work.run.data.kind == "text"
    cleaned = clean_text(work.text, records) if text else clean_images(work.images, records)
    schema = _TEXT if text else _IMAGE
    spill = Spill(work.file("read", number, "arrow"), work.file("read", number, "facts.parquet"), schema)
    with spill:
        for row, item in enumerate(cleaned):
            if isinstance(item, Drop):
                drops.add(item)
            else:
                spill.add(*item, row=row)
                names.update(tag["name"] for tag in item[0].get("tags", ()))
    record = {"digest": digest.hexdigest(), "documents": spill.rows + sum(drops.counts.values()), "tags": sorted(names)}
    work.finish("read", number, record | drops.record())


def facts_of(work: Work) -> list[Path]:
    return [work.file("read", number, "facts.parquet") for number in range(len(work.pieces))]


def placement_examples(work: Work, reasons: set[str]) -> dict[str, list[dict[str, str]]]:
    """The first documents that the global view dropped for each reason, and what they repeat."""
    drops, wanted = Drops(), set(reasons)
    for number in range(len(work.pieces)) if wanted else ():
        table = placements_of(work.placements, number).select(["row", "reason", "of_piece", "of_row"]).to_pylist()
        if not (found := [each for each in table if each["reason"] in wanted]):
            continue
        texts = _texts(work, number, {each["row"] for each in found[: EXAMPLES * len(reasons)]})
        for each in found:
            origin = f"{work.pieces[number][1].origin}, record {each['row']}"
            where = f"as {work.pieces[each['of_piece']][1].origin}, record {each['of_row']}: "
            drops.add(Drop(each["reason"], origin, where + texts.get(each["row"], "")))
        wanted = {reason for reason in wanted if len(drops.examples[reason]) < EXAMPLES}
    return dict(drops.examples)


def _texts(work: Work, number: int, rows: set[int]) -> dict[int, str]:
    from data.cleaning.filters import excerpt

    found = {}
    for batch in batches_of(work.file("read", number, "arrow")):
        for at, row in enumerate(batch["row"].to_pylist()):
            if row in rows:
                content = batch["content"][at].as_py()
                found[row] = excerpt(content) if isinstance(content, str) else f"{len(content)} bytes"
    return found


@dataclass
class Drops:
    """What was left out: counts by reason, and the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, drop: Drop) -> None:
        self.counts[drop.reason] += 1
        if len(self.examples[drop.reason]) < EXAMPLES:
            self.examples[drop.reason].append({"origin": drop.origin, "excerpt": drop.excerpt})

    def merge(self, record: dict[str, Any]) -> None:
        """Add what `record` of another one says."""
        self.counts.update(record["dropped"])
        for reason, examples in record["examples"].items():
            self.examples[reason] += examples[: EXAMPLES - len(self.examples[reason])]

    def record(self) -> dict[str, Any]:
        return {"dropped": dict(self.counts), "examples": dict(self.examples)}


Cleaned = tuple[dict[str, Any], dict[str, Any]]


def clean_text(config: TextData, records: Iterator[Record | Drop]) -> Iterator[Cleaned | Drop]:
    """Each document's spill and facts, or why it was dropped."""
    from data.cleaning.filters import excerpt, unfit
    from data.cleaning.places import place_tags
    from data.cleaning.text import clean

    signer = Signer(config.text.near_duplicates) if config.text.near_duplicates else None
    for record in records:
        if isinstance(record, Drop):
            yield record
            continue
        assert isinstance(record.content, str)
        text = clean(record.content, config.text)
        if reason := unfit(text, config.text.filter):
            yield Drop(reason, record.origin, excerpt(text or record.content))
            continue
        encoded = text.encode()
        bands, signature = signer.sign(text) if signer else (None, None)
        facts = {"bytes": len(encoded), "words": len(text.split()), "bands": bands, "signature": signature}
        tags = [asdict(tag) for tag in place_tags(record.content, record.tags, config.text)]
        yield {"content": text, "label": record.label, "tags": tags}, facts | _identity(config, encoded, record)


def clean_images(config: ImageData, records: Iterator[Record | Drop]) -> Iterator[Cleaned | Drop]:
    """Each image at its final size and encoding with its facts; one that cannot be decoded is dropped."""
    from data.images import CorruptImage, decode, encode, fit, perceptual_key, pixel_sums

    for record in records:
        if isinstance(record, Drop):
            yield record
            continue
        assert isinstance(record.content, bytes)
        try:
            pixels = fit(decode(record.content, config.images), config.images)
        except CorruptImage as error:
            yield Drop(CORRUPT + error.reason, record.origin, f"{len(record.content)} bytes")
            continue
        sums, payload = pixel_sums(pixels), encode(pixels, config.images)
        spilled = {"content": payload, "label": record.label, "pixels": sums.count}
        spilled |= {"sums": list(sums.sums), "square_sums": list(sums.square_sums)}
        looks = perceptual_key(pixels)
        facts = {"bytes": len(payload), "words": 0, "bands": [content_key(looks)[0]], "signature": None}
        content = looks if config.images.near_duplicates == "drop" else np.ascontiguousarray(pixels).tobytes()
        yield spilled, facts | _identity(config, content, record, looks)


def _identity(
    config: TextData | ImageData, content: bytes, record: Record, looks: bytes | None = None
) -> dict[str, Any]:
    """What tells the sample from others, and the place that decides its split: from its group, its looks or itself."""
    if record.label == "":
        raise DataError(f"{record.origin}: its label is empty; every sample needs a class")
    group = None if record.group is None else record.group.encode()
    high, low = content_key(content)
    group_high, group_low = (None, None) if group is None else content_key(group)
    drawn = place((looks or content) if group is None else group, config.splits.seed)
    where = {"key_high": high, "key_low": low, "place": drawn, "label": record.label}
    return where | {"group_high": group_high, "group_low": group_low}


class Spill:
    """What is kept of a piece and its facts, written in batches so that a piece of any size fits in memory."""

    def __init__(self, content: Path, facts: Path, schema: pa.Schema) -> None:
        self.paths = (content, facts)
        self._parts = tuple(path.with_name(path.name + ".part") for path in self.paths)
        self._schema = schema
        self._contents: list[dict[str, Any]] = []
        self._facts: list[dict[str, Any]] = []
        self._bytes = self.rows = 0

    def __enter__(self) -> "Spill":
        self._ipc = pa.ipc.new_file(str(self._parts[0]), self._schema)
        self._parquet = pq.ParquetWriter(str(self._parts[1]), FACTS)
        return self

    def add(self, content: dict[str, Any], facts: dict[str, Any], *, row: int) -> None:
        self._contents.append(content | {"row": row})
        self._facts.append(facts | {"row": row})
        self._bytes += facts["bytes"]
        self.rows += 1
        if self._bytes >= _FLUSH_BYTES or len(self._contents) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._ipc.write_batch(pa.RecordBatch.from_pylist(self._contents, self._schema))
        self._parquet.write_batch(pa.RecordBatch.from_pylist(self._facts, FACTS))
        self._contents, self._facts, self._bytes = [], [], 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._flush()
        self._ipc.close()
        self._parquet.close()
        if kind is None:
            for part, path in zip(self._parts, self.paths, strict=True):
                sync(part)
                os.replace(part, path)


def batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    """A spilled piece's batches, mapped rather than read."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
