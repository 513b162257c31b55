"""Cases of the Fréchet distance: ours against the formulas that packages of FID document, on the same moments.

The packages themselves import torchvision, so the peers are their formulas, on what each calls: pytorch-fid 0.3.0 takes
scipy's root of the covariances' product, torch-fidelity 0.4.0 numpy's eigenvalues of it.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from benchmarks.harness import Case, Pair, Round, Stopwatch
from benchmarks.worker import worker
from trainer.evaluation.generative.frechet import Moments, frechet_distance, moments

SIDE = "benchmarks.evaluation_images:Distance"
THREADS = 1
FEATURES, IMAGES = 2048, 5000
TOLERANCE = 1e-6
"""Largest difference of the distances, relative"""

Matrix = NDArray[np.float64]


class Distance:
    """A side in its process: `side.json` in its folder names the formula."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(THREADS)
        self.formula = json.loads((folder / "side.json").read_text(encoding="utf-8"))["formula"]
        self.ours, self.theirs = two_sets(FEATURES, IMAGES)

    def round(self) -> Round:
        watch = Stopwatch()
        watch.start()
        distance = FORMULAS[self.formula](self.ours, self.theirs)
        watch.stop()
        return Round(1, watch.seconds, watch.cpu_s, distance)


def two_sets(width: int, images: int) -> tuple[Moments, Moments]:
    """Moments of two sets of features that are rectified and mixed, as those of a network are."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((width, width), np.float32) * np.geomspace(1, 0.01, width, dtype=np.float32)
    ours, theirs = (
        moments(torch.from_numpy(np.maximum(rng.standard_normal((images, width), np.float32) @ mixing.T + shift, 0)))
        for shift in (0.0, 0.3)
    )
    return ours, theirs


def by_root(ours: Moments, theirs: Moments) -> float:
    """As pytorch-fid has it."""
    root = np.asarray(linalg.sqrtm(ours.covariance.numpy() @ theirs.covariance.numpy()))
    return _distance(ours, theirs, float(np.real(np.trace(root))))


def by_eigenvalues(ours: Moments, theirs: Moments) -> float:
    """As torch-fidelity has it."""
    values = np.linalg.eigvals(ours.covariance.numpy() @ theirs.covariance.numpy())
    return _distance(ours, theirs, float(np.real(np.sqrt(values.astype(np.complex128)).sum())))


def _distance(ours: Moments, theirs: Moments, shared: float) -> float:
    apart: Matrix = (ours.mean - theirs.mean).numpy()
    traces = np.trace(ours.covariance.numpy()) + np.trace(theirs.covariance.numpy())
    return float(apart @ apart + traces - 2 * shared)


FORMULAS = {"ours": frechet_distance, "pytorch-fid": by_root, "torch-fidelity": by_eigenvalues}


@contextlib.contextmanager
def _sides(peer: str) -> Iterator[Pair]:
    """Both formulas, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name, contextlib.ExitStack() as stack:
        rounds = []
        for formula in ("ours", peer):
            folder = Path(name) / formula
            folder.mkdir()
            (folder / "side.json").write_text(json.dumps({"formula": formula}), encoding="utf-8")
            rounds.append(stack.enter_context(worker(SIDE, folder, Path(name) / f"{formula}.log", threads=THREADS)))
        yield Pair(*rounds)


def differ(ours: Any, peer: Any) -> str | None:
    """What is wrong with our distance."""
    apart = abs(ours - peer) / abs(peer)
    if apart <= TOLERANCE:
        return None
    return f"the distance is {ours!r}, the peer's {peer!r}: {apart:.1e} apart, at most {TOLERANCE:g} is allowed"


def _case(peer: str, formula: str, goal: float) -> Case:
    return Case(
        name=f"evaluation/frechet-{peer}",
        measures=f"Fréchet distance of {FEATURES} features from their moments; the peer is {formula}",
        unit="distances/s",
        goal=goal,
        libraries=("torch", "numpy", "scipy"),
        open=partial(_sides, peer),
        check=differ,
        clock="cpu_s",
    )


CASES = (
    _case("torch-fidelity", "torch-fidelity 0.4.0's formula, the eigenvalues of the product", 2.5),
    _case("pytorch-fid", "pytorch-fid 0.3.0's formula, scipy's root of the product", 7.0),
)
