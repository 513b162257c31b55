"""A model folder in Hugging Face's layout: config.json and safetensors, read into our names."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from configs.errors import ConfigError, DataError
from trainer.interchange.bert import BERT
from trainer.interchange.convolutions import IMAGE_NETWORKS
from trainer.interchange.gpt2 import GPT2
from trainer.interchange.llama import LLAMA
from trainer.interchange.rules import Family, Fields, UnsupportedError, to_ours, without_prefix
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, BERT)}
OTHER_WEIGHTS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Layout:
    """What a folder holds."""

    architecture: str
    """The class that wrote it, such as GPT2LMHeadModel"""
    shape: Fields
    """Our fields that it fixes, for transformers; empty for networks of images, which their tensors describe"""
    tensors: Mapping[str, Tensor]
    """Under our names, float32"""


def is_layout(folder: Path) -> bool:
    """Whether a folder says that it holds a model of Hugging Face's."""
    return (folder / CONFIG).is_file() and "model_type" in _json(folder / CONFIG)


def read_layout(folder: Path) -> Layout:
    """The model in a folder. Raises ConfigError where ours cannot be it, DataError where files are broken."""
    config = _json(folder / CONFIG)
    kind = config.get("model_type")
    architecture = next(iter(config.get("architectures") or ()), str(kind))
    try:
        if kind in IMAGE_NETWORKS:
            return Layout(architecture, {}, IMAGE_NETWORKS[kind](config, read_weights(folder)))
        if kind in FAMILIES:
            return _read_transformer(folder, config, architecture, FAMILIES[kind])
    except UnsupportedError as problem:
        raise ConfigError(f"{folder} ({architecture}): {problem}") from None
    except KeyError as missing:
        raise DataError(f"{folder / CONFIG} has no {missing}") from None
    known = ", ".join(sorted([*FAMILIES, *IMAGE_NETWORKS]))
    raise ConfigError(f"{folder} holds a model of type {kind}; types that can be read: {known}")


def _read_transformer(folder: Path, config: Fields, architecture: str, family: Family) -> Layout:
    shape = family.shape_of(config)
    tensors = read_weights(folder)
    alone = not any(name.startswith(family.prefix) for name in tensors)
    plain = without_prefix(tensors, family.prefix)
    ours, left = to_ours(plain, family.body, shape["num_layers"])
    stray = [
        name for name in left if (alone or family.prefix + name in tensors) and not re.fullmatch(family.ignored, name)
    ]
    if stray:
        raise UnsupportedError(f"our network has no place for {', '.join(sorted(stray)[:3])} ({len(stray)} in all)")
    head = [
        type(rule)(rule.ours, tuple(name.removeprefix(family.prefix) for name in rule.theirs), kinds=rule.kinds)
        for rule in family.heads.get(architecture, ())
    ]
    ours |= to_ours(plain, head, 1)[0]
    return Layout(architecture, shape, ours)


def read_tensors_for(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """A folder's tensors under our names for this network: its body, and its head where it is of the same kind.

    Learned positions past our context are left out. Raises ConfigError with what differs where the folder holds another
    architecture, DataError where its files are missing or broken.
    """
    layout = read_layout(folder)
    tensors = dict(layout.tensors)
    if isinstance(network, Transformer) != bool(layout.shape):
        ours = type(network).__name__
        raise ConfigError(f"{folder} holds a checkpoint of another architecture, {layout.architecture}, not a {ours}")
    if not isinstance(network, Transformer):
        return tensors
    if differing := differences(layout.shape, network):
        raise ConfigError(
            f"{folder} holds a checkpoint of another architecture, {layout.architecture}: {'; '.join(differing)}; "
            "give task.model the same shape"
        )
    if network.positions is not None:
        tensors["positions.weight"] = tensors["positions.weight"][: network.context_tokens]
    return tensors | _head(tensors, layout, network)


def _head(tensors: Mapping[str, Tensor], layout: Layout, network: Transformer) -> dict[str, Tensor]:
    """An untied copy of the embedding where they share it and we do not."""
    wants = isinstance(network.head, LanguageHead) and not network.shape.tied_embeddings
    if wants and layout.shape["tied_embeddings"]:
        return {"head.weight": tensors["embedding.weight"].clone()}
    return {}


def differences(theirs: Fields, network: Transformer) -> list[str]:
    """Where a folder's shape is not the network's, with both values."""
    shape = network.shape
    ours: Fields = {name: getattr(shape, name) for name in theirs if hasattr(shape, name)}
    ours |= {
        "num_kv_heads": shape.num_kv_heads or shape.num_heads,
        "vocabulary_size": network.embedding.num_embeddings,
        "context_tokens": network.context_tokens,
    }
    if not (isinstance(network.head, LanguageHead) and shape.tied_embeddings):
        theirs = {name: value for name, value in theirs.items() if name != "tied_embeddings"}
    return [
        f"{name} is {value} there and {ours[name]} here"
        for name, value in theirs.items()
        if not _fits(name, value, ours)
    ]


def _fits(name: str, value: Any, ours: Fields) -> bool:
    if name == "context_tokens":
        return ours["positions"] != "learned" or ours[name] <= value
    return bool(ours[name] == value)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in one file or in several that an index lists. Nothing but safetensors is opened."""
    if (folder / INDEX).is_file():
        listed: Mapping[str, str] = _json(folder / INDEX).get("weight_map", {})
        names = sorted(set(listed.values()))
        if outside := [name for name in names if Path(name).name != name]:
            raise DataError(f"{folder / INDEX} names {outside[0]}, which is not a file of this folder")
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
        there = f"only {others[0]}, which is not opened: such files can run code" if others else "no weights"
        raise DataError(
            f"{folder} holds {there}; a {WEIGHTS} is needed, which transformers writes: "
            "AutoModel.from_pretrained(...).save_pretrained(...)"
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{folder / name} cannot be read: {error}; copy the folder again") from None
    return tensors


def _json(path: Path) -> Fields:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}
