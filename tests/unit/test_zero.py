"""What a rank keeps where DeepSpeed has put optimizer state on a disk, without DeepSpeed and without a disk."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.pieces import Piece
from trainer.zero import OnDisk, moments, shared_out


class Swapping:
    """DeepSpeed's optimizer at stage 3, as far as it is asked: one group, whose numbers are away between uses."""

    def __init__(self, weights: Tensor, memory: Any) -> None:
        self.flat, self.memory, self.disk = nn.Parameter(torch.empty(0)), memory, {"weights": weights.clone()}
        self.fp32_partitioned_groups_flat = [self.flat]
        self.fp16_partitioned_groups_flat_numel = [weights.numel()]
        self.fp16_groups, self.persistent_parameters, self.published = [[]], [], list[Tensor]()
        self.grad_position = {0: (0, 0, weights.numel())}

    def get_param_id(self, parameter: nn.Parameter) -> int:
        return 0

    def _swappable_optimizer_subgroup(self, group: int) -> bool:
        return True

    def _optimizer_states_and_gradient_swap_in(self, group: int) -> None:
        self.flat.data = self.disk["weights"].clone()
        for key in self.memory.get(self.flat, {}):
            self.memory[self.flat][key] = self.disk[key].clone()

    def _optimizer_states_and_gradient_swap_out(self, group: int) -> None:
        self.disk = {"weights": self.flat.data.clone()} | {k: v.clone() for k, v in self.memory[self.flat].items()}
        self._release_swap_buffers(group)

    def _release_swap_buffers(self, group: int) -> None:
        self.flat.data = torch.empty(0)
        for key in self.memory.get(self.flat, {}):
            self.memory[self.flat][key] = torch.empty(0)

    def _partition_all_parameters(self) -> None: ...
    def invalidate_secondary_tensor(self) -> None: ...

    def _reassign_or_swap_out_partitioned_parameters(self, group: int) -> None:
        self.published.append(self.flat.data.clone())


def layout() -> tuple[OnDisk, Swapping, dict[Any, dict[str, Tensor]]]:
    memory: dict[Any, dict[str, Tensor]] = {}
    zero = Swapping(torch.arange(6.0), memory)
    memory[zero.flat] = {"exp_avg": torch.empty(0)}
    zero.disk["exp_avg"] = torch.arange(6.0) * 10
    network = nn.Linear(3, 2, bias=False)
    network.weight.ds_shape, network.weight.ds_numel = torch.Size([2, 3]), 6  # type: ignore[attr-defined]
    network.weight.ds_tensor = SimpleNamespace(numel=lambda: 6)  # type: ignore[attr-defined]
    return OnDisk(network, zero, memory, rank=0), zero, memory


def test_state_on_a_disk_is_told_and_left_there() -> None:
    kept, zero, _ = layout()
    kept.fetch()
    assert kept.kept[0].values.tolist() == [0, 1, 2, 3, 4, 5]
    (average,) = moments(kept)
    assert (average.name, average.shape) == ("weight/exp_avg", (2, 3))
    assert average.values.tolist() == [0, 10, 20, 30, 40, 50]
    assert zero.flat.numel() == 0
    assert zero.disk["weights"].tolist() == [0, 1, 2, 3, 4, 5]


def test_state_that_was_loaded_goes_to_the_disk_and_to_the_weights_that_compute() -> None:
    kept, zero, _ = layout()
    kept.fetch()
    kept.kept[0].values.fill_(7.0)
    kept.memory[kept.kept[0].flat]["exp_avg"].fill_(8.0)
    kept.publish()
    assert zero.published[0].tolist() == [7.0] * 6
    assert zero.disk["weights"].tolist() == [7.0] * 6
    assert zero.disk["exp_avg"].tolist() == [8.0] * 6
    assert zero.flat.numel() == 0


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_all_ranks_have_is_saved_by_one_each_and_evenly(size: int) -> None:
    tensors = {name: torch.zeros(numbers) for name, numbers in (("a", 8), ("b", 5), ("c", 4), ("d", 3), ("e", 0))}
    shares: list[list[Piece]] = [shared_out(tensors, rank, size) for rank in range(size)]
    assert sorted(piece.name for share in shares for piece in share) == sorted(tensors)
    numbers = [sum(piece.values.numel() for piece in share) for share in shares]
    assert max(numbers) - min(numbers) <= 8
