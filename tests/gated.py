"""Runs to gate: readings by hand, and run folders as training and evaluation leave them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from configs.folder import RunFolder, digest, file_digest, write_json
from configs.load import dump, load
from configs.metrics import Metric, protocol_id
from pipelines.gate.readings import Reading, Units

CONFIG = Path(__file__).parents[1] / "configs" / "demo-lm.yaml"
PROTOCOL: Mapping[str, Any] = {"kind": "rolling window", "stride_tokens": 32}
PROTOCOL_ID = protocol_id(PROTOCOL)


def metric(name: str, value: float | None, *, stderr: float | None = None, **changes: Any) -> Metric:
    shape = {"n": 1000, "unit": "bits/byte", "better": "lower", "protocol": PROTOCOL_ID}
    return Metric(name=name, value=value, stderr=stderr, **shape | changes)


def reading(seed: int, *metrics: Metric, units: Mapping[str, Sequence[float]] | None = None) -> Reading:
    """A run with those metrics; units have a size of 1 each."""
    return Reading(
        run=f"run-{seed}",
        seed=seed,
        config={"train": {"steps": 3}},
        metrics={each.name: each for each in metrics},
        protocols={each.protocol: PROTOCOL for each in metrics},
        digests={
            "checkpoint": "c" * 64,
            "data": "d" * 64,
            "evaluation": digest([seed, *(each.value for each in metrics)]),
        },
        units={name: by_unit(sums) for name, sums in (units or {}).items()},
    )


def by_unit(sums: Sequence[float]) -> Units:
    return Units(np.arange(len(sums)), np.asarray(sums, dtype=np.float64), np.ones(len(sums)))


def repeats(
    values: Sequence[float], name: str = "test/bits_per_byte", *, first: int = 0, **changes: Any
) -> list[Reading]:
    return [reading(first + seed, metric(name, value, **changes)) for seed, value in enumerate(values)]


def evaluated(
    root: Path,
    name: str,
    *overrides: str,
    value: float = 2.0,
    protocol: Mapping[str, Any] = PROTOCOL,
    events: Sequence[Mapping[str, Any]] = (),
    units: Sequence[float] = (),
    device: str = "abacus",
    code: str = "e" * 64,
    checkpoint: str = "c" * 64,
) -> RunFolder:
    """A run folder with an evaluation of that value, and what its training told."""
    folder = RunFolder(root / name)
    folder.evaluation.mkdir(parents=True)
    folder.train.mkdir()
    folder.config.write_text(dump(load([str(CONFIG), f"name={name}", *overrides])))
    line = {"name": "test/bits_per_byte", "value": value, "stderr": 0.01, "n": 1000, "unit": "bits/byte"}
    line |= {"better": "lower", "protocol": protocol_id(protocol)}
    lines = [line, line | {"name": "baseline/unigram/bits_per_byte", "value": 4.0}]
    write_json(folder.cost, {"device": device})
    if events:
        folder.events.write_text("".join(json.dumps({"time": 1e9 + n} | dict(e)) + "\n" for n, e in enumerate(events)))
    if units:
        parts = {part: getattr(by_unit(units), part) for part in ("ids", "sums", "sizes")}
        save_file({f"test/bits_per_byte/{part}": array for part, array in parts.items()}, folder.units)
    record = {
        "checkpoint": checkpoint,
        "data": "d" * 64,
        "code": code,
        "metrics": lines,
        "protocols": {line["protocol"]: dict(protocol)},
        "files": {path.name: file_digest(path) for path in (folder.cost, folder.units) if path.is_file()},
    }
    write_json(folder.metrics, record | {"digest": digest(record)})
    return folder
