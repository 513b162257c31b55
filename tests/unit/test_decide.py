"""The global view: duplicates, splits, groups and classes over pieces, and that nothing stands in two splits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.dataset import FoldConfig, NearDuplicates, SplitConfig
from configs.errors import DamageError, DataError, UserError
from data.splits import assign, place
from data.view.decide import ASSIGNMENTS_FILE, ELSEWHERE, FACTS, PLACEMENTS, Decision, check, decide, placements_of
from data.view.duplicates import Signer, content_key
from data.view.tables import open_database, repeats

NEAR = NearDuplicates(ngram_words=2)
SIGNER = Signer(NEAR)
SLOW = settings(max_examples=5, deadline=None)


@dataclass(frozen=True)
class Doc:
    text: str
    label: str | None = None
    group: str | None = None


def write_facts(folder: Path, pieces: Sequence[Sequence[Doc]], *, seed: int = 0, near: bool = False) -> list[Path]:
    """A file a piece; every third row is missing, as if it had been filtered out."""
    paths = []
    for piece, docs in enumerate(pieces):
        rows = []
        for number, doc in enumerate(docs):
            bands, signature = SIGNER.sign(doc.text) if near else (None, None)
            key, group = content_key(doc.text), content_key(doc.group) if doc.group else (None, None)
            where = place((doc.group or doc.text).encode(), seed)
            size = len(doc.text.encode()), len(doc.text.split())
            rows.append((number * 3 // 2, *key, where, doc.label, *group, *size, bands, signature))
        columns = zip(*rows, strict=True) if rows else ((),) * len(FACTS)
        table = pa.table([pa.array(list(c), f.type) for c, f in zip(columns, FACTS, strict=True)], schema=FACTS)
        paths.append(folder / f"{piece:06d}.parquet")
        pq.write_table(table, paths[-1])
    return paths


@dataclass(frozen=True)
class Outcome:
    decision: Decision
    splits: list[str | None]
    """Of each document in order"""
    reasons: list[str | None]
    folder: Path

    def of(self, docs: Iterable[Doc]) -> dict[str, set[str]]:
        found = defaultdict(set)
        for doc, split in zip(docs, self.splits, strict=True):
            if split:
                found[doc.group or doc.text].add(split)
        return found


def run(
    folder: Path,
    pieces: Sequence[Sequence[Doc]],
    *,
    near: bool = False,
    deduplicate: bool = True,
    **config: Any,
) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    splits = SplitConfig(**config)
    facts = write_facts(folder, pieces, seed=splits.seed, near=near)
    out = folder / "placements.parquet"
    decision = decide(
        facts,
        out,
        splits,
        NEAR if near else None,
        deduplicate=deduplicate,
        work=folder / "work",
        assignments=folder / ASSIGNMENTS_FILE,
        name="corpus",
    )
    tables = [placements_of(out, piece) for piece in range(len(pieces))]
    for number, (table, docs) in enumerate(zip(tables, pieces, strict=True)):
        assert table.schema.equals(PLACEMENTS)
        assert table["piece"].to_pylist() == [number] * len(docs)
        assert table["row"].to_pylist() == [row * 3 // 2 for row in range(len(docs))]
    whole = pa.concat_tables(tables)
    return Outcome(decision, whole["split"].to_pylist(), whole["reason"].to_pylist(), folder)


def corpus(count: int, *, label: int = 0, group: int = 0, start: int = 0) -> list[Doc]:
    return [
        Doc(
            f"document {k}",
            label=f"class {k % label}" if label else None,
            group=f"group {k // group}" if group else None,
        )
        for k in range(start, start + count)
    ]


def cut(docs: Sequence[Doc], *places: int) -> list[Sequence[Doc]]:
    ends = [min(place, len(docs)) for place in places] + [len(docs)]
    return [docs[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def test_documents_go_where_their_hash_says(tmp_path: Path):
    docs, config = corpus(200), SplitConfig(seed=3)
    outcome = run(tmp_path, cut(docs, 70, 70, 120), seed=3)
    assert outcome.splits == [assign(doc.text, config) for doc in docs]
    counts = outcome.decision.splits
    assert {name: split.documents for name, split in counts.items()} == Counter(outcome.splits)
    assert sum(split.words for split in counts.values()) == 400
    assert sum(split.bytes for split in counts.values()) == sum(len(doc.text) for doc in docs)
    assert list(counts) == ["train", "validation", "test"]
    assert outcome.decision.near_duplicate_rate is None
    assert outcome.decision.checks == {"content in two splits": 0, "group in two splits": 0}
    assert not (tmp_path / "work" / "tables").exists()


def test_of_equal_documents_the_first_stays(tmp_path: Path):
    docs = [*corpus(60), *corpus(30), *corpus(60)]
    outcome = run(tmp_path, cut(docs, 40, 100))
    assert outcome.reasons == [None] * 60 + ["duplicate"] * 90
    assert outcome.decision.dropped == {"duplicate": 90}
    (last,) = placements_of(tmp_path / "placements.parquet", 2).slice(49).to_pylist()
    assert last == {"piece": 2, "row": 73, "split": None, "reason": "duplicate", "of_piece": 1, "of_row": 28}


def test_where_duplicates_stay_they_share_a_split(tmp_path: Path):
    docs = [*corpus(60), *corpus(60)]
    outcome = run(tmp_path, cut(docs, 60), deduplicate=False)
    assert outcome.splits[:60] == outcome.splits[60:]
    assert outcome.decision.checks["content in two splits"] == 0


def near_copies() -> list[Doc]:
    """40 documents of 100 words, and of every fourth a copy with a word changed."""
    originals = [[f"w{(k * 7919 + j * j * 31) % 5000}" for j in range(100)] for k in range(40)]
    copies = [[*words[:50], "changed", *words[51:]] for words in originals[::4]]
    return [Doc(" ".join(words)) for words in originals + copies]


def test_of_nearly_equal_documents_the_first_stays(tmp_path: Path):
    outcome = run(tmp_path, cut(near_copies(), 20, 45), near=True)
    assert outcome.reasons == [None] * 40 + ["near duplicate"] * 10
    assert outcome.decision.near_duplicate_rate == 10 / 50
    assert outcome.decision.checks["near duplicate in two splits"] == 0
    rows = placements_of(tmp_path / "placements.parquet", 2).to_pylist()
    assert [(row["of_piece"], row["of_row"]) for row in rows] == [(1, 0), (1, 6), (1, 12), (1, 18), (1, 24)]


def test_a_bucket_of_unlike_documents_hides_no_near_duplicate(tmp_path: Path):
    """Its first document is like none of the others, which are like each other."""
    facts = write_facts(tmp_path, [corpus(60)], near=True)
    rows = pq.read_table(facts[0]).to_pylist()
    for k, row in enumerate(rows):
        row["bands"] = [1] if k in (0, 30, 31) else []
    rows[31]["signature"] = rows[30]["signature"]
    pq.write_table(pa.Table.from_pylist(rows, FACTS), facts[0])
    out = tmp_path / "placements.parquet"
    decide(
        facts,
        out,
        SplitConfig(),
        NEAR,
        deduplicate=True,
        work=tmp_path,
        assignments=tmp_path / ASSIGNMENTS_FILE,
        name="corpus",
    )
    reasons = placements_of(out, 0)["reason"].to_pylist()
    assert [k for k, reason in enumerate(reasons) if reason] == [31]


@SLOW
@given(st.lists(st.integers(0, 60), max_size=3).map(sorted), st.booleans(), st.booleans())
def test_the_cut_into_pieces_changes_nothing(places: list[int], stratify: bool, grouped: bool):
    docs = [*near_copies(), *corpus(30, label=3, group=4 if grouped else 0), *corpus(10, label=3)]
    with TemporaryDirectory() as folder:
        whole = run(Path(folder) / "a", [docs], near=True, stratify=stratify)
        parts = run(Path(folder) / "b", cut(docs, *places), near=True, stratify=stratify)
        files = [(Path(folder) / name / ASSIGNMENTS_FILE) for name in "ab"]
        assert pq.read_table(files[0]).equals(pq.read_table(files[1]))
    assert (whole.splits, whole.reasons) == (parts.splits, parts.reasons)
    assert whole.decision == parts.decision


@SLOW
@given(st.lists(st.integers(0, 100), unique=True, max_size=30), st.booleans(), st.booleans())
def test_adding_documents_never_moves_an_old_one(new: list[int], stratify: bool, grouped: bool):
    group = 5 if grouped else 0
    old = corpus(120, label=3, group=group, start=30)
    added = [Doc(f"document {k * 2}", f"class {k % 4}", f"group {k * 2 // group}" if group else None) for k in new]
    with TemporaryDirectory() as folder:
        before = run(Path(folder) / "a", [old], stratify=stratify)
        previous = str(before.folder) if stratify else None
        after = run(Path(folder) / "b", [added, old], stratify=stratify, previous=previous, deduplicate=False)
    assert after.splits[len(added) :] == before.splits
    assert after.decision.checks.get("moved since the earlier run", 0) == 0
    assert all(len(splits) == 1 for splits in after.of([*added, *old]).values())


@SLOW
@given(st.integers(0, 5), st.lists(st.integers(1, 60), min_size=1, max_size=5), st.sampled_from([None, 3]))
def test_stratified_splits_have_each_class_within_one_of_its_share(seed: int, sizes: list[int], folds: int | None):
    docs = [Doc(f"{label} {k}", f"class {label}") for label, size in enumerate([200, *sizes]) for k in range(size)]
    with TemporaryDirectory() as folder:
        outcome = run(
            Path(folder),
            cut(docs, 100),
            stratify=True,
            seed=seed,
            test=0.2,
            validation=0.2,
            folds=FoldConfig(count=folds) if folds else None,
        )
    wanted = {f"fold-{k}": 0.6 / 3 for k in range(3)} if folds else {"train": 0.6}
    for name, share in (wanted | {"validation": 0.2, "test": 0.2}).items():
        classes = outcome.decision.splits[name].classes
        for label, size in enumerate([200, *sizes]):
            assert abs(classes.get(f"class {label}", 0) - share * size) < 1 + 1e-6
    assert None not in outcome.splits


def test_new_samples_fill_up_the_shares_of_an_earlier_run(tmp_path: Path):
    old, new = corpus(100, label=2), corpus(300, label=2, start=100)
    run(tmp_path / "a", [old], test=0.3, validation=0.1)
    outcome = run(tmp_path / "b", [new, old], previous=str(tmp_path / "a"), stratify=True, test=0.2, validation=0.2)
    for name, count in (("train", 120), ("validation", 40), ("test", 40)):
        assert outcome.decision.splits[name].classes == {"class 0": count, "class 1": count}


def test_without_stratify_an_earlier_run_keeps_its_places_too(tmp_path: Path):
    old = run(tmp_path / "a", [corpus(100)], seed=1)
    new = run(tmp_path / "b", [corpus(150)], seed=2, previous=str(tmp_path / "a"))
    assert new.splits[:100] == old.splits
    assert new.splits[100:] == [assign(doc.text, SplitConfig(seed=2)) for doc in corpus(50, start=100)]


@pytest.mark.parametrize("stratify", [False, True])
def test_groups_are_never_split(tmp_path: Path, stratify: bool):
    docs = corpus(600, label=3, group=4)
    outcome = run(tmp_path, cut(docs, 101, 333), stratify=stratify)
    assert all(len(splits) == 1 for splits in outcome.of(docs).values())
    if stratify:
        for name, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
            for count in outcome.decision.splits[name].classes.values():
                assert count == pytest.approx(200 * share, abs=4)


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("stay", [False, True])
def test_a_new_member_of_an_old_group_joins_it_though_the_old_ones_are_gone(tmp_path: Path, stratify: bool, stay: bool):
    old = corpus(100, label=2, group=5)
    before = run(tmp_path / "a", [old], seed=1)
    docs = [Doc(f"new {k}", "class 0", f"group {k}") for k in range(20)] + (old if stay else [])
    after = run(tmp_path / "b", [docs], previous=str(tmp_path / "a"), seed=2, stratify=stratify)
    assert after.of(docs) == before.of(old)


def test_groups_that_an_earlier_run_had_divided_are_made_whole_and_counted(tmp_path: Path):
    before = run(tmp_path / "a", [corpus(100)])
    after = run(tmp_path / "b", [corpus(100, group=2)], previous=str(tmp_path / "a"))
    assert after.decision.checks["group in two splits"] == 0
    moved = sum(a != b for a, b in zip(before.splits, after.splits, strict=True))
    assert after.decision.checks["moved since the earlier run"] == moved > 0


@pytest.mark.parametrize("stratify", [False, True])
def test_equal_contents_of_two_groups_stay_in_the_split_that_is_more_held_out(tmp_path: Path, stratify: bool):
    docs = [Doc(f"document {k % 50}", group=f"group {k}", label=f"class {k % 3}") for k in range(100)]
    docs[7] = Doc("document 7", label="class 1")  # of no group
    outcome = run(tmp_path, cut(docs, 30), deduplicate=False, stratify=stratify)
    ranks = {"test": 0, "validation": 1, "train": 2}
    dropped = 0
    for k in range(50):
        first, second = outcome.splits[k], outcome.splits[k + 50]
        assert first == second or (first is None) != (second is None)
        if first != second:
            gone = k if first is None else k + 50
            assert outcome.reasons[gone] == ELSEWHERE
            dropped += 1
    assert outcome.decision.dropped == {ELSEWHERE: dropped}
    assert dropped > 0
    assert outcome.decision.checks == {"content in two splits": 0, "group in two splits": 0}
    if not stratify:
        for doc, split in zip(docs, outcome.splits, strict=True):
            there = assign(doc.group or doc.text, SplitConfig())
            assert split is None or ranks[split] <= ranks[there]


def test_equal_contents_in_two_splits_are_found(tmp_path: Path):
    facts = write_facts(tmp_path, [[Doc("same", group="a"), Doc("same", group="b"), Doc("other", group="c")]])
    rows = [{"piece": 0, "row": k * 3 // 2, "split": split} for k, split in enumerate(("test", "train", "train"))]
    out = tmp_path / "placements.parquet"
    pq.write_table(pa.Table.from_pylist(rows, PLACEMENTS), out)
    assert check(out, facts, None, work=tmp_path) == {"content in two splits": 1, "group in two splits": 0}


def test_near_duplicates_and_groups_in_two_splits_are_found(tmp_path: Path):
    docs = [Doc(doc.text, group=f"group {k // 2}") for k, doc in enumerate(near_copies())]
    facts = write_facts(tmp_path, [docs], near=True)
    rows = [
        {"piece": 0, "row": k * 3 // 2, "split": "test" if k % 2 == (k >= 40) else "train", "reason": None}
        for k in range(len(docs))
    ]
    out = tmp_path / "placements.parquet"
    pq.write_table(pa.Table.from_pylist(rows, PLACEMENTS), out)
    assert check(out, facts, NEAR, work=tmp_path) == {
        "content in two splits": 0,
        "group in two splits": 25,
        "near duplicate in two splits": 5,
    }


def test_the_size_of_batches_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    docs = [*near_copies(), *corpus(60, label=2, group=3), *corpus(40), *near_copies()]
    whole = run(tmp_path / "a", cut(docs, 50), near=True, stratify=True)
    for name in (
        "data.view.tables._ROWS",
        "data.view.tables._SIGNATURES",
        "data.view.strata._BATCH",
        "data.view.decide._BATCH",
    ):
        monkeypatch.setattr(name, 100)
    parts = run(tmp_path / "b", cut(docs, 50), near=True, stratify=True)
    assert (parts.decision, parts.splits, parts.reasons) == (whole.decision, whole.splits, whole.reasons)
    assert whole.decision.dropped == {"duplicate": 90, "near duplicate": 10}


@SLOW
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=20), st.integers(1, 5))
def test_repeats_are_the_rows_that_have_the_key_of_the_one_before(keys: list[tuple[int, int]], batch: int):
    rows = [(high, low, number) for number, (high, low) in enumerate(sorted(keys))]
    expected = []
    for number, key in enumerate(sorted(keys)):
        if number and sorted(keys)[number - 1] == key:
            expected.append((number, sorted(keys).index(key), number - 1))
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder, open_database(Path(folder)) as database:
        patch.setattr("data.view.tables._ROWS", batch)
        database.execute("CREATE TABLE keys (high INTEGER, low INTEGER, id BIGINT)")
        if rows:
            database.executemany("INSERT INTO keys VALUES (?, ?, ?)", rows)
        repeats(database, "found", "FROM keys ORDER BY ALL")
        assert database.execute("FROM found ORDER BY id").fetchall() == expected


def test_folds_cover_all_that_is_not_held_out(tmp_path: Path):
    docs = corpus(300)
    outcome = run(tmp_path, cut(docs, 100), folds=FoldConfig(count=4))
    assert list(outcome.decision.splits) == ["validation", "test", "fold-0", "fold-1", "fold-2", "fold-3"]
    assert set(outcome.splits) == set(outcome.decision.splits)


@pytest.mark.parametrize("stratify", [False, True])
def test_a_repeat_divides_the_same_samples_otherwise_and_leaves_what_is_held_out(tmp_path: Path, stratify: bool):
    docs = cut(corpus(300, label=2), 100)
    first, second, again = (
        run(tmp_path / str(n), docs, stratify=stratify, folds=FoldConfig(count=3, repeat=repeat))
        for n, repeat in enumerate((0, 1, 1))
    )
    assert second.splits == again.splits
    pairs = list(zip(first.splits, second.splits, strict=True))
    outside = ("test", "validation")
    assert all(a == b for a, b in pairs if a in outside or b in outside)
    moved = sum(a != b for a, b in pairs)
    assert moved > 80, "of about 210 samples in folds, two in three should have moved"


def test_a_class_with_fewer_samples_than_folds_is_named(tmp_path: Path):
    docs = [*corpus(60), *(Doc(f"rare {k}", "rare") for k in range(2))]
    with pytest.raises(DataError, match=r"class 'rare' has 2 documents for the 3 folds .*folds.count to 2 or fewer"):
        run(tmp_path, [docs], stratify=True, test=0, validation=0, folds=FoldConfig(count=3))
    with pytest.raises(DataError, match=r"'rare' has 1 document for the 3 .* every class; give more of that class, or"):
        run(tmp_path, [docs[:-1]], stratify=True, test=0, validation=0, folds=FoldConfig(count=3))


def test_an_empty_split_says_what_to_try(tmp_path: Path):
    with pytest.raises(DataError, match=r"^corpus: 1 document leaves the .* split empty; try smaller documents "):
        run(tmp_path, [corpus(1)])
    with pytest.raises(DataError, match=r"another data.splits.seed than 5, or other shares$"):
        run(tmp_path, [corpus(30)], test=1e-9, seed=5)
    with pytest.raises(DataError, match=r"6 documents leave the .*fold-.* split empty; .*, fewer folds"):
        run(tmp_path, [corpus(6)], folds=FoldConfig(count=20))
    with pytest.raises(DataError, match=r"try data.splits.stratify=false, or other shares$"):
        run(tmp_path, [[Doc(f"{k}", f"class {k}") for k in range(30)]], stratify=True)
    assert not (tmp_path / "placements.parquet").exists()


@pytest.mark.parametrize("pieces", [[], [[]], [[], []]])
def test_a_source_without_documents_is_refused(tmp_path: Path, pieces: list[list[Doc]]):
    with pytest.raises(DataError, match="corpus: no document is left"):
        run(tmp_path, pieces)


def test_a_field_with_a_value_a_document_is_not_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.view.decide.MAX_CLASSES", 50)
    with pytest.raises(DataError, match="label_field has 51 different values, at most 50 can be classes"):
        run(tmp_path, [corpus(100, label=51)])


def test_an_earlier_run_that_does_not_fit_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere/assignments.parquet is missing; give the `data` folder"):
        run(tmp_path / "a", [corpus(100)], previous=str(tmp_path / "nowhere"))
    run(tmp_path / "a", [corpus(100)], folds=FoldConfig(count=3))
    with pytest.raises(DataError, match=r"has the splits fold-0, fold-1, fold-2, this configuration makes test, "):
        run(tmp_path / "b", [corpus(100)], previous=str(tmp_path / "a"))


def test_damaged_facts_are_named(tmp_path: Path):
    facts = write_facts(tmp_path, [corpus(10), corpus(10, start=10)])
    facts[1].write_bytes(facts[1].read_bytes()[:-20])
    with pytest.raises(DamageError, match=r"000001\.parquet"):
        check(tmp_path / "placements.parquet", facts, None, work=tmp_path)


def test_a_run_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path):
    (tmp_path / "work" / "tables").mkdir(parents=True)
    (tmp_path / "work" / "tables" / "documents.duckdb").write_bytes(b"half")
    (tmp_path / "placements.parquet.part").write_bytes(b"half")
    first = run(tmp_path, [corpus(100)])
    bytes_before = (tmp_path / "placements.parquet").read_bytes()
    assert run(tmp_path, [corpus(100)]).decision == first.decision
    assert (tmp_path / "placements.parquet").read_bytes() == bytes_before


def test_too_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.view.tables.MEMORY", "1MB")
    with pytest.raises(UserError, match="needs more than 1MB of memory and the free disk"):
        run(tmp_path, [corpus(2000)])


def test_an_earlier_run_of_other_contents_is_refused(tmp_path: Path):
    run(tmp_path / "a", [corpus(100)])
    changed = [Doc(doc.text.upper()) for doc in corpus(100)]
    with pytest.raises(DataError, match="only 0 of its 100 samples are here too"):
        run(tmp_path / "b", [changed], previous=str(tmp_path / "a"))
