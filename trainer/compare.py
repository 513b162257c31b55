"""Command: `python -m trainer.compare A B`, how far the tensors of two checkpoints are apart, as JSON."""

import json
import math
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from configs.process import command_main
from configs.stages import read_record
from trainer.checkpoint import read_tensors

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """How far two sets of tensors are apart."""

    equal: bool
    difference: float | None
    worst: str | None


def _by_format(name: str, tensor: Tensor) -> Hashable:
    """Weights and running statistics; counters."""
    return tensor.is_floating_point()


def _by_key(name: str, tensor: Tensor) -> Hashable:
    """What an optimizer keeps of each parameter: first moments, second moments, ..."""
    return name.rpartition("/")[2]


def compare(ours: Path, theirs: Path) -> dict[str, Measured]:
    """By kind of tensor (weights, optimizer, ema, ...) of two checkpoint folders, all networks of a run together.

    `equal`: whether every bit is; `difference`: ||a - b|| / ||b|| over all numbers of the kind, None where one side
    lacks a tensor, has it in another shape or holds what is no number; `worst`: the tensor with the largest part in it.
    Numbers of different meaning are measured apart, and the largest difference counts: moments of the gradient beside
    counters of steps would weigh nothing. Raises DamageError when a folder is no checkpoint.
    """
    sides = [_by_kind(folder) for folder in (ours, theirs)]
    kinds = dict.fromkeys([*sides[1], *sides[0]])
    return {
        kind: measure_apart(
            sides[0].get(kind, {}), sides[1].get(kind, {}), by=_by_key if kind == "optimizer" else _by_format
        )
        for kind in kinds
    }


def measure_apart(ours: Tensors, theirs: Tensors, *, by: Callable[[str, Tensor], Hashable]) -> Measured:
    """`measure` of each group of tensors, by what `by` says of a tensor; the one with the largest difference."""
    groups: dict[Hashable, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for side, tensors in enumerate((ours, theirs)):
        for name, tensor in tensors.items():
            groups.setdefault(by(name, tensor), ({}, {}))[side][name] = tensor
    measured = [measure(*pair) for pair in groups.values()]
    furthest = max(measured, key=lambda each: math.inf if each.difference is None else each.difference)
    return replace(furthest, equal=all(each.equal for each in measured))


def measure(ours: Tensors, theirs: Tensors) -> Measured:
    """The distance of two sets of named tensors, relative to the length of the second."""
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            return Measured(False, None, name)
    apart = {name: _squared(ours[name].double() - theirs[name].double()) for name in theirs}
    total, length = sum(apart.values()), sum(_squared(tensor.double()) for tensor in theirs.values())
    worst = max(apart, key=lambda name: apart[name])
    equal = all(_bits(ours[name]).equal(_bits(theirs[name])) for name in theirs)
    if not math.isfinite(total) or not math.isfinite(length):
        return Measured(equal, 0.0 if equal else None, worst)
    return Measured(equal, math.sqrt(total / length) if length else float(total > 0), worst if total else None)


def _by_kind(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Every tensor of a checkpoint as NETWORK/NAME, by kind."""
    found: dict[str, dict[str, Tensor]] = {}
    files = read_record(folder / "complete.json")["files"]
    for network in dict.fromkeys(name.split(".")[0] for name in files):
        for kind, tensors in read_tensors(folder, network).items():
            found.setdefault(kind, {}).update({f"{network}/{name}": each for name, each in tensors.items()})
    return found


def _squared(tensor: Tensor) -> float:
    return tensor.square().sum().item()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 whether or not they differ, 1 when one cannot be read."""
    ours, theirs = map(Path, arguments)
    print(json.dumps({kind: asdict(measured) for kind, measured in compare(ours, theirs).items()}))
    return 0


if __name__ == "__main__":
    sys.exit(command_main("compare", lambda: main(sys.argv[1:])))
