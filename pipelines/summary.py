"""The few lines that end a run: its metrics against the baselines, and where the report is."""

from configs.folder import RunFolder
from configs.stages import read_record
from pipelines.goodput import sentence
from pipelines.history import read_history


def headline(folder: RunFolder) -> str:
    """Metrics down, the model and the baselines across, as aligned text; below, why some have no value."""
    metrics = read_record(folder.metrics)["metrics"]
    values = {metric["name"]: metric for metric in metrics}
    subjects = list(dict.fromkeys(name.rpartition("/")[0] for name in values))
    quantities = list(dict.fromkeys(name.rpartition("/")[2] for name in values))
    rows = [["", *subjects]]
    for quantity in quantities:
        rows.append([quantity, *(show(values.get(f"{subject}/{quantity}")) for subject in subjects)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    reasons = [f"{name} is undefined: {each['undefined']}" for name, each in values.items() if each.get("undefined")]
    account = read_history(folder.events).ledger.result()
    time = [f"training: {sentence(account)}"] if account else []
    told = [*(line.rstrip() for line in lines), *reasons]
    return "\n".join(["", *told, "", *time, f"report: {folder.report.resolve()}"])


def show(metric: dict | None) -> str:
    """A value with its standard error."""
    if metric is None:
        return ""
    if metric["value"] is None:
        return "undefined"
    error = "" if metric["stderr"] is None else f" ± {metric['stderr']:.2g}"
    return f"{metric['value']:.5g}{error}"
