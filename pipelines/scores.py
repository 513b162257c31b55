"""The metrics of an evaluation beside those of the baselines: a sentence, headline numbers, bars and a table."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from pipelines.charts import Bar, Chart, bar_chart, plain
from pipelines.page import Table

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
        return max(valued, key=lambda rival: _goodness(rival[1]), default=None)


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


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, to two digits of the latter."""
    return show({"value": mean(values), "stderr": stdev(values)})


def verdict(scores: Scores) -> str | None:
    """One sentence on the first headline number: the model's value, the best baseline's, and the difference."""
    if not scores.headlines:
        return None
    quantity = scores.headlines[0]
    own, rival = scores.model[quantity], scores.best_rival(quantity)
    if not has_value(own):
        return f"The model's {plain(quantity)} is undefined: {why_undefined(own)}."
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
        own = scores.model[quantity]
        said = [own["unit"], show_interval(own) if has_value(own) else why_undefined(own), _against(scores, quantity)]
        found.append({"name": own["name"], "value": show(own), "note": "; ".join(filter(None, said))})
    return found


def _against(scores: Scores, quantity: str) -> str:
    """The best baseline, or those that are beside the number without being comparable with it."""
    if rival := scores.best_rival(quantity):
        return f"best baseline: {rival[0]} {show(rival[1])}"
    if any(scores.rivals(quantity)):
        return "the baselines are undefined"
    others = [f"{name} {show(each)}" for name, each in scores.beside(quantity)]
    return f"under another protocol: {', '.join(others)}" if others else "no baseline"


def rival_charts(scores: Scores) -> list[Chart]:
    """Bars of the headline numbers that a baseline has too, or of the first number that has one."""
    compared = [quantity for quantity in scores.model if any(scores.rivals(quantity))]
    chosen = [quantity for quantity in scores.headlines if quantity in compared] or compared[:1]
    charts = (_rival_chart(scores, quantity) for quantity in chosen)
    return [chart for chart in charts if chart]


def _rival_chart(scores: Scores, quantity: str) -> Chart | None:
    own = scores.model[quantity]
    lines = [("model", own), *scores.rivals(quantity)]
    bars = [Bar(name, metric["value"], metric["stderr"], show(metric)) for name, metric in lines if has_value(metric)]
    title = f"{plain(quantity).capitalize()}: model and baselines"
    return bar_chart(title, f"{plain(quantity)} ({own['unit']}; {own['better']} is better)", bars)


def metric_table(scores: Scores) -> Table:
    """Quantities down, headlines first, subjects across; the best value of each quantity stands out."""
    subjects = list(scores.by_subject)
    known = dict.fromkeys(q for metrics in scores.by_subject.values() for q in metrics)
    quantities = dict.fromkeys([*scores.headlines, *known])
    rows, strong, notes = [], set(), {}
    for row, quantity in enumerate(quantities):
        own = {name: metrics[quantity] for name, metrics in scores.by_subject.items() if quantity in metrics}
        first = next(iter(own.values()))
        cells = [show(own[name]) if name in own else "–" for name in subjects]
        for column, name in enumerate(subjects):
            if name in own and (note := show_interval(own[name]) if has_value(own[name]) else why_undefined(own[name])):
                notes[row, column] = note
        sizes = " or ".join(dict.fromkeys(f"{metric['n']:,}" for metric in own.values()))
        protocols = ", ".join(dict.fromkeys(metric["protocol"][:8] for metric in own.values()))
        rows.append((plain(quantity), [*cells, sizes, protocols]))
        notes[row, -1] = f"{first['unit']}, {first['better']} is better"
        if (best := _best(own)) is not None:
            strong.add((row, subjects.index(best)))
    caption = (
        "Values ± one standard error, and where they lie with 95 % confidence; n counts what was scored; the best of "
        "each row is bold where all are under one protocol."
    )
    head = [("", ""), *((name, "") for name in subjects), ("n", ""), ("protocol", "")]
    return Table(caption, head, rows, frozenset(strong), notes)


def _best(own: Mapping[str, Metric]) -> str | None:
    """Whose value is the best; None where they cannot be compared."""
    valued = {name: _goodness(metric) for name, metric in own.items() if has_value(metric)}
    if len(valued) < 2 or len({metric["protocol"] for metric in own.values()}) != 1:
        return None
    return max(valued, key=lambda name: valued[name])
