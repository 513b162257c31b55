"""Which numbers of a network this rank keeps at each ZeRO stage, and how they reach the weights that compute.

Rajbhandari et al., 2020. What a rank keeps is a view of DeepSpeed's own fp32 memory, never a copy.
"""

import contextlib
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.pieces import Piece, Stored

Memory = MutableMapping[Tensor, dict[str, Any]]


@dataclass(frozen=True)
class Kept:
    """A run of one parameter that this rank updates."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter"""
    start: int
    """The first of its numbers, row by row, in this run"""
    values: Tensor
    """Stage 0: the parameter in its own shape; else a flat run"""
    flat: Tensor
    """What the optimizer updates: the parameter itself, or a partition that holds runs of several"""
    offset: int
    """Where the run begins in `flat`"""

    def of(self, moment: Tensor) -> Tensor:
        """The part of a moment of `flat` that belongs to this run."""
        return moment if self.values.shape == self.flat.shape else moment.narrow(0, self.offset, self.values.numel())


class Layout(Protocol):
    """Where the learning weights of one network lie."""

    kept: list[Kept]
    resting: list[Piece]
    """This rank's runs of weights that never learn, where those are split too"""
    memory: Memory
    """What the optimizer remembers of each `flat`"""

    def fetch(self) -> None:
        """Bring `kept` and `memory` up to date where they are copies."""
        ...

    def publish(self) -> None:
        """Let the network compute with what was written into `kept`. All ranks call."""
        ...


class Whole:
    """Stage 0: every rank keeps every parameter, and computes with it."""

    def __init__(self, module: nn.Module, memory: Memory) -> None:
        self.memory = memory
        learning = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
        self.kept = [Kept(name, tuple(p.shape), 0, p.data, p, 0) for name, p in learning]
        self.resting: list[Piece] = []

    def fetch(self) -> None: ...
    def publish(self) -> None: ...


class Split:
    """Stages 1 and 2: each rank keeps a partition in fp32, and all compute with what they gather of it."""

    def __init__(self, module: nn.Module, zero: Any, memory: Memory) -> None:
        self._zero, self.memory = zero, memory
        self.kept: list[Kept] = []
        self.resting: list[Piece] = []
        for name, parameter in module.named_parameters():
            mapping = getattr(parameter, "_hp_mapping", None)
            if parameter.requires_grad and mapping is not None:
                flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
                start, offset = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
                run = flat.data.narrow(0, offset, mapping.hp_fragment_address.numel)
                self.kept.append(Kept(name, tuple(parameter.shape), start, run, flat, offset))

    def fetch(self) -> None: ...

    def publish(self) -> None:
        self._zero.update_lp_params()


class Scattered:
    """Stage 3: each rank keeps an equal part of every parameter; the network gathers a layer when it needs it."""

    def __init__(self, module: nn.Module, zero: Any, memory: Memory, rank: int) -> None:
        self._zero, self.memory = zero, memory
        self.kept: list[Kept] = []
        self.resting: list[Piece] = []
        for name, parameter in module.named_parameters():
            held: Any = parameter  # what DeepSpeed hung on it
            shape, size = tuple(held.ds_shape), held.ds_tensor.numel()
            start = rank * size
            count = max(0, min(size, held.ds_numel - start))  # the last parts may be padding
            if count and not parameter.requires_grad:
                self.resting.append(Piece(name, shape, start, held.ds_tensor.data.narrow(0, 0, count)))
            elif count:
                group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
                flat = self._flat(group)
                self.kept.append(Kept(name, shape, start, flat.data.narrow(0, offset, count), flat, offset))

    def _flat(self, group: int) -> Tensor:
        return self._zero.fp32_partitioned_groups_flat[group]

    def fetch(self) -> None: ...

    @torch.no_grad()
    def publish(self) -> None:
        zero = self._zero
        zero._partition_all_parameters()
        for number in range(len(zero.fp16_groups)):
            self._publish_group(number)
        if zero.persistent_parameters:  # small ones stay whole on every rank
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
        zero.invalidate_secondary_tensor()

    def _publish_group(self, number: int) -> None:
        self._zero._reassign_or_swap_out_partitioned_parameters(number)


