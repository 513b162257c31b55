"""A trained network as a folder that `transformers` loads: config.json, model.safetensors, tokenizer."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import ConfigError
from configs.folder import sync, write_atomic, write_json
from data.manifest import TokenizerRecord
from trainer.interchange.bert import BERT
from trainer.interchange.gpt2 import GPT2
from trainer.interchange.layout import CONFIG, WEIGHTS
from trainer.interchange.llama import LLAMA, STABLELM
from trainer.interchange.rules import Family, Fields, to_theirs
from trainer.models.heads import ClassHead, LanguageHead, TokenHead
from trainer.models.transformer import Transformer

WRITTEN = (GPT2, LLAMA, STABLELM, BERT)
LANGUAGE = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "bert": "BertForMaskedLM",
}


def layout_for(network: Transformer) -> tuple[Family, str]:
    """The family and class that can hold a network. Raises ConfigError with what keeps each family from it."""
    obstacles = {family.model_type: _obstacles(network, family) for family in WRITTEN}
    fitting = [family for family in WRITTEN if not obstacles[family.model_type]]
    if not fitting:
        reasons = "; ".join(f"{name}: {', '.join(told)}" for name, told in obstacles.items())
        raise ConfigError(f"no layout of Hugging Face's holds this network. {reasons}")
    (family,) = fitting
    return family, _class_of(network, family)


def _obstacles(network: Transformer, family: Family) -> list[str]:
    """What a family's layout cannot express."""
    shape, told = network.shape, []
    for field, allowed in family.needs.items():
        value = getattr(shape, field)
        if field == "num_kv_heads" and value == shape.num_heads:
            value = None
        if value not in allowed:
            told.append(f"{field}={value} (only {' or '.join(map(str, allowed))})")
    head = network.head
    if isinstance(head, LanguageHead) and shape.head_transform != (family is BERT):
        told.append(f"head_transform={shape.head_transform}")
    if isinstance(head, ClassHead | TokenHead) and family is not BERT:
        told.append("its head of classes has no bias")
    if isinstance(head, ClassHead) and (head.pooler is None or head.pooling != "first"):
        told.append("its head reads the first token through a pooler (pooling=first, pooler=true)")
    return told


def _class_of(network: Transformer, family: Family) -> str:
    if isinstance(network.head, ClassHead):
        return "BertForSequenceClassification"
    return "BertForTokenClassification" if isinstance(network.head, TokenHead) else LANGUAGE[family.model_type]


def theirs_of(network: Transformer, family: Family, architecture: str) -> dict[str, Tensor]:
    """A network's tensors under the family's names; a tied head is the embedding and is not written twice."""
    shape = network.shape
    ours = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    if shape.tied_embeddings and isinstance(network.head, LanguageHead):
        del ours["head.weight"]

    def split(stack: Tensor, parts: int) -> Sequence[Tensor]:
        keys = (shape.num_kv_heads or shape.num_heads) * shape.width // shape.num_heads
        return stack.split((shape.width, keys, keys)) if parts == 3 else stack.chunk(parts)

    body = to_theirs(ours, family.body, shape.num_layers, split)
    for name, tensor in list(body.items()):
        module = name.removesuffix(".weight")
        if module != name and module.rsplit(".", 1)[-1] in family.zero_biases:
            body[f"{module}.bias"] = torch.zeros_like(tensor)
    head = to_theirs(ours, family.heads[architecture], shape.num_layers, split)
    return {family.prefix + name: tensor for name, tensor in body.items()} | head


def config_for(
    network: Transformer, family: Family, architecture: str, record: TokenizerRecord, classes: Sequence[str]
) -> Fields:
    """The config.json of a network."""
    head = network.head
    known: dict[str, Any] = {
        "context_tokens": network.context_tokens,
        "vocabulary_size": network.embedding.num_embeddings,
        "end": record.end_of_document_id,
        "pad": record.special.get("pad"),
        "dropout": head.dropout.p if isinstance(head, ClassHead | TokenHead) else None,
    }
    config = {"model_type": family.model_type, "architectures": [architecture], "dtype": "float32"}
    labels = {
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    named = isinstance(head, ClassHead | TokenHead) and classes
    return config | family.config_of(network.shape, known) | (labels if named else {})


def tokenizer_config(special: Mapping[str, str | None], context_tokens: int) -> Fields:
    """What `transformers` needs to know beside tokenizer.json: which special token is for what."""
    roles = {"end": "eos", "pad": "pad", "unknown": "unk", "class": "cls", "separator": "sep", "mask": "mask"}
    named = {f"{theirs}_token": special[ours] for ours, theirs in roles.items() if ours in special}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
        **named,
    }


def surrounding(network: Transformer, special: Mapping[str, int], texts: Mapping[str, str | None]) -> Any:
    """What stands around a text, as in training: its end, and for a class of the whole the first token."""
    from tokenizers.processors import TemplateProcessing

    first = ["class" if "class" in special else "end"] if isinstance(network.head, ClassHead) else []
    used = dict.fromkeys([*first, "end"])
    template = [str(texts[name]) for name in first] + ["$A", str(texts["end"])]
    return TemplateProcessing(single=template, special_tokens=[(str(texts[name]), special[name]) for name in used])


def write_layout(
    network: Transformer, target: Path, *, tokenizer: Path, record: TokenizerRecord, classes: Sequence[str] = ()
) -> str:
    """Write the folder `target`, which appears when it is whole, and return the class that loads it.

    Raises ConfigError where it exists, or where no layout holds the network.
    """
    from tokenizers import Tokenizer

    family, architecture = layout_for(network)
    if target.exists():
        raise ConfigError(f"{target} exists; name a new folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_json(part / CONFIG, config_for(network, family, architecture, record, classes))
    save_file(theirs_of(network, family, architecture), part / WEIGHTS, metadata={"format": "pt"})
    sync(part / WEIGHTS)
    loaded = Tokenizer.from_file(str(tokenizer))
    special = {"end": record.end_of_document_id} | record.special
    texts = {name: loaded.id_to_token(number) for name, number in special.items()}
    if family is BERT:
        loaded.post_processor = surrounding(network, special, texts)
    write_atomic(part / "tokenizer.json", loaded.to_str(pretty=True))
    write_json(part / "tokenizer_config.json", tokenizer_config(texts, network.context_tokens))
    os.rename(part, target)
    sync(target.parent)
    return architecture
