"""Optimizers by name over the parts of a network, and the learning rate as a function of the step alone."""

import math
from typing import Any

import torch
from torch import nn

from configs.optimisation import (
    AdamWConfig,
    CosineSchedule,
    ExponentialSchedule,
    FineTuneConfig,
    InverseSchedule,
    LambConfig,
    LinearSchedule,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SGDConfig,
    StepSchedule,
)
from configs.schema import TrainConfig
from trainer.muon import Muon
from trainer.parts import parts_of, places, rate_scale

Group = dict[str, Any]


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, fine_tune: FineTuneConfig | None = None
) -> torch.optim.Optimizer:
    """The optimizer of all parameters that are to learn; each group's rate is `learning_rate` times its "scale"."""
    groups = parameter_groups(network, config.weight_decay, fine_tune)
    match config:
        case AdamWConfig():
            return torch.optim.AdamW(groups, config.learning_rate, config.betas, config.eps, fused=True)
        case SGDConfig():
            return torch.optim.SGD(groups, config.learning_rate, config.momentum, nesterov=config.nesterov, fused=True)
        case LambConfig():
            return build_lamb(groups, config)
        case LionConfig():
            from pytorch_optimizer import Lion

            return Lion(groups, lr=config.learning_rate, betas=config.betas)
        case MuonConfig():
            return build_muon(network, groups, config)


def parameter_groups(network: nn.Module, weight_decay: float, fine_tune: FineTuneConfig | None) -> list[Group]:
    """Two groups, or two of each part where parts differ: matrices and embeddings decay, norms and biases do not."""
    place = places(network) if fine_tune else {}
    last = len(parts_of(network)) - 1 if fine_tune else 0
    groups: dict[tuple[int, bool], Group] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        at, decays = place.get(name, last), parameter.dim() >= 2
        scale = rate_scale(at, last, fine_tune)
        fresh = {"params": [], "weight_decay": weight_decay if decays else 0.0, "scale": scale}
        groups.setdefault((at, not decays), fresh)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_lamb(groups: list[Group], config: LambConfig) -> torch.optim.Optimizer:
    """LAMB as its Algorithm 2 has it: the decay is inside the trust ratio, and no norm is bounded.

    Averages are not corrected for their start at zero, which the trust ratio undoes. What does not decay is not
    rescaled either, as in the authors' code.
    """
    from pytorch_optimizer import Lamb

    optimizer = Lamb(
        [group | {"adam": all(p.dim() < 2 for p in group["params"])} for group in groups],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decouple=False,
        adam_debias=True,  # its other value divides the rate, not the average, by 1 - beta ** step
    )
    optimizer.clamp = math.inf  # the library's 10 is a choice of its own
    return optimizer


def build_muon(network: nn.Module, groups: list[Group], config: MuonConfig) -> torch.optim.Optimizer:
    """Muon for the matrices between the first part and the head, AdamW at its own rate for the rest."""
    place, last = places(network), len(parts_of(network)) - 1
    inside = {p for name, p in network.named_parameters() if 0 < place[name] < last and p.dim() >= 2}
    matrices = [group | {"params": [p for p in group["params"] if p in inside]} for group in groups]
    others = [
        group | {"params": [p for p in group["params"] if p not in inside], "scale": group["scale"] * config.aside_rate}
        for group in groups
    ]
    rate = config.learning_rate
    beside = torch.optim.AdamW([group for group in others if group["params"]], rate * config.aside_rate, fused=True)
    matrices = [group for group in matrices if group["params"]]
    if not matrices:
        return beside
    return Muon(matrices, beside, lr=rate, momentum=config.momentum, nesterov=config.nesterov)


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
        case LinearSchedule():
            progress = since / max(1, config.steps - 1 - warmup)
            return peak * (1 + (schedule.final - 1) * progress)
        case StepSchedule():
            return peak * schedule.factor ** (since // schedule.every_steps)
        case ExponentialSchedule():
            return peak * math.exp(-schedule.decay * since)
        case InverseSchedule():
            return peak / (1 + schedule.decay * since)
        case _:
            return peak
