"""What folds ask of the global view: other divisions of the same samples, and every class in every fold."""

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

from configs.dataset import SplitConfig
from configs.errors import DataError
from data.splits import PLACES, bounds, shares
from data.view.strata import stratify

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database


def draw_again(database: "Database", config: SplitConfig) -> None:
    """Leave what is held out where the first division has it, and draw other places among the folds for the rest.

    What shared a place still does: the new one is a hash of the old one and of the repeat's number.
    """
    assert config.folds
    begin = 0
    if config.stratify:
        stratify(database, shares(config))
        database.execute("DELETE FROM fixed WHERE starts_with(split, 'fold-')")
    for split, end in bounds(config):
        if split.startswith("fold-"):
            break
        if not config.stratify:
            span = [split, begin, end]
            database.execute(
                "INSERT INTO fixed SELECT DISTINCT place, ? FROM kept WHERE place BETWEEN ? AND ? - 1", span
            )
        begin = end
    database.execute(
        "UPDATE kept SET place ="
        " (?::UHUGEINT + ('0x' || sha256(? || place)[:16])::UBIGINT::UHUGEINT * ?::UHUGEINT // ?::UHUGEINT)::UBIGINT"
        " WHERE place NOT IN (SELECT place FROM fixed)",
        [begin, f"{config.folds.repeat}/", PLACES - begin, PLACES],
    )
    if config.stratify:
        stratify(database, {name: share for name, share in shares(config).items() if name.startswith("fold-")})


def refuse_rare(classes: Mapping[str, Mapping[str, int]], config: SplitConfig, name: str, sample: str) -> None:
    """Stratified folds hold every class, so that none may have fewer samples than there are folds.

    `classes` counts the samples of each class by split. Raises DataError naming the smallest class.
    """
    if config.folds is None:
        return
    held: Counter[str] = Counter()
    for split, counts in classes.items():
        held.update(counts if split.startswith("fold-") else {})
    label, size = min(held.items(), key=itemgetter(1), default=("", config.folds.count))
    if size < config.folds.count:
        fewer = f"set data.splits.folds.count to {size} or fewer, " if size > 1 else ""
        raise DataError(
            f"{name}: class {label!r} has {size} {sample}{'s' * (size > 1)} for the {config.folds.count} folds into "
            f"which data.splits.stratify divides every class; {fewer}give more of that class, or set "
            "data.splits.stratify=false"
        )
