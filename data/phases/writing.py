"""Phase write: shard k of a split, a pure function of what the pieces hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.stages import read_record
from data.manifest import Shard
from data.phases.encoding import packing_of
from data.phases.plan import Run, plan_of
from data.phases.work import Work
from data.samples import IMAGE_FIELDS, LABEL, encode_array, npy_header
from data.shards import ShardWriter, file_blake3, index_path
from data.vocabulary import id_type

TAGS = "tags.npy"
_CHUNK_TOKENS = 4 << 20  # tokens of a joined stream that are cut into blocks at a time


def fields_of(work: Work) -> tuple[str, ...]:
    """The fields of every sample."""
    labelled = bool(read_record(work.decision)["classes"])
    if work.run.data.kind == "images":
        return (IMAGE_FIELDS[work.images.images.storage], *([LABEL] if labelled else []))
    document = work.text.packing == "document"
    tagged = bool(read_record(work.decision)["tags"])
    return ("tokens.npy", *([LABEL] if labelled and document else []), *([TAGS] if tagged and document else []))


def forget_changed(work: Work, numbers: Iterable[int]) -> None:
    """Have shards made again that are not what an interrupted run wrote."""
    for number in numbers:
        if work.done("write", number):
            shard = Shard(**work.record("write", number)["shard"])
            path = work.folder.data / shard.name
            files = ((path, shard.blake3), (index_path(path), shard.index_blake3))
            if not all(file.is_file() and file_blake3(file) == digest for file, digest in files):
                work.file("write", number, "json").unlink()


def write_shard(work: Work, number: int) -> None:
    """Write one shard; its record holds its line in the manifest, the labels and the sums over pixels."""
    plan = plan_of(work.plan)
    which, place, begin, end = plan.shards[number]
    run, part = plan.runs[which], work.parts[plan.runs[which].part].name
    prefix = f"{run.split}-{part}" if part else run.split
    writer = ShardWriter(work.folder.data / f"{prefix}-{place:05d}.tar", fields_of(work), part)
    record: dict[str, Any] = {"split": run.split, "labels": [], "pixels": None, "bytes": 0}
    if work.run.data.kind == "images":
        from data.phases.writing_images import write_images

        write_images(work, run, writer, prefix, begin, end, record)
    elif packing_of(work, run.split) == "concatenate":
        _write_joined(work, run, writer, prefix, begin, end)
    else:
        _write_packed(work, run, writer, prefix, begin, end, record)
    shard: Shard = writer.close()
    work.finish("write", number, record | {"shard": shard.model_dump()})


def _write_joined(work: Work, run: Run, writer: ShardWriter, prefix: str, begin: int, end: int) -> None:
    """Blocks of the joined documents: one token of context, then `length` to predict; the very last may be shorter."""
    length, total = work.text.block_tokens, int(run.starts[-1])
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
    dtype = id_type(note["vocabulary_size"])
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
    dtype = id_type(note["vocabulary_size"])
    for piece, first, last in run.within(begin, end):
        base = f"{run.split}."
        lengths = np.load(work.file("encode", piece, base + "lengths.npy"), allow_pickle=False)
        labels = np.load(work.file("encode", piece, base + "labels.npy"), allow_pickle=False)
        tags = np.load(work.file("encode", piece, base + "tags.npy"), allow_pickle=False)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.memmap(work.file("encode", piece, base + "tokens"), dtype, mode="r")
        for place in range(first, last):
            block = flat[bounds[place] : bounds[place + 1]]
            fields = {"tokens.npy": npy_header(dtype, len(block)) + block.tobytes()}
            if LABEL in writer.fields:
                fields[LABEL] = b"%d" % labels[place]
                record["labels"].append(int(labels[place]))
            if TAGS in writer.fields:
                fields[TAGS] = encode_array(tags[bounds[place] : bounds[place + 1]])
            writer.write(f"{prefix}-{sample:09d}", fields)
            sample += 1
