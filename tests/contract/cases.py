"""Every family with every network over small prepared data: from the committed configurations, with no list to keep."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from torch import nn

from configs.folder import RunFolder
from configs.load import load
from configs.schema import RunConfig, TaskConfig
from configs.stages import data_key
from data.manifest import Manifest, read_manifest
from data.prepare import prepare
from data.shards import ShardReader
from data.vocabulary import stored_tokenizer
from tests.tiny import CONFIGS, as_arguments, open_readers, read_samples, shrink, write_source
from trainer.distributed import seed_all
from trainer.task import Sample, Task
from trainer.tasks import build_task

NEUTRAL = {"task.pooling": "mean"}
"""What lets any network of a family's take the place of another"""


@dataclass(frozen=True)
class Recipe:
    """A committed configuration and what is changed in it."""

    name: str
    path: Path
    changes: tuple[str, ...] = ()

    def run(self, **overrides: object) -> RunConfig:
        return shrink(self.path, *self.changes, **overrides)


@dataclass
class Case:
    """A small run over a prepared data set."""

    recipe: Recipe
    run: RunConfig
    folder: RunFolder
    manifest: Manifest
    readers: dict[str, ShardReader]
    task: Task

    def networks(self) -> dict[str, nn.Module]:
        seed_all(self.run.seed)
        return self.task.networks()

    def samples(self, split: str, number: int) -> list[Sample]:
        """The first samples of a split and its last one, which may be shorter."""
        reader = self.readers[split]
        return read_samples(reader, [*range(number - 1), len(reader) - 1])

    def easier(self) -> Task:
        """The same task without the changes to samples that make training hard on purpose."""
        if getattr(self.run.task, "augment", None) is None:
            return self.task
        return build_task(
            self.recipe.run(task__augment=None),
            self.manifest,
            stored_tokenizer(self.folder.tokenizer),
        )


@cache
def recipes() -> tuple[Recipe, ...]:
    """A recipe for every configuration that is another than those before it when small, and for every network of a
    family that no configuration has."""
    found: dict[str, Recipe] = {}
    first: dict[str, Path] = {}
    pairs: set[tuple[str, str]] = set()
    for path in CONFIGS:
        run = shrink(path)
        first.setdefault(run.task.kind, path)
        pairs.add((run.task.kind, run.task.model.kind))
        found.setdefault(_essence(run), Recipe(path.stem, path))
    more = [(kind, model) for kind, model in _networks() if kind in first and (kind, model) not in pairs]
    for kind, model in more:
        task = load([str(first[kind])]).task
        neutral = {key: value for key, value in NEUTRAL.items() if hasattr(task, key.removeprefix("task."))}
        changes = as_arguments({"task.model": {"kind": model}} | neutral)
        found[f"{kind} {model}"] = Recipe(f"{kind}-{model}", first[kind], tuple(changes))
    return tuple(found.values())


def _networks() -> Iterator[tuple[str, str]]:
    """Every kind of task with every kind of network that it may have."""
    for family in get_args(get_args(TaskConfig)[0]):
        (kind,) = get_args(family.model_fields["kind"].annotation)
        model = family.model_fields["model"].annotation
        for network in get_args(model) or (model,):
            yield kind, get_args(network.model_fields["kind"].annotation)[0]


def _essence(run: RunConfig) -> str:
    """What a test can tell two small runs apart by."""
    task = run.task.model_dump(mode="json", exclude={"evaluation": True, "model": {"preset"}})
    data = run.data.model_dump(mode="json", include={"kind", "packing", "document_ids", "tokenizer"})
    return json.dumps([task, data], sort_keys=True)


class Kitchen:
    """Prepares each data set once, however many recipes read it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cook(self, recipe: Recipe) -> Case:
        plain = recipe.run()
        packing = getattr(plain.data, "packing", "")
        source = self._source(plain, self.root / f"raw-{plain.data.kind}-{packing}")
        run = recipe.run(data__source=source)
        folder = RunFolder(self.root / data_key(run)[:12])
        if not folder.manifest.exists():
            folder.logs.mkdir(parents=True)
            prepare(run, folder)
        manifest = read_manifest(folder.manifest)
        task = build_task(run, manifest, stored_tokenizer(folder.tokenizer))
        return Case(recipe, run, folder, manifest, open_readers(folder, manifest), task)

    def _source(self, run: RunConfig, raw: Path) -> str:
        note = raw.with_suffix(".source")
        if not note.exists():
            note.write_text(write_source(run, raw), encoding="utf-8")
        return note.read_text(encoding="utf-8")
