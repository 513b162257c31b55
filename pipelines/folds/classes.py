"""Classes of which a fold holds no sample: what is measured class by class is another measure there."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from configs.folder import RunFolder
from configs.folds import fold_names, repeat_folder
from configs.metrics import Metric
from configs.schema import RunConfig
from configs.stages import read_record

CLASSES = "classes"
"""The part of a protocol that says among how many classes samples were told apart"""


def lacking_class(run: RunConfig, folder: RunFolder) -> str | None:
    """Which fold is the first without a class that others hold, in words; None where all hold all."""
    for name in fold_names(run):
        repeat, fold = name.split("-")
        splits: Mapping[str, Any] = read_record(repeat_folder(run, folder, int(repeat)).manifest)["splits"]
        held = {
            split: {label for label, count in told["classes"].items() if count}
            for split, told in splits.items()
            if split.startswith("fold-")
        }
        if missing := sorted(set().union(*held.values()) - held[f"fold-{fold}"]):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return f"fold {name} holds no sample of class {missing[0]!r}{more}"
    return None


def withhold(
    metrics: Sequence[Metric], protocols: Mapping[str, Mapping[str, Any]], lacking: str, plain: Collection[str]
) -> list[Metric]:
    """The metrics without the means of what is not alike in all folds, as a fold lacks a class.

    Of those that tell classes apart only plain means over samples, whose last names are given, ask for no class.
    """
    reason = f"{lacking}, so that only plain means over samples are alike in all folds; data.splits.stratify=true "
    reason += "gives every class to every fold"
    return [
        replace(metric, value=None, stderr=None, interval=None, undefined=reason)
        if CLASSES in protocols[metric.protocol]
        and metric.name.rpartition("/")[2] not in plain
        and not metric.undefined
        else metric
        for metric in metrics
    ]
