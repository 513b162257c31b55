"""One DeepSpeed engine per trained network: forward, scaled backward, clipped step, and its state as pieces."""

import contextlib
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from configs.optimisation import FineTuneConfig
from configs.schema import RunConfig, WorldConfig
from trainer.deepspeed_config import dictionary_of
from trainer.distributed import World
from trainer.ema import Ema, real_buffers
from trainer.models.residual import statistics_kept
from trainer.optim import build_optimizer
from trainer.parallel import share_sequences
from trainer.parts import first_update, parts_of
from trainer.pieces import State, Stored
from trainer.scaling import LossScale
from trainer.slices import slices_of
from trainer.state import NetworkState, shape_of
from trainer.statistics import Statistics, norms_of
from trainer.zero import layout_of

Veto = Callable[[float], bool]
"""Whether an update with this gradient norm is to be left out"""


class Engine:
    """A network under DeepSpeed. Its weights, optimizer state and averages are saved and loaded by name."""

    def __init__(self, network: nn.Module, run: RunConfig, world: World) -> None:
        deepspeed = quiet_deepspeed()
        self.clip, self.world, self.stage = run.train.clip_grad_norm, world, run.world.zero.stage
        self.before_update: Callable[[], None] = lambda: None
        """Called when weights are about to change"""
        self.veto: Veto | None = None
        self.skipped = False
        """Whether the last update was left out"""
        self._config = run.world
        network.to(world.device)
        self._since, self._norms_since = freeze(network, run.train.fine_tune)
        self.thaws = any((*self._since.values(), *self._norms_since.values()))
        """Whether some layers do not learn from the start"""
        self.optimizer = build_optimizer(network, run.train.optimizer, run.train.fine_tune)
        self._autocast = torch.float16 if run.train.precision == "fp16" else None
        device: Literal["cpu", "cuda"] = "cuda" if world.device.type == "cuda" else "cpu"
        self._slices, section = slices_of(network, world.slice, world.slices)
        self._engine, *_ = deepspeed.initialize(
            model=network,
            optimizer=self.optimizer,
            config=dictionary_of(run, device=device) | section,
            dist_init_required=False,
        )
        if world.size == 1 and self.stage == 0:
            self._engine.enable_backward_allreduce = False  # the sum over one rank is a copy of every gradient
        self.module: nn.Module = self._engine.module
        arrange(self.module, run.world)  # DeepSpeed broadcasts weights at its start as they lie in memory, row by row
        zero = self._engine.optimizer if self.stage else None
        self._zero: Any = zero
        self._layout = layout_of(self.module, zero, self.optimizer, stage=self.stage, rank=world.rank // world.slices)
        self.scale = LossScale(zero) if run.train.precision == "fp16" else None
        anomalies = (run.train.anomalies.not_finite, run.train.anomalies.spike)
        undone = self.scale is not None or "skip" in anomalies
        self._statistics = Statistics(self.module, world, run.accumulation, undone=undone)
        self._parameters = list(self.module.parameters())
        live = {kept.name: kept.values for kept in self._layout.kept} | real_buffers(self.module)
        self.ema = Ema(live, run.train.ema) if run.train.ema else None
        self._state = NetworkState(self.module, self._layout, self.ema, self.scale, self._slices, world, self.stage)
        self._fresh = True  # the next micro-batch is the first of a step
        self._asked = False
        if self.stage:
            self._guard_optimizer()
        share_sequences(self.module, world)
        if run.world.compile:
            self.module.compile(dynamic=False)
        self._shapes: set[tuple[Any, ...]] = set()

    @property
    def size(self) -> int:
        """Numbers in all parameters, whatever this rank holds of them."""
        named = self.module.named_parameters()
        return sum(math.prod(self._slices.whole_shape(name, shape_of(p))) for name, p in named)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fresh:
            self._statistics.begin()
            self._fresh = False
        if self._config.channels_last:
            args = tuple(
                each.contiguous(memory_format=torch.channels_last) if is_image(each) else each for each in args
            )
        with self._arithmetic(args):
            return self._engine(*args, **kwargs)

    @contextlib.contextmanager
    def _arithmetic(self, args: tuple[Any, ...]) -> Iterator[None]:
        """fp16 by autocast; a compiled network is compiled once for each new shape, and never again."""
        with contextlib.ExitStack() as stack:
            if self._autocast:
                stack.enter_context(torch.autocast(self.world.device.type, self._autocast))
            if self._config.compile:
                shapes = tuple(each.shape for each in args if isinstance(each, Tensor))
                stack.enter_context(
                    torch.compiler.set_stance("eager_on_recompile" if shapes in self._shapes else "default")
                )
                self._shapes.add(shapes)
            yield

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
        with statistics_kept(self.module) if self._config.recompute else contextlib.nullcontext():
            self._engine.backward(self.scale.scaled(loss) if self.scale else loss)
        self._statistics.add()

    def step(self, learning_rate: float, update: int) -> Tensor | None:
        """After each micro-batch; at the boundary updates the weights and returns the gradient norm before clipping.

        `update` counts those of the run from 0. An update may be left out; `skipped` says so.
        """
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.before_update()
        self.skipped = False
        norm = self._step_split() if self.stage else self._step_whole()
        applied = not self.skipped and math.isfinite(norm) if self.scale or self.veto else True
        self._statistics.finish(counts=applied)
        self._fresh = True
        if self.ema and applied:
            self.ema.update(update)
        return norm

    def _step_whole(self) -> Tensor:
        """Stage 0, of which DeepSpeed tells no gradient norm."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if self.scale:
            torch._foreach_mul_(gradients, 1 / self.scale.value)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.scale or self.veto:
            self.skipped = self._rejected(norm.item())
        if self.skipped:
            for parameter in self._parameters:
                parameter.grad = None
        elif self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip, norm)
        self._engine.step()
        if self.scale:
            self.scale.update(overflow=not math.isfinite(norm))
        return norm

    def _step_split(self) -> Tensor:
        """Stages 1 to 3: DeepSpeed clips, and leaves out an update whose norm is no number."""
        self._asked = False
        self._engine.step()
        norm = torch.as_tensor(self._zero._global_grad_norm)
        if self._zero.overflow:
            self.skipped = self._rejected(math.inf)
            if self.scale:
                self.scale.update(overflow=True)
        return norm

    def _rejected(self, norm: float) -> bool:
        overflow = self.scale is not None and not math.isfinite(norm)
        return overflow or (self.veto is not None and self.veto(norm))

    def _guard_optimizer(self) -> None:
        """Ask the veto where DeepSpeed knows the norm and has changed no weight."""
        update = self.optimizer.step

        def unless_rejected(*args: Any, **kwargs: Any) -> Any:
            if self.veto and not self._asked:
                self.skipped = self._rejected(float(self._zero._global_grad_norm))
            self._asked = True  # DeepSpeed calls once for each group of parameters
            return None if self.skipped else update(*args, **kwargs)

        self.optimizer.step = unless_rejected  # type: ignore[method-assign]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the weights that evaluation will use."""
        with self.ema.applied(self._layout.publish) if self.ema else contextlib.nullcontext():
            yield

    def state(self) -> State:
        """All that a resume needs and this rank is to save, by kind: views, not copies."""
        return self._state.told()

    def load(self, stored: Stored) -> None:
        """Take over what any number of ranks saved at any stage. Raises DamageError when it is another network's."""
        self._state.load(stored)


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
    if config.channels_last and config.zero.stage == 0:  # a partition holds weights row by row
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
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if not torch.cuda.is_available():
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    return deepspeed
