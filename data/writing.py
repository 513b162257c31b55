"""Phase write: shard k of a split, a pure function of what the pieces hold."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.folder import write_atomic, write_json
from configs.stages import read_record
from data.decide import placements_of
from data.encoding import packing_of
from data.images import ChannelSums, altered, decode_stored, encode, plan_copies
from data.manifest import PixelSums, Shard
from data.samples import IMAGE_FIELDS, LABEL, encode_array, npy_header
from data.shards import ShardWriter
from data.work import Work

_CHUNK_TOKENS = 4 << 20  # tokens of a joined stream that are cut into blocks at a time


@dataclass(frozen=True)
class Run:
    """The samples of one split from one source: which pieces have some, and how many (of a joined stream: tokens)."""

    split: str
    part: int
    pieces: tuple[int, ...]
    counts: tuple[int, ...]
    samples: int
    copies: int = 0

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each piece's samples or tokens begin, and where the last one's end."""
        return np.cumsum([0, *self.counts])

    def within(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(piece, first, last) of the stretches that make up [begin, end)."""
        first = max(0, int(np.searchsorted(self.starts, begin, side="right")) - 1)
        for place in range(first, len(self.pieces)):
            start, stop = int(self.starts[place]), int(self.starts[place + 1])
            if start >= end:
                return
            if max(start, begin) < min(stop, end):
                yield self.pieces[place], max(start, begin) - start, min(stop, end) - start


@dataclass(frozen=True)
class Plan:
    """Every shard of the data set, in order."""

    runs: tuple[Run, ...]
    shards: tuple[tuple[int, int, int, int], ...]
    """(run, number in the run, first sample, end)"""


def make_plan(work: Work, splits: Sequence[str]) -> None:
    """Count what each piece gives to each split, and cut it into shards."""
    text = work.run.data.kind == "text"
    given = _given_tokens(work) if text else _given_images(work)
    runs = []
    for split in splits:
        for part in range(len(work.parts)):
            found = {n: count for (n, where), count in given.items() if where == split and work.pieces[n][0] == part}
            total = sum(found.values())
            joined = text and packing_of(work, split) == "concatenate"
            samples = -(-total // work.run.data.block_tokens) if joined else total
            if samples:
                runs.append(Run(split, part, tuple(found), tuple(found.values()), samples))
    runs = [] if not runs else _with_copies(work, runs)
    size = work.run.data.shard_samples
    shards = [
        (number, place, begin, min(begin + size, run.samples + run.copies))
        for number, run in enumerate(runs)
        for place, begin in enumerate(range(0, run.samples + run.copies, size))
    ]
    plain = [{name: getattr(run, name) for name in Run.__dataclass_fields__} for run in runs]
    write_json(work.plan, {"runs": plain, "shards": shards})


def _given_tokens(work: Work) -> dict[tuple[int, str], int]:
    given = {}
    for number in range(len(work.pieces)):
        for split, record in work.record("encode", number)["splits"].items():
            given[number, split] = record.get("samples", record["tokens"])
    return given


def _given_images(work: Work) -> dict[tuple[int, str], int]:
    counts: dict[tuple[int, str], int] = {}
    for number in range(len(work.pieces)):
        for split, count in Counter(placements_of(work.placements, number)["split"].to_pylist()).items():
            if split is not None:
                counts[number, split] = count
    return counts


def _with_copies(work: Work, runs: list[Run]) -> list[Run]:
    """The train split's last run with altered copies of rare classes after its samples; which ones, in copies.npy."""
    rare = work.run.data.images.rare_classes if work.run.data.kind == "images" else None
    if rare is None:
        return runs
    train = max(number for number, run in enumerate(runs) if run.split == "train")
    rows: dict[str, list[tuple[int, int]]] = {}
    for run in (run for run in runs if run.split == "train"):
        for piece in run.pieces:
            table = images_of(work, piece, "train")
            for row, label in zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True):
                rows.setdefault(label, []).append((piece, row))
    wanted = plan_copies({name: len(found) for name, found in rows.items()}, rare)
    copies = [
        (*rows[name][copy % len(rows[name])], copy // len(rows[name]))
        for name in sorted(wanted)
        for copy in range(wanted[name])
    ]
    write_atomic(work.copies, encode_array(np.asarray(copies, np.int64).reshape(-1)))
    last = runs[train]
    runs[train] = Run(last.split, last.part, last.pieces, last.counts, last.samples, len(copies))
    return runs


@lru_cache(maxsize=1)
def plan_of(path: Path) -> Plan:
    record = read_record(path)
    runs = [each | {name: tuple(each[name]) for name in ("pieces", "counts")} for each in record["runs"]]
    return Plan(tuple(Run(**run) for run in runs), tuple(tuple(shard) for shard in record["shards"]))


def fields_of(work: Work) -> tuple[str, ...]:
    """The fields of every sample."""
    labelled = bool(read_record(work.decision)["classes"])
    if work.run.data.kind == "images":
        return (IMAGE_FIELDS[work.run.data.images.storage], *([LABEL] if labelled else []))
    return ("tokens.npy", *([LABEL] if labelled and work.run.data.packing == "document" else []))


def write_shard(work: Work, number: int) -> None:
    """Write one shard; its record holds its line in the manifest, the labels and the sums over pixels."""
    plan = plan_of(work.plan)
    which, place, begin, end = plan.shards[number]
    run, part = plan.runs[which], work.parts[plan.runs[which].part].name
    prefix = f"{run.split}-{part}" if part else run.split
    writer = ShardWriter(work.folder.data / f"{prefix}-{place:05d}.tar", fields_of(work), part)
    record: dict[str, Any] = {"split": run.split, "labels": [], "pixels": None, "bytes": 0}
    if work.run.data.kind == "images":
        _write_images(work, run, writer, prefix, begin, end, record)
    elif packing_of(work, run.split) == "concatenate":
        _write_joined(work, run, writer, prefix, begin, end)
    else:
        _write_packed(work, run, writer, prefix, begin, end, record)
    shard: Shard = writer.close()
    work.finish("write", number, record | {"shard": shard.model_dump()})


def _write_joined(work: Work, run: Run, writer: ShardWriter, prefix: str, begin: int, end: int) -> None:
    """Blocks of the joined documents: one token of context, then `length` to predict; the very last may be shorter."""
    length, total = work.run.data.block_tokens, int(run.starts[-1])
    step = max(1, _CHUNK_TOKENS // length)
    for first in range(begin, end, step):
        last = min(first + step, end)
        stream = _tokens(work, run, first * length - 1, min(last * length, total))
        whole = (len(stream) - 1) // length
        if whole:
            blocks = np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]
            writer.write_blocks(prefix, first, np.ascontiguousarray(blocks))
        if len(stream) - 1 > whole * length:
            writer.write(f"{prefix}-{first + whole:09d}", {"tokens.npy": encode_array(stream[whole * length :])})


def _tokens(work: Work, run: Run, begin: int, end: int) -> NDArray[Any]:
    """Ids [begin, end) of the joined stream; before its first stands the end-of-document token."""
    note = read_record(work.tokenizer)
    dtype = np.dtype("<u2" if note["vocabulary_size"] <= 2**16 else "<u4")
    head = [np.array([note["end_id"]], dtype)] if begin < 0 else []

    def name(piece: int) -> Path:
        return work.file("encode", piece, f"{run.split}.tokens")

    stretches = [
        np.fromfile(name(piece), dtype, last - first, offset=first * dtype.itemsize)
        for piece, first, last in run.within(max(0, begin), end)
    ]
    return np.concatenate([*head, *stretches])


def _write_packed(
    work: Work, run: Run, writer: ShardWriter, prefix: str, begin: int, end: int, record: dict[str, Any]
) -> None:
    """Blocks that were packed within their piece, with their labels."""
    note, sample = read_record(work.tokenizer), begin
    dtype = np.dtype("<u2" if note["vocabulary_size"] <= 2**16 else "<u4")
    for piece, first, last in run.within(begin, end):
        base = f"{run.split}."
        lengths = np.load(work.file("encode", piece, base + "lengths.npy"), allow_pickle=False)
        labels = np.load(work.file("encode", piece, base + "labels.npy"), allow_pickle=False)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.memmap(work.file("encode", piece, base + "tokens"), dtype, mode="r")
        for place in range(first, last):
            block = flat[bounds[place] : bounds[place + 1]]
            fields = {"tokens.npy": npy_header(dtype, len(block)) + block.tobytes()}
            if LABEL in writer.fields:
                fields[LABEL] = b"%d" % labels[place]
                record["labels"].append(int(labels[place]))
            writer.write(f"{prefix}-{sample:09d}", fields)
            sample += 1


def images_of(work: Work, piece: int, split: str) -> pa.Table:
    """A split's images in a piece, mapped rather than read."""
    placements = placements_of(work.placements, piece)
    mask = pa.compute.fill_null(pa.compute.equal(placements["split"], split), False)
    with pa.memory_map(str(work.file("read", piece, "arrow"))) as source:
        return pa.ipc.open_file(source).read_all().filter(mask)


def _write_images(
    work: Work, run: Run, writer: ShardWriter, prefix: str, begin: int, end: int, record: dict[str, Any]
) -> None:
    classes = {name: place for place, name in enumerate(read_record(work.decision)["classes"])}
    pixels: PixelSums | None = None
    for sample, (payload, label, sums) in enumerate(_images(work, run, begin, end), start=begin):
        fields = {writer.fields[0]: payload}
        if label is not None:
            fields[LABEL] = b"%d" % classes[label]
            record["labels"].append(classes[label])
        writer.write(f"{prefix}-{sample:09d}", fields)
        record["bytes"] += len(payload)
        pixels = sums if pixels is None else pixels + sums
    record["pixels"] = pixels.model_dump() if pixels else None


def _images(work: Work, run: Run, begin: int, end: int) -> Iterator[tuple[bytes, str | None, PixelSums]]:
    """(stored bytes, label, sums) of samples [begin, end) of a run, the altered copies at its end."""
    for piece, first, last in run.within(begin, min(end, run.samples)):
        for row in images_of(work, piece, run.split).slice(first, last - first).to_pylist():
            sums = PixelSums(count=row["pixels"], sums=row["sums"], square_sums=row["square_sums"])
            yield row["content"], row["label"], sums
    config = work.run.data.images
    if config.rare_classes is None or end <= run.samples:
        return
    copies = np.load(work.copies, allow_pickle=False).reshape(-1, 3)[max(0, begin - run.samples) : end - run.samples]
    for piece, row, copy in copies.tolist():
        table = images_of(work, piece, run.split)
        place = int(np.searchsorted(table["row"].to_numpy(), row))
        original = decode_stored(table["content"][place].as_py(), IMAGE_FIELDS[config.storage])
        pixels = altered(original, config.rare_classes, (work.run.data.splits.seed, piece, row, copy))
        sums = ChannelSums.of(pixels)
        made = PixelSums(count=sums.count, sums=tuple(sums.sums), square_sums=tuple(sums.square_sums))
        yield encode(pixels, config), table["label"][place].as_py(), made