class OnDisk(Scattered):
    """Stage 3 with optimizer state on a disk: what is kept is copied from there and back, a group at a time.

    The copies are as large as the state of this rank, in the memory of the machine.
    """

    def __init__(self, module: nn.Module, zero: Any, memory: Memory, rank: int) -> None:
        self._copies: dict[int, Tensor] = {}
        self._theirs = memory
        self._zero = zero
        super().__init__(module, zero, {}, rank)

    def _flat(self, group: int) -> Tensor:
        if group not in self._copies:
            self._copies[group] = torch.zeros(self._zero.fp16_partitioned_groups_flat_numel[group])
        return self._copies[group]

    @torch.no_grad()
    def fetch(self) -> None:
        for group, copy in self._copies.items():
            with self._present(group, changed=False) as flat:
                copy.copy_(flat.data)
                state = self._theirs.get(flat, {})
                self.memory[copy] = {key: v.clone() for key, v in state.items() if isinstance(v, Tensor)}

    def _publish_group(self, number: int) -> None:
        with self._present(number, changed=True) as flat:
            copy = self._copies[number]
            flat.data.copy_(copy)
            self._theirs[flat] = {key: value.clone() for key, value in self.memory.get(copy, {}).items()}
            super()._publish_group(number)

    @contextlib.contextmanager
    def _present(self, group: int, *, changed: bool) -> Iterator[Tensor]:
        """A group in memory; small ones are there always."""
        zero, swapped = self._zero, self._zero._swappable_optimizer_subgroup(group)
        if swapped:
            zero._optimizer_states_and_gradient_swap_in(group)
        yield zero.fp32_partitioned_groups_flat[group]
        if swapped and changed:
            zero._optimizer_states_and_gradient_swap_out(group)
        elif swapped:
            zero._release_swap_buffers(group)


def layout_of(module: nn.Module, zero: Any, optimizer: torch.optim.Optimizer, *, stage: int, rank: int) -> Layout:
    """`zero` is DeepSpeed's optimizer at stages 1 to 3."""
    memory: Any = optimizer.state
    if stage == 0:
        return Whole(module, memory)
    if stage < 3:
        return Split(module, zero, memory)
    return (OnDisk if zero.swap_optimizer else Scattered)(module, zero, memory, rank)


def moments(layout: Layout) -> Iterator[Piece]:
    """The optimizer's memory of this rank's runs, as PARAMETER/KEY; a number per parameter goes with its beginning."""
    for kept in layout.kept:
        for key, value in layout.memory.get(kept.flat, {}).items():
            if not isinstance(value, Tensor):
                continue
            if value.shape == kept.flat.shape:
                yield Piece(f"{kept.name}/{key}", kept.shape, kept.start, kept.of(value))
            elif kept.start == 0:
                yield Piece(f"{kept.name}/{key}", tuple(value.shape), 0, value)


def load_moments(layout: Layout, stored: Stored) -> None:
    """Give back what `moments` told on any number of ranks and at any stage."""
    keys: dict[str, list[str]] = {}
    for name in stored.names("optimizer"):
        owner, key = name.rsplit("/", 1)
        keys.setdefault(owner, []).append(key)
    layout.memory.clear()
    for kept in layout.kept:
        state = layout.memory.setdefault(kept.flat, {})
        for key in keys.get(kept.name, ()):
            name = f"{kept.name}/{key}"
            if stored.shape("optimizer", name) != kept.shape:
                state[key] = stored.read("optimizer", name).view(stored.shape("optimizer", name)).to(kept.flat.device)
                continue
            if key not in state:  # as the weights lie in memory, which optimizers take for granted
                state[key] = torch.zeros_like(kept.flat)
            fill(kept.of(state[key]), kept, stored, "optimizer", name)


def fill(values: Tensor, kept: Kept, stored: Stored, kind: str, name: str) -> None:
    """Read this rank's run of a tensor."""
    values.copy_(stored.read(kind, name, kept.start, values.numel()).view(values.shape))


def shared_out(tensors: Mapping[str, Tensor], rank: int, size: int) -> list[Piece]:
    """Tensors that every rank has, each to be saved by one: the largest first, to whoever has least."""
    load = [0] * size
    mine: list[Piece] = []
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].numel(), item[0])):
        owner = load.index(min(load))
        load[owner] += tensor.numel() * tensor.element_size()
        if owner == rank:
            mine.append(Piece(name, tuple(tensor.shape), 0, tensor))
    return mine
