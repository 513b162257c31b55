"""The outcome of a verification: a row for each stage and world, as text and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

COLUMNS = (
    ("stage", 5),
    ("ranks", 5),
    ("killed at", 9),
    ("resumed from", 12),
    ("repeated", 8),
    ("samples", 7),
    ("rate", 4),
    ("loss", 9),
    ("weights", 9),
    ("ema", 9),
    ("optimizer", 9),
    ("seconds", 7),
    ("verdict", 0),
)
"""Names and widths; loss and all that follows up to `optimizer` are largest relative differences"""
TENSORS = ("weights", "ema", "optimizer")


@dataclass(frozen=True)
class Row:
    """One training that was killed, beside the one of its stage that was not."""

    stage: int
    ranks: int
    exact: bool
    """Whether it had to be equal to the last bit: it ran on as many ranks as the reference"""
    seconds: float
    killed_at: tuple[int, ...] = ()
    """Last logged step before each kill"""
    resumed_from: tuple[int, ...] = ()
    """Step of the checkpoint that each start but the first went on from"""
    repeated: int = 0
    """Steps done again"""
    samples: bool = False
    """Whether every step read the same samples"""
    rate: bool = False
    """Whether every step had the same learning rate"""
    loss: float | None = None
    """Largest relative difference; infinite where one is missing, None where nothing was compared"""
    tensors: Mapping[str, float | None] = field(default_factory=dict)
    """Relative difference of each kind of tensor in the last checkpoint"""
    problems: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        return not self.problems

    def record(self) -> dict[str, Any]:
        """As JSON has it, which knows no infinity."""
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        return asdict(self) | {"loss": loss, "equal": self.equal}


def header() -> str:
    return _line([name for name, _ in COLUMNS])


def reference_line(stage: int, ranks: int, seconds: float) -> str:
    """The row of the training that the others of its stage are compared with."""
    blank = [""] * (len(COLUMNS) - 4)
    return _line([str(stage), str(ranks), *blank, f"{seconds:.0f}", "the reference, not killed"])


def line(row: Row) -> str:
    """A row as text."""
    cells = [str(row.stage), str(row.ranks)]
    if row.loss is None and not row.killed_at:
        cells += [""] * (len(COLUMNS) - 4)
    else:
        cells += [_steps(row.killed_at), _steps(row.resumed_from), str(row.repeated)]
        cells += ["same" if row.samples else "OTHERS", "same" if row.rate else "OTHER", _distance(row.loss)]
        cells += [_distance(row.tensors[kind]) if kind in row.tensors else "-" for kind in TENSORS]
    return _line([*cells, f"{row.seconds:.0f}", verdict(row)])


def verdict(row: Row) -> str:
    """In a few words."""
    if row.problems:
        return "DIFFERS" if row.killed_at else "FAILED"
    return "equal to the last bit" if row.exact else "equal within the tolerance"


def _steps(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps))


def _distance(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "missing"
    return "0" if value == 0 else f"{value:.1e}"


def _line(cells: list[str]) -> str:
    padded = [cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)]
    return "  ".join(padded).rstrip()
