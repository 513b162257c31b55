"""Splits and folds by stable hash: adding documents never moves an old one, equal ones and groups stay together."""

import hashlib

from configs.dataset import SplitConfig

SPLITS = ("train", "validation", "test")
PLACES = 1 << 64


def place(key: bytes, seed: int) -> int:
    """Where on a line of 2^64 places a sample stands, uniform: from its group if it has one, else from its content."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0".encode() + key).digest()[:8], "big")


def bounds(config: SplitConfig) -> list[tuple[str, int]]:
    """Splits in the order in which they cover the line, each with the place at which it ends; a share of 0 has none.

    Test comes first, so that neither folds nor another validation share move a sample into it or out of it.
    """
    held_out = config.test + config.validation
    inner = [("test", config.test)] if config.test else []
    inner += [("validation", held_out)] if config.validation else []
    last = "train"
    if config.folds:
        count = config.folds.count
        inner += [(f"fold-{fold}", held_out + (1 - held_out) * (fold + 1) / count) for fold in range(count - 1)]
        last = f"fold-{count - 1}"
    return [*((name, int(end * PLACES)) for name, end in inner), (last, PLACES)]


def shares(config: SplitConfig) -> dict[str, float]:
    """Each split's share of the samples, in the order of `bounds`."""
    start, widths = 0, {}
    for name, end in bounds(config):
        widths[name] = (end - start) / PLACES
        start = end
    return widths


def split_of(place: int, config: SplitConfig) -> str:
    """test, validation or train; with folds fold-0, fold-1... of equal widths in place of train."""
    return next(name for name, end in bounds(config) if place < end)


def assign(text: str, config: SplitConfig) -> str:
    """The split of a document without a group."""
    return split_of(place(text.encode("utf-8", "surrogatepass"), config.seed), config)


def trains(split: str) -> bool:
    """Whether a model may learn from a split."""
    return split == "train" or split.startswith("fold-")
