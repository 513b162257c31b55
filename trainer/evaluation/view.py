"""What a family is given to make samples of in the middle of a training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from configs.schema import RunConfig, SamplesConfig
from data.manifest import Manifest
from data.shards import ShardReader
from trainer.distributed import World
from trainer.task import Task


@dataclass(frozen=True)
class View:
    """A network as it stands, and what it may be tried on. Samples are to be functions of these and of fixed seeds."""

    run: RunConfig
    manifest: Manifest
    task: Task
    nets: Mapping[str, nn.Module]
    """In evaluation mode, with the weights that evaluation would use"""
    reader: ShardReader
    """Of the validation split"""
    tokenizer: Tokenizer | None
    world: World
    """This rank alone: what needs others would wait for ever"""
    settings: SamplesConfig
    alive: Callable[[], None]
    """To be called now and then: work goes on"""


Records = list[dict[str, Any]]
"""Samples as evaluation/samples.json has them"""
