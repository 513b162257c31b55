"""The loss scale of fp16: as large as gradients allow, so that small ones do not vanish (Micikevicius et al., 2018)."""

from typing import Any

import torch
from torch import Tensor

FIRST = 2.0**16
PATIENCE = 1000
"""Updates without an overflow after which the scale doubles"""


class LossScale:
    """DeepSpeed's dynamic scale: halved at an overflow, whose update is left out, and doubled after PATIENCE updates.

    `zero`, DeepSpeed's optimizer at stages 1 to 3, applies and moves the scale by itself; at stage 0 (None) we do.
    """

    def __init__(self, zero: Any) -> None:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        self._scaler: Any = DynamicLossScaler(
            init_scale=FIRST,
            scale_window=PATIENCE,
            min_scale=1.0,
            delayed_shift=1,
            consecutive_hysteresis=False,
            raise_error_at_min_scale=False,
        )
        self._ours = zero is None
        if zero is not None:
            zero.loss_scaler, zero.dynamic_loss_scale = self._scaler, True

    @property
    def value(self) -> float:
        return float(self._scaler.cur_scale)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.value if self._ours else loss

    def update(self, *, overflow: bool) -> None:
        """After each update. Raises FloatingPointError when there is no smaller scale to try."""
        if overflow and self.value <= self._scaler.min_scale:
            raise FloatingPointError(
                "gradients overflow fp16 even with a loss scale of 1; use train.precision=bf16 or a lower "
                "train.optimizer.learning_rate"
            )
        if self._ours:
            self._scaler.update_scale(overflow)

    def state(self) -> Tensor:
        """Scale, updates so far, the last that overflowed, and patience left with overflows."""
        scaler = self._scaler
        told = (scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter, scaler.cur_hysteresis)
        return torch.tensor(told, dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        scale, updates, overflow, patience = state.tolist()
        scaler = self._scaler
        scaler.cur_scale, scaler.cur_iter = scale, int(updates)
        scaler.last_overflow_iter, scaler.cur_hysteresis = int(overflow), int(patience)
