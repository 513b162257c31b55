"""Divisions into folds: disjoint, covering, groups whole, repeats of the same samples, and what cannot be divided."""

import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.dataset import FoldConfig
from configs.errors import DataError
from tests.unit.test_decide import SLOW, Doc, corpus, cut, run

HELD_OUT = ("test", "validation")


@SLOW
@given(st.integers(2, 5), st.integers(0, 3), st.booleans(), st.sampled_from([0, 3]), st.integers(0, 3))
def test_folds_are_disjoint_cover_what_is_not_held_out_and_keep_groups_whole(
    count: int, repeat: int, stratify: bool, group: int, seed: int
):
    docs = corpus(360, label=3, group=group)
    with TemporaryDirectory() as folder:
        first, other = (
            run(
                Path(folder) / name,
                cut(docs, 100, 250),
                stratify=stratify,
                seed=seed,
                folds=FoldConfig(count=count, repeat=number),
            )
            for name, number in (("first", 0), ("other", repeat))
        )
    names = {f"fold-{fold}" for fold in range(count)}
    for outcome in (first, other):
        assert set(outcome.splits) == names | set(HELD_OUT), "every sample is in one of them, none is left out"
        assert all(len(splits) == 1 for splits in outcome.of(docs).values())
    pairs = list(zip(first.splits, other.splits, strict=True))
    assert all(a == b for a, b in pairs if a in HELD_OUT or b in HELD_OUT), "no repeat moves what is held out"
    assert (first.splits == other.splits) == (repeat == 0)


@SLOW
@given(st.randoms(use_true_random=False), st.booleans(), st.sampled_from([0, 4]), st.integers(0, 1))
def test_the_order_of_the_source_and_of_its_pieces_moves_nothing(
    rng: random.Random, stratify: bool, group: int, repeat: int
):
    docs = corpus(200, label=3, group=group)
    mixed = rng.sample(docs, len(docs))
    places = sorted(rng.sample(range(len(docs)), 3))
    division = FoldConfig(count=3, repeat=repeat)
    with TemporaryDirectory() as folder:
        ours = run(Path(folder) / "a", [docs], stratify=stratify, folds=division)
        theirs = run(Path(folder) / "b", cut(mixed, *places), stratify=stratify, folds=division)
    expected = {doc.text: split for doc, split in zip(docs, ours.splits, strict=True)}
    assert {doc.text: split for doc, split in zip(mixed, theirs.splits, strict=True)} == expected


@pytest.mark.parametrize("group", [0, 3])
@pytest.mark.parametrize("repeat", [0, 1])
def test_as_many_stratified_folds_as_samples_or_groups_leave_one_out_each(tmp_path: Path, group: int, repeat: int):
    count = 7
    docs = corpus(count * (group or 1), label=1, group=group)
    division = FoldConfig(count=count, repeat=repeat)
    outcome = run(tmp_path, [docs], stratify=True, test=0, validation=0, folds=division)
    assert Counter(outcome.splits) == {f"fold-{fold}": group or 1 for fold in range(count)}
    assert all(len(splits) == 1 for splits in outcome.of(docs).values())


@pytest.mark.parametrize("group", [0, 5])
def test_more_folds_than_documents_or_groups_are_refused(tmp_path: Path, group: int):
    docs = corpus(4 * (group or 1), group=group)
    with pytest.raises(DataError, match=r"leave the .*fold-\d.* split empty; try .*fewer folds \(data.splits.folds.co"):
        run(tmp_path, [docs], test=0, validation=0, folds=FoldConfig(count=5))


def test_a_class_of_too_few_groups_is_missing_from_a_fold_and_is_not_torn_apart(tmp_path: Path):
    docs = [*corpus(60, label=1, group=2), *(Doc(f"rare {k}", "rare", "one patient") for k in range(6))]
    outcome = run(tmp_path, [docs], stratify=True, test=0, validation=0, folds=FoldConfig(count=3))
    holders = [name for name, split in outcome.decision.splits.items() if "rare" in split.classes]
    assert len(holders) == 1
    assert outcome.of(docs)["one patient"] == set(holders)
