"""Phases tests and overlap: documents that share n-grams with the test split are found and left out."""

import numpy as np

from configs.dataset import Decontamination
from configs.folder import write_atomic
from configs.stages import read_record
from data.cleaning.filters import excerpt
from data.phases.kept import kept
from data.phases.reading import Drops
from data.phases.work import Work
from data.records import Drop
from data.samples import encode_array
from data.view.duplicates import choose_modulus, ngram_hashes, overlap

_TOGETHER = 4 << 20  # hashes that are sorted in at a time
REASON = "overlaps the test split"


def hash_tests(work: Work, number: int) -> None:
    """The n-grams of a piece's test documents, as sorted hashes."""
    config = settings(work)
    texts = (text for part in kept(work, number) if part.split == "test" for text in part.contents)
    hashes = [ngram_hashes(text, config.ngram_words, modulus(work)) for text in texts]
    joined = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
    write_atomic(work.file("tests", number, "npy"), encode_array(joined))
    work.finish("tests", number, {"hashes": len(joined)})


def settings(work: Work) -> Decontamination:
    """How overlap is looked for, where it is."""
    assert work.text.text.decontaminate
    return work.text.text.decontaminate


def modulus(work: Work) -> int:
    """Of which n-gram hashes one is kept, so that those of all tests fit in memory."""
    return choose_modulus(read_record(work.decision)["splits"]["test"]["words"])


def merge_tests(work: Work) -> None:
    """The n-grams of all test documents in one file."""
    merged, waiting = np.empty(0, np.uint64), []
    for number in range(len(work.pieces)):
        waiting.append(np.load(work.file("tests", number, "npy"), allow_pickle=False))
        if sum(map(len, waiting)) > _TOGETHER or number + 1 == len(work.pieces):
            merged, waiting = np.unique(np.concatenate([merged, *waiting])), []
    write_atomic(work.path / "tests.npy", encode_array(merged))


def find_overlap(work: Work, number: int) -> None:
    """Which of a piece's training documents share too much with the test split."""
    config = settings(work)
    known = np.load(work.path / "tests.npy", mmap_mode="r", allow_pickle=False)
    rows: list[int] = []
    drops, origin = Drops(), work.pieces[number][1].origin
    for part in kept(work, number):
        if part.split == "test":
            continue
        for row, text in zip(part.rows.tolist(), part.contents, strict=True):
            if overlap(text, config.ngram_words, modulus(work), known) > config.max_overlap:
                rows.append(row)
                drops.add(Drop(REASON, f"{origin}, record {row}", excerpt(text)))
    work.finish("overlap", number, {"rows": rows} | drops.record())
