"""What a run will compute and hold, told from its configuration and the shapes of its data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from configs.errors import ConfigError
from configs.schema import RunConfig
from configs.world import micro_batches, with_micro_batch
from data.manifest import Manifest
from trainer.engines import arrange, freeze
from trainer.profile.counting import activations, enlarge, forward_flops, shapes_only, training_flops
from trainer.profile.memory import Memory, by_stage, holdings, predict_memory
from trainer.profile.sketch import Outlook, draw_samples
from trainer.task import Batch, Task
from trainer.tasks import build_task

DRAWN = 2
"""Samples that are drawn and collated; the rest of a micro-batch has their shapes"""
CANDIDATES = 8
"""Micro-batches told where the run leaves the choice open"""


@dataclass(frozen=True)
class Network:
    """Parameters of one network; frozen ones never learn."""

    parameters: int
    trained: int
    frozen: int


@dataclass(frozen=True)
class Plan:
    """What `trainworks profile` tells."""

    networks: Mapping[str, Network]
    forward_flops: int
    """Of one sample"""
    training_flops: int
    """Of one sample, forward and backward, what recomputation repeats not counted"""
    samples_per_step: int
    tokens_per_step: int | None
    """None where samples are not made of tokens"""
    micro_batch_samples: int
    """Of `memory`; the smallest candidate where the choice is open"""
    kept_bytes: int
    """Activations of one micro-batch that the forward pass leaves for the backward pass"""
    memory: Memory
    stages: Mapping[int, int]
    """Bytes per device at each ZeRO stage that the run could choose"""
    candidates: Mapping[int, int]
    """Bytes per device by micro-batch, largest first, where the choice is open"""

    @property
    def step_flops(self) -> int:
        """Of one step over the whole world."""
        return self.training_flops * self.samples_per_step

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        told: dict[str, Any] = asdict(self) | {"step_flops": self.step_flops}
        told["memory"] = self.memory.record()
        return told


def make_plan(run: RunConfig, outlook: Outlook) -> Plan:
    """Build the task's networks without memory, pass a micro-batch of shapes through them, and count.

    Raises ConfigError or DataError where the configuration does not fit the data.
    """
    manifest = outlook.manifest
    task = build_task(run, manifest, outlook.tokenizer)
    drawn = draw_batch(run, task, manifest)
    sizes, samples = sizes_to_tell(run), run.train.global_batch_samples
    with shapes_only():
        nets = task.networks()
        prepare(nets, task, run, recompute=False)
        few = enlarge(drawn, DRAWN)
        forward, training = forward_flops(task, nets, few), training_flops(task, nets, few)
        prepare(nets, task, run, recompute=run.world.recompute)
        held = {micro: activations(task, nets, enlarge(drawn, micro), precision=run.train.precision) for micro in sizes}
        all_of = holdings(nets, task, run)
    memories = {
        micro: predict_memory(all_of, with_micro_batch(run, micro), each.peak_bytes) for micro, each in held.items()
    }
    least = sizes[-1]
    return Plan(
        networks={name: describe(net) for name, net in nets.items()},
        forward_flops=forward // DRAWN,
        training_flops=training // DRAWN,
        samples_per_step=samples,
        tokens_per_step=samples * manifest.block_tokens or None,
        micro_batch_samples=least,
        kept_bytes=held[least].kept_bytes,
        memory=memories[least],
        stages=by_stage(all_of, with_micro_batch(run, least), held[least].peak_bytes),
        candidates={micro: each.total for micro, each in memories.items()} if len(sizes) > 1 else {},
    )


def draw_batch(run: RunConfig, task: Task, manifest: Manifest) -> Batch:
    """A few of the run's last samples, which are of the full size where sizes grow."""
    end = run.train.steps * run.train.global_batch_samples
    return task.collate(draw_samples(run, manifest, range(end - DRAWN, end)))


def sizes_to_tell(run: RunConfig) -> Sequence[int]:
    """The run's micro-batch or, where the choice is open, a few from the largest to the smallest.

    Raises ConfigError where none keeps the rules.
    """
    if run.world.micro_batch_samples != "auto":
        return [run.micro_batch]
    if not (sizes := micro_batches(run)):
        raise ConfigError(
            f"world.micro_batch_samples=auto: no size divides train.global_batch_samples="
            f"{run.train.global_batch_samples} over {run.replicas} replicas; try {2 * run.replicas} samples or more"
        )
    if len(sizes) <= CANDIDATES:
        return sizes
    return [sizes[round(place * (len(sizes) - 1) / (CANDIDATES - 1))] for place in range(CANDIDATES)]


def prepare(nets: Mapping[str, nn.Module], task: Task, run: RunConfig, *, recompute: bool) -> None:
    """Arrange and freeze the networks as the engines of a training do; how images lie in memory changes no number."""
    for name, net in nets.items():
        if name in task.turns:
            arrange(net, run.world.model_copy(update={"recompute": recompute, "channels_last": False}))
            freeze(net, run.train.fine_tune)
        else:
            net.requires_grad_(False)


def describe(network: nn.Module) -> Network:
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Network(parameters, trained, parameters - trained)
