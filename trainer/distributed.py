"""The ranks of a job: who this process is, and the few exchanges that training needs."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from configs.errors import ConfigError
from configs.schema import WorldConfig
from trainer.task import Sums


class World:
    """This rank among `size`; every method is called by all ranks in the same order.

    parts x slices ranks in a row, a replica, read the same samples: `slices` in a row share each matrix, and groups of
    them each compute one of `parts` of every sequence.
    """

    def __init__(
        self, *, rank: int, local_rank: int, size: int, device: torch.device, parts: int = 1, slices: int = 1
    ) -> None:
        self.rank, self.local_rank, self.size, self.device = rank, local_rank, size, device
        self.parts, self.slices = parts, slices
        self.peers: dist.ProcessGroup | None = None
        """The ranks that have the other parts of this one's sequences, where there are any"""

    @property
    def replicas(self) -> int:
        """Groups of ranks that read samples of their own."""
        return self.size // (self.parts * self.slices)

    @property
    def replica(self) -> int:
        return self.rank // (self.parts * self.slices)

    @property
    def part(self) -> int:
        """Which part of its replica's sequences this rank computes."""
        return self.rank // self.slices % self.parts

    @property
    def slice(self) -> int:
        """Which slice of each matrix this rank holds."""
        return self.rank % self.slices

    @classmethod
    def join(cls, config: WorldConfig, *, whole: bool = False) -> "World":
        """Meet the other ranks that the node agent or torchrun started; alone where nothing did.

        whole: every rank has whole networks and reads samples of its own, whatever ranks share in training.
        """
        torch.set_num_threads(config.threads)
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        for name, value in (("MASTER_PORT", "0"), ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
            os.environ.setdefault(name, value)
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        device = choose_device(config, local)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=config.timeout_s + 30)  # whoever watches the ranks speaks first
        store, *_ = next(rendezvous("env://", rank, size, timeout=timeout))
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # its store still holds the last start's addresses
        named = PrefixStore(f"start-{start}", store)
        dist.init_process_group(backend, store=named, rank=rank, world_size=size, timeout=timeout)
        world = cls(rank=rank, local_rank=local, size=size, device=device)
        if not whole:
            world.parts, world.slices = config.sequence_parallel, config.tensor_parallel
            world._meet_peers(timeout)
        return world

    def _meet_peers(self, timeout: timedelta) -> None:
        """A group for each replica and slice. Raises ConfigError where the ranks do not make whole replicas."""
        shared = self.parts * self.slices
        if self.size % shared:
            raise ConfigError(
                f"world.tensor_parallel x world.sequence_parallel = {self.slices} x {self.parts} = {shared} must "
                f"divide the number of ranks, {self.size} were started; start {self.size // shared * shared or shared}"
            )
        if self.parts > 1:
            ranks = np.arange(self.size).reshape(-1, self.parts, self.slices).transpose(0, 2, 1)
            members = ranks.reshape(-1, self.parts).tolist()
            groups = [dist.new_group(each, timeout=timeout) for each in members]  # every rank opens each of them
            self.peers = cast(dist.ProcessGroup, groups[self.replica * self.slices + self.slice])

    def gather(self, values: Sequence[int]) -> NDArray[np.int64]:
        """Every rank's integers, equally many each, as [size, len(values)]."""
        return self.gather_later(values)()

    def gather_later(self, values: Sequence[int]) -> Callable[[], NDArray[np.int64]]:
        """Send for every rank's integers; they are there when the returned function is called."""
        mine = torch.tensor(values, dtype=torch.int64)
        if self.size == 1:
            return lambda: mine.numpy()[None]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        work = dist.all_gather(everyone, mine, async_op=True)

        def received() -> NDArray[np.int64]:
            assert work is not None
            work.wait()
            return torch.stack(everyone).numpy()

        return received

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

    def collect(self, rows: torch.Tensor) -> torch.Tensor:
        """Every rank's rows [n, ...], n of its own, one rank after the other, on rank 0; elsewhere none."""
        if self.size == 1:
            return rows
        sizes = self.gather([len(rows)])[:, 0]
        padded = rows.new_zeros((int(sizes.max()), *rows.shape[1:])).cpu()
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(padded, everyone, dst=0)
        if everyone is None:
            return rows[:0].cpu()
        return torch.cat([each[:size] for each, size in zip(everyone, sizes.tolist(), strict=True)])

    def aside(self) -> "Aside":
        """A way to exchange values from another thread than the one that trains."""
        return Aside(self.size)


class Aside:
    """The same ranks in a group of their own, so that nothing gets between the collectives of training."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._group = dist.new_group(backend="gloo") if size > 1 else None

    def exchange(self, mine: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks."""
        everyone = [mine] * self.size
        if self.size > 1:
            dist.all_gather_object(everyone, mine, group=self._group)
        return everyone


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
