"""Run folders of every family as their stages leave them, without a training: what a browser is to show of them."""

import base64
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from configs.folder import RunFolder
from configs.load import dump, load
from configs.stages import step_folder
from tests.reported import CONFIG, NASTY, evaluated, metric, prepared, span, write_events

CONFIGS = CONFIG.parent
STEPS, FLUSH = 400, 10
"""Of a training; steps between two flushes of its log"""
SHARE = {"better": "higher", "unit": "share"}
CLASSES = [f"class {number}" for number in range(10)]
ROC = {
    "kind": "curves",
    "title": "ROC",
    "x": "false positive rate",
    "y": "true positive rate",
    "lines": [
        {"name": f"{name} (area 0.9)", "x": [0, 0.2, 1], "y": [0, 0.7 + 0.01 * n, 1]} for n, name in enumerate(CLASSES)
    ],
    "diagonal": True,
}
BARS = {
    "kind": "bars",
    "title": "Reliability",
    "x": [f"{n / 10:g} to {n / 10 + 0.1:g}" for n in range(10)],
    "y": [0.1 * n for n in range(10)],
    "x_title": "probability",
    "y_title": "share right",
    "reference": [0.1 * n + 0.05 for n in range(10)],
}
MATRIX = {
    "kind": "matrix",
    "title": "Confusion matrix",
    "rows": CLASSES,
    "columns": CLASSES,
    "values": [[90 if row == column else (row + column) % 3 for column in range(10)] for row in range(10)],
    "row_title": "label",
    "column_title": "taken for",
}
LISTING = {
    "kind": "table",
    "title": "Hardest texts",
    "columns": ["text", "bits per byte"],
    "rows": [["a line of a play that is longer than a cell " * 3, 3.5], ["another", 3.1]],
}


