"""What a pass through networks computes and keeps, counted on tensors that have a shape and no memory."""

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from trainer.task import Batch, Task


@dataclass(frozen=True)
class Activations:
    """What one forward and backward pass over a micro-batch holds, apart from weights and their gradients."""

    kept_bytes: int
    """Of what the forward pass leaves for the backward pass; what is shared is counted once"""
    peak_bytes: int
    """Most at any moment, gradients on their way among it"""


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Under it tensors are made without memory and nothing is computed: networks of any size are built at once."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Unknown(), _Fused():
        yield


def enlarge(batch: Batch, size: int) -> Batch:
    """A batch of the same shapes but for `size` samples; under `shapes_only` it takes no memory."""
    tensors = {name: torch.zeros((size, *each.shape[1:]), dtype=each.dtype) for name, each in batch.tensors.items()}
    return Batch(tensors, size * batch.count // len(batch.ids), batch.ids[:1] * size)


def forward_flops(task: Task, nets: Mapping[str, nn.Module], batch: Batch) -> int:
    """Floating-point operations, two to a multiply-add, of a pass without gradients and as in evaluation."""
    with torch.no_grad(), _evaluating(nets.values()), _flops() as flops:
        for turn in task.turns:
            task.loss(turn, nets, batch)
    return flops.get_total_flops()


def evaluation_flops(task: Task, nets: Mapping[str, nn.Module], batch: Batch) -> int:
    """The same, on tensors with values: `task.evaluate` may look at them."""
    with torch.no_grad(), _evaluating(nets.values()), _flops() as flops:
        task.evaluate(nets, batch)
    return flops.get_total_flops()


def training_flops(task: Task, nets: Mapping[str, nn.Module], batch: Batch) -> int:
    """The same of a forward and backward pass of each turn, by the weights that learn."""
    with _flops() as flops:
        for turn in task.turns:
            with turn_alone(nets, turn, task.turns):
                task.loss(turn, nets, batch)[0].backward()
    return flops.get_total_flops()


def activations(task: Task, nets: Mapping[str, nn.Module], batch: Batch, *, precision: str) -> Activations:
    """What the turn that holds most holds; every trained weight has a gradient to add to, as after the first pass."""
    found = []
    for turn in task.turns:
        with turn_alone(nets, turn, task.turns):
            found.append(_held(task, nets, turn, batch, precision))
    return Activations(max(each.kept_bytes for each in found), max(each.peak_bytes for each in found))


def _held(task: Task, nets: Mapping[str, nn.Module], turn: str, batch: Batch, precision: str) -> Activations:
    device = next(nets[turn].parameters()).device.type
    fixed = {_place(tensor) for net in nets.values() for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _place(tensor) not in fixed:
            kept[_place(tensor)] = tensor
        return tensor

    for parameter in nets[turn].parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with Alive() as alive:
        alive.leave_out(tensor for net in nets.values() for tensor in (*net.parameters(), *net.buffers()))
        alive.leave_out(p.grad for p in nets[turn].parameters() if p.grad is not None)
        alive.add(batch.tensors.values())
        cast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), cast:
            loss, _ = task.loss(turn, nets, batch)
        kept_bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        kept.clear()
        loss.backward()
    return Activations(kept_bytes, alive.peak_bytes)


@contextlib.contextmanager
def _evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    modes = [(network, network.training) for network in networks]
    for network, _ in modes:
        network.eval()
    yield
    for network, mode in modes:
        network.train(mode)


@contextlib.contextmanager
def turn_alone(nets: Mapping[str, nn.Module], turn: str, turns: Iterable[str]) -> Iterator[None]:
    """No gradients for the networks whose turn it is not, as in training."""
    others = [p for name in turns if name != turn for p in nets[name].parameters() if p.requires_grad]
    for parameter in others:
        parameter.requires_grad_(False)
    yield
    for parameter in others:
        parameter.requires_grad_(True)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Alive(TorchDispatchMode):
    """Bytes of the tensors made under it that are still there, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result

    def add(self, values: Iterable[Any]) -> None:
        """Count these tensors, unless they are views of counted ones."""
        for value in values:
            if isinstance(value, Tensor) and value.device.type != "meta" and _place(value) not in self._known:
                storage = value.untyped_storage()
                self._known.add(storage._cdata)
                self.bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self.bytes)
                weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count neither these, which must outlive the counting, nor views of them, which operations return."""
        self._known.update(map(_place, tensors))

    def _remove(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.bytes -= size


class _Unknown(TorchDispatchMode):
    """Answers what nobody knows of tensors without memory: values are not 0 anywhere, and what is asked is not so.

    The second ends draws that are repeated until all are good.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return False
        return func(*args, **(kwargs or {}))


class _Fused(TorchFunctionMode):
    """Attention never holds its T x T matrix: on a CPU a fused kernel serves where there is no dropout alone.

    That of an accelerator has dropout too, and keeps no more for it than the state of a generator.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(upstream: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    """Four products after the forward pass's two; the scores that the kernel computes again are not counted."""
    return 2 * sdpa_flop_count(query, key, value)


def _product(total: Any, left: Any, right: Any, **more: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _convolution_backward(
    upstream: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, wanted: Sequence[bool], **more: Any,
) -> int:  # fmt: skip
    """The forward pass's products again for the gradient of each of input and weight, in groups as there are."""
    return sum(wanted[:2]) * conv_flop_count(x, weight, upstream, transposed)


def _flops() -> FlopCounterMode:
    """torch's counter, with kernels that it does not know, and convolutions in groups, which it takes for dense ones
    on the way back."""
    kernels = torch.ops.aten
    attention = kernels._scaled_dot_product_flash_attention_for_cpu
    backward = kernels._scaled_dot_product_flash_attention_for_cpu_backward
    known = {attention: _attention, backward: _attention_backward, kernels.addmm_: _product}
    return FlopCounterMode(display=False, custom_mapping=known | {kernels.convolution_backward: _convolution_backward})
