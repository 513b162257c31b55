"""Cases of the networks: forward and backward of ours against the peer's on the same weights, data and precision."""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.harness import Case, Pair, Round, Stopwatch
from benchmarks.worker import worker

SIDE = "benchmarks.families:ForwardBackward"
THREADS = 1
MIB = 1 << 20


@dataclass(frozen=True)
class Work:
    """One side, ready: a network in training mode and what it computes."""

    network: nn.Module
    loss: Callable[[], Tensor]
    """Forward over the case's batch to a number, the same each time"""
    amount: float
    """Samples or tokens of the batch"""
    gradients: Callable[[], dict[str, Tensor]]
    """After a backward pass: some gradients, under names and in shapes that both sides share"""


def forward_backward_case(
    name: str,
    *,
    measures: str,
    unit: str,
    ours: str,
    peer: str,
    precision: Literal["fp32", "bf16"],
    libraries: Sequence[str],
    steps: int = 4,
    loss: float = 1e-4,
    gradient: float = 1e-3,
) -> Case:
    """A case whose sides are opened by `module:function`: from the folder that both share to a `Work`.

    The peer opens first, and leaves its weights in the folder for ours to start from. `loss` is how far apart losses
    may be, `gradient` how far gradients, both relative. Our peak memory may not be above the peer's.
    """
    return Case(
        name=name,
        measures=f"{measures}, forward and backward in {precision}",
        unit=unit,
        goal=1.0,
        libraries=("torch", *libraries),
        open=partial(_sides, ours, peer, {"precision": precision, "steps": steps}),
        check=partial(differ, loss=loss, gradient=gradient),
        note=memory,
        clock="cpu_s",
    )


@contextlib.contextmanager
def _sides(ours: str, peer: str, settings: dict[str, Any]) -> Iterator[Pair]:
    """Both sides, each in a process of its own and with a folder of its own beside the other's."""
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name, contextlib.ExitStack() as stack:
        rounds: dict[str, Callable[[], Round]] = {}
        for side, opener in (("peer", peer), ("ours", ours)):
            folder = Path(name) / side
            folder.mkdir()
            (folder / "side.json").write_text(json.dumps({"open": opener} | settings), encoding="utf-8")
            rounds[side] = stack.enter_context(worker(SIDE, folder, Path(name) / f"{side}.log", threads=THREADS))
        yield Pair(rounds["ours"], rounds["peer"])


class ForwardBackward:
    """A side in its process: `side.json` in its folder names its opener, precision and steps per round."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(THREADS)
        settings = json.loads((folder / "side.json").read_text(encoding="utf-8"))
        module, function = settings["open"].split(":")
        self.folder, self.steps, self.precision = folder, settings["steps"], settings["precision"]
        self.work: Work = getattr(import_module(module), function)(folder.parent)
        self.step()  # what is allocated once, for all steps, is not the peak's
        self.peak_bytes = peak_bytes(self.step)

    def step(self) -> Tensor:
        self.work.network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.work.loss()
        loss.backward()
        return loss.detach()

    def round(self) -> Round:
        watch = Stopwatch()
        watch.start()
        losses = [self.step() for _ in range(self.steps)]
        watch.stop()
        file = self.folder / "gradients.safetensors"
        save_file({name: each.float().contiguous() for name, each in self.work.gradients().items()}, file)
        outputs = {"loss": losses[-1].item(), "gradients": str(file), "peak_bytes": self.peak_bytes}
        return Round(self.steps * self.work.amount, watch.seconds, watch.cpu_s, outputs)


def peak_bytes(step: Callable[[], object]) -> int:
    """The most memory that tensors made by a step hold at once, gradients among them, weights not."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events: list[Any] = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def differ(ours: Any, peer: Any, *, loss: float, gradient: float) -> str | None:
    """What is wrong with ours: its loss, a gradient, or its memory."""
    if not math.isclose(ours["loss"], peer["loss"], rel_tol=loss):
        return f"the loss is {ours['loss']!r}, the peer's {peer['loss']!r}"
    mine, others = load_file(ours["gradients"]), load_file(peer["gradients"])
    if mine.keys() != others.keys() or not mine:
        return f"only one side has the gradients {sorted(mine.keys() ^ others.keys())[:5]}"
    for name, other in others.items():
        apart = float((mine[name] - other).norm() / other.norm())
        if not apart <= gradient:
            return (
                f"the gradient of {name} is {apart:.1e} of its length from the peer's, at most {gradient:g} is allowed"
            )
    if ours["peak_bytes"] > peer["peak_bytes"]:
        return f"the peak is {ours['peak_bytes'] / MIB:.1f} MiB, the peer's {peer['peak_bytes'] / MIB:.1f} MiB"
    return None


def memory(ours: Any, peer: Any) -> str:
    """The peaks of both, in words."""
    mine, other = ours["peak_bytes"] / MIB, peer["peak_bytes"] / MIB
    return f"peak memory of a step: ours {mine:.1f} MiB, peer {other:.1f} MiB"
