"""Train, validation and test by stable hash: adding documents never moves an old one, equal ones stay together."""

import hashlib

from configs.schema import SplitConfig

SPLITS = ("train", "validation", "test")


def assign(text: str, config: SplitConfig) -> str:
    """The split of a document, a function of its text and the seed alone."""
    key = f"{config.seed}\0".encode() + text.encode("utf-8", "surrogatepass")
    share = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64  # uniform in [0, 1)
    if share < config.test:
        return "test"
    return "validation" if share < config.test + config.validation else "train"
