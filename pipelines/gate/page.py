"""A judgement as lines for a terminal, and as a page of its own."""

from collections.abc import Iterator

from pipelines.gate.verdicts import Judgement, Verdict
from pipelines.page import Table, render

TITLES = {
    "better": "Better than the baseline",
    "same": "No worse than the baseline",
    "worse": "Worse than the baseline",
    "not comparable": "Not comparable with the baseline",
}


def lines(judgement: Judgement) -> Iterator[str]:
    """A line for each metric, notes, and the verdict over all last."""
    width = max((len(each.name) for each in judgement.verdicts), default=0)
    for each in judgement.verdicts:
        yield f"{each.name:{width}}  {said(each):14}  {each.reason}"
    for note in judgement.notes:
        yield f"note: {note}"
    yield f"{', '.join(judgement.runs)} against {judgement.baseline}: {judgement.word}"


def said(verdict: Verdict) -> str:
    return f"({verdict.word})" if verdict.quarantined else verdict.word


def build_page(judgement: Judgement) -> str:
    """The whole page."""
    worse = [each for each in judgement.verdicts if each.counts and each.word in ("worse", "not comparable")]
    return render(
        "gate",
        title=TITLES[judgement.word],
        word=judgement.word,
        runs=", ".join(judgement.runs),
        baseline=judgement.baseline,
        sections=[("metrics", "Metrics"), *([("notes", "Notes")] if judgement.notes else [])],
        sentences=[f"{each.name} is {each.word}: {each.reason}." for each in worse],
        table=verdict_table(judgement),
        notes=judgement.notes,
        charts=[],
    )


def verdict_table(judgement: Judgement) -> Table:
    """A row for each metric; what is counted as worse stands out."""
    rows, strong = [], set()
    for row, each in enumerate(judgement.verdicts):
        percent = "–" if each.percent is None else f"{each.percent:+.2g}"
        rows.append(
            (each.name, [said(each), _number(each.theirs), _number(each.ours), percent, each.unit, each.reason])
        )
        if each.counts and each.word == "worse":
            strong.add((row, 0))
    head = [
        *(("", ""), ("verdict", "in brackets: in quarantine"), ("baseline", "mean of runs"), ("new", "mean of runs")),
        *(("gain", "%; above 0 is better"), ("unit", ""), ("reason", "")),
    ]
    caption = "A change counts when it is both beyond chance and large enough to matter."
    return Table(caption, head, rows, frozenset(strong))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.5g}"
