"""The global view: which documents stay, and in which split, over any number of pieces and out of core (DuckDB)."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.dataset import NearDuplicates, SplitConfig
from configs.errors import DataError
from configs.folder import sync
from data.splits import SPLITS, bounds, shares
from data.view.folds import draw_again, refuse_rare
from data.view.strata import stratify
from data.view.tables import compare, drop_equal, drop_near, load, number, open_database, repeats

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

FACTS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("key_high", pa.uint64(), nullable=False),
        pa.field("key_low", pa.uint64(), nullable=False),
        pa.field("place", pa.uint64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("group_high", pa.uint64()),
        pa.field("group_low", pa.uint64()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("words", pa.int64(), nullable=False),
        pa.field("bands", pa.list_(pa.uint64())),
        pa.field("signature", pa.binary()),
    ]
)
"""What a worker notes of each document of a piece that it keeps; the n-th file is of the n-th piece."""

PLACEMENTS = pa.schema(
    [
        pa.field("piece", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("of_piece", pa.int32()),
        pa.field("of_row", pa.int32()),
    ]
)
"""What became of it: a split, or the reason why it was left out and the document it repeats."""

ASSIGNMENTS = pa.schema(
    [
        pa.field("key_high", pa.uint64(), nullable=False),
        pa.field("key_low", pa.uint64(), nullable=False),
        pa.field("group_high", pa.uint64()),
        pa.field("group_low", pa.uint64()),
        pa.field("split", pa.string(), nullable=False),
    ]
)
"""What a later run needs to leave everything where it is."""
ASSIGNMENTS_FILE = "assignments.parquet"

ELSEWHERE = "stands in another split"
MAX_CLASSES = 1 << 16
_BATCH = 1 << 16  # placements in memory


@dataclass(frozen=True)
class SplitCount:
    """What a split holds."""

    documents: int
    bytes: int
    words: int
    classes: dict[str, int]


@dataclass(frozen=True)
class Decision:
    """What was decided, in numbers."""

    splits: dict[str, SplitCount]
    dropped: dict[str, int]
    """By reason: duplicate, near duplicate, stands in another split"""
    near_duplicate_rate: float | None
    """Share of all documents; None where none were looked for"""
    checks: dict[str, int]
    """What was looked for in two splits at once, and how often it was found"""


def decide(
    facts: Sequence[Path],
    out: Path,
    config: SplitConfig,
    near: NearDuplicates | None,
    *,
    deduplicate: bool,
    work: Path,
    assignments: Path,
    name: str,
    sample: Literal["document", "image"] = "document",
) -> Decision:
    """Drop duplicates, divide the rest over the splits and write both files, for all pieces at once.

    Of equal documents the first stays, and of those that a chain of near duplicates joins. What shares a place (a
    group, or equal contents where they stay) goes to one split, to which `config.previous` binds it, then `stratify`,
    then the place; equal contents that their groups put in two splits stay in the one that is more held out. Raises
    DataError when a split would be empty or `previous` does not fit, DamageError when a file of facts cannot be read.
    `name` is the source's, for messages; `work` a folder for what does not fit in memory.
    """
    with open_database(work) as database:
        if facts:
            load(database, facts)
        if not facts or not number(database, "SELECT count(*) FROM documents"):
            raise DataError(f"{name}: no {sample} is left to divide into splits; see what was dropped, and why")
        database.execute("CREATE TABLE dropped (id BIGINT, reason VARCHAR, earlier BIGINT)")
        if deduplicate:
            drop_equal(database)
        if near:
            drop_near(database, facts, work, near.similarity)
        database.execute("CREATE TABLE kept AS SELECT * FROM documents ANTI JOIN dropped USING (id)")
        _place(database, config, name)
        _keep_apart(database)
        splits = _count(database, config)
        _refuse_empty(splits, config, name, sample)
        if config.stratify:
            refuse_rare({split: count.classes for split, count in splits.items()}, config, name, sample)
        _write(database, len(facts), out, assignments)
        dropped = dict(database.execute("SELECT reason, count(*) FROM dropped GROUP BY 1 ORDER BY 1").fetchall())
        total = number(database, "SELECT count(*) FROM documents")
        moved = number(
            database,
            "SELECT count(*) FROM before JOIN names USING (number) JOIN placed USING (id)"
            " WHERE names.split <> placed.split",
        )
    checks = check(out, facts, near, work=work, sample=sample)
    if config.previous:
        checks["moved since the earlier run"] = moved
    rate = dropped.get("near duplicate", 0) / total if near else None
    return Decision(splits=splits, dropped=dropped, near_duplicate_rate=rate, checks=checks)


def placements_of(path: Path, piece: int) -> pa.Table:
    """The placements of one piece's documents, in order: its row group alone is read."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(piece, columns=PLACEMENTS.names)


