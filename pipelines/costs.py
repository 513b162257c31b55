"""What a pass costs, as tables, and the trade of quality against it as one chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.layouts import row

from pipelines.charts import Bubble, Chart, bubble_plot, plain
from pipelines.page import Table
from pipelines.readout import Metric, show

Record = Mapping[str, Any]
AXES = {"latency of one sample (ms)": "ms", "GFLOPs per sample": "GFLOPs"}
COUNTED = {
    "allocator": "the most that the device's allocator held at once, less what it held before",
    "tensors": "the most bytes that tensors made in the pass held at once, by their sizes; work space inside an "
    "operation is not in it",
}
"""How the memory of a pass was measured, by the record's word for it"""


@dataclass(frozen=True)
class Priced:
    """A run's first number and what it costs."""

    name: str
    metric: Metric
    cost: Record

    @property
    def quantity(self) -> str:
        return plain(self.metric["name"].rpartition("/")[2])


def axes_of(cost: Record) -> dict[str, float]:
    """What a sample costs, by the axes of the chart."""
    values = (next(iter(cost["latency_ms"].values()))["median"], cost["flops_per_sample"] / 1e9)
    return dict(zip(AXES, values, strict=True))


def pass_table(cost: Record) -> Table:
    """Parameters and FLOPs of the networks; time and memory of a pass for each number of samples in it."""
    latency, rates, memory = cost["latency_ms"], cost["samples_per_s"], cost.get("activation_bytes", {})
    rows = [
        (
            size,
            [
                f"{time['median']:.3g}",
                f"{time['p99']:.3g}",
                f"{rates[size]:,.4g}",
                f"{memory[size] / 2**20:,.3g}" if size in memory else "–",
                f"{time['passes']:,}",
            ],
        )
        for size, time in latency.items()
    ]
    counted = f" Memory is {COUNTED[cost['memory_by']]}." if memory else ""
    caption = (
        f"{cost['parameters']:,} parameters; {cost['flops_per_sample'] / 1e9:.4g} GFLOPs (2 x multiply-adds) "
        f"to score a sample. Passes in fp32 on {cost['device']}, {cost['threads']} CPU threads, with the sums of the "
        f"metrics; timings vary from one evaluation to the next.{counted}"
    )
    head = [
        *(("samples", "of a pass"), ("median", "ms"), ("99th percentile", "ms"), ("rate", "samples/s")),
        *(("activations", "MiB"), ("passes", "")),
    ]
    return Table(caption, head, rows)


def price(priced: Priced) -> str:
    """A run's own point of the trade, in words."""
    costs = " and ".join(
        f"{value:.3g} {unit}" for value, unit in zip(axes_of(priced.cost).values(), AXES.values(), strict=True)
    )
    return f"{priced.quantity.capitalize()} {show(priced.metric)} at {costs} a sample."


def trade_off(priced: Sequence[Priced]) -> Chart | None:
    """The first number of runs under one protocol against time and against FLOPs, side by side over one scale."""
    panels, told = [], []
    for axis, unit in AXES.items():
        bubbles = [
            Bubble(
                each.name, x, each.metric["value"], each.cost["parameters"], f"{show(each.metric)} at {x:.3g} {unit}"
            )
            for each in priced
            if (x := axes_of(each.cost)[axis]) > 0
        ]
        if len(bubbles) > 1:
            panels.append(bubble_plot(axis, priced[0].quantity, bubbles))
            least, most = (pick(bubbles, key=lambda bubble: bubble.x) for pick in (min, max))
            told.append(f"least {least.name}, {least.shown}; most {most.name}, {most.shown}.")
    if not panels:
        return None
    for panel in panels[1:]:
        panel.y_range = panels[0].y_range
    caption = f"{' '.join(told)} Areas are in proportion to parameters; the horizontal axes are logarithmic."
    return Chart(f"{priced[0].quantity.capitalize()} against cost", caption, row(*panels, sizing_mode="stretch_width"))


def price_table(priced: Sequence[Priced]) -> Table:
    """The numbers of the chart, and of runs that it has no other to compare with."""
    rows = []
    for each in priced:
        time, flops = axes_of(each.cost).values()
        last = list(each.cost["latency_ms"])[-1]
        memory = each.cost.get("activation_bytes", {}).get(last)
        rows.append(
            (
                each.name,
                [
                    *(each.quantity, show(each.metric), f"{time:.3g}", f"{flops:.3g}"),
                    f"{each.cost['samples_per_s'][last]:,.4g}",
                    "–" if memory is None else f"{memory / 2**20:,.3g}",
                    *(f"{each.cost['parameters']:,}", each.cost["device"]),
                ],
            )
        )
    caption = (
        "What runs reach, and what a sample costs them; latency is the median of one sample alone in fp32, rate and "
        "activations are those of the largest pass measured. Values of runs under unlike protocols are not to be "
        "compared."
    )
    if len({each.cost["device"] for each in priced}) > 1:
        caption += " Latencies on different devices say nothing of the models."
    head = [
        *(("", ""), ("quantity", ""), ("value", "± one standard error"), ("latency", "ms"), ("GFLOPs", "a sample")),
        *(("rate", "samples/s"), ("activations", "MiB"), ("parameters", ""), ("measured on", "")),
    ]
    return Table(caption, head, rows)
