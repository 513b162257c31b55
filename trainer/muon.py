"""Muon: momentum made orthogonal, for the matrices inside a network."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iterates take every singular value near 1
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) over `matrices`, and another optimizer over the rest, as one.

    Weights of more than two dimensions, which torch's own Muon refuses, are matrices [outputs, all else]. Groups and
    state are those of both, so schedules and checkpoints see a single optimizer.
    """

    def __init__(self, matrices: Iterable[dict[str, Any]], beside: torch.optim.Optimizer, **defaults: Any) -> None:
        super().__init__(matrices, defaults)
        self.matrices = list(self.param_groups)
        self.beside = beside
        beside.state = self.state
        self.param_groups += beside.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody here has a closure
        for group in self.matrices:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        self.beside.step()

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        matrix = orthogonal(direction.flatten(1))  # [outputs, inputs x places]
        taller = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(matrix.view(weight.shape), alpha=-group["lr"] * taller)


def orthogonal(matrix: Tensor, eps: float = 1e-7) -> Tensor:
    """The matrix [M, N] with singular values near 1, in bf16, by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp(min=eps)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if tall else x