def check(
    placements: Path,
    facts: Sequence[Path],
    near: NearDuplicates | None,
    *,
    work: Path,
    sample: Literal["document", "image"] = "document",
) -> dict[str, int]:
    """How many contents, groups and, where there are signatures, nearly equal documents stand in two splits or folds.

    Reads what was written. Near duplicates are looked for as when they are dropped; images are near duplicates when
    they look alike.
    """
    with open_database(work) as database:
        load(database, facts)
        database.read_parquet(str(placements)).create_view("placements")
        database.execute(
            "CREATE TABLE kept AS SELECT d.*, p.split FROM documents d"
            " JOIN placements p ON d.id = (p.piece::BIGINT << 32) + p.row WHERE p.split IS NOT NULL"
        )
        found = {
            "content in two splits": _divided(database, "SELECT key_high, key_low, id FROM kept ORDER BY ALL"),
            "group in two splits": _divided(
                database,
                "SELECT group_high, group_low, id FROM kept WHERE group_high IS NOT NULL ORDER BY ALL",
            ),
        }
        if sample == "image":
            alike = "SELECT hash, id FROM buckets SEMI JOIN kept USING (id) ORDER BY ALL"
            found["near duplicate in two splits"] = _divided(database, alike)
        if near:
            repeats(database, "crowded", "SELECT hash, id FROM buckets SEMI JOIN kept USING (id) ORDER BY ALL")
            database.execute(
                "CREATE VIEW pairs AS SELECT p.id, p.earlier"
                " FROM (SELECT id, unnest([first, before]) AS earlier FROM crowded) p"
                " JOIN kept a ON a.id = p.id JOIN kept b ON b.id = p.earlier WHERE a.split <> b.split"
            )
            compare(database, facts, work, near.similarity)
            found["near duplicate in two splits"] = number(database, "SELECT count(*) FROM alike")
    return found


def _divided(database: "Database", ordered: str) -> int:
    """How many keys of a query (key columns, id) have documents in more than one split."""
    repeats(database, "equal", ordered)
    count = number(
        database,
        "SELECT count(DISTINCT e.first) FROM equal e JOIN kept a ON a.id = e.id JOIN kept b ON b.id = e.first"
        " WHERE a.split <> b.split",
    )
    database.execute("DROP TABLE equal")
    return count


def _place(database: "Database", config: SplitConfig, name: str) -> None:
    """Make the table `placed` (id, split); what shares a place (a group, or equal contents) goes to one split."""
    classes = number(database, "SELECT count(label) FROM (SELECT DISTINCT label FROM kept)")
    if classes > MAX_CLASSES:
        raise DataError(
            f"{name}: label_field has {classes} different values, at most {MAX_CLASSES} can be classes; "
            "name another field, or none"
        )
    database.execute("CREATE TABLE fixed (place UBIGINT, split VARCHAR)")
    database.execute("CREATE TABLE before (id BIGINT, number INTEGER)")
    database.register("names", pa.table({"split": list(shares(config)), "number": range(len(shares(config)))}))
    if config.previous:
        _keep_previous(database, Path(config.previous) / ASSIGNMENTS_FILE, config)
    if config.folds and config.folds.repeat:
        draw_again(database, config)
    elif config.stratify:
        stratify(database, shares(config))
    *inner, (last, _) = bounds(config)
    cases = " ".join(f"WHEN place < {end} THEN '{split}'" for split, end in inner)
    standing = database.query("SELECT id, place, split FROM kept LEFT JOIN fixed USING (place)")
    standing.project(f"id, coalesce(split, CASE {cases} ELSE '{last}' END) AS split").create("placed")


