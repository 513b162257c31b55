"""The final evaluation of every family, small: the first recipe of each, scored on any ranks in batches of any size."""

from collections.abc import Mapping
from functools import cache

import torch
import yaml
from torch import nn

from configs.schema import RunConfig
from data.vocabulary import stored_tokenizer
from tests.contract.cases import Case, Recipe, recipes
from tests.tiny import ALONE, on_ranks
from trainer.distributed import World
from trainer.evaluation.contract import Result
from trainer.tasks import build_task, evaluation_of

EVALUATION: Mapping[str, object] = {"pseudo_documents": 2, "examples": 0, "shown": 0}
"""Of an evaluation that has it: a metric that is off unless it is asked for, and what is there to be looked at alone"""
NOTHING: Mapping[str, object] = {}


@cache
def first_of_each() -> tuple[Recipe, ...]:
    """A recipe of every registered family."""
    found: dict[str, Recipe] = {}
    for recipe in recipes():
        found.setdefault(kind_of(recipe, "task"), recipe)
    return tuple(found.values())


def kind_of(recipe: Recipe, section: str) -> str:
    """As its file has it, which is read much sooner than the whole run is checked."""
    return yaml.safe_load(recipe.path.read_text(encoding="utf-8"))[section]["kind"]


def stirred(nets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """With weights whose scores tell samples apart."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for net in nets.values():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return {name: net.eval() for name, net in nets.items()}


def run_of(case: Case, batch: int, **changes: object) -> RunConfig:
    """The case's run with an evaluation of so many samples a forward; `batch_...` is every family's name for it."""
    fields = type(case.run.task.evaluation).model_fields
    (size,) = (name for name in fields if name.startswith("batch_"))
    asked = {name: value for name, value in EVALUATION.items() if name in fields} | {size: batch}
    settings = {f"task__evaluation__{name}": value for name, value in asked.items()}
    source = case.run.data.source.model_dump(mode="json")
    return case.recipe.run(data__source=source, **settings, **changes)


def evaluated(
    case: Case, nets: Mapping[str, nn.Module], *, batch: int, ranks: int = 1, changes: Mapping[str, object] = NOTHING
) -> Result:
    """What the first of so many ranks, which are threads, has."""
    run = run_of(case, batch, **changes)
    if ranks == 1:
        return evaluated_on(ALONE, case, nets, run)
    return on_ranks(ranks, lambda world: evaluated_on(world, case, nets, run))[0]


@torch.no_grad()  # as the command has it; it is each thread's own
def evaluated_on(world: World, case: Case, nets: Mapping[str, nn.Module], run: RunConfig) -> Result:
    """What one rank has."""
    task = build_task(run, case.manifest, stored_tokenizer(case.folder.tokenizer))
    return evaluation_of(run)(run, case.folder, case.manifest, case.readers, task, nets, world)
