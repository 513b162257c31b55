"""Facts of documents in a database on the disk (DuckDB), and which of them are equal or nearly so."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.errors import DamageError, UserError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

MEMORY = "384MB"  # of the database; what does not fit goes to the disk
_FOLDER = "tables"
_ROWS, _SIGNATURES = 1 << 18, 1 << 13  # in memory


@contextmanager
def open_database(work: Path) -> "Iterator[Database]":
    """An empty database, one at a time in a folder, that fetches nothing and leaves nothing behind."""
    import duckdb

    folder = work / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    settings: dict[str, Any] = {
        "memory_limit": MEMORY,
        "threads": 1,
        "temp_directory": str(folder / "spilled"),
        "preserve_insertion_order": False,  # every query that needs an order asks for it
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(str(folder / "documents.duckdb"), config=settings) as database:
            yield database
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"{work}: finding duplicates and splits needs more than {MEMORY} of memory and the free disk; "
            f"make room there and run again: {error}"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load(database: "Database", facts: Sequence[Path]) -> None:
    """Make the table `documents`, and the view `buckets` of what is too large to copy.

    An `id` rises in the order of the source: piece << 32 | row. Raises DamageError when a file is not one of facts.
    """
    import duckdb

    try:
        files = database.read_parquet([str(path) for path in facts])
        files.project("(file_index::BIGINT << 32) + row AS id, * EXCLUDE (row)").create_view("facts")
        database.execute("CREATE TABLE documents AS SELECT * EXCLUDE (bands, signature) FROM facts")
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.BinderException) as error:
        raise DamageError(f"facts of documents cannot be read: {error}; remove the folder and prepare again") from None
    database.execute("CREATE VIEW buckets AS SELECT id, unnest(bands) AS hash FROM facts")


def number(database: "Database", query: str) -> int:
    """The one number that a query gives."""
    row = database.execute(query).fetchone()
    assert row, "an aggregate has a row"
    return row[0]


def repeats(database: "Database", table: str, ordered: str) -> None:
    """Make a table of the rows (key columns, id) of an ordered query that have the key of the row before them.

    It has the columns id, `first` of its key and `before`, the id before it. From a sorted stream, as a sort takes any
    number of rows and any number of equal ones where aggregates and windows fail when a part of them is too large.
    """
    database.execute(f"CREATE TABLE {table} (id BIGINT, first BIGINT, before BIGINT)")
    last: list[NDArray[Any]] = []
    first = 0
    with database.cursor() as reader:
        for batch in reader.query(ordered).to_arrow_reader(_ROWS):
            columns = [column.to_numpy() for column in batch.columns]
            same = np.ones(len(batch), dtype=bool)
            for k, key in enumerate(columns[:-1]):
                same[1:] &= key[1:] == key[:-1]
                same[0] &= bool(last) and bool(key[0] == last[k][-1])
            ids = columns[-1]
            before = np.concatenate([last[-1][-1:] if last else ids[:1], ids[:-1]])
            starts = np.maximum.accumulate(np.where(same, -1, np.arange(len(ids))))
            firsts = np.where(starts < 0, first, ids[starts])
            last, first = columns, int(firsts[-1])
            insert(database, table, {"id": ids[same], "first": firsts[same], "before": before[same]})


def insert(database: "Database", table: str, columns: Mapping[str, Any]) -> None:
    """Add rows to a table, given as a column each."""
    database.register("added", pa.table(dict(columns)))
    database.table("added").insert_into(table)
    database.unregister("added")


def drop_equal(database: "Database") -> None:
    """Note all but the first of documents with one key in `dropped`."""
    repeats(database, "equal", "SELECT key_high, key_low, id FROM documents ORDER BY ALL")
    database.execute("INSERT INTO dropped SELECT id, 'duplicate', first FROM equal")


def drop_near(database: "Database", facts: Sequence[Path], work: Path, similarity: float) -> None:
    """Note documents that are nearly equal to an earlier one in `dropped`.

    Each is compared with the first document of its bands' buckets and with the one before it, so that the work grows
    with the number of documents however large a bucket is.
    """
    repeats(database, "crowded", "SELECT hash, id FROM buckets ORDER BY ALL")
    database.execute(
        "CREATE VIEW pairs AS SELECT id, unnest([first, before]) AS earlier FROM crowded ANTI JOIN dropped USING (id)"
    )
    compare(database, facts, work, similarity)
    database.execute("INSERT INTO dropped SELECT id, 'near duplicate', earlier FROM alike")


def compare(database: "Database", facts: Sequence[Path], work: Path, similarity: float) -> None:
    """Make the table `alike`: of `pairs` (id, earlier) whose signatures agree in so large a share, each id's first."""
    database.execute("CREATE TABLE alike (id BIGINT, earlier BIGINT)")
    path = work / _FOLDER / "signatures"
    starts, hashes = _lay_out(facts, path)
    last = np.zeros((2, 1), dtype=np.int64)  # of the pairs before; no document comes before the first
    known = np.int64(0)
    with database.cursor() as reader, path.open("rb", buffering=0) as file:
        for batch in reader.query("FROM pairs ORDER BY ALL").to_arrow_reader(_SIGNATURES):
            pairs = np.stack([column.to_numpy() for column in batch.columns])
            new = (np.diff(np.concatenate([last, pairs], axis=1)) != 0).any(axis=0)  # a pair may share many bands
            last, pairs = pairs[:, -1:], pairs[:, new]
            places = starts[pairs >> 32] + (pairs & 0xFFFFFFFF)
            equal = _read(file, places[0], hashes) == _read(file, places[1], hashes)
            found = pairs[:, equal.mean(axis=1) >= similarity]
            found = found[:, np.diff(found[0], prepend=known) != 0]
            known = found[0, -1] if found.size else known
            insert(database, "alike", {"id": found[0], "earlier": found[1]})
    path.unlink()


def _read(file: IO[bytes], places: NDArray[np.int64], hashes: int) -> NDArray[np.uint32]:
    """Signatures [len(places), hashes]; by reads, as the pages of a map would count as memory in use."""
    found = np.empty((len(places), hashes), dtype="<u4")
    for row, place in zip(found, places.tolist(), strict=True):
        os.preadv(file.fileno(), [row.data], place * row.nbytes)
    return found


def _lay_out(facts: Sequence[Path], path: Path) -> tuple[NDArray[np.int64], int]:
    """Write all signatures to a file where one is found by piece and row: a database reads thousands, not one.

    Returns where each piece starts, in signatures, and hashes per signature.
    """
    starts, start, hashes = [], 0, 0
    with path.open("wb") as file:
        for piece in facts:
            starts.append(start)
            with pq.ParquetFile(piece) as table:
                for batch in table.iter_batches(_SIGNATURES, columns=["row", "signature"]):
                    rows = batch.column(0).to_numpy()
                    found = np.frombuffer(b"".join(batch.column(1).to_pylist()), dtype="<u4").reshape(len(rows), -1)
                    hashes = found.shape[1]
                    gaps = np.flatnonzero(np.diff(rows) != 1) + 1  # dropped documents have a row, and no signature
                    for run, first in zip(np.split(found, gaps), rows[[0, *gaps]].tolist(), strict=True):
                        file.seek((starts[-1] + first) * 4 * hashes)
                        file.write(run.tobytes())
                    start = starts[-1] + int(rows[-1]) + 1
    return np.array(starts, dtype=np.int64), hashes
