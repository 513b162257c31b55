"""Run folders as a report finds them in each state, made by hand, with markup wherever text can come from outside."""

import json
import math
import re
from pathlib import Path
from typing import Any

import orjson

from configs.folder import RunFolder, digest
from configs.load import dump, load
from configs.stages import step_folder
from pipelines.report import write_report

CONFIG = Path(__file__).parent.parent / "configs" / "demo-lm.yaml"
NASTY = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def metric(name: str, value: float | None, **changes: Any) -> dict[str, Any]:
    shape = {"stderr": 0.01, "n": 1000, "unit": "bits/byte", "better": "lower", "protocol": "p"}
    return {"name": name, "value": value} | shape | changes


def prepared(path: Path, *, description: str = "plays") -> RunFolder:
    """A run folder after the first stage."""
    folder = RunFolder(path)
    folder.data.mkdir(parents=True)
    folder.config.write_text(dump(load([str(CONFIG)])))
    counts = {"documents": 5, "tokens": 123456, "bytes": 400000, "words": 70000, "samples": 999}
    shard = {"name": "train-0.tar", "blake3": "5" * 64, "bytes": 1, "samples": 999, "index_blake3": "6" * 64}
    manifest = {
        "schema_version": 2,
        "digest": "d" * 64,
        "config": "c" * 64,
        "sources": [
            {"description": description, "files": 2, "bytes": 10, "documents": 6, "digest": "a" * 64, "part": ""}
        ],
        "tokenizer": {"file": "tokenizer.json", "sha256": "b" * 64, "vocabulary_size": 1024},
        "splits": {"train": counts | {"shards": [shard]}},
        "dropped": {"duplicate": 7},
    }
    folder.manifest.write_text(json.dumps(manifest))
    return folder


def write_events(folder: RunFolder, *events: dict[str, Any], tail: str = "") -> None:
    folder.train.mkdir(exist_ok=True)
    """A log as it was before there were versions; as in any, what is no number is null."""
    lines = [orjson.dumps({"time": 1_800_000_000.0 + number} | event) + b"\n" for number, event in enumerate(events)]
    folder.events.write_bytes(b"".join(lines) + tail.encode())


def step(number: int, loss: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "train/loss": loss, "position": 4 * number, "samples_digest": "00"}


def span(number: int, **seconds: float) -> list[dict[str, Any]]:
    return [{"event": "span", "step": number, "kind": kind, "seconds": value} for kind, value in seconds.items()]


def complete(path: Path) -> RunFolder:
    """A run folder after all stages, with markup wherever text can come from outside."""
    folder = prepared(path, description=f"plays {NASTY}")
    begin = {"event": "start", "step": 0, "world": 2, "device": "cpu"}
    validation = {"event": "validation", "step": 3, "validation/loss": 2.5}
    steps = [step(1, 4.0), step(2, math.nan), step(3, 3.0)]
    write_events(folder, begin, *steps, validation, {"event": "finish", "status": "completed"})
    checkpoint = step_folder(folder.train, 3)
    checkpoint.mkdir()
    record = {"step": 3, "data": "d" * 64, "digest": "e" * 64}
    (checkpoint / "complete.json").write_text(json.dumps(record))
    folder.evaluation.mkdir()
    protocols = {"p": {"split": f"test {NASTY}"}}
    metrics = metric("test/bits_per_byte", 1.98), metric("baseline/trigram/bits_per_byte", 2.11)
    evaluated(folder, *metrics, protocols=protocols)
    folder.samples.write_text(json.dumps([{"prompt": f"ACT I {NASTY}", "text": f"\n  two  spaces {NASTY}"}]))
    return folder


def evaluated(folder: RunFolder, *metrics: dict[str, Any], **more: Any) -> str:
    """Write what an evaluation leaves; returns its digest."""
    record = {"checkpoint": "e" * 64, "metrics": list(metrics), "protocols": {}} | more
    folder.metrics.write_text(json.dumps(record | {"digest": digest(record)}))
    return digest(record)


def crossed(root: Path, *, done: int = 3) -> RunFolder:
    """A cross-validation of three folds of which `done` are evaluated, collected when all are."""
    folder = RunFolder(root)
    folder.path.mkdir(parents=True)
    overrides = ["data.splits.folds={count: 3}", "data.splits.test=0"]
    folder.config.write_text(dump(load([str(CONFIG), *overrides])))
    told = {}
    for number in range(done):
        fold = complete(folder.fold(f"0-{number}").path)
        told[f"0-{number}"] = evaluated(fold, metric("test/bits_per_byte", 2.0 + 0.1 * number))
    if done == 3:
        folder.evaluation.mkdir()
        mean = metric("cv/bits_per_byte", 2.1, stderr=0.05, interval=[1.9, 2.3], n=3)
        evaluated(folder, mean, metric("baseline/trigram/bits_per_byte", 2.2), folds=told)
        figure = {"kind": "table", "title": "By fold", "columns": ["metric", *told], "rows": [["x", 1.0, None, 2]]}
        folder.figures.write_text(json.dumps([figure]))
    return folder


def without_library(page: str) -> str:
    """The page less Bokeh's own code."""
    return re.sub(r"/\* BEGIN bokeh.*?END bokeh[^*]*\*/", "", page, flags=re.DOTALL)


def report_of(folder: RunFolder) -> str:
    write_report(folder)
    return without_library(folder.report.read_text())
