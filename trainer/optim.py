"""Optimizers by name, and the learning rate as a function of the step alone."""

import math

import torch
from torch import nn

from configs.schema import (
    AdamWConfig,
    CosineSchedule,
    ExponentialSchedule,
    InverseSchedule,
    StepSchedule,
    TrainConfig,
)


def build_optimizer(network: nn.Module, config: AdamWConfig) -> torch.optim.Optimizer:
    """AdamW over two groups: matrices and embeddings decay, norms and biases do not."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update `step`, counted from 0; `config.steps` updates in all."""
    peak, schedule = config.optimizer.learning_rate, config.schedule
    warmup = schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    since = step - warmup
    match schedule:
        case CosineSchedule():
            progress = since / max(1, config.steps - 1 - warmup)
            return peak * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2)
        case StepSchedule():
            return peak * schedule.factor ** (since // schedule.every_steps)
        case ExponentialSchedule():
            return peak * math.exp(-schedule.decay * since)
        case InverseSchedule():
            return peak / (1 + schedule.decay * since)
        case _:
            return peak
