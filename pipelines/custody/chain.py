"""Every link of a run's chain from raw bytes to the report, verified; of a cross-validation those of every fold."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.code import HOME, code_record
from configs.custody import Link, judged, unchecked
from configs.errors import UserError
from configs.folder import RunFolder, digest
from configs.folds import cross_validates, fold_names, repeat_folder, repeats_of
from configs.load import read
from configs.schema import RunConfig
from pipelines.custody.borrowed import asked_links, first_weights_link
from pipelines.custody.code import judge_code
from pipelines.custody.data import data_links
from pipelines.custody.links import (
    Above,
    judge_checkpoint,
    judge_metrics,
    judge_report,
    judge_result,
    judge_settings,
    records_of,
)
from pipelines.custody.records import Recorded

Code = Mapping[str, Any]
"""The record of the code that is here"""


def chain(folder: RunFolder, *, sources: bool, home: Path = HOME) -> list[Link]:
    """All links, those nearest to the raw bytes first; `home` is where the program's code lies.

    Raises UserError when the folder holds no run.
    """
    if not folder.path.is_dir() or not any(path.exists() for path in (folder.config, folder.data, folder.train)):
        raise UserError(f"{folder.path} holds no run; give a run folder, such as runs/NAME")
    present = code_record(home)
    run, unread = read_settings(folder)
    if run is not None and cross_validates(run):
        return crossed_links(folder, run, present, sources=sources)
    return [*data_links(folder, present, sources=sources), *trained_links(folder, run, unread, present)]


def read_settings(folder: RunFolder) -> tuple[RunConfig | None, list[str]]:
    """The run, or why run.yaml does not tell it."""
    try:
        return read(folder.config), []
    except (UserError, OSError) as error:
        return None, [f"{folder.config}: {' '.join(str(error).split())}"]


def trained_links(folder: RunFolder, run: RunConfig | None, unread: list[str], present: Code) -> Iterator[Link]:
    """The links of one training and its evaluation, those of its data apart."""
    records = records_of(folder, run)
    complete, manifest, metrics = records.complete, records.manifest, records.metrics
    code = judge_code(folder, complete, metrics, present)
    if run is None:
        yield judged("settings", "", unread)
    else:
        yield from first_weights_link(run, folder, complete)
        yield from asked_links(run, folder, metrics)
        yield judge_settings(records, code)
    yield code
    yield from judge_checkpoint(records)
    yield from judge_result(records)
    above = [
        Above("checkpoint", "checkpoint", complete.digest if complete.sound else None),
        Above("data", "data set", manifest.digest if manifest.sound else None),
    ]
    yield from judge_metrics(folder, metrics, above)
    yield judge_report(folder, metrics)


# --- a cross-validation ---


def crossed_links(folder: RunFolder, run: RunConfig, present: Code, *, sources: bool) -> list[Link]:
    """The data of every repeat, every fold, and what was collected of them; a link's name begins with its fold."""
    links, repeats = list[Link](), repeats_of(run)
    for repeat in repeats:
        place = repeat_folder(run, folder, repeat)
        links += _named(f"repeat {repeat}" if len(repeats) > 1 else "", data_links(place, present, sources=sources))
    metrics = Recorded(folder.metrics)
    for name in fold_names(run):
        fold = folder.fold(name)
        if fold.config.is_file():
            links += _named(f"fold {name}", trained_links(fold, *read_settings(fold), present))
        elif metrics.there:
            links.append(judged(f"fold {name} settings", "", [f"{fold.config} is missing"]))
        else:
            links.append(unchecked(f"fold {name}", "it is not trained yet"))
    return links + collected_links(folder, run, present)


def _named(prefix: str, links: Iterator[Link] | list[Link]) -> list[Link]:
    return [replace(link, name=f"{prefix} {link.name}".strip()) for link in links]


def collected_links(folder: RunFolder, run: RunConfig, present: Code) -> list[Link]:
    """What is made of all folds' metrics."""
    records = records_of(folder, run)  # nothing is trained in this folder itself
    metrics, folds = records.metrics, {name: Recorded(folder.fold(name).metrics) for name in fold_names(run)}
    data = [Recorded(repeat_folder(run, folder, each).manifest, blank=True) for each in repeats_of(run)]
    checkpoints = [each.says("checkpoint") for each in folds.values()]
    manifests = [each.digest for each in data if each.sound]
    above = [Above("checkpoint", "checkpoints", digest(checkpoints) if all(checkpoints) else None)]
    if len(manifests) == len(data):
        above.append(Above("data", "data sets", manifests[0] if len(data) == 1 else digest(manifests)))
    *beside, collected = judge_metrics(folder, metrics, above)
    if problems := _other_folds(metrics, folds):
        collected = judged(collected.name, collected.digest, problems)
    code = judge_code(folder, records.complete, metrics, present)
    return [
        judge_settings(records, code),
        code,
        *beside,
        collected,
        judge_report(folder, metrics),
    ]


def _other_folds(metrics: Recorded, folds: Mapping[str, Recorded]) -> list[str]:
    """Folds whose metrics are not those that were collected."""
    told = metrics.says("folds")
    if told is None:
        return []
    if told.keys() != folds.keys():
        return [f"{metrics.path} is of folds {', '.join(told)}, run.yaml has {', '.join(folds)}"]
    return [
        f"fold {name}: the metrics that were collected are {told[name][:12]}, here are {each.digest[:12]}"
        for name, each in folds.items()
        if each.sound and each.digest != told[name]
    ]
