"""Panels of a workspace, by the quantities that they show; titles carry the unit."""

from collections.abc import Iterable, Sequence
from typing import Any

from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import (
    BarPlot,
    LinePlot,
    MarkdownPanel,
    MediaBrowser,
    Metric,
    RunComparer,
    ScalarChart,
    ScatterPlot,
    SummaryMetric,
    WeavePanelSummaryTable,
)
from wandb_workspaces.reports.v2.interface import Panel
from wandb_workspaces.workspaces import Section, SectionLayoutSettings

from configs.quantities import STEP, Quantity, of_baseline, of_gate
from pipelines.charts import plain
from pipelines.dashboards.names import short_id

SMOOTHING = 0.9
"""Weight of what was before in a noisy curve; the curve itself stays visible"""
CREATED = "CreatedTimestamp"


def titled(quantity: Quantity, beside: str = "") -> str:
    """What a panel of a quantity is called: its name, its unit, and what is good."""
    words = plain(quantity.name.removesuffix(f"_{quantity.unit}").replace("/", " "))
    facts = [quantity.unit if quantity.unit != "1" else "", f"{quantity.better} is better" if quantity.better else ""]
    told = ", ".join(filter(None, facts))
    return f"{words[0].upper()}{words[1:]}{beside}" + (f" ({told})" if told else "")


def scalar(quantity: Quantity) -> Panel:
    """The last value of the runs that are shown, as a number."""
    return ScalarChart(title=titled(quantity), metric=SummaryMetric(quantity.name), groupby_aggfunc="mean")


def curve(quantity: Quantity, *, beside: Sequence[str] = (), noisy: bool = False, log: bool = False) -> Panel:
    """A quantity over training, with others of the same unit beside it."""
    smooth = {"smoothing_factor": SMOOTHING, "smoothing_type": "exponentialTimeWeighted"} if noisy else {}
    return LinePlot(
        title=titled(quantity, "".join(f" and {each}" for each in beside)),
        x=STEP,
        y=[quantity.name, *beside],
        title_x="step",
        title_y=quantity.unit,
        log_y=log or None,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        smoothing_show_original=noisy or None,
        **smooth,
    )


def bars(quantity: Quantity, title: str | None = None) -> Panel:
    """A quantity of the evaluation, run by run, or group by group as their mean and standard error."""
    return BarPlot(
        title=title or titled(quantity),
        metrics=[SummaryMetric(quantity.name)],
        title_x=quantity.unit,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )


def against_baseline(quantity: Quantity) -> Panel:
    """What the nightly gate compared: the new runs' mean and the baseline's."""
    names = [of_gate(quantity.name), of_baseline(quantity.name)]
    return BarPlot(
        title=titled(quantity, ", new runs and baseline"),
        metrics=[SummaryMetric(name) for name in names],
        title_x=quantity.unit,
        groupby_aggfunc="mean",
    )


def over_nights(quantity: Quantity) -> Panel:
    """A quantity of the nightly gate by the time of the night."""
    return ScatterPlot(
        title=titled(quantity, " over nights"), x=Metric(CREATED), y=SummaryMetric(of_gate(quantity.name))
    )


def media(title: str, *keys: str) -> Panel:
    """Texts, images and histograms, by step."""
    return MediaBrowser(title=title, media_keys=list(keys), num_columns=2, gallery_axis="step")


def table(key: str) -> Panel:
    """A table of the evaluation, of all runs that are shown."""
    return WeavePanelSummaryTable(table_name=key)


def note(text: str) -> Panel:
    return MarkdownPanel(markdown=text)


def differences() -> Panel:
    """Where configurations and results of runs differ."""
    return RunComparer(diff_only="split")


def section(name: str, panels: Iterable[Panel], *, columns: int = 3, rows: int = 2, is_open: bool = True) -> Section:
    """A section whose panels have ids of their own, which stay from build to build."""
    listed: list[Any] = list(panels)
    for place, panel in enumerate(listed):
        key = getattr(panel, "title", None) or getattr(panel, "table_name", None) or place
        panel._id = short_id("panel", name, type(panel).__name__, str(key))
    return Section(
        name=name, panels=listed, is_open=is_open, layout_settings=SectionLayoutSettings(columns=columns, rows=rows)
    )


def verdict_is_one_of(words: Sequence[str], key: str) -> expr.FilterExpr:
    """Runs whose summary has one of these words there."""
    return expr.Summary(key).isin(list(words))
