"""How well a score puts the samples of one class before the others: areas under its curves, their errors, points.

Samples with equal scores are one step of a curve, so nothing depends on their order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
POINTS = 200
"""Of a curve that is to be drawn"""


@dataclass(frozen=True)
class Ranking:
    """N samples by their distinct scores, G of them, rising."""

    order: NDArray[np.int64]
    """[N], the samples as the scores rise"""
    steps: NDArray[np.int64]
    """[G], how many samples have each score"""
    own: NDArray[np.int64]
    """[G], how many of them are of the class"""
    of_class: NDArray[np.bool_]
    """[N], in the samples' own order"""

    @property
    def others(self) -> NDArray[np.int64]:
        return self.steps - self.own

    @property
    def is_split(self) -> bool:
        """Whether there are samples of the class, and others: without both there are no curves."""
        return 0 < self.own.sum() < len(self.order)


def rank(scores: NDArray[Any], of_class: NDArray[np.bool_]) -> Ranking:
    """Order samples by their scores [N], no NaN among them; of_class [N]."""
    order = np.argsort(scores)
    rising = scores[order]
    firsts = np.flatnonzero(np.append(True, rising[1:] != rising[:-1])[: len(rising)])
    own = np.diff(np.append(0, np.cumsum(of_class[order]))[np.append(firsts, len(rising))])
    return Ranking(order, np.diff(firsts, append=len(rising)), own, of_class)


def roc_area(ranking: Ranking) -> float:
    """Area under the receiver operating characteristic: how likely a sample of the class has the higher score than one
    of the others, equal scores counting half (Hanley and McNeil, 1982)."""
    own, others = ranking.own, ranking.others
    below = np.cumsum(others) - others
    return float((own * (2 * below + others)).sum() / (2.0 * own.sum() * others.sum()))


def average_precision(ranking: Ranking) -> float:
    """Mean, over the class's samples, of the precision of all samples that score as high or higher: the area under the
    steps of the precision-recall curve."""
    return float((ranking.own * _precision(ranking)).sum() / ranking.own.sum())


def _precision(ranking: Ranking) -> Numbers:
    """The share of the class among the samples with this score or a higher one, [G]."""
    return _down(ranking.own) / _down(ranking.steps)


def _down(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many have this score or a higher one, [G]."""
    return counts.sum() - np.cumsum(counts) + counts


def roc_influence(ranking: Ranking) -> Numbers:
    """How much the area under the ROC changes with the weight of each sample, [N] (DeLong et al., 1988)."""
    own, others = ranking.own, ranking.others
    above_others = (np.cumsum(others) - others / 2) / others.sum()  # [G], of a sample of the class
    below_own = (_down(own) - own / 2) / own.sum()  # [G], of one of the others
    area = roc_area(ranking)
    return _by_sample(ranking, (above_others - area) / own.sum(), (below_own - area) / others.sum())


def precision_influence(ranking: Ranking) -> Numbers:
    """How much the average precision changes with the weight of each sample, [N].

    A sample of score s moves the precision p of every threshold t <= s by (whether it is of the class - p) / samples
    above t, and the mean over the class's samples by its own term where it is one of them.
    """
    own, precision, above = ranking.own, _precision(ranking), _down(ranking.steps)
    total, area = own.sum(), average_precision(ranking)
    pull = np.cumsum(own * precision / above)
    others = -pull / total
    mine = (precision - area + np.cumsum(own / above) - pull) / total
    return _by_sample(ranking, mine, others)


def roc_curve(ranking: Ranking, *, points: int = POINTS) -> tuple[Numbers, Numbers]:
    """False positive and true positive rates from (0, 0) to (1, 1): every step, or `points` spread along the curve."""
    at = _spread(ranking, points - 1)
    rates = (_down(counts)[at] / counts.sum() for counts in (ranking.others, ranking.own))
    false, true = (np.append(0.0, each) for each in rates)
    return false, true


def precision_recall_curve(ranking: Ranking, *, points: int = POINTS) -> tuple[Numbers, Numbers]:
    """Recalls, rising from 0, and precisions, 1 at recall 0: every step, or `points` spread along the curve."""
    at = _spread(ranking, points - 1)
    recall = _down(ranking.own)[at] / ranking.own.sum()
    return np.append(0.0, recall), np.append(1.0, _precision(ranking)[at])


def _spread(ranking: Ranking, points: int) -> NDArray[np.int64]:
    """Distinct scores to draw a curve at, falling: evenly spaced by the rates that they move, the lowest among them."""
    moved = np.cumsum(ranking.own) / ranking.own.sum() + np.cumsum(ranking.others) / ranking.others.sum()
    if len(moved) <= points:
        return np.arange(len(moved))[::-1]
    at = np.searchsorted(moved, np.linspace(0.0, 2.0, points, endpoint=False), side="right")
    return np.unique(at)[::-1]


def _by_sample(ranking: Ranking, mine: Numbers, others: Numbers) -> Numbers:
    """Values at the distinct scores [G], of the class's samples and of the others, in the samples' own order [N]."""
    step = np.empty(len(ranking.order), np.int64)
    step[ranking.order] = np.repeat(np.arange(len(ranking.steps)), ranking.steps)
    return np.where(ranking.of_class, mine[step], others[step])
