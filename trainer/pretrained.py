"""The first weights of a run that starts from those of another: a run of ours, or a folder in Hugging Face's layout."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import ConfigError, DamageError
from configs.folder import RunFolder, digest, file_digest, write_json
from configs.load import differences, read
from configs.origin import find_origin
from configs.schema import RunConfig
from configs.stages import chosen_step, read_record, step_folder, steps_in, verify_checkpoint
from data.manifest import Manifest, read_manifest
from data.progress import say
from trainer.checkpoint import read_tensors, weights
from trainer.parts import Parts, part_of, parts_of

NETWORK = "model"


@dataclass(frozen=True)
class Source:
    """Weights by name as they were learned, and how to tell where."""

    path: Path
    tensors: Mapping[str, Tensor]
    step: int | None
    """None where the folder is no run"""
    checkpoint: str
    """Digest of the files"""
    same_answers: bool
    """Whether its head's outputs mean what this run's do"""
    differing: Sequence[str] = ()
    """Settings of the network in which it differs from this run's"""


@dataclass(frozen=True)
class Origin:
    """The record in train/init.json: what the first weights of this run are."""

    source: str
    step: int | None
    checkpoint: str
    body_tensors: int
    head: str
    """loaded or drawn"""


def load_pretrained(
    networks: Mapping[str, nn.Module], run: RunConfig, folder: RunFolder, manifest: Manifest, *, writes: bool
) -> Origin | None:
    """Fill the network's body, and its head where that means the same, from `task.model.init_from`.

    None where there is no such setting. Raises ConfigError when the source cannot be this network's beginning: each
    tensor of the body must have the same name and shape, and a text model's tokenizer must be the same.
    """
    path = find_origin(run, folder)
    if path is None:
        return None
    network = networks[NETWORK]
    source = read_run(path, run, manifest) if RunFolder(path).config.exists() else read_layout(path, network, manifest)
    parts = parts_of(network)
    body = require_same_body(network, source, parts)
    head = fill(network, source, parts)
    origin = Origin(str(source.path), source.step, source.checkpoint, body, "loaded" if head else "drawn")
    if writes:
        write_json(folder.first_weights, asdict(origin))
        at = f"{source.path} step {source.step}" if source.step is not None else source.path
        say("train", f"{body} tensors of the body from {at}; head {'too' if head else 'drawn anew'}")
    return origin


def read_run(path: Path, run: RunConfig, manifest: Manifest) -> Source:
    """The newest sound checkpoint of a run, its averaged weights where it has them."""
    folder = RunFolder(path)
    theirs, data = read(folder.config), read_manifest(folder.manifest)
    if manifest.tokenizer and data.tokenizer and manifest.tokenizer.sha256 != data.tokenizer.sha256:
        raise ConfigError(
            f"task.model.init_from={path} was trained with another tokenizer: {data.tokenizer.vocabulary_size} tokens, "
            f"sha256 {data.tokenizer.sha256[:12]}, this run's data has {manifest.tokenizer.vocabulary_size}, "
            f"{manifest.tokenizer.sha256[:12]}; set data.tokenizer={{kind: file, path: {folder.tokenizer}}}"
        )
    checkpoint, record = best_known(folder)
    kinds = read_tensors(checkpoint, NETWORK, "weights", "ema")
    averaged = kinds.get("ema", {}) if theirs.train.ema else {}
    same = answers(run) == answers(theirs) and names_of(manifest) == names_of(data)
    ours, others = (each.task.model.model_dump(exclude={"init_from", "preset", "dropout"}) for each in (run, theirs))
    differing = tuple(differences(ours, others))
    return Source(path, kinds["weights"] | averaged, record["step"], record["digest"], same, differing)


def best_known(folder: RunFolder) -> tuple[Path, Mapping[str, Any]]:
    """A run's result, or else its newest checkpoint whose every file is as it was written, and its record.

    Raises ConfigError.
    """
    first = chosen_step(folder.train)
    for step in sorted(steps_in(folder.train), key=lambda step: (step != first, -step)):
        try:
            return step_folder(folder.train, step), verify_checkpoint(step_folder(folder.train, step))
        except DamageError as error:
            say("train", f"skipping a damaged checkpoint: {error}")
    raise ConfigError(f"task.model.init_from: {folder.path} has no sound checkpoint; train it again")


def answers(run: RunConfig) -> Any:
    """What a head's outputs are, classes and vocabulary apart."""
    return run.task.model_dump(mode="json", include={"kind": True, "noise": {"target": True}})


def names_of(data: Manifest) -> list[str]:
    """What a classifier's head may answer; a language model's answers are the vocabulary."""
    return list(data.tags or data.classes)


def read_layout(path: Path, network: nn.Module, manifest: Manifest) -> Source:
    """A model that another library wrote; a classifier's head means the same where the names of the classes do."""
    from trainer.interchange import is_layout, read_tensors_for

    if not is_layout(path):
        raise ConfigError(f"task.model.init_from={path} holds neither a run nor a model in a layout that is known")
    labels, names = read_record(path / "config.json").get("id2label"), names_of(manifest)
    same = not names or labels == {str(number): name for number, name in enumerate(names)}
    files = {file.name: file_digest(file) for file in sorted(path.glob("*.safetensors"))}
    return Source(path, read_tensors_for(path, network), None, digest(files), same)


def require_same_body(network: nn.Module, source: Source, parts: Parts) -> int:
    """The number of tensors of the body, counters apart. Raises ConfigError naming those that the two do not share."""
    ours, theirs = (
        {
            name: list(tensor.shape)
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and part_of(name, parts) != len(parts) - 1
        }
        for tensors in (weights(network), source.tensors)
    )
    names = [
        name for name in (*ours, *(each for each in theirs if each not in ours)) if ours.get(name) != theirs.get(name)
    ]
    if not names:
        return len(ours)
    told = [f"{name}: {ours.get(name, 'none')} here, {theirs.get(name, 'none')} there" for name in names[:5]]
    more = f" (and {len(names) - 5} more)" if len(names) > 5 else ""
    settings = f"; task.model: {'; '.join(source.differing)}" if source.differing else ""
    raise ConfigError(
        f"task.model.init_from={source.path} holds a checkpoint of another architecture: {'; '.join(told)}{more}"
        f"{settings}; give task.model the same shape, or leave init_from out"
    )


@torch.no_grad()
def fill(network: nn.Module, source: Source, parts: Parts) -> bool:
    """Copy the body, and the head where it means the same and fits; says whether it did."""
    own = weights(network)
    head = {name for name in own if part_of(name, parts) == len(parts) - 1}
    fits = all(name in source.tensors and source.tensors[name].shape == own[name].shape for name in head)
    loaded = source.same_answers and fits
    for name, tensor in own.items():
        if name in source.tensors and (loaded or name not in head):
            tensor.copy_(source.tensors[name])
    return loaded
