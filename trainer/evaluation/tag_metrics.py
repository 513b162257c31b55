"""The metrics of a classifier of tokens, from what it makes of each sample of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.metrics import Metric
from trainer.evaluation.calibration import calibration_error
from trainer.evaluation.confusion import Numbers
from trainer.evaluation.intervals import Interval, calibration_stderr, percentile_interval, resampled_sums
from trainer.evaluation.tag_survey import Survey


@dataclass(frozen=True)
class Ratio:
    """A share that is sum(part) / sum(whole) over samples, each [N]."""

    name: str
    part: Numbers
    whole: Numbers
    n: int
    """How many tokens or spans it is of"""
    why: str
    """Why there is none where there is nothing to divide by"""
    empty: float | None = None
    """What it is then, where that is something"""

    @property
    def value(self) -> float | None:
        whole = self.whole.sum()
        return float(self.part.sum() / whole) if whole else self.empty

    @property
    def stderr(self) -> float | None:
        """Of a ratio of sums over samples (ratio estimator: Cochran, 1977, 6.3); None for fewer than two samples."""
        size, whole = len(self.part), self.whole.sum()
        if size < 2 or not whole:
            return None
        residuals = self.part - self.part.sum() / whole * self.whole
        return math.sqrt(float(residuals @ residuals) * size / (size - 1)) / float(whole)


def token_metrics(prefix: str, survey: Survey, kinds: Sequence[str], protocol: str) -> list[Metric]:
    """f1 over all spans, accuracy over tokens, precision, recall, f1 by kind, calibration error and loss.

    One that cannot be had has a reason instead of a value. Samples are the units of errors and intervals, because the
    tokens of one are not independent.
    """
    ratios, tokens = ratios_of(survey, kinds), round(survey.tokens.sum())
    if why := why_not(survey):
        shares = [_share(prefix, each.name, None, each.n, protocol, why=why) for each in ratios]
        error = _share(prefix, "calibration_error", None, tokens, protocol, why=why)
        return [*shares, error, _loss(prefix, survey, protocol, why)]
    columns = [column for each in ratios for column in (each.part, each.whole)]
    drawn = resampled_sums(np.column_stack([*columns, survey.tokens, survey.gaps]))
    parts, wholes = drawn[:, : len(columns) : 2], drawn[:, 1 : len(columns) : 2]
    intervals = [_interval(part, whole) for part, whole in zip(parts.T, wholes.T, strict=True)]
    shares = [
        _share(prefix, each.name, each.value, each.n, protocol, stderr=each.stderr, interval=interval, why=each.why)
        for each, interval in zip(ratios, intervals, strict=True)
    ]
    stderr = calibration_stderr(drawn[:, len(columns) :])
    error = _share(prefix, "calibration_error", calibration_error(survey.calibration), tokens, protocol, stderr=stderr)
    return [*shares, error, _loss(prefix, survey, protocol, "")]


def ratios_of(survey: Survey, kinds: Sequence[str]) -> list[Ratio]:
    """Every share of tokens and spans, without errors and intervals."""
    spans, none = survey.spans, "the split has no span"
    true, predicted, found = (each.sum(1) for each in (spans.true, spans.predicted, spans.found))
    size, no_guess = round(true.sum()), f"{none}, and none is predicted"
    by_kind = [
        Ratio(
            f"f1_{kind}",
            2 * spans.found[:, place],
            spans.true[:, place] + spans.predicted[:, place],
            round(spans.true[:, place].sum()),
            f"{none} of {kind}, and none is predicted",
        )
        for place, kind in enumerate(kinds)
    ]
    return [
        Ratio("f1", 2 * found, true + predicted, size, no_guess),
        Ratio("accuracy", survey.correct, survey.tokens, round(survey.tokens.sum()), ""),
        Ratio("precision", found, predicted, size, no_guess, empty=0.0 if size else None),  # as of classes: nothing
        Ratio("recall", found, true, size, none),  #                                          is taken for them
        *by_kind,
    ]


def why_not(survey: Survey) -> str | None:
    """Why there are no metrics; None where there are."""
    if not survey.tokens.sum():
        return "no token of the split has a tag"
    size, broken = len(survey.ids), survey.broken
    return f"the scores of {broken} of {size} samples are not numbers" if broken else None


def _interval(part: Numbers, whole: Numbers) -> Interval | None:
    """Of ratios over resamples [R]; those that have nothing to divide by are left out."""
    known = whole > 0
    return percentile_interval(part[known] / whole[known]) if known.any() else None


def _share(
    prefix: str,
    name: str,
    value: float | None,
    n: int,
    protocol: str,
    *,
    stderr: float | None = None,
    interval: Interval | None = None,
    why: str = "",
) -> Metric:
    better, undefined = "lower" if name == "calibration_error" else "higher", why if value is None else None
    return Metric(f"{prefix}/{name}", value, stderr, n, "share", better, protocol, interval, undefined)


def _loss(prefix: str, survey: Survey, protocol: str, why: str) -> Metric:
    """Mean negative log-likelihood of the tags; undefined with `why`, or where a tag is ruled out."""
    ruled_out, tokens = int(np.isinf(survey.nll).sum()), round(survey.tokens.sum())
    if not why and ruled_out:
        why = f"a tag of {ruled_out} of {len(survey.ids)} samples has probability 0, so the loss is infinite"
    name, unit = f"{prefix}/loss", "nats/token"
    if why:
        return Metric(name, None, None, tokens, unit, "lower", protocol, None, why)
    ratio = Ratio("loss", survey.nll, survey.tokens, tokens, "")
    return Metric(name, ratio.value, ratio.stderr, tokens, unit, "lower", protocol)
