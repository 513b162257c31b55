"""The metrics of an evaluation beside those of the baselines: a sentence, headline numbers, bars and a table."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from pipelines.charts import Bar, Chart, bar_chart, plain
from pipelines.page import Table
from pipelines.readout import Metric, Scores, goodness, has_value, show, show_interval, why_undefined


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
    gain = goodness(own) - goodness(other)
    if gain == 0:
        return "no difference"
    word = "better" if gain > 0 else "worse"
    share = abs(gain / other["value"]) * 100 if other["value"] else math.inf
    amount = f"{_percent(share)} % {word}" if math.isfinite(share) else word
    noise = math.hypot(own["stderr"] or 0.0, other["stderr"] or 0.0)
    return f"{amount}, which is within two standard errors" if abs(gain) <= 2 * noise else amount


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
    valued = {name: goodness(metric) for name, metric in own.items() if has_value(metric)}
    if len(valued) < 2 or len({metric["protocol"] for metric in own.values()}) != 1:
        return None
    return max(valued, key=lambda name: valued[name])
