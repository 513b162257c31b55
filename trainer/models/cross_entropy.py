"""Cross-entropy of a linear layer's outputs without ever holding them all."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""A target that is not to be predicted"""
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits computed at a time: few beside the weights, and enough for the matrix products to run at full speed"""
CHUNK_ROWS = 256
"""At least so many rows at a time, however large the vocabulary"""
TILES = {"cpu": (512, 1024), "cuda": (8192, 16384)}
"""Rows and classes whose logits `linear_scores` holds at a time: on a CPU what stays in its cache"""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of hidden, weight and bias"""


@torch.compiler.disable()
def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """-log softmax(hidden weight' + bias)[target] for each row: hidden [N, D], weight [V, D], targets [N] int64.

    Returns [N] float32, 0 where the target is IGNORE. Under autocast the products are taken in its type; the softmax
    is float32 always, or float64 where the products are.

    The gradient of each chunk's logits is known as soon as its softmax is, so the gradients under the sum over rows are
    computed in the forward pass, and the backward pass of a sum only scales them. Where rows weigh differently, the
    backward pass goes over the logits once more.
    """
    product = _product_type(hidden)
    inputs = (hidden, weight, *([] if bias is None else [bias]))
    if torch.is_grad_enabled() and any(each.requires_grad for each in inputs):
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, product)  # type: ignore[no-any-return]
    return _over_chunks(hidden, weight, bias, targets, None, product, (False, False, False))[0]


