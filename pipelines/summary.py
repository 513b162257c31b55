"""The few lines that end a run: its headline numbers against the baselines, and where the report is."""

from configs.folder import RunFolder
from configs.stages import read_record
from pipelines.goodput import sentence
from pipelines.history import read_history


def headline(folder: RunFolder) -> str:
    """Test metrics beside the same metrics of the baselines, as aligned text."""
    metrics = read_record(folder.metrics)["metrics"]
    subjects = list(dict.fromkeys(metric["name"].rsplit("/", 1)[0] for metric in metrics))
    columns = list(dict.fromkeys(metric["name"].rsplit("/", 1)[1] for metric in metrics))
    values = {metric["name"]: metric for metric in metrics}
    rows = [["", *columns]]
    for subject in subjects:
        rows.append([subject, *(show(values.get(f"{subject}/{column}")) for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    account = read_history(folder.events).ledger.result()
    time = [f"training: {sentence(account)}"] if account else []
    return "\n".join(["", *(line.rstrip() for line in lines), "", *time, f"report: {folder.report.resolve()}"])


def show(metric: dict | None) -> str:
    """A value with its standard error."""
    if metric is None:
        return ""
    error = "" if metric["stderr"] is None else f" ± {metric['stderr']:.2g}"
    return f"{metric['value']:.5g}{error}"
