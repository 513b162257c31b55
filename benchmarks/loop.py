"""Cases of the training loop: one rank on a CPU in fp32, ours against other loops with equal weights and batches."""

import contextlib
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import BenchmarkError, Case, Pair
from benchmarks.worker import worker
from configs.folder import RunFolder
from configs.load import load

HERE = Path(__file__).parent
OURS = "benchmarks.ours:Trainworks"
LINES = 4000


@contextlib.contextmanager
def sides(peer: str, *configs: str) -> Iterator[Pair]:
    """Prepare one data set with our own command, then both sides over it, each in processes of its own.

    Configurations are files beside this one, and overrides as on the command line.
    """
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name:
        corpus = Path(name) / "corpus.txt"
        corpus.write_text("\n".join(sentences(LINES)), encoding="utf-8")
        given = [each if "=" in each else str(HERE / each) for each in configs]
        run = load([*given, f'data.source.paths=["{corpus}"]'])
        folder = RunFolder(Path(name) / "run")
        folder.open(run)
        prepare(folder)
        log, threads, ranks = folder.logs, run.world.threads, run.world.processes
        with (
            worker(OURS, folder.path, log / "ours.log", threads=threads, ranks=ranks) as ours,
            worker(peer, folder.path, log / "peer.log", threads=threads, ranks=ranks) as other,
        ):
            yield Pair(ours, other)


def prepare(folder: RunFolder) -> None:
    """`trainworks prepare` of a run folder. Raises BenchmarkError with what it said."""
    command = [sys.executable, "-m", "data.prepare", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(
            f"prepare ended with exit code {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        )


def sentences(count: int) -> Iterator[str]:
    """Lines of made-up words, as frequent as words are (Zipf, 1949), the same every time."""
    rng = random.Random(0)
    syllables = [first + vowel for first in (*"bdfgklmnprstvz", "st", "tr", "sh") for vowel in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(8000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    for _ in range(count):
        yield " ".join(rng.choices(words, weights, k=40)) + "."


def losses_differ(ours: Any, peer: Any, *, absolute: float = 0.0, relative: float = 0.0) -> str | None:
    """Both did the same steps, and every step's loss is the same within either tolerance."""
    mine, others = ours["losses"], peer["losses"]
    if len(mine) != len(others):
        return f"ours has {len(mine)} losses, the peer {len(others)}"
    for step, (one, other) in enumerate(zip(mine, others, strict=True), 1):
        if not math.isclose(one, other, rel_tol=relative, abs_tol=absolute):
            return f"the loss of step {step} is {one!r}, the peer's {other!r}, {abs(one - other):.1e} apart"
    return None


def trainings_differ(ours: Any, peer: Any, *, loss: float, update: float) -> str | None:
    """Equal losses, and every weight moved alike: each tensor's update differs by at most `update` of its length."""
    from safetensors.numpy import load_file

    if problem := losses_differ(ours, peer, relative=loss):
        return problem
    mine, others, start = load_file(ours["weights"]), load_file(peer["weights"]), load_file(ours["start"])
    if mine.keys() != others.keys():
        return f"only one side has the weights {sorted(mine.keys() ^ others.keys())[:5]}"
    for name, tensor in mine.items():
        moved = np.linalg.norm(tensor - start[name])
        apart = np.linalg.norm(tensor - others[name])
        if not apart <= update * moved:
            return f"{name} moved by {moved:.3g}, and ends {apart:.3g} from the peer's"
    return None


CASES = (
    Case(
        name="loop/plain-torch",
        measures="our loop against plain PyTorch with the same network, batches and AdamW",
        unit="tokens/s",
        goal=0.95,
        libraries=("torch", "deepspeed"),
        open=partial(sides, "benchmarks.peers:PlainTorch", "loop.yaml"),
        check=partial(losses_differ, absolute=1e-5),
    ),
    Case(
        name="loop/transformers-trainer",
        measures="our loop and network against transformers.Trainer and GPT2LMHeadModel with the same weights",
        unit="tokens/s",
        goal=1.2,
        libraries=("torch", "deepspeed", "transformers", "accelerate"),
        open=partial(sides, "benchmarks.peers:TransformersTrainer", "loop.yaml", "gpt2.yaml"),
        check=partial(trainings_differ, loss=1e-4, update=1e-2),
    ),
)
