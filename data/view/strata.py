"""Stratified splits: every split gets its share of each class, and groups stay whole."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING

import pyarrow as pa

from data.view.tables import insert

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

Label = str | None
_BATCH = 1 << 16  # groups in memory


def quotas(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number in proportion to weights by largest remainders: each part is within 1 of its exact share."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(part) for part in exact]
    order = sorted(range(len(weights)), key=lambda k: (parts[k] - exact[k], k))
    for k in order[: total - sum(parts)]:
        parts[k] += 1
    return parts


def fill(new: int, have: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many of `new` samples each split gets, so that with those it has it comes as near to its share as can be."""
    wanted = quotas(new + sum(have), weights)
    missing = [max(want - got, 0) for want, got in zip(wanted, have, strict=True)]
    return missing if sum(missing) == new else quotas(new, missing)


class Balance:
    """Splits for whole groups, one after another, so that every class nears its shares in every split.

    Greedy: a group goes where it lowers the summed squares of what the splits lack of its classes most, each class in
    proportion to its size (after Sechidis et al., 2011).
    """

    def __init__(self, wanted: Mapping[Label, Sequence[float]], have: Mapping[Label, Sequence[int]]) -> None:
        self.sizes = {label: sum(row) for label, row in wanted.items()}
        self.missing = {
            label: [want - got for want, got in zip(row, have[label], strict=True)] for label, row in wanted.items()
        }

    def take(self, group: Mapping[Label, int]) -> int:
        """The number of the split for a group of so many samples of each class."""
        count = len(next(iter(self.missing.values())))
        gains = [
            sum(n * self.missing[label][k] / self.sizes[label] for label, n in group.items()) for k in range(count)
        ]
        best = gains.index(max(gains))
        for label, n in group.items():
            self.missing[label][best] -= n
        return best


def stratify(database: "Database", shares: Mapping[str, float]) -> None:
    """Give every place in `kept` that has no split in `fixed` one there, of those in `shares`.

    What shares a place (a group, or equal contents) is taken whole, the largest first; single samples then fill up
    each class, test first, in the order of their places.
    """
    splits, weights = list(shares), list(shares.values())
    sizes: dict[Label, int] = dict(
        database.execute(
            "SELECT label, count(*) FROM kept ANTI JOIN (FROM fixed WHERE split NOT IN (SELECT unnest(?)))"
            " USING (place) GROUP BY 1 ORDER BY 1",
            [splits],
        ).fetchall()
    )
    wanted = {label: [size * weight for weight in weights] for label, size in sizes.items()}
    balance = Balance(wanted, _standing(database, sizes, splits))
    database.execute(
        "CREATE OR REPLACE TABLE crowds AS SELECT place, count(*) AS size FROM kept ANTI JOIN fixed USING (place)"
        " GROUP BY place HAVING count(*) > 1"
    )
    with database.cursor() as reader:
        reader.execute(
            "SELECT place, label, count(*) FROM kept JOIN crowds USING (place)"
            " GROUP BY place, size, label ORDER BY size DESC, place, label"
        )
        groups = groupby(iter(reader.fetchone, None), key=itemgetter(0))
        chosen = ((place, splits[balance.take({label: n for _, label, n in rows})]) for place, rows in groups)
        while batch := list(islice(chosen, _BATCH)):
            places, names = zip(*batch, strict=True)
            insert(database, "fixed", {"place": pa.array(places, pa.uint64()), "split": names})
    _fill_up(database, sizes, splits, weights)


def _standing(database: "Database", sizes: Mapping[Label, int], splits: list[str]) -> dict[Label, list[int]]:
    """How many samples of each class each split has already."""
    have = {label: [0] * len(splits) for label in sizes}
    rows = database.execute(
        "SELECT label, split, count(*) FROM kept JOIN fixed USING (place) WHERE split IN (SELECT unnest(?))"
        " GROUP BY 1, 2",
        [splits],
    ).fetchall()
    for label, split, count in rows:
        have[label][splits.index(split)] = count
    return have


def _fill_up(database: "Database", sizes: Mapping[Label, int], splits: list[str], weights: list[float]) -> None:
    """Divide the samples that are left: of each class the first in the order of places are test's, and so on."""
    have = _standing(database, sizes, splits)
    rows = list(_ranges(sizes, have, splits, weights))
    labels, names, begins, ends = zip(*rows, strict=True) if rows else ((), (), (), ())
    ranges = {"label": pa.array(labels, pa.string()), "split": pa.array(names, pa.string())}
    database.register(
        "ranges", pa.table(ranges | {"begins": pa.array(begins, pa.int64()), "ends": pa.array(ends, pa.int64())})
    )
    database.execute(
        "CREATE OR REPLACE TABLE ranked AS"
        " SELECT place, label, row_number() OVER (PARTITION BY label ORDER BY place) AS rank"
        " FROM kept ANTI JOIN fixed USING (place)"
    )
    database.execute(
        "INSERT INTO fixed SELECT place, split FROM ranked JOIN ranges"
        " ON ranked.label IS NOT DISTINCT FROM ranges.label AND rank > begins AND rank <= ends"
    )
    database.unregister("ranges")


def _ranges(
    sizes: Mapping[Label, int], have: Mapping[Label, list[int]], splits: list[str], weights: list[float]
) -> Iterator[tuple[Label, str, int, int]]:
    """Of each class and split, the ranks that go there: from the first, which is not among them, to the last."""
    for label, size in sizes.items():
        rank = 0
        for split, count in zip(splits, fill(size - sum(have[label]), have[label], weights), strict=True):
            if count:
                yield label, split, rank, rank + count
            rank += count
