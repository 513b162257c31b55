"""What a stage's run of W&B holds beside its history: what it ran, what came in and what came out, with digests."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.code import release
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import chosen_step, read_record, step_folder
from pipelines.artifacts import ROC
from pipelines.tracking.verdicts import BASELINE

DATA, MODEL, RESULT = "dataset", "model", "evaluation"
"""Types of artifacts"""
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Bundle:
    """An artifact: records with digests, never the bytes of shards or weights, which stay where they are."""

    name: str
    kind: str
    files: tuple[Path, ...]
    metadata: Record
    aliases: tuple[str, ...] = ()
    comes_in: bool = False
    """Whether the stage uses it; else it has made it"""


@dataclass(frozen=True)
class Table:
    """What W&B shows as a table."""

    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)


def config_of(run: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """The whole configuration, and under `trainworks` what it was run on."""
    facts: dict[str, Any] = {"folder": folder.path.resolve().name, "release": release()}
    if folder.manifest.is_file():
        facts["data"] = read_record(folder.manifest)["digest"]
    return run.model_dump(mode="json") | {"trainworks": facts}


def bundles(run: RunConfig, folder: RunFolder, stage: str) -> Iterator[Bundle]:
    """The artifacts that a stage uses and those that it has made, as far as they are there."""
    data, model = _data(run, folder), _model(run, folder)
    if stage == "prepare":
        yield from _out(data)
    if stage == "train":
        yield from _in(data)
        yield from _out(model)
    if stage == "evaluate":
        yield from _in(model)
        yield from _out(_result(run, folder))


def _out(bundle: Bundle | None) -> Iterator[Bundle]:
    if bundle:
        yield bundle


def _in(bundle: Bundle | None) -> Iterator[Bundle]:
    if bundle:
        yield Bundle(bundle.name, bundle.kind, bundle.files, bundle.metadata, comes_in=True)


def _data(run: RunConfig, folder: RunFolder) -> Bundle | None:
    if not folder.manifest.is_file():
        return None
    manifest = read_record(folder.manifest)
    card = folder.data / "card.html"
    files = (folder.manifest, *([card] if card.is_file() else ()))
    told = {"digest": manifest["digest"], "sources": [each["digest"] for each in manifest["sources"]]}
    return Bundle(f"{run.name}-data", DATA, files, told, ("latest",))


def _model(run: RunConfig, folder: RunFolder) -> Bundle | None:
    """The checkpoint that is the training's result, by its record."""
    step = chosen_step(folder.train)
    path = None if step is None else step_folder(folder.train, step) / "complete.json"
    if path is None or not path.is_file():
        return None
    record = read_record(path)
    told = {name: record.get(name) for name in ("digest", "step", "position", "data", "config", "metrics")}
    return Bundle(f"{run.name}-model", MODEL, (path,), told, ("latest", "best"))


def _result(run: RunConfig, folder: RunFolder) -> Bundle | None:
    if not folder.metrics.is_file():
        return None
    record = read_record(folder.metrics)
    files = tuple(path for path in (folder.metrics, folder.figures, folder.samples) if path.is_file())
    told = {name: record.get(name) for name in ("digest", "checkpoint", "data")}
    aliases = ("latest", "baseline") if (folder.path / BASELINE).is_file() else ("latest",)
    return Bundle(f"{run.name}-evaluation", RESULT, files, told, aliases)


def summary_of(folder: RunFolder) -> dict[str, float]:
    """The numbers of an evaluation, each with the ends of its interval where it has one."""
    told: dict[str, float] = {}
    for metric in read_record(folder.metrics)["metrics"]:
        if metric["value"] is not None:
            told[metric["name"]] = metric["value"]
            if interval := metric.get("interval"):
                told[f"{metric['name']}/low"], told[f"{metric['name']}/high"] = interval[0], interval[1]
    return told


def tables_of(folder: RunFolder) -> dict[str, Table]:
    """An evaluation's metrics and figures as tables, by the name that dashboards know them under."""
    columns = ["name", "value", "unit", "better", "n", "protocol"]
    rows = [[metric.get(name) for name in columns] for metric in read_record(folder.metrics)["metrics"]]
    tables = {"metrics": Table(columns, rows)}
    for record in json.loads(folder.figures.read_bytes()) if folder.figures.is_file() else ():
        for name, table in _table(record):
            tables.setdefault(name, table)
    return tables


def _table(record: Record) -> Iterator[tuple[str, Table]]:
    title = str(record.get("title", record["kind"])).lower()
    match record["kind"]:
        case "matrix":
            cells = [
                [row, column, value]
                for row, values in zip(record["rows"], record["values"], strict=True)
                for column, value in zip(record["columns"], values, strict=True)
            ]
            yield "confusion" if record["rows"] == record["columns"] else title, Table(["is", "taken for", "n"], cells)
        case "curves":
            name = "roc" if (record["x"], record["y"]) == ROC else "calibration" if "calibration" in title else title
            points = [
                [line["name"], x, y] for line in record["lines"] for x, y in zip(line["x"], line["y"], strict=True)
            ]
            yield name, Table(["line", record["x"], record["y"]], points)
        case "table":
            name = "folds" if "fold" in title else title
            yield name, Table([str(each) for each in record["columns"]], [[str(c) for c in r] for r in record["rows"]])


def samples_in(path: Path) -> list[Record]:
    """Samples that a training or an evaluation left; none where they cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []
