"""Command: what a prepared data set holds, and any sample of it. Run as `trainworks inspect DATA`."""

import argparse
import io
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.errors import UserError
from configs.folder import write_atomic
from configs.process import command_main, die_with_parent
from data.card.display import one_line, size, visible
from data.card.pictures import draw, png
from data.found import Found, find
from data.manifest import Manifest, Shard, Split, read_manifest
from data.remote import RemoteShards
from data.samples import decode
from data.shards import ShardReader, index_path

_LISTED = 5  # samples that a summary names
_BLOCK = 512  # tar's unit: a header's size


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks inspect",
        description="Show what a prepared data set holds, or some of its samples: text is decoded, images are drawn.",
        epilog="exit codes: 0 done, 1 the data is damaged, 2 a mistake in what was asked",
    )
    top.add_argument("data", type=Path, metavar="DATA", help="a run folder, such as runs/NAME, or its data folder")
    top.add_argument("--split", metavar="NAME", help="train, validation, test or a fold (train, or the first fold)")
    top.add_argument("--sample", type=int, metavar="N", help="show sample N of the split in full, from 0")
    top.add_argument("--count", type=int, metavar="K", help=f"samples to show ({_LISTED}; with --sample 1)")
    top.add_argument("--save", type=Path, metavar="FILE.png", help="with --sample: write the image to a file")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the data is damaged, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("inspect", lambda: _inspect(arguments))


def _inspect(arguments: argparse.Namespace) -> int:
    if arguments.count is not None and arguments.count < 1:
        raise UserError(f"--count {arguments.count}: at least one sample can be shown")
    if arguments.save and (arguments.sample is None or arguments.save.suffix.lower() != ".png"):
        raise UserError(f"--save {arguments.save}: it needs --sample N, and a name that ends in .png")
    opened = open_split(find(arguments.data), arguments.split)
    if arguments.sample is None:
        lines = [*summary(opened), *listing(opened, arguments.count or _LISTED)]
        print("\n".join(lines))
        return 0
    _require(opened, arguments.sample)
    last = min(arguments.sample + (arguments.count or 1), len(opened.reader))
    for number in range(arguments.sample, last):
        print("\n".join(show(opened, number)))
    if arguments.save:
        write_atomic(arguments.save, png(_image(opened, arguments.sample)))
        print(f"written to {arguments.save}")
    return 0


@dataclass(frozen=True)
class Opened:
    """One split of a data set, open for reading."""

    found: Found
    manifest: Manifest
    name: str
    reader: ShardReader
    remote: RemoteShards | None

    @property
    def split(self) -> Split:
        return self.manifest.splits[self.name]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.found.folder / self.manifest.text.file))


def open_split(found: Found, name: str | None) -> Opened:
    """Raises UserError when there is no such split or its shards are elsewhere, DamageError when they are damaged."""
    manifest = read_manifest(found.manifest)
    names = list(manifest.splits)
    if name is None:
        name = next((each for each in names if each == "train" or each.startswith("fold-")), names[0])
    if name not in names:
        raise UserError(f"--split {name}: {found.folder} has {', '.join(names)}")
    if found.lacks([shard for split in manifest.splits.values() for shard in split.shards]):
        raise UserError(found.elsewhere)
    remote = RemoteShards(found.store) if found.store else None
    reader = ShardReader(found.folder, manifest.splits[name].shards, manifest.fields, remote)
    return Opened(found, manifest, name, reader, remote)


def _require(opened: Opened, number: int) -> None:
    if not 0 <= number < len(opened.reader):
        raise UserError(f"--sample {number}: {opened.name} has samples 0 to {len(opened.reader) - 1}")


# --- the summary ---


def summary(opened: Opened) -> Iterator[str]:
    """The data set in a few lines."""
    manifest, places = opened.manifest, opened.found
    yield _fact(
        "data",
        f"{manifest.kind} in {places.folder}"
        + (f", shards in {places.store.url}" * bool(places.store) if places.store else ""),
    )
    yield _fact("digest", manifest.digest)
    yield _fact("config", manifest.config)
    noun = "documents" if manifest.kind == "text" else "images"
    for source in manifest.sources:
        count = f"{source.documents:,} {noun} in {source.files:,} files, {size(source.bytes)}"
        yield _fact("source", f"{visible(source.description)}: {count}")
    if manifest.tokenizer:
        record = manifest.tokenizer
        end = f"{visible(record.end_of_document)} = {record.end_of_document_id} ends a document"
        yield _fact("tokenizer", f"{record.vocabulary_size:,} tokens, {end}; blocks of {manifest.block_tokens}")
    if manifest.images:
        record = manifest.images
        yield _fact("images", f"{record.height} x {record.width} pixels, {record.channels} channels")
        yield _fact("", f"mean {_decimals(record.mean)}, std {_decimals(record.std)} (train, on 0..1)")
    yield _fact("fields", ", ".join(manifest.fields))
    if manifest.classes:
        yield _fact("classes", one_line(", ".join(manifest.classes), 300) + f" ({len(manifest.classes)})")
    left_out = ", ".join(f"{visible(reason)} {count:,}" for reason, count in manifest.dropped.items())
    yield _fact("left out", left_out or "nothing")
    for name, split in manifest.splits.items():
        yield _fact(
            name, f"{split.documents:,} {noun}, {split.samples:,} samples{_tokens(split)}; {_shards(split.shards)}"
        )


