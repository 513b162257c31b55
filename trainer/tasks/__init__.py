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
    showing: str | None = None
    """What makes samples to look at in the middle of a training, a function of a View; None where there are none"""
    sampling: str | None = None
    """What writes text or draws images from a trained model; None where there is nothing to draw"""
    reads_tokenizer: bool = False
    """Whether the task is built with the tokenizer, such as for its prompt or to know where words begin"""


FAMILIES = {
    "causal_lm": Family(
        "trainer.tasks.causal_lm:CausalLM",
        "trainer.evaluation.language:evaluate",
        "trainer.evaluation.language:show",
        "trainer.sampling.text:sample",
    ),
    "masked_lm": Family(
        "trainer.tasks.masked_lm:MaskedLM",
        "trainer.evaluation.masked:evaluate",
        "trainer.evaluation.masked:show",
        reads_tokenizer=True,
    ),
    "sequence_classification": Family(
        "trainer.tasks.sequence_classification:SequenceClassification",
        "trainer.evaluation.text_classes:evaluate",
        "trainer.evaluation.text_classes:show",
        reads_tokenizer=True,
    ),
    "token_classification": Family(
        "trainer.tasks.token_classification:TokenClassification",
        "trainer.evaluation.token_classes:evaluate",
        "trainer.evaluation.token_classes:show",
    ),
    "image_classification": Family(
        "trainer.tasks.image_classification:ImageClassification",
        "trainer.evaluation.classification:evaluate",
        "trainer.evaluation.classification:show",
    ),
    "diffusion": Family(
        "trainer.tasks.diffusion:Diffusion",
        "trainer.evaluation.diffusion:evaluate",
        "trainer.evaluation.diffusion:show",
        "trainer.sampling.images:sample",
    ),
}


def build_task(run: RunConfig, manifest: Manifest, tokenizer: Any = None) -> Task:
    """The run's task over this data set. Without its tokenizer it can build networks, but no batches of text that need
    it: of whole words, or with a prompt."""
    family = FAMILIES[run.task.kind]
    more = (tokenizer,) if family.reads_tokenizer and tokenizer is not None else ()
    return _find(family.task)(run.task, manifest, *more)


def evaluation_of(run: RunConfig) -> Any:
    """The function that scores a trained model of this family."""
    return _find(FAMILIES[run.task.kind].evaluation)


def sampling_of(run: RunConfig) -> Any:
    """The function that draws from a trained model of this family; None where there is nothing to draw."""
    name = FAMILIES[run.task.kind].sampling
    return None if name is None else _find(name)


def showing_of(run: RunConfig) -> Any:
    """The function that makes samples of a network in training; None where the family has none."""
    name = FAMILIES[run.task.kind].showing
    return None if name is None else _find(name)


def _find(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(import_module(module), attribute)
