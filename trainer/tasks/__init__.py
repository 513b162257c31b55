"""The families by the `kind` of their config: one line each."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from configs.schema import RunConfig
from data.manifest import Manifest
from trainer.task import Task


@dataclass(frozen=True)
class Family:
    """Where a family's code is; imported when a run of it starts."""

    task: str
    evaluation: str


FAMILIES = {
    "causal_lm": Family("trainer.tasks.causal_lm:CausalLM", "trainer.evaluation.language:evaluate"),
    "image_classification": Family(
        "trainer.tasks.image_classification:ImageClassification", "trainer.evaluation.classification:evaluate"
    ),
}


def build_task(run: RunConfig, manifest: Manifest) -> Task:
    """The run's task over this data set."""
    return _find(FAMILIES[run.task.kind].task)(run.task, manifest)


def evaluation_of(run: RunConfig) -> Any:
    """The function that scores a trained model of this family."""
    return _find(FAMILIES[run.task.kind].evaluation)


def _find(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(import_module(module), attribute)