def _keep_apart(database: "Database") -> None:
    """Drop contents that stand in a more held-out split too: test comes first, and train last."""
    repeats(
        database,
        "twice",
        "SELECT key_high, key_low, id FROM kept WHERE (SELECT count(group_high) FROM kept) > 0"
        " OR EXISTS (SELECT 1 FROM before) ORDER BY ALL",
    )
    database.execute(
        "CREATE TABLE same AS SELECT leader, id, number FROM"
        " (SELECT first AS leader, id FROM twice UNION SELECT first, first FROM twice)"
        " JOIN placed USING (id) JOIN names USING (split)"
    )
    database.execute(
        "CREATE TABLE best AS SELECT leader, number, min(id) AS earlier FROM same"
        " JOIN (SELECT leader, min(number) AS number FROM same GROUP BY leader) USING (leader, number)"
        " GROUP BY leader, number"
    )
    database.execute(
        "INSERT INTO dropped SELECT same.id, ?, best.earlier FROM same JOIN best USING (leader)"
        " WHERE same.number > best.number",
        [ELSEWHERE],
    )
    database.execute("DELETE FROM placed WHERE id IN (SELECT id FROM dropped WHERE reason = ?)", [ELSEWHERE])


def _keep_previous(database: "Database", path: Path, config: SplitConfig) -> None:
    """Fix the places of what an earlier run placed; where it had parts of one group in several splits, most decide."""
    if not path.is_file():
        raise DataError(
            f"data.splits.previous={config.previous}: {path} is missing; give the `data` folder of a prepared run"
        )
    names = [split for split, _ in bounds(config)]
    database.read_parquet(str(path)).create_view("earlier")
    got = [split for (split,) in database.execute("SELECT DISTINCT split FROM earlier ORDER BY 1").fetchall()]
    if strange := [split for split in got if split not in names]:
        raise DataError(
            f"data.splits.previous={config.previous} has the splits {', '.join(strange)}, this configuration makes "
            f"{', '.join(names)}; keep data.splits.folds and the shares as they were, or give no previous"
        )
    database.execute(
        "INSERT INTO before SELECT id, min(number) FROM kept JOIN earlier USING (key_high, key_low)"
        " JOIN names USING (split) GROUP BY id"
    )
    total = number(database, "SELECT count(*) FROM earlier")
    found = number(
        database,
        "SELECT count(*) FROM earlier WHERE EXISTS (SELECT 1 FROM kept k WHERE k.key_high = earlier.key_high"
        " AND k.key_low = earlier.key_low) OR EXISTS (SELECT 1 FROM kept k WHERE k.group_high = earlier.group_high"
        " AND k.group_low = earlier.group_low)",
    )
    if 2 * found < total:
        raise DataError(
            f"data.splits.previous={config.previous}: only {found} of its {total} samples are here too, so most would "
            "be placed anew, test samples among them; clean as it was cleaned, read what it read, or give no previous"
        )
    database.execute(
        "CREATE TABLE votes AS SELECT place, number, count(*) AS count FROM ("
        " SELECT place, number FROM kept JOIN before USING (id) UNION ALL"
        " SELECT place, number FROM kept JOIN earlier USING (group_high, group_low) JOIN names USING (split)"
        ") GROUP BY place, number"
    )
    database.execute(  # one number of both: a state of fixed size goes to the disk where a text or a struct cannot
        "INSERT INTO fixed SELECT place, split FROM ("
        " SELECT place, 255 - (max((count << 8) + 255 - number) & 255) AS number FROM votes GROUP BY place"
        ") JOIN names USING (number)"
    )


