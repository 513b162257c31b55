"""Names of tensors here and in another layout: tables that read in both directions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KINDS = ("weight", "bias")
Fields = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """Modules of the same weight and bias; `{}` stands for a block's number."""

    ours: str
    theirs: tuple[str, ...]
    """Several are stacked in ours, in this order"""
    transposed: bool = False
    """Whether they hold the matrix as inputs x outputs"""
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True)
class Family:
    """A model type of Hugging Face's and our networks that are the same."""

    model_type: str
    prefix: str
    """Before every name of the body; left out where a body was saved alone"""
    body: tuple[Rule, ...]
    heads: Mapping[str, tuple[Rule, ...]]
    """By the name of the class that has it"""
    ignored: str
    """Pattern of names that hold nothing learned, or what we have no use for"""
    shape_of: Callable[[Mapping[str, Any]], Fields]
    """Their config.json in our fields. Raises UnsupportedError"""
    config_of: Callable[[Any, Mapping[str, Any]], Fields]
    """Our shape and what else is known (vocabulary, context, ids) as their config.json"""
    needs: Mapping[str, tuple[Any, ...]]
    """Our fields and the values of them that the layout can express"""
    zero_biases: tuple[str, ...] = ()
    """Modules whose bias ours lacks: written as zeros"""


class UnsupportedError(ValueError):
    """A layout's setting that our network has no field for."""


def choose(field: str, value: Any, known: Mapping[Any, str]) -> str:
    """Our word for their value. Raises UnsupportedError with those that are known."""
    if value not in known:
        raise UnsupportedError(f"{field}={value} is not supported; known are {', '.join(map(str, known))}")
    return known[value]


def require(config: Mapping[str, Any], field: str, default: Any, wanted: Any) -> None:
    """Their setting has the one value that our network is built for."""
    value = config.get(field, default)
    if value != wanted:
        raise UnsupportedError(f"{field}={value} is not supported, only {wanted}")


def to_ours(theirs: Mapping[str, Tensor], rules: Sequence[Rule], layers: int) -> tuple[dict[str, Tensor], set[str]]:
    """Tensors under our names, and the names that no rule took. Raises UnsupportedError where a stack lacks a part."""
    ours: dict[str, Tensor] = {}
    left = set(theirs)
    for rule, number, kind in _each(rules, layers):
        names = [f"{each.format(number)}.{kind}" for each in rule.theirs]
        there = [name for name in names if name in theirs]
        if not there:
            continue
        if len(there) < len(names):
            raise UnsupportedError(f"there is {there[0]}, but no {next(name for name in names if name not in theirs)}")
        tensors = [theirs[name].T if rule.transposed and theirs[name].dim() == 2 else theirs[name] for name in names]
        stacked = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        ours[f"{rule.ours.format(number)}.{kind}"] = stacked.float().contiguous()
        left -= set(names)
    return ours, left


def to_theirs(
    ours: Mapping[str, Tensor], rules: Sequence[Rule], layers: int, split: Callable[[Tensor, int], Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Tensors under their names; `split` cuts a stack in its parts. What no rule takes is not there."""
    theirs: dict[str, Tensor] = {}
    for rule, number, kind in _each(rules, layers):
        tensor = ours.get(f"{rule.ours.format(number)}.{kind}")
        if tensor is None:
            continue
        parts = split(tensor, len(rule.theirs)) if len(rule.theirs) > 1 else [tensor]
        for name, part in zip(rule.theirs, parts, strict=True):
            turned = part.T if rule.transposed and part.dim() == 2 else part
            theirs[f"{name.format(number)}.{kind}"] = turned.contiguous()
    return theirs


def _each(rules: Sequence[Rule], layers: int) -> list[tuple[Rule, int, str]]:
    return [
        (rule, number, kind)
        for rule in rules
        for number in range(layers if "{}" in rule.ours else 1)
        for kind in rule.kinds
    ]


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A body's names as they are where it was saved alone; the oldest files call a norm's weight gamma."""
    old = {".gamma": ".weight", ".beta": ".bias"}
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return {re.sub(r"\.(gamma|beta)$", lambda match: old[match[0]], name): tensor for name, tensor in named.items()}