def _fact(name: str, value: str) -> str:
    return f"{name:12}{value}"


def _decimals(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _tokens(split: Split) -> str:
    return f", {split.tokens:,} tokens" if split.tokens else ""


def _shards(shards: Sequence[Shard]) -> str:
    total = size(sum(shard.bytes for shard in shards))
    if len(shards) == 1:
        return f"{shards[0].name}, {total}"
    return f"{len(shards)} shards, {total}: {shards[0].name} to {shards[-1].name}"


def listing(opened: Opened, count: int) -> Iterator[str]:
    """The first samples of a split, a line each."""
    yield ""
    yield f"first samples of {opened.name}, of {len(opened.reader):,}"
    for number in range(min(count, len(opened.reader))):
        sample = opened.reader[number]
        values = decode(sample)
        yield f"{number:6}  {_key(sample)}  {_brief(opened, values)}"


def _brief(opened: Opened, values: Mapping[str, Any]) -> str:
    label = f"{_class_name(opened.manifest, values['label'])}  " if "label" in values else ""
    if "tokens" in values:
        text = opened.tokenizer.decode(values["tokens"].tolist(), skip_special_tokens=False)
        return f"{label}{len(values['tokens'])} tokens  {one_line(text, 60)}"
    return f"{label}{_shape(values['image'])}  mean {values['image'].mean():.1f}"


def _key(sample: Mapping[str, Any]) -> str:
    return visible(bytes(sample["__key__"]).decode(errors="backslashreplace"))


def _shape(pixels: NDArray[np.uint8]) -> str:
    height, width, channels = pixels.shape
    return f"{height} x {width} pixels, {channels} {'channel' if channels == 1 else 'channels'}"


def _class_name(manifest: Manifest, label: int) -> str:
    return visible(manifest.classes[label]) if label < len(manifest.classes) else f"label {label}, which is no class"


# --- one sample ---


def show(opened: Opened, number: int) -> Iterator[str]:
    """A sample in full: where it lies, its label, and its tokens and text, or its picture."""
    sample = opened.reader[number]
    values = decode(sample)
    shard, row = locate(opened.split.shards, number)
    yield _fact("sample", f"{number} of {opened.name} (0 to {len(opened.reader) - 1})")
    yield _fact("key", _key(sample))
    yield _fact("shard", f"{shard.name}, sample {row} in it, at byte {offset_of(opened, shard, row):,}")
    sizes = ", ".join(f"{name} {size(len(sample[name]))}" for name in opened.manifest.fields)
    yield _fact("fields", sizes)
    if "label" in values:
        yield _fact("class", f"{_class_name(opened.manifest, values['label'])} ({values['label']})")
    yield from _show_text(opened, values["tokens"]) if "tokens" in values else _show_image(values["image"])


def locate(shards: Sequence[Shard], number: int) -> tuple[Shard, int]:
    """The shard of a split's sample, and its place there."""
    for shard in shards:
        if number < shard.samples:
            return shard, number
        number -= shard.samples
    raise IndexError(number)


def offset_of(opened: Opened, shard: Shard, row: int) -> int:
    """Where a sample's first header stands in its tar; the reader has checked the index."""
    path = index_path(opened.found.folder / shard.name)
    payload = opened.remote.get(path.name) if opened.remote else path.read_bytes()
    return int(np.load(io.BytesIO(payload), allow_pickle=False)[row, 0, 0]) - _BLOCK


def _show_text(opened: Opened, tokens: NDArray[Any]) -> Iterator[str]:
    ids, end = tokens.tolist(), opened.manifest.text.end_of_document_id
    yield _fact("tokens", f"{len(ids)}: the first is context, {len(ids) - 1} are to be predicted")
    yield textwrap.fill(" ".join(map(str, ids)), _columns(), initial_indent="  ", subsequent_indent="  ")
    yield _fact("text", "")
    begin = 0
    for place in [place for place, token in enumerate(ids) if token == end]:
        if place > begin:
            yield visible(opened.tokenizer.decode(ids[begin:place], skip_special_tokens=False))
        yield f"── {visible(opened.manifest.text.end_of_document)} " + "─" * 20
        begin = place + 1
    if begin < len(ids):
        yield visible(opened.tokenizer.decode(ids[begin:], skip_special_tokens=False))


def _show_image(pixels: NDArray[np.uint8]) -> Iterator[str]:
    means = " ".join(f"{mean:.1f}" for mean in pixels.mean(axis=(0, 1)))
    yield _fact("image", f"{_shape(pixels)}, mean {means} of 255")
    yield from draw(pixels, columns=min(_columns(), 80), colour=sys.stdout.isatty())


def _columns() -> int:
    return max(20, shutil.get_terminal_size((100, 24)).columns)


def _image(opened: Opened, number: int) -> NDArray[np.uint8]:
    values = decode(opened.reader[number])
    if "image" not in values:
        raise UserError(f"--save: the samples of {opened.found.folder} are {opened.manifest.kind}, no images")
    return values["image"]


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
