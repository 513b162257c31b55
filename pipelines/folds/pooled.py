"""Scores of single samples over all folds together: every sample was held out once in each repeat."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from configs.errors import DamageError
from configs.folder import RunFolder, file_digest
from configs.metrics import Evaluation
from configs.stages import read_record

Arrays = dict[str, NDArray]
"""`ids`, `sums` and `sizes` [N]"""


def read_part(folder: RunFolder, path: Path) -> bytes:
    """A file of a fold's evaluation. Raises DamageError when it is not what was written beside metrics.json."""
    told = read_record(folder.metrics)["files"][path.name]
    if not path.is_file() or file_digest(path) != told:
        raise DamageError(
            f"{path} is not what was written beside {folder.metrics.name}; remove {folder.evaluation} and give the "
            "command again, which evaluates the fold"
        )
    return path.read_bytes()


def read_units(folder: RunFolder) -> dict[str, Arrays]:
    """A fold's scores by metric and kind. Raises DamageError when they are not what its evaluation wrote."""
    found: dict[str, Arrays] = {}
    for key, array in load(read_part(folder, folder.units)).items():
        name, _, part = key.rpartition("/")
        found.setdefault(name, {})[part] = array
    return found


def pool(evaluations: Mapping[str, Evaluation], units: Mapping[str, Mapping[str, Arrays]]) -> dict[str, Arrays]:
    """The scores of all folds as one set, of metrics that are their plain ratio in every fold; ids are numbered anew.

    A metric that is a function of its ratio, as perplexity is, has no value over all folds that its name would fit.
    """
    first = next(iter(units.values()))
    pooled: dict[str, Arrays] = {}
    for name in first:
        if all(name in units[fold] and _is_ratio(units[fold][name], ours, name) for fold, ours in evaluations.items()):
            sums, sizes = (np.concatenate([each[name][part] for each in units.values()]) for part in ("sums", "sizes"))
            pooled[name] = {"ids": np.arange(len(sums), dtype=np.int64), "sums": sums, "sizes": sizes}
    return pooled


def _is_ratio(scores: Arrays, evaluation: Evaluation, name: str) -> bool:
    metric, size = evaluation.metrics.get(name), float(scores["sizes"].sum())
    if metric is None or metric.value is None or not size:
        return False
    return bool(np.isclose(float(scores["sums"].sum()) / size, metric.value, rtol=1e-9, atol=1e-12))
