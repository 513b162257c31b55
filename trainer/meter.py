"""How fast training goes and where its time is spent, told between two flushes of the log and never per step."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["data", "save", "validate"]
"""What a rank may wait for; the rest of its time is `compute`"""


@dataclass(frozen=True)
class Workload:
    """What a step of the whole world takes, as far as it is known."""

    samples_per_step: int
    tokens_per_sample: int | None = None
    """None where samples are not made of equally many tokens"""
    flops_per_sample: int | None = None
    """Forward and backward; what recomputation repeats is not counted"""
    peak_flops: float | None = None
    """FLOP/s of all devices together"""


@dataclass
class _Lap:
    begun: float
    seconds: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(("data", "save", "validate"), 0.0))


class Meter:
    """Counts from when it is made. The host's clock serves: a flush waits for the devices, so its time is theirs too.

    `memory` gives this rank's peak in bytes; `age_s` says for how long the process had lived by then.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        memory: Callable[[], int],
        age_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._workload, self._memory, self._clock, self._age_s = workload, memory, clock, age_s
        self._window, self._span, self._shown, self._whole = (_Lap(clock()) for _ in range(4))

    def spend(self, kind: Kind, seconds: float) -> None:
        """Count seconds since the last flush as spent on this."""
        for lap in (self._window, self._span, self._shown, self._whole):
            lap.seconds[kind] += seconds

    @contextlib.contextmanager
    def during(self, kind: Kind) -> Iterator[None]:
        """Count the block's time as spent on this."""
        begun = self._clock()
        try:
            yield
        finally:
            self.spend(kind, self._clock() - begun)

    def figures(self, steps: int) -> dict[str, float]:
        """Of the steps since the last call, by metric name; saving and validating in between is not their time."""
        lap, self._window = self._window, _Lap(self._clock())
        work, seconds = self._workload, lap.seconds
        spent = self._window.begun - lap.begun - seconds["save"] - seconds["validate"]
        samples_per_s = steps * work.samples_per_step / max(spent, 1e-9)
        figures = {"train/samples_per_s": samples_per_s}
        if work.tokens_per_sample:
            figures["train/tokens_per_s"] = samples_per_s * work.tokens_per_sample
        if work.flops_per_sample and work.peak_flops:
            figures["train/mfu"] = samples_per_s * work.flops_per_sample / work.peak_flops
        figures["train/data_wait_share"] = min(1.0, seconds["data"] / max(spent, 1e-9))
        figures["train/memory_bytes"] = self._memory()
        figures["train/goodput"] = self.goodput()
        return figures

    def goodput(self) -> float:
        """The share of the clock that was compute, since this process was launched."""
        compute_s = self._seconds(self._whole)["compute"]
        return compute_s / max(self._age_s + self._clock() - self._whole.begun, 1e-9)

    def phase(self) -> str:
        """What most of the time since the last call was spent on."""
        lap, self._shown = self._shown, _Lap(self._clock())
        seconds = self._seconds(lap)
        return max(seconds, key=lambda kind: seconds[kind])

    def _seconds(self, lap: _Lap) -> dict[str, float]:
        others = sum(lap.seconds.values())
        return {"compute": max(0.0, self._clock() - lap.begun - others), **lap.seconds}

    def spans(self) -> dict[str, float]:
        """Seconds since the last call by what they were spent on; together they are all the time that passed."""
        lap, self._span = self._span, _Lap(self._clock())
        others = sum(lap.seconds.values())
        return {**lap.seconds, "compute": max(0.0, self._span.begun - lap.begun - others)}
