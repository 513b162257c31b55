"""The ranks of a job: who this process is, and the few exchanges that training needs."""

import os
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from configs.schema import WorldConfig
from trainer.task import Sums


class World:
    """This rank among `size`; every method is called by all ranks in the same order."""

    def __init__(self, *, rank: int, local_rank: int, size: int, device: torch.device) -> None:
        self.rank, self.local_rank, self.size, self.device = rank, local_rank, size, device

    @classmethod
    def join(cls, config: WorldConfig) -> "World":
        """Meet the other ranks that torch.distributed.run started; alone where nothing did."""
        torch.set_num_threads(config.threads)
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        for name, value in (("MASTER_PORT", "0"), ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
            os.environ.setdefault(name, value)
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        device = choose_device(config, local)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=config.timeout_s))
        return cls(rank=rank, local_rank=local, size=size, device=device)

    def gather(self, values: Sequence[int]) -> NDArray[np.int64]:
        """Every rank's integers, equally many each, as [size, len(values)]."""
        mine = torch.tensor(values, dtype=torch.int64)
        if self.size == 1:
            return mine.numpy()[None]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone).numpy()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over ranks in float64, on the CPU."""
        total = values.detach().double().cpu()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise mean over ranks, where the values are."""
        total = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total / self.size

    def sum_all(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Sums over ranks by name; a rank that saw no sample may lack names, and adds 0."""
        names = sorted(self._union(list(sums)))
        zero = torch.zeros((), dtype=torch.float64)
        stacked = torch.stack([sums.get(name, zero).detach().double().cpu() for name in names])
        return dict(zip(names, self.sum(stacked).tolist(), strict=True))

    def _union(self, names: list[str]) -> set[str]:
        if self.size == 1:
            return set(names)
        everyone: list[list[str]] = [[]] * self.size
        dist.all_gather_object(everyone, names)
        return {name for each in everyone for name in each}


def add(sums: Sums, more: Sums) -> Sums:
    """Additive statistics of two batches together."""
    return sums | {name: sums[name] + value if name in sums else value for name, value in more.items()}


def choose_device(config: WorldConfig, local_rank: int) -> torch.device:
    if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def seed_all(*parts: int) -> None:
    """Seed every generator from integers, so that randomness is a function of where the run stands alone."""
    state = np.random.SeedSequence(parts).generate_state(2, np.uint64)
    torch.default_generator.manual_seed(int(state[0]))  # torch.manual_seed also formats a stack trace per backend
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(state[0]))
    random.seed(int(state[1]))
    np.random.seed(int(state[1]) % 2**32)
