"""What each device holds at a ZeRO stage: which tensors there are, who has a part of them, and what travels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from configs import engine_rules
from configs.schema import RunConfig
from trainer.deepspeed_config import deepspeed_config
from trainer.ema import real_buffers
from trainer.optim import build_optimizer
from trainer.task import Task

FLOAT = 4
"""Bytes of a number of weights, gradients and averages, at every precision"""
WHOLE_NETWORK_NUMBERS = 500_000_000
"""Most numbers that DeepSpeed reduces at once at stage 0"""
LIVE_NUMBERS, PREFETCHED_NUMBERS = 1_000_000_000, 50_000_000
"""Weights that stage 3 keeps gathered, and those on their way, where `deepspeed` says nothing else"""


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the fullest moment, by what they hold; and beside it, for each rank."""

    weights: int
    """With buffers; at stage 3 this rank's part"""
    master: int
    """The copy of its part of the weights that a rank updates, at stages 1 to 3"""
    gradients: int
    optimizer: int
    average: int
    """Of train.ema"""
    communication: int
    """Buckets of gradients, and gathered weights at stage 3"""
    activations: int
    """With gradients on their way: the most at any moment of a micro-batch's pass"""
    update: int
    """Copies of gradients when they are reduced and applied, after activations have gone"""
    host: int = 0
    """Offloaded to the machine's memory"""
    disk: int = 0
    """Offloaded to a disk"""

    @property
    def total(self) -> int:
        """On the device."""
        fixed = self.weights + self.master + self.gradients + self.optimizer + self.average + self.communication
        return fixed + max(self.activations, self.update)

    def record(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


@dataclass(frozen=True)
class Holdings:
    """Bytes that there are in all, however they are split; `largest` is of the largest parameter."""

    frozen: int
    """Weights that never learn, of networks under DeepSpeed"""
    learning: int
    buffers: int
    """And networks that are not trained"""
    optimizer: int
    averaged_buffers: int
    largest: int
    networks: int


def holdings(nets: Mapping[str, nn.Module], task: Task, run: RunConfig) -> Holdings:
    """Of networks that are frozen as for training; they may have shapes and no memory."""
    trained = [nets[name] for name in task.turns]
    parameters = [p for net in trained for p in net.parameters()]
    others = [t for name, net in nets.items() if name not in task.turns for t in net.parameters()]
    buffers = [b for net in nets.values() for b in net.buffers()]
    return Holdings(
        frozen=sum(size(p) for p in parameters if not p.requires_grad),
        learning=sum(size(p) for p in parameters if p.requires_grad),
        buffers=sum(map(size, others + buffers)),
        optimizer=sum(optimizer_bytes(net, run) for net in trained),
        averaged_buffers=sum(FLOAT * b.numel() for net in trained for b in real_buffers(net).values()),
        largest=max(map(size, parameters)),
        networks=len(trained),
    )


def predict_memory(all_of: Holdings, run: RunConfig, activations: int) -> Memory:
    """What each device holds at the run's stage, by what DeepSpeed allocates (tests/integration/test_memory.py).

    Tensor and sequence parallelism are not taken off: with them this is the most it can be.
    """
    zero, ranks = run.world.zero, run.world.processes // run.world.tensor_parallel
    if zero.stage == 0:
        return Memory(
            weights=all_of.frozen + all_of.learning + all_of.buffers,
            master=0,
            gradients=all_of.learning,
            optimizer=all_of.optimizer,
            average=all_of.learning + all_of.averaged_buffers if run.train.ema else 0,
            communication=0,
            activations=activations,
            update=min(all_of.learning, FLOAT * WHOLE_NETWORK_NUMBERS) if ranks > 1 else 0,
        )
    part = -(-all_of.learning // ranks)
    split = Memory(
        weights=weights_at(all_of, run, ranks),
        master=part,
        gradients=all_of.learning if zero.stage == 1 else part,
        optimizer=-(-all_of.optimizer // ranks),
        average=part + all_of.averaged_buffers if run.train.ema else 0,
        communication=communication(all_of, run),
        activations=activations,
        update=part,
    )
    if zero.stage == 2 and run.accumulation > 1:  # a second part, before it is added to that of earlier micro-batches
        split = replace(split, gradients=2 * part)
    return offloaded(split, all_of, run, part)


def weights_at(all_of: Holdings, run: RunConfig, ranks: int) -> int:
    """Of stages 1 to 3; a second split of ZeRO++ holds another part of everything between forward and backward."""
    weights, zero = all_of.frozen + all_of.learning, run.world.zero
    if zero.stage < 3:
        return weights + all_of.buffers
    again = -(-weights // zero.partition_group) if zero.partition_group else 0
    return -(-weights // ranks) + again + all_of.buffers


def communication(all_of: Holdings, run: RunConfig) -> int:
    """Buckets are allocated in full: under bf16 one of each type, and with overlap below stage 3 twice."""
    section = deepspeed_config(run, device="cpu" if run.world.device == "cpu" else "cuda")["zero_optimization"]
    bf16, stage = run.train.precision == "bf16", run.world.zero.stage
    travelling = FLOAT // 2 if bf16 else FLOAT
    widths = FLOAT + (bf16 and (travelling if stage > 1 else FLOAT))
    twice = 2 if run.world.zero.overlap and stage < 3 else 1
    buckets = all_of.networks * twice * widths * int(section["reduce_bucket_size"])
    if stage < 3:
        return buckets
    numbers = (all_of.frozen + all_of.learning) // FLOAT
    live = min(numbers, int(section.get("stage3_max_live_parameters", LIVE_NUMBERS)))
    ahead = int(section.get("stage3_prefetch_bucket_size", PREFETCHED_NUMBERS)) + all_of.largest // FLOAT
    return buckets + FLOAT * live + travelling * min(numbers, ahead)


def offloaded(split: Memory, all_of: Holdings, run: RunConfig, part: int) -> Memory:
    """What offload moves away, and what it needs for that on both sides."""
    zero = run.world.zero
    places = {"none": 0, "host": 0, "disk": 0}
    if zero.offload_optimizer != "none":
        # gradients as they are applied and, but for stage 2, where they are those that are kept, as they arrive
        beside = part * (1 if zero.stage == 2 else 2) + (2 * all_of.largest if zero.stage < 3 else 0)
        gradients = 0 if zero.stage == 1 else split.gradients
        moved = split.master + split.optimizer + gradients + (part if run.train.ema else 0)
        places["host"] += beside + gradients
        places["disk" if zero.offload_optimizer == "nvme" else "host"] += moved - gradients
        split = replace(
            split,
            master=0,
            optimizer=0,
            gradients=split.gradients - gradients,
            average=all_of.averaged_buffers if run.train.ema else 0,
            communication=split.communication + (all_of.largest if zero.stage < 3 else 0),
            update=0,
        )
    if zero.offload_parameters != "none":
        own = split.weights - all_of.buffers
        places["disk" if zero.offload_parameters == "nvme" else "host"] += own
        split = replace(split, weights=all_of.buffers)
    return replace(split, host=places["host"], disk=places["disk"])


def by_stage(all_of: Holdings, run: RunConfig, activations: int) -> dict[int, int]:
    """Bytes per device at each stage that the run could choose, all else as it is; the run's own as it is."""
    found: dict[int, int] = {}
    for stage in range(4):
        zero = run.world.zero.model_copy(update={"stage": stage})
        there = run.model_copy(update={"world": run.world.model_copy(update={"zero": zero})})
        if any(
            (
                engine_rules.offload_has_state(zero),
                engine_rules.zero_plus_plus_fits(zero),
                engine_rules.optimizer_fits_stage(there),
            )
        ):
            continue
        found[stage] = predict_memory(all_of, there, activations).total
    return found


def optimizer_bytes(network: nn.Module, run: RunConfig) -> int:
    """What the run's optimizer remembers of each weight, found by letting it take a step."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer = build_optimizer(network, run.train.optimizer, run.train.fine_tune)
    optimizer.step()
    return sum(size(v) for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
