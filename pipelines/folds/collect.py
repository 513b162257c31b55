"""The evaluations of all folds to one: means, deviations, intervals, and a table of the folds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors.numpy import save

from configs.code import record_code
from configs.errors import DamageError
from configs.folder import RunFolder, digest, file_digest, locked, write_atomic, write_json
from configs.folds import fold_names, fold_run, repeat_folder, repeats_of
from configs.metrics import Evaluation, Metric, protocol_id, read_evaluation
from configs.schema import RunConfig
from configs.stages import complete, fold_digests, read_record
from pipelines.folds.classes import lacking_class, withhold
from pipelines.folds.interval import Spread, spread
from pipelines.folds.pooled import Arrays, pool, read_part, read_units
from pipelines.folds.protocol import agreed, describe_folds

OURS = "test/"
"""What a fold calls the scores of its model: in a fold the test split is the one that was held out"""
Evaluations = Mapping[str, Evaluation]
"""By fold"""


def collect_folds(run: RunConfig, folder: RunFolder) -> str:
    """Write the evaluation of a cross-validation, and say in one line what was written.

    Raises DamageError while a fold has not been evaluated: it is never left out of a mean, and when folds were scored
    under unlike protocols.
    """
    names = fold_names(run)
    if missing := [name for name in names if not complete("evaluate", fold_run(run, name), folder.fold(name))]:
        raise DamageError(
            f"{folder.folds}: {len(missing)} of {len(names)} folds have no whole evaluation: {', '.join(missing)}; "
            "give the same command again, which trains and evaluates them alone"
        )
    with locked(folder.evaluation):
        evaluations = {name: read_evaluation(folder.fold(name)) for name in names}
        units = pool(evaluations, {name: read_units(folder.fold(name)) for name in names})
        division = describe_folds(run, folder)
        metrics, protocols, spreads = mean_metrics(evaluations, division)
        if lacking := lacking_class(run, folder):
            metrics = withhold(metrics, protocols, lacking, {name.rpartition("/")[2] for name in units})
        pooled, more = pooled_metrics(evaluations, units, division)
        write_json(folder.figures, [fold_table(evaluations, metrics, spreads)])
        write_atomic(folder.units, save(_tensors(units) if len(repeats_of(run)) == 1 else {}))
        first = folder.fold(names[0])  # its networks are those of all folds, and its samples are to look at
        write_atomic(folder.cost, read_part(first, first.cost))
        write_atomic(folder.samples, read_part(first, first.samples))
        _write(run, folder, evaluations, [*metrics, *pooled], protocols | more)
    return f"{len(names)} folds: {len(metrics) + len(pooled)} metrics written to {folder.metrics}"


def _write(
    run: RunConfig,
    folder: RunFolder,
    evaluations: Evaluations,
    metrics: Sequence[Metric],
    protocols: Mapping[str, Mapping[str, Any]],
) -> None:
    """metrics.json, which stands for all folds: its checkpoint is the digest of theirs."""
    data = [read_record(repeat_folder(run, folder, each).manifest)["digest"] for each in repeats_of(run)]
    record: dict[str, Any] = {
        "checkpoint": digest([each.checkpoint for each in evaluations.values()]),
        "data": data[0] if len(data) == 1 else digest(data),
        "folds": fold_digests(run, folder),
        "run": file_digest(folder.config),
        "code": record_code(folder),
        "metrics": [asdict(metric) for metric in metrics],
        "protocols": protocols,
        "files": {path.name: file_digest(path) for path in (folder.samples, folder.figures, folder.units, folder.cost)},
    }
    write_json(folder.metrics, record | {"digest": digest(record)})


def name_of(name: str) -> str:
    """What a fold's metric is called over all folds; a baseline keeps its name, and stands beside the model."""
    return name if name.startswith("baseline/") else f"cv/{name.removeprefix(OURS)}"