@torch.no_grad()
@torch.compiler.disable()
def linear_scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """What an evaluation asks of each row of hidden weight' + bias: hidden [N, D], weight [V, D], targets [N] int64.

    Returns [N, 3] float32, or float64 where the products are: -log softmax at the target, the largest log softmax, and
    1 where that is the target's (the first of equal ones counts) or 0. Every row has a target. Without a gradient.
    """
    product = _product_type(hidden)
    exact, output = torch.promote_types(product, torch.float32), weight.to(product)
    offset = None if bias is None else bias.to(product)
    rows, classes = TILES.get(hidden.device.type, TILES["cpu"])
    found = torch.empty(len(targets), 3, dtype=exact, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for begin in range(0, len(targets), rows):
            part = slice(begin, begin + rows)
            found[part] = _score_rows(hidden[part].to(product), output, offset, targets[part], classes, exact)
    return found


def _score_rows(
    features: Tensor, output: Tensor, offset: Tensor | None, targets: Tensor, classes: int, exact: torch.dtype
) -> Tensor:
    """The scores of a few rows [n, 3], from so many classes at a time.

    The sum of exponentials is kept relative to the largest logit so far (Milakov and Gimelshein, 2018, algorithm 3).
    """
    room = output.new_empty(len(targets) * min(classes, len(output)))
    own, total = (torch.zeros(len(targets), dtype=exact, device=output.device) for _ in range(2))
    top, first = torch.full_like(own, torch.finfo(exact).min), torch.zeros_like(targets, dtype=torch.bool)
    for begin in range(0, len(output), classes):
        tile = output[begin : begin + classes]
        logits = room[: len(targets) * len(tile)].view(len(targets), len(tile))
        _outputs(features, tile, None if offset is None else offset[begin : begin + classes], logits)
        logits = logits.to(exact)
        best, place = logits.amax(1), (targets - begin).clamp(0, len(tile) - 1)
        here = targets == begin + place
        own = torch.where(here, logits.gather(1, place[:, None]).squeeze(1), own)
        few = (here & (own == best) & (own > top)).nonzero().squeeze(1)
        first[few] = logits[few].argmax(1) == place[few]  # argmax is five times as slow as amax
        higher = torch.maximum(top, best)
        total = total * (top - higher).exp() + logits.sub_(higher[:, None]).exp_().sum(1)
        top = higher
    largest = -total.log()
    return torch.stack((top - own - largest, largest, (first & (own == top)).to(exact)), dim=1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, product: torch.dtype
    ) -> Tensor:
        ctx.product = product
        ctx.save_for_backward(hidden, weight, bias, targets)
        nll, ctx.gradients = _over_chunks(hidden, weight, bias, targets, None, product, ctx.needs_input_grad[:3])
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets = ctx.saved_tensors
        known: Gradients | None = ctx.gradients
        ctx.gradients = None  # scaled in place: a second backward computes them anew
        factor = scale[0] if known and _is_one_number(scale) else None
        if known is None or factor is None:
            needed = ctx.needs_input_grad[:3]
            _, known = _over_chunks(hidden, weight, bias, targets, scale, ctx.product, needed)
        of_hidden, of_weight, of_bias = known
        of_hidden = None if of_hidden is None else of_hidden.to(hidden.dtype)
        for gradient in (of_hidden, of_weight, of_bias):
            if factor is not None and gradient is not None:
                gradient.mul_(factor)
        return of_hidden, of_weight, of_bias, None, None


def _is_one_number(scale: Tensor) -> bool:
    """Whether all rows weigh the same, as under a sum; elsewhere than on a CPU, as far as shapes tell."""
    if len(scale) <= 1 or scale.stride() == (0,):
        return len(scale) > 0
    return scale.device.type == "cpu" and bool((scale == scale[0]).all())


def _over_chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: Tensor | None,
    product: torch.dtype,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Gradients]:
    """Each row's negative log-likelihood, and the gradients of their sum, or of the sum weighted by scale [N]."""
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        rows, exact = len(targets), torch.promote_types(product, torch.float32)
        known = targets != IGNORE
        classes = torch.where(known, targets, 0)[:, None]  # [N, 1]
        weigh = known.to(exact) if scale is None else torch.where(known, scale, 0).to(exact)  # [N]
        output, offset = weight.to(product), None if bias is None else bias.to(product)
        nll = torch.empty(rows, dtype=exact, device=hidden.device)
        of_hidden = torch.empty_like(hidden, dtype=product) if needed[0] else None
        of_weight = torch.zeros_like(weight) if needed[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and needed[2] else None
        for part, scores, exact_scores in _chunks(rows, output, exact):
            features, label = hidden[part].to(product), classes[part]
            _outputs(features, output, offset, scores)  # [n, V]
            log_p = torch.log_softmax(scores, dim=-1, dtype=exact, out=exact_scores)
            nll[part] = log_p.gather(1, label).squeeze(1).neg_()
            if not any(needed):
                continue
            of_scores = log_p.exp_().scatter_add_(1, label, torch.full_like(label, -1, dtype=exact))
            if of_bias is not None:
                of_bias += weigh[part] @ of_scores
            if product != exact:
                of_scores = scores.copy_(of_scores)
            if of_hidden is not None:
                torch.mm(of_scores, output, out=of_hidden[part])
                of_hidden[part] *= weigh[part, None]
            if of_weight is not None:
                _add_product(of_weight, of_scores, (features * weigh[part, None]).to(product))
        return torch.where(known, nll, 0), (of_hidden, of_weight, of_bias)


def _chunks(rows: int, output: Tensor, exact: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of the rows, each with room for its scores [n, V] as products and as exact numbers, used again."""
    size = max(CHUNK_ROWS, CHUNK_LOGITS.get(output.device.type, CHUNK_LOGITS["cpu"]) // len(output))
    size = min(size, rows)
    scores = output.new_empty(size, len(output))
    exact_scores = output.new_empty(size, len(output), dtype=exact)
    for begin in range(0, rows, max(1, size)):
        length = min(size, rows - begin)
        yield slice(begin, begin + length), scores[:length], exact_scores[:length]


def _outputs(features: Tensor, output: Tensor, offset: Tensor | None, scores: Tensor) -> None:
    if offset is None:
        torch.mm(features, output.T, out=scores)
    else:
        torch.addmm(offset, features, output.T, out=scores)


def _add_product(total: Tensor, of_scores: Tensor, features: Tensor) -> None:
    """total [V, D] += of_scores' features; the sum over chunks is kept in the weights' own type."""
    if total.dtype == features.dtype:
        total.addmm_(of_scores.T, features)
    else:
        total += of_scores.T @ features


def _product_type(hidden: Tensor) -> torch.dtype:
    """What matrix products are taken in: autocast's type where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
