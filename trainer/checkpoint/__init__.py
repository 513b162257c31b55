"""Checkpoints: saved by every rank as pieces, whole or absent, and read by any number of ranks."""

from trainer.checkpoint.checkpointer import Checkpointer, TrainState
from trainer.checkpoint.result import settle_result
from trainer.checkpoint.stored import StoredNetwork, load_network, load_weights, read_tensors, weights

__all__ = [
    "Checkpointer",
    "StoredNetwork",
    "TrainState",
    "load_network",
    "load_weights",
    "read_tensors",
    "settle_result",
    "weights",
]
