"""What the data card shows, counted while preparing and kept in statistics.json."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.stages import read_record
from data.manifest import Split
from data.phases.encoding import token_counts
from data.phases.reading import Drops
from data.phases.work import Work

TOP_TOKENS = 40
ZIPF_POINTS = 200


def collect(work: Work, splits: dict[str, Split]) -> dict[str, Any]:
    """Everything countable: a function of the data and the configuration alone."""
    drops = all_drops(work)
    found = {
        "kind": work.run.data.kind,
        "drops": {
            reason: {"count": count, "examples": drops.examples.get(reason, [])}
            for reason, count in sorted(drops.counts.items())
        },
        "classes": {name: split.classes for name, split in splits.items() if split.classes},
        "parts": {part.name or "all": _part_samples(splits, part.name) for part in work.parts},
    }
    if train := splits.get("train"):
        found["class_weights"] = _weights(train.classes)
    return found | (_text(work) if work.run.data.kind == "text" else {})


def all_drops(work: Work) -> Drops:
    """Everything that was left out, by any phase."""
    drops = Drops()
    for number in range(len(work.pieces)):
        drops.merge(work.record("read", number))
        if work.done("overlap", number):
            drops.merge(work.record("overlap", number))
    drops.merge(read_record(work.decision))
    return drops


def _part_samples(splits: dict[str, Split], part: str) -> dict[str, int]:
    return {name: sum(shard.samples for shard in split.shards if shard.part == part) for name, split in splits.items()}


def _weights(counts: dict[str, int]) -> dict[str, float]:
    from data.augment import class_weights

    return class_weights(counts) if counts and all(counts.values()) else {}


def _text(work: Work) -> dict[str, Any]:
    tokenizer, counts = Tokenizer.from_file(str(work.folder.tokenizer)), token_counts(work)
    histograms: dict[str, NDArray[np.int64]] = {}
    for number in range(len(work.pieces)):
        for split, record in work.record("encode", number)["splits"].items():
            histograms[split] = histograms.get(split, 0) + np.asarray(record["histogram"])
    falling = np.sort(counts[counts > 0])[::-1]
    ranks = np.unique(np.geomspace(1, len(falling), ZIPF_POINTS).astype(np.int64)) if len(falling) else falling
    top = np.lexsort((np.arange(len(counts)), -counts))[:TOP_TOKENS]
    return {
        "length_histogram": {split: histogram.tolist() for split, histogram in sorted(histograms.items())},
        "zipf": [[int(rank), int(falling[rank - 1])] for rank in ranks],
        "top_tokens": [[tokenizer.id_to_token(int(i)) or "", int(counts[i])] for i in top if counts[i]],
        "tokens_used": int((counts > 0).sum()),
    }


def label_counts(labels: list[int], classes: list[str]) -> dict[str, int]:
    """Samples of each class by name, in the order of `classes`."""
    counts = Counter(labels)
    return {name: counts[place] for place, name in enumerate(classes)} if classes and labels else {}
