"""The report's account of the data: sources, splits, what was left out, and digests."""

from collections.abc import Mapping
from typing import Any

from pipelines.charts import plain
from pipelines.page import Table

Record = Mapping[str, Any]
COUNTS = ("documents", "samples", "tokens", "bytes", "words", "unknown_tokens", "cut_tokens")
"""What a split is measured in, as the manifest names it"""


def data_card(manifest: Record) -> dict[str, Any]:
    """Sources, tokenizer or images, splits, what was left out and digests, as the manifest has them."""
    facts = [(f"Source {source['part']}".strip(), _facts(source)) for source in manifest["sources"]]
    facts += [(title.capitalize(), _facts(manifest[title])) for title in ("tokenizer", "images") if manifest.get(title)]
    what = "images" if manifest.get("images") else "documents"
    dropped = [(reason, f"{count:,} {what}") for reason, count in manifest["dropped"].items()]
    facts.append(("Dropped", dropped or [(what, "none")]))
    rest = {"data sha256": manifest["digest"], "config sha256": manifest["config"]}
    rest |= {plain(key): manifest[key] for key in ("block_tokens", "classes") if manifest.get(key)}
    facts.append(("Digests and layout", _facts(rest)))
    splits = manifest["splits"]
    counts = [key for key in COUNTS if any(split.get(key) for split in splits.values())]
    rows = [
        (name, [*(f"{split.get(key, 0):,}" for key in counts), f"{len(split['shards']):,}"])
        for name, split in splits.items()
    ]
    shards = [(shard["name"], [shard["blake3"]]) for split in splits.values() for shard in split["shards"]]
    head = [("split", ""), *((plain(key), "") for key in counts), ("shards", "")]
    of = "stored images" if manifest.get("images") else "normalised documents"
    return {
        "facts": facts,
        "splits": Table(f"What each split holds; bytes are those of the {of}.", head, rows),
        "shards": Table("BLAKE3 of each shard.", [("shard", ""), ("BLAKE3", "")], shards),
    }


def _facts(record: Record) -> list[tuple[str, str]]:
    return [(plain(key), in_words(value)) for key, value in record.items() if value not in (None, "", [], {})]


def in_words(value: Any) -> str:
    match value:
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case list():
            return ", ".join(map(in_words, value))
        case dict():
            return ", ".join(f"{key} {in_words(each)}" for key, each in value.items())
        case _:
            return str(value)
