"""What a gate said of runs, left in their folders: for their reports, and for W&B where a key is."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.folder import RunFolder, write_json
from configs.load import read
from configs.quantities import VERDICT, of_baseline, of_gate
from configs.stages import read_record
from pipelines.tracking.watched import wanted

GATE, BASELINE = "gate.json", "baseline.json"
"""Files of a run folder: the gate's last verdict on it, and the baseline that it is stored in"""


def leave_verdict(folders: Sequence[RunFolder], judgement: Mapping[str, Any]) -> None:
    """Leave a verdict with each of the runs that it is about."""
    for folder in folders:
        _leave(folder, GATE, judgement)


def leave_baseline(folders: Sequence[RunFolder], name: str) -> None:
    """Say of runs that they are a baseline now."""
    for folder in folders:
        _leave(folder, BASELINE, {"baseline": name})


def verdict_of(folder: RunFolder) -> dict[str, Any]:
    """A run's verdict as numbers and words for a summary; empty where no gate has seen it."""
    path = folder.path / GATE
    if not path.is_file():
        return {}
    record = read_record(path)
    told: dict[str, Any] = {VERDICT: record["verdict"], "gate/against": record["baseline"]}
    for each in record["verdicts"]:
        for name, value in ((of_gate(each["name"]), each["ours"]), (of_baseline(each["name"]), each["theirs"])):
            if value is not None:
                told[name] = value
    return told


def _leave(folder: RunFolder, name: str, record: Mapping[str, Any]) -> None:
    if not folder.config.is_file():
        return  # it was removed meanwhile
    write_json(folder.path / name, record)
    if wanted(read(folder.config).wandb, lambda text: None):
        from pipelines.tracking.sync import send

        send(folder, "evaluate")
