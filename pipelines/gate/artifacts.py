"""A judgement as artifacts of a pipeline run, where the component wants them."""

from pathlib import Path
from typing import TYPE_CHECKING

from configs.folder import write_atomic
from pipelines.gate.page import build_page
from pipelines.gate.verdicts import Judgement

if TYPE_CHECKING:
    from kfp.dsl import HTML, Metrics


def fill_artifacts(judgement: Judgement, metrics: "Metrics", html: "HTML") -> None:
    """Gains in per cent by metric and the verdict into a component's Metrics, the page into its HTML."""
    for each in judgement.verdicts:
        if each.percent is not None:
            metrics.log_metric(f"{each.name} gain %", each.percent)
    metrics.metadata["verdict"] = judgement.word
    path = Path(html.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, build_page(judgement))
