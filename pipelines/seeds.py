"""Runs that differ in nothing but seed and name: their means, and how far these are apart."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from statistics import mean, stdev

from configs.folder import digest
from configs.schema import identity
from pipelines.charts import plain
from pipelines.entries import Entry
from pipelines.page import Table
from pipelines.readout import Metric
from pipelines.scores import spread


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seed and name."""

    name: str
    metrics: Sequence[Metric]
    """The headline of each"""

    def __str__(self) -> str:
        return f"{self.name} {spread([metric['value'] for metric in self.metrics])}"


def groups(entries: Sequence[Entry]) -> list[Group]:
    """Evaluated runs whose configurations differ in seed and name alone, where there are several."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.headline and entry.traces and entry.traces.run:
            own = {k: v for k, v in identity(entry.traces.run).items() if k not in ("name", "seed")}
            found[digest([own, entry.headline["name"], entry.headline["protocol"]])].append(entry)
    return [
        Group(shared_name([entry.name for entry in own]), [entry.headline for entry in own if entry.headline])
        for own in found.values()
        if len({entry.traces.run.seed for entry in own if entry.traces and entry.traces.run}) > 1
    ]


def shared_name(names: Sequence[str]) -> str:
    """What the names begin with, without the number that tells them apart."""
    letters = takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False))
    prefix = "".join(each[0] for each in letters).rstrip("0123456789").rstrip("-_")
    return prefix.removesuffix("seed").rstrip("-_") or names[0]


def seed_table(found: Sequence[Group]) -> Table:
    rows = []
    for group in found:
        values = [metric["value"] for metric in group.metrics]
        each = ", ".join(f"{value:.4g}" for value in values)
        rows.append((group.name, [quantity_of(group.metrics[0]), spread(values), str(len(values)), each]))
    caption = "Runs that differ in nothing but their seed and name: mean ± standard deviation over seeds."
    head = [("", ""), ("quantity", ""), ("mean", "± standard deviation"), ("seeds", ""), ("each", "")]
    return Table(caption, head, rows)


def sentences(found: Sequence[Group]) -> Iterator[str]:
    """One for each two groups whose headlines were taken under one protocol, the better one first."""
    for pair in combinations(found, 2):
        first = pair[0].metrics[0]
        if any(each.metrics[0][key] != first[key] for each in pair for key in ("name", "protocol")):
            continue
        higher = first["better"] == "higher"
        best, other = sorted(pair, key=lambda group: mean(m["value"] for m in group.metrics), reverse=higher)
        counts = len(best.metrics), len(other.metrics)
        seeds = f"{counts[0]} seeds each" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]} seeds"
        yield f"{quantity_of(first).capitalize()}: {best} against {other}, {seeds}{doubt(best, other)}."


def doubt(one: Group, other: Group) -> str:
    """What to say where the means are no further apart than twice the standard error of their difference."""
    values = [[metric["value"] for metric in group.metrics] for group in (one, other)]
    error = math.sqrt(sum(stdev(each) ** 2 / len(each) for each in values))
    return (
        "; the difference is within two standard errors" if abs(mean(values[0]) - mean(values[1])) <= 2 * error else ""
    )


def quantity_of(metric: Metric) -> str:
    return plain(metric["name"].rpartition("/")[2])