def _count(database: "Database", config: SplitConfig) -> dict[str, SplitCount]:
    """What each split holds, empty ones too."""
    rows = database.execute(
        "SELECT split, label, count(*), sum(bytes), sum(words) FROM kept JOIN placed USING (id)"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    of_split = defaultdict(list)
    for split, *counts in rows:
        of_split[split].append(counts)
    names = [name for name, _ in bounds(config)]
    return {
        name: SplitCount(
            documents=sum(row[1] for row in of_split[name]),
            bytes=sum(row[2] for row in of_split[name]),
            words=sum(row[3] for row in of_split[name]),
            classes={row[0]: row[1] for row in of_split[name] if row[0] is not None},
        )
        for name in sorted(names, key=lambda name: (SPLITS.index(name) if name in SPLITS[:2] else 2, names.index(name)))
    }


def _refuse_empty(splits: dict[str, SplitCount], config: SplitConfig, name: str, sample: str) -> None:
    missing = [split for split, count in splits.items() if not count.documents]
    if not missing:
        return
    total = sum(count.documents for count in splits.values())
    are = f"1 {sample} leaves" if total == 1 else f"{total} {sample}s leave"
    finer = total < 20 and sample == "document"
    ways = ["smaller documents (data.source.document: paragraph or line)"] if finer else []
    ways += ["fewer folds (data.splits.folds.count)"] if config.folds else []
    ways += ["data.splits.stratify=false"] if config.stratify else [f"another data.splits.seed than {config.seed}"]
    raise DataError(f"{name}: {are} the {' and '.join(missing)} split empty; try {', '.join(ways)}, or other shares")


def _write(database: "Database", pieces: int, out: Path, assignments: Path) -> None:
    """Both files in the order of the source, with a row group a piece, so that a piece is found by its number."""
    query = (
        "SELECT (id >> 32)::INTEGER AS piece, (id & 4294967295)::INTEGER AS row, split, reason,"
        " (earlier >> 32)::INTEGER AS of_piece, (earlier & 4294967295)::INTEGER AS of_row,"
        " key_high, key_low, group_high, group_low"
        " FROM documents LEFT JOIN placed USING (id) LEFT JOIN dropped USING (id) ORDER BY id"
    )
    with (
        database.cursor() as reader,
        _parquet(out, PLACEMENTS) as placements,
        _parquet(assignments, ASSIGNMENTS) as standing,
    ):
        for rows in _by_piece(reader.query(query).to_arrow_reader(_BATCH), pieces):
            size = max(len(rows), 1)
            placements.write_table(rows.select(PLACEMENTS.names).cast(PLACEMENTS), row_group_size=size)
            kept = rows.filter(pc.field("split").is_valid()).select(ASSIGNMENTS.names)
            standing.write_table(kept.cast(ASSIGNMENTS), row_group_size=size)


def _by_piece(batches: pa.RecordBatchReader, pieces: int) -> Iterator[pa.Table]:
    """Rows that come in order, piece by piece; a piece without rows has an empty table."""
    empty = batches.schema.empty_table()
    piece, pending = 0, empty
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        numbers = rows["piece"].to_numpy()
        start = 0
        while piece < numbers[-1]:
            end = int(np.searchsorted(numbers, piece, side="right"))
            yield pa.concat_tables([pending, rows.slice(start, end - start)])
            piece, pending, start = piece + 1, empty, end
        pending = pa.concat_tables([pending, rows.slice(start)])
    for _ in range(piece, pieces):
        yield pending
        pending = empty


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A file that is there when it is complete."""
    part = path.with_name(path.name + ".part")
    with pq.ParquetWriter(part, schema, compression="zstd", write_statistics=False) as writer:
        yield writer
    sync(part)
    os.replace(part, path)
    sync(path.parent)
