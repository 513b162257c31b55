"""The peers of the engine's loops on several ranks: DeepSpeed by hand, and by transformers.Trainer."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from benchmarks.harness import Round, Stopwatch
from benchmarks.peers import (
    Blocks,
    adamw_of,
    build_decoder,
    build_gpt2,
    build_trainer,
    decay_groups,
    open_run,
    read_blocks,
)
from configs.schema import RunConfig
from tests.peers import gpt2_weights
from trainer.checkpoint import weights
from trainer.deepspeed_config import deepspeed_config
from trainer.distributed import World
from trainer.engines import quiet_deepspeed
from trainer.models.cross_entropy import IGNORE
from trainer.optim import learning_rate


def share_of(order: list[int], run: RunConfig, rank: int) -> list[int]:
    """What a rank reads of the samples in the order of training: each micro-batch of its own."""
    cut = torch.tensor(order).view(-1, run.world.processes, run.micro_batch)  # [micro-batches, ranks, samples]
    return cut[:, rank].flatten().tolist()


def over_ranks(losses: list[Tensor]) -> list[float]:
    """Each step's loss over all ranks, which have equally many tokens."""
    mean = torch.stack([loss.detach() for loss in losses])
    dist.all_reduce(mean)
    return (mean / dist.get_world_size()).tolist()


class RawDeepSpeed:
    """The loop of DeepSpeed's tutorial: data in memory, fused AdamW, clipped by DeepSpeed, a look at some losses."""

    def __init__(self, path: Path) -> None:
        self.run, self.manifest, folder = open_run(path)
        self.world = World.join(self.run.world)
        tokens, targets, order = read_blocks(self.run, self.manifest, folder)
        self.data, self.tokens = TensorDataset(tokens, targets), len(order) * tokens.shape[1]
        self.order = share_of(order, self.run, self.world.rank)
        self.deepspeed = quiet_deepspeed()

    def build(self) -> tuple[Any, torch.optim.Optimizer]:
        """A new engine over our network's first weights."""
        run, network = self.run, build_decoder(self.run, self.manifest)
        settings = adamw_of(run)
        optimizer = torch.optim.AdamW(
            decay_groups(network, run), lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True
        )
        config = deepspeed_config(run, device="cpu") | {"gradient_clipping": run.train.clip_grad_norm}
        engine, *_ = self.deepspeed.initialize(
            model=network, optimizer=optimizer, config=config, dist_init_required=False
        )
        return engine, optimizer

    def round(self) -> Round:
        """Train from the initial weights to the last step."""
        train, (engine, optimizer) = self.run.train, self.build()
        batches = BatchSampler(self.order, self.run.micro_batch, drop_last=True)
        losses: list[Tensor] = []
        watch = Stopwatch()
        dist.barrier()
        watch.start()
        engine.train()
        for step, (tokens, targets) in enumerate(DataLoader(self.data, sampler=batches, batch_size=None)):
            logits = engine(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
            engine.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, train)
            engine.step()
            losses.append(loss.detach())
            if (step + 1) % train.log_every_steps == 0:
                loss.item()
        watch.stop()
        return Round(self.tokens, watch.seconds, watch.cpu_s, {"losses": over_ranks(losses)})


FROM_ARGUMENTS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
"""What Trainer tells DeepSpeed of its own arguments"""


class TransformersZero1:
    """`transformers.Trainer` with GPT2LMHeadModel under DeepSpeed's ZeRO-1, as its documentation has it."""

    def __init__(self, path: Path) -> None:
        self.run, self.manifest, folder = open_run(path)
        self.path, self.rank = path, World.join(self.run.world).rank
        quiet_deepspeed()
        self.start = {name: tensor.clone() for name, tensor in weights(build_decoder(self.run, self.manifest)).items()}
        tokens, targets, order = read_blocks(self.run, self.manifest, folder)
        self.data = Blocks(tokens[order], targets[order])

    def round(self) -> Round:
        """Train from the initial weights to the last step, with a new Trainer, engine and network."""
        network = build_gpt2(self.run, self.manifest)
        with torch.no_grad():
            for name, tensor in gpt2_weights(network).items():  # views
                tensor.copy_(self.start[name])
        config = dict.fromkeys(FROM_ARGUMENTS, "auto") | {
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
        }
        trainer, watch = build_trainer(self.run, network, self.data, self.path / "transformers", deepspeed=config)
        dist.barrier()
        trainer.train()
        file = self.path / "peer.safetensors"
        if self.rank == 0:
            save_file({name: tensor.contiguous() for name, tensor in gpt2_weights(network).items()}, file)
        outputs = {"losses": over_ranks(trainer.step_losses), "weights": str(file)}
        return Round(self.data.tokens.numel(), watch.seconds, watch.cpu_s, outputs)
