"""One DeepSpeed engine per trained network, and the run as DeepSpeed's own configuration."""

import contextlib
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from configs.optimisation import FineTuneConfig
from configs.schema import RunConfig, WorldConfig
from trainer.checkpoint import load_weights, weights
from trainer.distributed import World
from trainer.ema import Ema
from trainer.models.residual import statistics_kept
from trainer.optim import build_optimizer
from trainer.parts import first_update, parts_of
from trainer.statistics import norms_of, share_statistics


def deepspeed_config(run: RunConfig) -> dict[str, Any]:
    """RunConfig to DeepSpeed's dictionary; clipping is ours, because stage 0 reports no gradient norm."""
    return {
        "train_batch_size": run.train.global_batch_samples,
        "train_micro_batch_size_per_gpu": run.micro_batch,
        "gradient_accumulation_steps": run.accumulation,
        "gradient_clipping": 0.0,  # its default would clip again, at 1.0
        "zero_optimization": {"stage": 0},
        "torch_autocast": {"enabled": run.train.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }


class Engine:
    """A network under DeepSpeed: forward, scaled backward, clipped step; weights and optimizer state by name."""

    def __init__(self, network: nn.Module, run: RunConfig, world: World) -> None:
        deepspeed = quiet_deepspeed()
        self.clip, self.world = run.train.clip_grad_norm, world
        self._channels_last, self._recompute = run.world.channels_last, run.world.recompute
        network.to(world.device)
        self._since, self._norms_since = freeze(network, run.train.fine_tune)
        self.thaws = any((*self._since.values(), *self._norms_since.values()))
        """Whether some layers do not learn from the start"""
        optimizer = build_optimizer(network, run.train.optimizer, run.train.fine_tune)
        self._engine, *_ = deepspeed.initialize(
            model=network, optimizer=optimizer, config=deepspeed_config(run), dist_init_required=False
        )
        self.optimizer = optimizer
        if world.size == 1:
            self._engine.enable_backward_allreduce = False  # the sum over one rank is a copy of every gradient
        self.module: nn.Module = self._engine.module
        arrange(self.module, run.world)  # DeepSpeed broadcasts weights at its start as they lie in memory, row by row
        self._parameters = list(self.module.parameters())
        self._norms = norms_of(self.module)
        self.ema = Ema(self.module, run.train.ema) if run.train.ema else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._channels_last:
            args = tuple(
                each.contiguous(memory_format=torch.channels_last) if is_image(each) else each for each in args
            )
        return self._engine(*args, **kwargs)

    def learn(self, update: int | None) -> None:
        """Get gradients in an update, counted from 0, for the layers that learn by then; None: for no layer.

        A batch norm of a layer that does not learn keeps its statistics as it keeps its weights.
        """
        for parameter, since in self._since.items():
            parameter.requires_grad_(update is not None and since <= update)
        if update is not None:
            for norm, since in self._norms_since.items():
                norm.train(since <= update)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradient; DeepSpeed divides by accumulation and averages over ranks at the boundary."""
        with statistics_kept(self.module) if self._recompute else contextlib.nullcontext():
            self._engine.backward(loss)

    def step(self, learning_rate: float, update: int) -> Tensor | None:
        """After each micro-batch; at the boundary updates the weights and returns the gradient norm before clipping.

        `update` counts those of the run from 0.
        """
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return None
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self._engine.step()
        share_statistics(self._norms, self.world)
        if self.ema:
            self.ema.update(self.module, update)
        return norm

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All that a resume needs, by kind: weights with buffers, optimizer state, averaged weights."""
        names = {id(p): name for name, p in self.module.named_parameters()}
        moments = {
            f"{names[id(p)]}/{key}": value
            for p, state in self.optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
        state = {"weights": weights(self.module), "optimizer": moments}
        return state | ({"ema": self.ema.average} if self.ema else {})

    @torch.no_grad()
    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give back what `state` returned; weights are checked by name and shape."""
        load_weights(self.module, state["weights"])
        parameters = dict(self.module.named_parameters())
        self.optimizer.state.clear()
        for name, tensor in state["optimizer"].items():
            owner, key = name.rsplit("/", 1)
            parameter = parameters[owner]
            self.optimizer.state[parameter][key] = laid_out_as(parameter, tensor)
        if self.ema:
            self.ema.load(dict(state["ema"]))


def build_engines(
    networks: Mapping[str, nn.Module], turns: Sequence[str], run: RunConfig, world: World
) -> tuple[dict[str, Engine], dict[str, nn.Module]]:
    """An engine per network that is trained, and the frozen networks."""
    frozen = {name: net.to(world.device).requires_grad_(False) for name, net in networks.items() if name not in turns}
    return {name: Engine(networks[name], run, world) for name in turns}, frozen


def freeze_all_but(engines: Mapping[str, Engine], turn: str, update: int) -> None:
    """Only the network whose turn it is gets gradients: under ZeRO a stray one would be reduced twice.

    Of that network, the layers that learn by this update.
    """
    for name, engine in engines.items():
        if len(engines) > 1 or engine.thaws:
            engine.learn(update if name == turn else None)


def arrange(network: nn.Module, config: WorldConfig) -> None:
    """Say how the network computes: what it keeps for the backward pass, and how images lie in memory."""
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if hasattr(module, "recompute"):
            module.recompute = config.recompute  # type: ignore[assignment]


def freeze(
    network: nn.Module, config: FineTuneConfig | None
) -> tuple[dict[nn.Parameter, float], dict[nn.Module, float]]:
    """Since which update each parameter and each batch norm learns; those that never do are taken out of training.

    Raises ConfigError when nothing is left to learn.
    """
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if config is None:
        return dict.fromkeys(learning.values(), 0.0), {}
    parts = parts_of(network)
    since = {name: first_update(name, parts, config) for name, _ in network.named_parameters()}
    for name, parameter in learning.items():
        parameter.requires_grad_(since[name] < math.inf)
    if not any(since[name] == 0 for name in learning):
        setting = "frozen=true" if config.frozen else "unfreeze_every_steps"
        raise ConfigError(
            f"train.fine_tune.{setting} leaves nothing to learn at the start: the head has no weights but those it "
            f"shares with the embedding; set task.model.tied_embeddings=false, or leave {setting.partition('=')[0]} out"
        )
    modules = {module: name for name, module in network.named_modules()}
    return (
        {p: since[name] for name, p in learning.items() if p.requires_grad},
        {norm: first_update(modules[norm], parts, config) for norm in norms_of(network)},
    )


def laid_out_as(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    """A copy where the parameter is, its numbers in the same order in memory, as optimizers take for granted."""
    if tensor.shape != parameter.shape:
        return tensor.clone().to(parameter.device)
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()


def quiet_deepspeed() -> Any:
    """DeepSpeed without its banner, and on a CPU without its shared-memory extension.

    That extension is compiled at the first start, needs a C++ compiler, and takes minutes; gloo does its work.
    """
    logging.disable(logging.WARNING)
    import deepspeed

    logging.disable(logging.NOTSET)
    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    return deepspeed
