"""One DeepSpeed engine per trained network, and the run as DeepSpeed's own configuration."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import RunConfig
from trainer.checkpoint import load_weights, weights
from trainer.distributed import World
from trainer.ema import Ema
from trainer.optim import build_optimizer
from trainer.task import Task


def deepspeed_config(run: RunConfig) -> dict[str, Any]:
    """RunConfig to DeepSpeed's dictionary; clipping is ours, because stage 0 reports no gradient norm."""
    return {
        "train_batch_size": run.train.global_batch_samples,
        "train_micro_batch_size_per_gpu": run.world.micro_batch_samples,
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
        self.clip = run.train.clip_grad_norm
        optimizer = build_optimizer(network.to(world.device), run.train.optimizer)
        self._engine, *_ = deepspeed.initialize(
            model=network, optimizer=optimizer, config=deepspeed_config(run), dist_init_required=False
        )
        self.optimizer = optimizer
        if world.size == 1:
            self._engine.enable_backward_allreduce = False  # the sum over one rank is a copy of every gradient
        self.module: nn.Module = self._engine.module
        self._parameters = list(self.module.parameters())
        self.ema = Ema(self.module, run.train.ema.decay) if run.train.ema else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradient; DeepSpeed divides by accumulation and averages over ranks at the boundary."""
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> Tensor | None:
        """After each micro-batch; at the boundary updates the weights and returns the gradient norm before clipping."""
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return None
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if self.ema:
            self.ema.update(self.module)
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
            self.optimizer.state[parameter][key] = tensor.clone().to(parameter.device)
        if self.ema:
            self.ema.load(dict(state["ema"]))


def build_engines(task: Task, run: RunConfig, world: World) -> tuple[dict[str, Engine], dict[str, nn.Module]]:
    """An engine per network that is trained, and the frozen networks."""
    networks = task.networks()
    frozen = {
        name: net.to(world.device).requires_grad_(False) for name, net in networks.items() if name not in task.turns
    }
    return {name: Engine(networks[name], run, world) for name in task.turns}, frozen


def freeze_all_but(engines: Mapping[str, Engine], turn: str) -> None:
    """Only the network whose turn it is gets gradients: under ZeRO a stray one would be reduced twice."""
    if len(engines) > 1:
        for name, engine in engines.items():
            engine.module.requires_grad_(name == turn)


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
