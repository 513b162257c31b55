"""A network from its input to its head: which part each tensor is of, how fast each part learns, and from when on."""

import math
from collections.abc import Sequence
from typing import Protocol, cast

from torch import nn

from configs.optimisation import FineTuneConfig

Parts = Sequence[tuple[str, ...]]


class Layered(Protocol):
    """Every network's own word on its order: prefixes of parameter names, the head's last."""

    def parts(self) -> list[tuple[str, ...]]: ...


def parts_of(network: nn.Module) -> Parts:
    return cast(Layered, network).parts()


def part_of(name: str, parts: Parts) -> int | None:
    """The place of the part with the longest prefix of a tensor's name; None where no part has one."""
    matches = [
        (len(prefix), place)
        for place, prefixes in enumerate(parts)
        for prefix in prefixes
        if name == prefix or name.startswith(f"{prefix}.")
    ]
    return max(matches)[1] if matches else None


def places(network: nn.Module) -> dict[str, int]:
    """Each parameter's part, counted from the input."""
    parts = parts_of(network)
    found = {name: part_of(name, parts) for name, _ in network.named_parameters()}
    lost = [name for name, place in found.items() if place is None]
    assert not lost, f"{type(network).__name__}.parts() leaves out {', '.join(lost)}"
    return cast(dict[str, int], found)


def rate_scale(place: int, last: int, config: FineTuneConfig | None) -> float:
    """A part's learning rate over that of the head, whose place is `last`."""
    if config is None or place == last:
        return 1.0
    return config.body_rate * config.layer_decay ** (last - place)


def first_update(name: str, parts: Parts, config: FineTuneConfig) -> float:
    """The update, counted from 0, since which a parameter or module learns; infinity where it never does."""
    below = len(parts) - 1 - (part_of(name, parts) or 0)
    if below == 0:
        return 0
    return math.inf if config.frozen else below * (config.unfreeze_every_steps or 0)
