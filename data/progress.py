"""What a person sees of long work: rate, figures and time left, in plain lines that a terminal may draw in place."""

import os
import time

from configs.lines import LASTING, TRANSIENT, emit


def say(stage: str, message: str) -> None:
    """A line that stays on the screen."""
    emit(stage, LASTING, message)


def hint(stage: str, message: str) -> None:
    """A line that the next may take the place of."""
    emit(stage, TRANSIENT, message)


class Progress:
    """Lines such as `train ~ 120/1000 steps  12%  compute  7.5k tokens/s  loss 3.21  2:05 left  goodput 83%`.

    One per interval; what matters least stands last, where a narrow terminal cuts it off.

    The interval in seconds comes from the launcher (TRAINWORKS_PROGRESS_S): short on a terminal, longer in a log.
    """

    def __init__(self, stage: str, total: int, unit: str, *, start: int = 0, visible: bool = True) -> None:
        self.stage, self.total, self.unit, self.first, self.visible = stage, total, unit, start, visible
        self.interval_s = float(os.environ.get("TRAINWORKS_PROGRESS_S", "10"))
        self.begun = self.shown = time.monotonic()
        self._figures: tuple[str, ...] = ()
        self._goodput: float | None = None

    def due(self) -> bool:
        return self.visible and time.monotonic() - self.shown >= self.interval_s

    def per_s(self, amount: float) -> float:
        """An amount since the start, per second."""
        return amount / max(1e-6, time.monotonic() - self.begun)

    def show(self, done: int, *figures: str, phase: str = "", goodput: float | None = None) -> None:
        """Print one line now; the caller asks `due` first. `goodput` is a share."""
        self.shown, self._figures, self._goodput = time.monotonic(), figures, goodput
        pace = self.per_s(done - self.first)
        left = f"{clock((self.total - done) / pace)} left" if pace else "starting"
        percent = f"{100 * done // max(1, self.total)}%"
        words = [f"{done}/{self.total} {self.unit}", percent, *([phase] if phase else []), *figures, left]
        hint(self.stage, "  ".join(words if goodput is None else [*words, f"goodput {goodput:.0%}"]))

    def again(self, done: int, phase: str) -> None:
        """The last figures once more, for a person who waits in another phase; the caller asks `due` first."""
        self.show(done, *self._figures, phase=phase, goodput=self._goodput)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 3:25:45."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def rate(per_s: float, unit: str) -> str:
    """7512.3 tokens as `7.5k tokens/s`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_s >= size:
            return f"{per_s / size:.1f}{letter} {unit}/s"
    return f"{per_s:.1f} {unit}/s"
