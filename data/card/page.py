"""The data card: one self-contained page of what a data set holds, the same bytes every time it is prepared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from configs.folder import RunFolder, write_atomic
from configs.load import read
from configs.stages import read_record
from data.card import plots
from data.card.display import one_line, percent, size, visible
from data.card.sections import Cell, Record, Table, class_table, image_content, labelled, text_content
from data.manifest import CARD, STATISTICS, Manifest, SourceRecord, Split

_SHARDS = 200  # rows of the table at most
_EXCERPT = 400  # characters
_READING = {
    "store": True,
    "shuffle_window_samples": True,
    "balance": True,
    "splits": {"folds": {"held_out", "repeats"}},
}
"""Keys of the configuration that only reading depends on"""


def write_card(folder: RunFolder, manifest: Manifest) -> None:
    """Write `data/card.html` from the manifest, statistics.json, run.yaml and, of images, the shards."""
    write_atomic(folder.data / CARD, build_card(folder, manifest))


def build_card(folder: RunFolder, manifest: Manifest) -> str:
    """The whole page; whatever stands in the data is shown as text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    statistics = read_record(folder.data / STATISTICS)
    frame = {name.lower(): getattr(plots, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM")}
    return environment.from_string(template).render(frame=frame, **content(folder, manifest, statistics))


def content(folder: RunFolder, manifest: Manifest, statistics: Record) -> Record:
    """What the template shows, by name."""
    title = one_line(" + ".join(source.description for source in manifest.sources), 120)
    page: Record = {
        "title": title,
        "warnings": list(warnings(manifest)),
        "headline": list(headline(manifest)),
        "splits": split_table(manifest),
        "parts": part_table(manifest, statistics) if len(manifest.sources) > 1 else None,
        "sources": [source_facts(source, noun_of(manifest)) for source in manifest.sources],
        **dropped(manifest, statistics),
        "checks": check_table(manifest),
        **digests(manifest),
        **reproduce(folder, manifest),
    }
    sections = {"splits": "Splits", "sources": "Sources"}
    if manifest.tokenizer:
        page |= text_content(manifest, statistics)
        sections |= {"lengths": "Lengths", "tokens": "Tokens"}
    if labelled(manifest):
        page["classes"] = class_table(manifest, statistics)
        sections["classes"] = "Classes"
    if manifest.images:
        page |= image_content(folder, manifest)
        sections["images"] = "Images"
    sections |= {"dropped": "Left out", "checks": "Checks", "digests": "Digests", "reproduce": "Making it again"}
    return page | {"sections": list(sections.items())}


# --- what every data set has ---


def noun_of(manifest: Manifest) -> str:
    """What is counted."""
    return "documents" if manifest.kind == "text" else "images"


def warnings(manifest: Manifest) -> Iterator[str]:
    """What a reader must know before using it."""
    for name, count in manifest.checks.items():
        if count:
            yield f"{name}: {count:,}"
    for name, split in manifest.splits.items():
        if lacking := [each for each, count in split.classes.items() if not count]:
            yield f"{name} has no sample of {len(lacking):,} classes: {one_line(', '.join(lacking), 200)}"


def headline(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """The numbers at the top: name, value, note."""
    splits = manifest.splits.values()
    read_in, kept = sum(source.documents for source in manifest.sources), sum(split.documents for split in splits)
    noun = noun_of(manifest)
    yield noun.capitalize(), f"{kept:,}", f"of {read_in:,} that were read"
    shards = sum(len(split.shards) for split in splits)
    stored = size(sum(shard.bytes for split in splits for shard in split.shards))
    yield "Samples", f"{sum(split.samples for split in splits):,}", f"{shards:,} shards, {stored}"
    if manifest.tokenizer:
        yield "Tokens", f"{sum(split.tokens for split in splits):,}", f"in samples of up to {manifest.block_tokens:,}"
        yield "Vocabulary", f"{manifest.tokenizer.vocabulary_size:,}", "tokens"
    if manifest.images:
        record = manifest.images
        yield "Image", f"{record.height} x {record.width}", f"{record.channels} channels"
    if labelled(manifest):
        yield "Classes", f"{len(manifest.classes):,}", "each sample has one"
    if manifest.near_duplicate_rate is not None:
        yield "Nearly equal", f"{100 * manifest.near_duplicate_rate:.2f} %", "near duplicates, left out"
    elif manifest.kind == "text":
        yield "Nearly equal", "not looked for", "near duplicates"


def split_table(manifest: Manifest) -> Table:
    """Sizes of the splits."""
    total = sum(split.documents for split in manifest.splits.values())
    text = manifest.tokenizer is not None
    more = ["tokens", "words", "unknown tokens", "cut off", "bytes per token"] if text else []
    rows = [
        (name, _split_row(split, percent(split.documents, total), text=text)) for name, split in manifest.splits.items()
    ]
    noun = noun_of(manifest)
    caption = f"What each split holds; bytes are those of the {'cleaned documents' if text else 'stored images'}."
    return Table(caption, ["split", noun, "share", "samples", "bytes", *more, "shards"], rows)


def _split_row(split: Split, share: str, *, text: bool) -> list[str]:
    row = [f"{split.documents:,}", share, f"{split.samples:,}", f"{split.bytes:,}"]
    if text:
        unknown = f"{split.unknown_tokens:,} ({percent(split.unknown_tokens, split.tokens)})"
        row += [f"{split.tokens:,}", f"{split.words:,}", unknown, f"{split.cut_tokens:,}"]
        row.append(f"{split.bytes / split.tokens:.2f}" if split.tokens else "–")
    return [*row, f"{len(split.shards):,}"]


def part_table(manifest: Manifest, statistics: Record) -> Table:
    """Samples of each source in each split."""
    names = list(manifest.splits)
    rows = [
        (part, [f"{counts.get(name, 0):,}" for name in names]) for part, counts in statistics.get("parts", {}).items()
    ]
    return Table("Samples of each source.", ["source", *names], rows)


def source_facts(source: SourceRecord, noun: str) -> tuple[str, list[tuple[str, str]]]:
    """What was read from where."""
    pairs = [
        ("Read", f"{source.documents:,} {noun} in {source.files:,} files, {size(source.bytes)}"),
        ("Digest", f"{source.digest} (of every raw byte)"),
    ]
    if source.weight is not None:
        pairs.append(("Weight", f"{source.weight:g}, its relative share of the samples drawn"))
    if source.repeat is not None:
        pairs.append(("Repeated", f"{source.repeat} times an epoch"))
    description = visible(source.description)
    return f"{source.part}: {description}" if source.part else description, pairs


def dropped(manifest: Manifest, statistics: Record) -> Record:
    """What was left out, why, and the first of each reason."""
    total = sum(source.documents for source in manifest.sources)
    counts = sorted(manifest.dropped.items(), key=lambda each: (-each[1], each[0]))
    rows = [(visible(reason), [f"{count:,}", percent(count, total)]) for reason, count in counts]
    found = [(visible(reason), statistics.get("drops", {}).get(reason, {}).get("examples", [])) for reason, _ in counts]
    shown = [
        (reason, [{name: _excerpt(each[name]) for name in ("origin", "excerpt")} for each in examples[:10]])
        for reason, examples in found
        if examples
    ]
    noun = noun_of(manifest)
    caption = f"{sum(manifest.dropped.values()):,} of {total:,} {noun} were left out, by reason."
    return {"dropped": Table(caption, ["reason", noun, "share"], rows), "drop_examples": shown}


def _excerpt(text: str) -> str:
    return visible(text[:_EXCERPT]) + ("…" if len(text) > _EXCERPT else "")


def check_table(manifest: Manifest) -> Table:
    """What may not be, and how often it was found."""
    rows = [
        (name, [f"{count:,}", "found" if count else "none, as it must be"]) for name, count in manifest.checks.items()
    ]
    return Table("What was looked for after the splits were made.", ["what", "found", ""], rows)


def digests(manifest: Manifest) -> Record:
    """What ties this data set to its sources and to what is trained on it."""
    rows: list[tuple[str, Sequence[str | Cell]]] = [
        ("data (sha256 of the manifest)", [manifest.digest]),
        ("configuration (sha256 of what decides the data)", [manifest.config]),
        ("statistics.json (blake3)", [manifest.statistics]),
    ]
    if manifest.tokenizer:
        rows.append((f"{manifest.tokenizer.file} (sha256)", [manifest.tokenizer.sha256]))
    rows += [(f"source {each.part}".strip(), [each.digest]) for each in manifest.sources]
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    listed = [(shard.name, [f"{shard.samples:,}", f"{shard.bytes:,}", shard.blake3]) for shard in shards[:_SHARDS]]
    note = f"{len(shards) - _SHARDS:,} more are in manifest.json." if len(shards) > _SHARDS else ""
    return {
        "digests": Table("Digests; the same data and configuration give the same ones.", ["of", "digest"], rows),
        "shards": Table("Each shard.", ["shard", "samples", "bytes", "blake3"], listed, note),
    }


def reproduce(folder: RunFolder, manifest: Manifest) -> Record:
    """How to make the same bytes again, and how to see that they are the same."""
    steps = [
        ("Give the sources above, unchanged, in a configuration with the data section below:", "CONFIG.yaml"),
        ("Prepare it; any number of workers gives the same bytes:", "trainworks prepare CONFIG.yaml"),
        ("Compare the digest in the new manifest.json:", manifest.digest),
        ("Read every byte again and compare it with the manifest:", "trainworks verify runs/NAME"),
    ]
    text = ""
    if folder.config.is_file():
        section = read(folder.config).data.model_dump(mode="json", exclude=_READING)  # type: ignore[arg-type]
        text = visible(yaml.safe_dump({"data": section}, sort_keys=False, allow_unicode=True, width=100))
    return {"steps": steps, "configuration": text}