def picture(shade: int, *, side: int = 28) -> str:
    """A drawn image as an evaluation stores it."""
    file = io.BytesIO()
    pixels = bytes((x * y * 3 + shade * 16) % 256 for y in range(side) for x in range(side))
    Image.frombytes("L", (side, side), pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def trained(folder: RunFolder, *, seed: int = 0, steps: int = STEPS, floor: float = 1.5, **changes: Any) -> None:
    """The log of a training with validations, flushes and a death at its middle, and its checkpoint."""
    rng, died = random.Random(seed), steps // 2
    events: list[dict[str, Any]] = [{"event": "start", "step": 0, "world": 2, "device": "cpu", "since_launch_s": 4.0}]
    now = 1_800_000_000.0
    events[0]["time"] = now
    for number in (*range(1, died + 1), *range(died - 19, steps + 1)):
        if events[-1].get("step") == died and number <= died:
            now += 60.0
            events.append(
                {"event": "start", "step": number - 1, "time": now, "since_launch_s": 8.0, "world": 2, "device": "cpu"}
            )
        now += 0.5
        loss = floor + 3 * math.exp(-number / 80) + rng.gauss(0, 0.1)
        figures = {
            "train/loss": loss,
            "train/learning_rate": 1e-3 * (1 - number / (steps + 1)),
            "train/grad_norm": 1 + rng.random(),
        }
        events.append({"event": "step", "step": number, "position": 32 * number, "time": now} | figures)
        if number % FLUSH == 0:
            events[-1] |= {"train/samples_per_s": 60 + 5 * rng.random(), "train/memory_bytes": 2**30}
            spans = span(number, data=0.5, compute=3.9, save=0.3, validate=0.2)
            events += [each | {"time": now} for each in spans]
        if number % 40 == 0:
            told = {"validation/loss": loss + 0.2, "validation/bits_per_byte": 2 * loss}
            events.append({"event": "validation", "step": number, "time": now} | told)
    events += changes.get("more", [])
    events.append({"event": "finish", "status": "completed", "time": now})
    write_events(folder, *({"time": now} | event for event in events))
    checkpoint = step_folder(folder.train, steps)
    checkpoint.mkdir()
    (checkpoint / "complete.json").write_text(json.dumps({"step": steps, "data": "d" * 64, "digest": "e" * 64}))
    folder.evaluation.mkdir(exist_ok=True)


def showing(folder: RunFolder, make: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Samples at some steps of a training, in files, and the events that say so and how the weights lie."""
    events = list[dict[str, Any]]()
    for number in range(100, STEPS + 1, 100):
        path = folder.training_samples(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make(number)))
        edges = [number * (place / 32 - 1) / STEPS for place in range(65)]
        counts = [round(1000 * math.exp(-(((place - 32) / 8) ** 2))) for place in range(64)]
        events.append({"event": "samples", "step": number, "file": path.relative_to(folder.train).as_posix()})
        events.append({"event": "histogram", "step": number, "name": "weights/model", "edges": edges, "counts": counts})
    return events


def language(path: Path, *, seed: int = 0, value: float = 1.98, protocol: str = "p") -> RunFolder:
    """A causal language model's run."""
    folder = prepared(path, description=f"plays {NASTY}")
    said = showing(folder, lambda number: [{"prompt": "ACT I", "text": f" {NASTY} after {number} steps"}] * 2)
    trained(folder, seed=seed, floor=value, more=said)
    shape = {"protocol": protocol, "interval": [value - 0.02, value + 0.02]}
    metrics = [metric("test/bits_per_byte", value, **shape), metric("test/perplexity", 12.5, interval=[12.1, 12.9])]
    metrics.append(metric("baseline/trigram/bits_per_byte", 2.11, protocol=protocol))
    evaluated(folder, *metrics, protocols={protocol: {"split": "test", "stride_tokens": 32}})
    texts = [{"prompt": "ACT I", "text": "\n  SCENE. Enter a ghost with a very long line of words to say. " * 3}]
    folder.samples.write_text(json.dumps(texts * 2))
    folder.figures.write_text(json.dumps([LISTING, BARS]))
    times = {"1": {"median": 2.5, "p99": 4.0, "passes": 100}, "32": {"median": 40.0, "p99": 41.0, "passes": 25}}
    cost = {"parameters": 61706, "flops_per_sample": 833_040_000, "latency_ms": times, "threads": 2, "device": "CPU"}
    cost |= {
        "activation_bytes": {"1": 2**20, "32": 2**25},
        "memory_by": "tensors",
        "samples_per_s": {"1": 400.0, "32": 800.0},
    }
    folder.cost.write_text(json.dumps(cost))
    return folder


def configured(folder: RunFolder, name: str, *overrides: str) -> RunFolder:
    """The folder as a run of another configuration."""
    folder.config.write_text(dump(load([str(CONFIGS / f"{name}.yaml"), *overrides])))
    counts = {
        "documents": 5,
        "bytes": 10,
        "samples": 7,
        "tokens": 0,
        "classes": dict.fromkeys(CLASSES, 7),
        "shards": [],
    }
    images = {"height": 28, "width": 28, "channels": 1, "mean": [0.13066], "std": [0.3081]}
    manifest = json.loads(folder.manifest.read_text()) if folder.manifest.exists() else {}
    manifest |= {"kind": "images", "tokenizer": None, "images": images, "classes": CLASSES, "block_tokens": 0}
    if folder.manifest.exists():
        folder.manifest.write_text(json.dumps(manifest | {"splits": {"train": counts, "test": counts}}))
    return folder


def convolutional(path: Path, *, seed: int = 0) -> RunFolder:
    """A classifier's run."""
    folder = configured(prepared(path), "demo-cnn")
    trained(folder, seed=seed)
    shape = SHARE | {"interval": [0.95, 0.985]}
    metrics = [
        metric("test/accuracy", 0.97, **shape),
        metric("test/loss", 0.1),
        metric("baseline/majority/accuracy", 0.12, **SHARE),
    ]
    evaluated(folder, *metrics, protocols={"p": {"split": "test"}})
    mistakes = [{"picture": picture(n), "label": CLASSES[n], "taken for": CLASSES[9 - n], "image": n} for n in range(8)]
    folder.samples.write_text(json.dumps(mistakes))
    folder.figures.write_text(json.dumps([MATRIX, ROC, BARS]))
    return folder


def diffusing(path: Path) -> RunFolder:
    """A diffusion model's run."""
    folder = configured(prepared(path), "demo-diffusion")
    trained(folder, more=showing(folder, lambda number: [{"picture": picture(number // 50 + n)} for n in range(10)]))
    metrics = [metric("samples/class_accuracy", 0.93, **SHARE), metric("baseline/real/class_accuracy", 0.97, **SHARE)]
    evaluated(folder, *metrics, metric("test/loss", 0.05, unit="squared error"), protocols={"p": {"sampler": "ddim"}})
    folder.samples.write_text(json.dumps([{"picture": picture(n), "class": CLASSES[n]} for n in range(10)]))
    folder.figures.write_text(json.dumps([BARS | {"x": [n / 10 for n in range(10)]}]))
    return folder


def crossed(path: Path) -> RunFolder:
    """A cross-validation of three folds, all evaluated."""
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    configured(folder, "demo-folds", "data.splits.folds={count: 3}", "data.splits.test=0")
    told = {}
    for number in range(3):
        fold = convolutional(folder.fold(f"0-{number}").path, seed=number)
        told[f"0-{number}"] = evaluated(fold, metric("test/accuracy", 0.95 + 0.01 * number, **SHARE))
    folder.evaluation.mkdir()
    mean = metric("cv/accuracy", 0.96, n=3, interval=[0.94, 0.98], **SHARE)
    evaluated(folder, mean, metric("baseline/majority/accuracy", 0.12, **SHARE), folds=told)
    table = {
        "kind": "table",
        "title": "By fold",
        "columns": ["metric", *told],
        "rows": [["accuracy", 0.95, None, 0.97]],
    }
    folder.figures.write_text(json.dumps([table, MATRIX]))
    return folder


FAMILIES = {"lm": language, "cnn": convolutional, "diffusion": diffusing, "folds": crossed}
