"""Judgements as artifacts of a pipeline run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from configs.folder import write_atomic
from pipelines.gate.verdicts import Judgement

if TYPE_CHECKING:
    from kfp.dsl import HTML, Metrics


def fill_artifacts(judgements: Mapping[str, Judgement], page: str, metrics: "Metrics", html: "HTML") -> None:
    """Gains in per cent by metric, and the verdict, of each judgement by its name; the page of them all."""
    for name, judgement in judgements.items():
        for each in judgement.verdicts:
            if each.percent is not None:
                metrics.log_metric(f"{name} {each.name} gain %", each.percent)
        metrics.metadata[f"{name} verdict"] = judgement.word
    path = Path(html.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
