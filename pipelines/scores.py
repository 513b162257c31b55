"""The metrics of an evaluation beside those of the baselines: a sentence, headline numbers, bars and a table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.charts import Bar, Chart, bar_chart, plain
from pipelines.page import Table

Metric = Mapping[str, Any]
BASELINE = "baseline/"
HEADLINES = ("bits_per_byte", "perplexity", "class_accuracy", "f1", "accuracy", "balanced_accuracy", "loss")
"""Quantities shown first, where the evaluation has them"""


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
        """The two quantities to show first: preferred ones, then those that a baseline has too."""
        preferred = [quantity for quantity in HEADLINES if quantity in self.model]
        compared = [quantity for quantity in self.model if any(self.rivals(quantity))]
        return list(dict.fromkeys([*preferred, *compared, *self.model]))[:2]

    @property
    def units(self) -> dict[str, str]:
        """Unit of each quantity."""
        return {quantity: own["unit"] for subject in self.by_subject.values() for quantity, own in subject.items()}

    def rivals(self, quantity: str) -> Iterator[tuple[str, Metric]]:
        """Baselines that were scored on this quantity as the model was: under the same protocol."""
        own = self.model.get(quantity)
        for name, metrics in self.by_subject.items():
            other = metrics.get(quantity)
            if name.startswith(BASELINE) and own and other and other["protocol"] == own["protocol"]:
                yield name.removeprefix(BASELINE), other

    def best_rival(self, quantity: str) -> tuple[str, Metric] | None:
        """The baseline that is hardest to beat, and its metric."""
        finite = [rival for rival in self.rivals(quantity) if math.isfinite(rival[1]["value"])]
        return max(finite, key=lambda rival: _goodness(rival[1]), default=None)


def show(metric: Metric) -> str:
    """A value ± its standard error, to two digits of the error."""
    value, error = metric["value"], metric["stderr"]
    if not math.isfinite(value):
        return "not a number"
    if error is None or not math.isfinite(error):
        return f"{value:,.5g}"
    places = max(0, 1 - math.floor(math.log10(error))) if error > 0 else None
    if places is None or places > 8 or abs(value) >= 1e7:
        return f"{value:,.5g} ± {error:.2g}"
    return f"{value:,.{places}f} ± {error:,.{places}f}"


def verdict(scores: Scores) -> str | None:
    """One sentence on the first headline number: the model's value, the best baseline's, and the difference."""
    if not scores.headlines:
        return None
    quantity = scores.headlines[0]
    own, rival = scores.model[quantity], scores.best_rival(quantity)
    if not math.isfinite(own["value"]):
        return f"The model's {plain(quantity)} is not a number."
    unit = own["unit"].replace("/", " per ")
    if unit == plain(quantity):
        verb = "needs" if own["better"] == "lower" else "reaches"
        model, baseline = f"The model {verb} {{}} {unit}", f"the {{}} baseline {verb} {{}}"
    else:
        model, baseline = f"The model's {plain(quantity)} is {{}}", "the {} baseline's is {}"
    if rival is None:
        return model.format(_short(own["value"])) + "; there is no baseline to compare it with."
    name, other = rival
    ours, theirs = _apart(own["value"], other["value"])
    return f"{model.format(ours)}; {baseline.format(name, theirs)}: {_difference(own, other)}."


def _difference(own: Metric, other: Metric) -> str:
    gain = _goodness(own) - _goodness(other)
    if gain == 0:
        return "no difference"
    word = "better" if gain > 0 else "worse"
    share = abs(gain / other["value"]) * 100 if other["value"] else math.inf
    amount = f"{_percent(share)} % {word}" if math.isfinite(share) else word
    noise = math.hypot(own["stderr"] or 0.0, other["stderr"] or 0.0)
    return f"{amount}, which is within two standard errors" if abs(gain) <= 2 * noise else amount


def _goodness(metric: Metric) -> float:
    return metric["value"] if metric["better"] == "higher" else -metric["value"]


def _percent(share: float) -> str:
    return f"{share:,.0f}" if share >= 1 else f"{share:.1g}"


def _short(value: float, digits: int = 3) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def _apart(a: float, b: float) -> tuple[str, str]:
    """Both values with three digits, or as many more as tell them apart."""
    pairs = ((_short(a, digits), _short(b, digits)) for digits in range(3, 8))
    return next((pair for pair in pairs if pair[0] != pair[1]), (f"{a}", f"{b}"))


def cards(scores: Scores) -> list[dict[str, str]]:
    """The headline numbers, each with the baseline that is hardest to beat."""
    found = []
    for quantity in scores.headlines:
        own, rival = scores.model[quantity], scores.best_rival(quantity)
        against = f"; best baseline: {rival[0]} {show(rival[1])}" if rival else "; no baseline"
        found.append({"name": own["name"], "value": show(own), "note": f"{own['unit']}{against}"})
    return found


def comparison(scores: Scores) -> Chart | None:
    """Bars of the first headline number that a baseline has too."""
    quantity = next((quantity for quantity in [*scores.headlines, *scores.model] if any(scores.rivals(quantity))), None)
    if quantity is None:
        return None
    own = scores.model[quantity]
    lines = [("model", own), *scores.rivals(quantity)]
    bars = [Bar(name, metric["value"], metric["stderr"], show(metric)) for name, metric in lines]
    title = f"{plain(quantity).capitalize()}: model and baselines"
    return bar_chart(title, f"{plain(quantity)} ({own['unit']}; {own['better']} is better)", bars)


def metric_table(scores: Scores) -> Table:
    """Subjects down, quantities across; the best value of each quantity stands out."""
    quantities = list(dict.fromkeys(q for metrics in scores.by_subject.values() for q in metrics))
    first = {q: next(m[q] for m in scores.by_subject.values() if q in m) for q in quantities}
    rows, strong = [], set()
    for subject, metrics in scores.by_subject.items():
        sizes = " or ".join(dict.fromkeys(f"{metric['n']:,}" for metric in metrics.values()))
        rows.append((subject, [*(show(metrics[q]) if q in metrics else "–" for q in quantities), sizes]))
    for column, quantity in enumerate(quantities):
        values = [
            (_goodness(metrics[quantity]), row)
            for row, metrics in enumerate(scores.by_subject.values())
            if quantity in metrics and math.isfinite(metrics[quantity]["value"])
        ]
        if values and len({m[quantity]["protocol"] for m in scores.by_subject.values() if quantity in m}) == 1:
            strong.add((max(values)[1], column))
    head = [("", ""), *((plain(q), f"{first[q]['unit']}, {first[q]['better']} is better") for q in quantities)]
    caption = "Values ± one standard error; n counts what was scored; the best of each column is bold."
    return Table(caption, [*head, ("n", "")], rows, frozenset(strong))
