"""Sections of the data card that text alone, labelled data alone or images alone have."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from configs.folder import RunFolder
from data.card import plots
from data.card.display import one_line, percent, visible
from data.card.pictures import png
from data.dataset import read_labels
from data.manifest import Manifest
from data.samples import decode
from data.shards import ShardReader
from data.splits import trains

Record = dict[str, Any]

_CLASSES = 200  # rows of the table at most
_IMAGES, _OF_A_CLASS = 60, 5  # shown at most
_IMAGE_SIDE = 72  # pixels: 60 of the worst to compress are below 1.3 MB


class Cell(NamedTuple):
    """A number with a bar below it."""

    text: str
    share: str
    """Of the cell's width, in percent"""


@dataclass(frozen=True)
class Table:
    """What one table shows."""

    caption: str
    head: Sequence[str]
    """Each column's name, the row names' column first"""
    rows: Sequence[tuple[str, Sequence[str | Cell]]]
    note: str = ""


def learnt(manifest: Manifest) -> str:
    """The split, or the first of the folds, that models learn from."""
    return next((name for name in manifest.splits if trains(name)), "test")


# --- text ---


def text_content(manifest: Manifest, statistics: Record) -> Record:
    """Lengths, token frequencies and the tokenizer."""
    lengths = {name: counts for name, counts in statistics.get("length_histogram", {}).items() if any(counts)}
    lengths = {name: lengths[name] for name in manifest.splits if name in lengths}
    drawn = [plots.histogram(name, each, x_label="tokens", y_label="documents") for name, each in lengths.items()]
    used = [place for place in range(64) if any(place < len(each) and each[place] for each in lengths.values())]
    rows = [(plots.bin_name(place), [f"{each[place]:,}" for each in lengths.values()]) for place in used]
    points = [(int(rank), int(count)) for rank, count in statistics.get("zipf", [])]
    return {
        "lengths": drawn,
        "length_table": Table("Documents by their length in tokens.", ["tokens", *lengths], rows),
        "tokenizer": tokenizer_facts(manifest, statistics),
        "zipf": plots.rank_frequency("Token frequencies in what models learn from", points) if points else None,
        "top_tokens": _top_tokens(manifest, statistics),
    }


def _top_tokens(manifest: Manifest, statistics: Record) -> Table:
    total = sum(split.tokens for name, split in manifest.splits.items() if trains(name))
    rows = [
        (visible(token) or "(empty)", [f"{count:,}", percent(count, total)])
        for token, count in statistics.get("top_tokens", [])
    ]
    caption = "As the vocabulary spells them: in a byte-level one Ġ is a space and Ċ the end of a line."
    return Table(caption, ["token", "times", "share"], rows)


def tokenizer_facts(manifest: Manifest, statistics: Record) -> list[tuple[str, str]]:
    """The vocabulary and how it fits the text."""
    record, splits = manifest.text, manifest.splits.values()
    tokens, unknown = sum(split.tokens for split in splits), sum(split.unknown_tokens for split in splits)
    used = statistics.get("tokens_used", 0)
    special = ", ".join(f"{visible(name)} {number}" for name, number in record.special.items())
    pairs = [
        ("Vocabulary", f"{record.vocabulary_size:,} tokens"),
        ("Used in training", f"{used:,} ({percent(used, record.vocabulary_size)})"),
        ("Unknown", f"{unknown:,} of {tokens:,} tokens ({percent(unknown, tokens)})"),
        ("End of document", f"{visible(record.end_of_document)}, id {record.end_of_document_id}"),
        ("Special tokens", special or "none but the end of document"),
        ("Samples", f"up to {manifest.block_tokens:,} tokens to predict and one of context"),
    ]
    if manifest.document_ids:
        pairs.append(("Document ids", "samples say which document each token is of"))
    return pairs


# --- classes and images ---


def labelled(manifest: Manifest) -> bool:
    """Whether samples have classes: documents that are joined to blocks lose theirs."""
    return any(split.classes for split in manifest.splits.values())


def class_table(manifest: Manifest, statistics: Record) -> Table:
    """Samples of each class in each split, with bars, the largest class first."""
    names = [name for name, split in manifest.splits.items() if split.classes]
    counts = {each: [manifest.splits[name].classes.get(each, 0) for name in names] for each in manifest.classes}
    order = sorted(counts, key=lambda each: (-sum(counts[each]), each))
    largest = [max(1, *(row[place] for row in counts.values())) for place in range(len(names))]
    weights: Mapping[str, float] = statistics.get("class_weights", {})
    rows: list[tuple[str, list[str | Cell]]] = []
    for name in order[:_CLASSES]:
        cells: list[str | Cell] = [_cell(count, most) for count, most in zip(counts[name], largest, strict=True)]
        rows.append((one_line(name, 100), [*cells, *([f"{weights[name]:.3f}"] if name in weights else [])]))
    rest = order[_CLASSES:]
    note = f"The {len(rest):,} other classes have at most {sum(counts[rest[0]]):,} samples each." if rest else ""
    caption = "Samples of each class, altered copies among them; bars compare classes within a split."
    if weights:
        note = f"{note} A weight is what makes every class count alike: its inverse share of the train split.".strip()
    return Table(caption, ["class", *names, *(["weight"] if weights else [])], rows, note)


def _cell(count: int, most: int) -> Cell:
    return Cell(f"{count:,}", f"{100 * count / most:.1f}")


def image_content(folder: RunFolder, manifest: Manifest) -> Record:
    """Channel statistics, and images of each class."""
    record, name = manifest.images, learnt(manifest)
    assert record
    names = ("red", "green", "blue") if record.channels == 3 else ("grey",)
    rows = [(each, [f"{record.mean[c]:.4f}", f"{record.std[c]:.4f}"]) for c, each in enumerate(names)]
    images = list(_images(folder, manifest, name))
    caption = "Mean and standard deviation of all pixels that models learn from, on the scale 0 to 1."
    note = f"{len(images):,} of {manifest.splits[name].samples:,} samples of {name}, spaced evenly in each class"
    smaller = f", made smaller to {_IMAGE_SIDE} pixels" if max(record.height, record.width) > _IMAGE_SIDE else ""
    return {
        "channels": Table(caption, ["channel", "mean", "std"], rows),
        "images": images,
        "image_note": f"{note}{smaller}.",
    }


def _images(folder: RunFolder, manifest: Manifest, name: str) -> Iterator[Record]:
    split = manifest.splits[name]
    reader = ShardReader(folder.data, split.shards, manifest.fields)
    for number, label in chosen(read_labels(folder.data, split).tolist(), split.samples):
        pixels = decode(reader[number])["image"]
        yield {
            "base64": base64.b64encode(png(pixels, most=_IMAGE_SIDE)).decode(),
            "name": f"image {number}" if label is None else one_line(manifest.classes[label], 60),
            "small": max(pixels.shape) < _IMAGE_SIDE,
        }


def chosen(labels: Sequence[int], samples: int) -> list[tuple[int, int | None]]:
    """Samples to show and their classes: evenly spaced ones of each class, or of all where there are none."""
    if not labels:
        return [(place, None) for place in _spaced(samples, _IMAGES // 2)]
    classes, array = sorted(set(labels))[:_IMAGES], np.asarray(labels)
    each = max(1, min(_OF_A_CLASS, _IMAGES // len(classes)))
    found = ((np.flatnonzero(array == label).tolist(), label) for label in classes)
    return [(places[place], label) for places, label in found for place in _spaced(len(places), each)]


def _spaced(count: int, most: int) -> list[int]:
    most = min(count, most)
    return [place * count // most for place in range(most)]
