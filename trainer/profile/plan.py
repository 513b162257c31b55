"""What a run will compute and hold, told from its configuration and the shapes of its data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from configs.schema import RunConfig
from trainer.ema import Ema
from trainer.engines import arrange, freeze
from trainer.optim import build_optimizer
from trainer.profile.counting import Activations, activations, enlarge, forward_flops, shapes_only, training_flops
from trainer.profile.sketch import Outlook, draw_samples
from trainer.task import Task
from trainer.tasks import build_task

DRAWN = 2
"""Samples that are drawn and collated; the rest of a micro-batch has their shapes"""


@dataclass(frozen=True)
class Network:
    """Parameters of one network; frozen ones never learn."""

    parameters: int
    trained: int
    frozen: int


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the fullest moment, by what they hold."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    """Of train.ema"""
    activations: int
    """With gradients on their way: the most at any moment of a micro-batch's pass"""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


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
    kept_bytes: int
    """Activations of one micro-batch that the forward pass leaves for the backward pass"""
    memory: Memory

    @property
    def step_flops(self) -> int:
        """Of one step over the whole world."""
        return self.training_flops * self.samples_per_step

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        told: dict[str, Any] = asdict(self) | {"step_flops": self.step_flops}
        told["memory"]["total"] = self.memory.total
        return told


def make_plan(run: RunConfig, outlook: Outlook) -> Plan:
    """Build the task's networks without memory, pass a micro-batch of shapes through them, and count.

    Raises ConfigError or DataError where the configuration does not fit the data.
    """
    manifest = outlook.manifest
    task = build_task(run, manifest, outlook.tokenizer)
    end = run.train.steps * run.train.global_batch_samples  # the last samples: at the full size where sizes grow
    drawn = task.collate(draw_samples(run, manifest, range(end - DRAWN, end)))
    micro, samples = run.micro_batch, run.train.global_batch_samples
    with shapes_only():
        nets = task.networks()
        prepare(nets, task, run, recompute=False)
        few = enlarge(drawn, DRAWN)
        forward, training = forward_flops(task, nets, few), training_flops(task, nets, few)
        prepare(nets, task, run, recompute=run.world.recompute)
        held = activations(task, nets, enlarge(drawn, micro), precision=run.train.precision)
        memory = predict_memory(nets, task, run, held)
    return Plan(
        networks={name: describe(net) for name, net in nets.items()},
        forward_flops=forward // DRAWN,
        training_flops=training // DRAWN,
        samples_per_step=samples,
        tokens_per_step=samples * manifest.block_tokens or None,
        micro_batch_samples=micro,
        kept_bytes=held.kept_bytes,
        memory=memory,
    )


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


def predict_memory(nets: Mapping[str, nn.Module], task: Task, run: RunConfig, held: Activations) -> Memory:
    """What each device holds: every rank has all weights, gradients and optimizer state."""
    trained = [nets[name] for name in task.turns]
    return Memory(
        weights=sum(size(t) for net in nets.values() for t in (*net.parameters(), *net.buffers())),
        gradients=sum(size(p) for net in trained for p in net.parameters() if p.requires_grad),
        optimizer=sum(optimizer_bytes(net, run) for net in trained),
        average=sum(size(t) for net in trained for t in Ema(net, run.train.ema).average.values())
        if run.train.ema
        else 0,
        activations=held.peak_bytes,
    )


def optimizer_bytes(network: nn.Module, run: RunConfig) -> int:
    """What the run's optimizer remembers of each weight, found by letting it take a step."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer = build_optimizer(network, run.train.optimizer, run.train.fine_tune)
    optimizer.step()
    return sum(size(v) for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
