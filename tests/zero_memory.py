"""Bytes of every tensor of a real DeepSpeed engine, as one rank of a world whose other ranks are only counted.

Run as `python -m tests.zero_memory RANKS PRECISION`: prints the most of a step as JSON, by what was asked of ZeRO.
"""

import gc
import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.load import load
from configs.schema import RunConfig
from tests.tiny import CONFIGS
from trainer.deepspeed_config import deepspeed_config
from trainer.optim import build_optimizer
from trainer.profile.counting import Alive
from trainer.task import Batch, Networks, Scalars

MICRO, ACCUMULATION, WIDTH = 4, 2, 256
ASKED = {
    "stage 0": "{stage: 0}",
    "stage 1": "{stage: 1}",
    "stage 2": "{stage: 2}",
    "stage 2 with overlap": "{stage: 2, overlap: true}",
    "stage 3": "{stage: 3}",
    "stage 3 split again": "{stage: 3, partition_group: 2}",
    "stage 1 offloaded": "{stage: 1, offload_optimizer: cpu}",
    "stage 2 offloaded": "{stage: 2, offload_optimizer: cpu}",
    "stage 3 offloaded": "{stage: 3, offload_optimizer: cpu}",
    "stage 3 all offloaded": "{stage: 3, offload_optimizer: cpu, offload_parameters: cpu}",
}


class Rows:
    """A task of one network: the sum of what it makes of rows."""

    turns = ("model",)

    def loss(self, turn: str, nets: Networks, batch: Batch) -> tuple[Tensor, Scalars]:
        return nets[turn](batch.tensors["rows"]).float().sum(), {}


def network() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)) for _ in range(24)))


def batch() -> Batch:
    return Batch({"rows": torch.zeros(MICRO, WIDTH)}, MICRO, tuple(range(MICRO)))


def run_at(zero: str, *, ranks: int, precision: str) -> RunConfig:
    return load(
        [
            str(next(path for path in CONFIGS if path.stem == "demo-lm")),
            f"train.precision={precision}",
            f"train.global_batch_samples={MICRO * ACCUMULATION * ranks}",
            f"world={{micro_batch_samples: {MICRO}, processes: {ranks}, device: cpu}}",
            f"world.zero={zero}",
            "deepspeed.zero_optimization={reduce_bucket_size: 200000, stage3_prefetch_bucket_size: 200000}",
        ]
    )


def most_of_a_step(run: RunConfig) -> int:
    """After a first step, which makes optimizer state."""
    from trainer.engines import quiet_deepspeed

    deepspeed: Any = quiet_deepspeed()
    model = network()
    optimizer = build_optimizer(model, run.train.optimizer)
    with Alive() as alive:
        alive.add(model.parameters())
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config(run, device="cpu"), dist_init_required=False
        )
        for _ in range(2):
            alive.peak_bytes = alive.bytes
            for _ in range(ACCUMULATION):
                engine.backward(Rows().loss("model", {"model": engine}, batch())[0])
                engine.step()
        most = alive.peak_bytes
    engine.destroy()
    return most


def main(ranks: int, precision: str) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    found = {}
    for name, zero in ASKED.items():
        found[name] = most_of_a_step(run_at(zero, ranks=ranks, precision=precision))
        gc.collect()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
