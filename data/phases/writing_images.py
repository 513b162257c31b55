"""Phase write for images: their stored bytes as they are, and copies of rare classes altered on the way."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.stages import read_record
from data.augment import altered
from data.images import decode_stored, encode, pixel_sums
from data.manifest import PixelSums
from data.phases.copies import images_of
from data.phases.plan import Run
from data.phases.work import Work
from data.samples import IMAGE_FIELDS, LABEL
from data.shards import ShardWriter


def write_images(
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
    config = work.images.images
    if config.rare_classes is None or end <= run.samples:
        return
    copies = np.load(work.copies, allow_pickle=False).reshape(-1, 3)[max(0, begin - run.samples) : end - run.samples]
    piece_at_hand, table = -1, None
    for piece, row, copy in copies.tolist():
        if table is None or piece != piece_at_hand:
            piece_at_hand, table = piece, images_of(work, piece, run.split)
        place = int(np.searchsorted(table["row"].to_numpy(), row))
        original = decode_stored(table["content"][place].as_py(), IMAGE_FIELDS[config.storage])
        pixels = altered(original, config.rare_classes, (work.run.data.splits.seed, piece, row, copy))
        yield encode(pixels, config), table["label"][place].as_py(), pixel_sums(pixels)