def mean_metrics(
    evaluations: Evaluations, division: Mapping[str, Any]
) -> tuple[list[Metric], dict[str, dict[str, Any]], dict[str, Spread]]:
    """Every metric of the folds by its mean, the protocols of these, and each mean's spread by its new name.

    A metric that a fold does not have, or has no value for, has none here either, and a reason that names the fold.
    """
    metrics, protocols, spreads = [], {}, {}
    for name in dict.fromkeys(name for each in evaluations.values() for name in each.metrics):
        of_fold = {fold: each.metrics[name] for fold, each in evaluations.items() if name in each.metrics}
        first = next(iter(of_fold.values()))
        shared = agreed({fold: evaluations[fold].protocols[metric.protocol] for fold, metric in of_fold.items()})
        protocol = {**shared, **division}
        protocols[protocol_id(protocol)] = protocol
        new, count = name_of(name), len(evaluations)
        given: Any = {"n": count, "unit": first.unit, "better": first.better, "protocol": protocol_id(protocol)}
        if reason := _undefined(evaluations, of_fold):
            metrics.append(Metric(new, None, None, undefined=reason, **given))
            continue
        values = [metric.value for metric in of_fold.values() if metric.value is not None]
        spreads[new] = found = spread(values, test_to_train=1 / (division["folds"] - 1))
        metrics.append(Metric(new, found.mean, found.stderr, interval=found.interval, **given))
    return metrics, protocols, spreads


def _undefined(evaluations: Evaluations, of_fold: Mapping[str, Metric]) -> str | None:
    for fold in evaluations:
        if fold not in of_fold:
            return f"fold {fold} does not have it"
        if of_fold[fold].value is None:
            return f"fold {fold}: {of_fold[fold].undefined}"
    return None


def pooled_metrics(
    evaluations: Evaluations, units: Mapping[str, Arrays], division: Mapping[str, Any]
) -> tuple[list[Metric], dict[str, dict[str, Any]]]:
    """Metrics over all held-out samples together, without an error, as the models that scored them differ by fold."""
    metrics, protocols = [], {}
    for name, scores in units.items():
        of_fold = {fold: each.metrics[name] for fold, each in evaluations.items()}
        shared = agreed({fold: evaluations[fold].protocols[metric.protocol] for fold, metric in of_fold.items()})
        pooled = {"value": "over the samples of all folds together", "stderr": "none", "interval": "none"}
        protocol = {**shared, **division, **pooled, "scored": f"every sample {division['repeats']} x, held out"}
        protocols[protocol_id(protocol)] = protocol
        value, first = float(scores["sums"].sum() / scores["sizes"].sum()), next(iter(of_fold.values()))
        size = sum(metric.n for metric in of_fold.values()) // division["repeats"]
        metrics.append(Metric(_pooled(name), value, None, size, first.unit, first.better, protocol_id(protocol)))
    return metrics, protocols


def _pooled(name: str) -> str:
    return f"pooled/{name.removeprefix(OURS)}"


def _tensors(units: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """The arrays of units.safetensors."""
    return {f"{_pooled(name)}/{part}": array for name, arrays in units.items() for part, array in arrays.items()}


def fold_table(evaluations: Evaluations, metrics: Sequence[Metric], spreads: Mapping[str, Spread]) -> dict[str, Any]:
    """Metrics down, folds across, and what the mean is worth, as a figure."""
    values = {
        name_of(name): [each.metrics[name].value if name in each.metrics else None for each in evaluations.values()]
        for name in dict.fromkeys(name for each in evaluations.values() for name in each.metrics)
    }
    rows = []
    for metric in metrics:
        found = None if metric.undefined else spreads[metric.name]
        told = [found.mean, found.deviation, *(found.interval or (None, None))] if found else [None] * 4
        rows.append([metric.name, *values[metric.name], *told])
    return {
        "kind": "table",
        "title": "Folds",
        "columns": ["metric", *evaluations, "mean", "standard deviation", "95 % from", "to"],
        "rows": rows,
        "note": "A fold is named by its repeat and its number. The interval is the corrected resampled t (Nadeau and "
        "Bengio, 2003): folds share training samples, and are no independent draws. Equal values have none.",
    }
