"""The metrics of an evaluation by what was scored, and their values as text; without what draws them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metric = Mapping[str, Any]
BASELINE = "baseline/"
HEADLINES = (
    *("bits_per_byte", "perplexity", "class_accuracy", "fid", "frechet_*", "f1"),
    *("accuracy", "balanced_accuracy", "loss"),
)
"""Quantities shown first, where the evaluation has them; `*` stands for what a distance's features are called"""


@dataclass(frozen=True)
class Scores:
    """metrics.json by subject: what was scored (`test`, `baseline/unigram`), then quantity."""

    by_subject: Mapping[str, Mapping[str, Metric]]

    @classmethod
    def of(cls, metrics: Sequence[Metric]) -> "Scores":
        subjects: dict[str, dict[str, Metric]] = {}
        for metric in metrics:
            subject, _, quantity = metric["name"].rpartition("/")
            subjects.setdefault(subject, {})[quantity] = metric
        return cls(subjects)

    @property
    def model(self) -> Mapping[str, Metric]:
        """Each quantity of the first subject, baselines apart, that has it: an image model's own loss is taken on the
        test split, what is recognised in its images on its samples."""
        own: dict[str, Metric] = {}
        for subject, metrics in self.by_subject.items():
            if not subject.startswith(BASELINE):
                own |= {quantity: metric for quantity, metric in metrics.items() if quantity not in own}
        return own

    @property
    def headlines(self) -> list[str]:
        """The two quantities to show first: those with a value; preferred ones, then those that a baseline has too."""
        model = self.model
        compared = [quantity for quantity in model if any(self.rivals(quantity))]
        order = dict.fromkeys([*preferred(model), *compared, *model])
        return sorted(order, key=lambda quantity: not has_value(model[quantity]))[:2]

    @property
    def units(self) -> dict[str, str]:
        """Unit of each quantity."""
        return {quantity: own["unit"] for subject in self.by_subject.values() for quantity, own in subject.items()}

    def beside(self, quantity: str) -> Iterator[tuple[str, Metric]]:
        """Baselines that have this quantity, under whatever protocol."""
        for name, metrics in self.by_subject.items():
            if name.startswith(BASELINE) and quantity in metrics:
                yield name.removeprefix(BASELINE), metrics[quantity]

    def rivals(self, quantity: str) -> Iterator[tuple[str, Metric]]:
        """Baselines that were scored on this quantity as the model was: under the same protocol."""
        own = self.model.get(quantity)
        for name, other in self.beside(quantity):
            if own and other["protocol"] == own["protocol"]:
                yield name, other

    def best_rival(self, quantity: str) -> tuple[str, Metric] | None:
        """The baseline that is hardest to beat, and its metric."""
        valued = [rival for rival in self.rivals(quantity) if has_value(rival[1])]
        return max(valued, key=lambda rival: goodness(rival[1]), default=None)


def preferred(quantities: Iterable[str]) -> list[str]:
    """Those of the quantities that are shown first, in that order."""
    known = list(quantities)
    return list(dict.fromkeys(q for headline in HEADLINES for q in known if _is_called(q, headline)))


def _is_called(quantity: str, headline: str) -> bool:
    return quantity.startswith(headline[:-1]) if headline.endswith("*") else quantity == headline


def has_value(metric: Metric) -> bool:
    return metric["value"] is not None and math.isfinite(metric["value"])


def why_undefined(metric: Metric) -> str:
    """The reason why a metric has no value."""
    return metric.get("undefined") or "it is not a number"


def show(metric: Metric) -> str:
    """A value ± its standard error, to two digits of the error."""
    value, error = metric["value"], metric["stderr"]
    if not has_value(metric):
        return "undefined"
    if error is None or not math.isfinite(error):
        return f"{value:,.5g}"
    places = max(0, 1 - math.floor(math.log10(error))) if error > 0 else None
    if places is None or places > 8 or abs(value) >= 1e7:
        return f"{value:,.5g} ± {error:.2g}"
    return f"{value:,.{places}f} ± {error:,.{places}f}"


def show_interval(metric: Metric) -> str | None:
    """Where the value lies with 95 % confidence, to two digits of the width; None where the evaluation does not say."""
    if not metric.get("interval"):
        return None
    low, high = metric["interval"]
    width = high - low
    places = min(8, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 5
    return f"95 %: {low:,.{places}f} to {high:,.{places}f}"


def goodness(metric: Metric) -> float:
    """The value, so that more is better."""
    return metric["value"] if metric["better"] == "higher" else -metric["value"]
