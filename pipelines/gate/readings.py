"""What a gate compares of a run: its metrics, its units, and the speed, memory and resume time of its training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from configs.errors import ConfigError, DamageError, UserError
from configs.events import read_events
from configs.folder import RunFolder, digest
from configs.load import differences, read
from configs.metrics import Evaluation, Metric, protocol_id, read_evaluation
from configs.schema import RunConfig, identity
from configs.stages import check_files, read_record
from pipelines.history import History
from pipelines.series import NONE

Kind = Literal["quality", "speed", "memory", "resume"]
Protocols = Mapping[str, Mapping[str, Any]]

BASELINE = "baseline/"
"""Subjects that no training changes, and which are therefore not gated"""
MACHINE: Mapping[str, Kind] = {
    "train/tokens_per_s": "speed",
    "train/samples_per_s": "speed",
    "train/memory_bytes": "memory",
    "train/resume_s": "resume",
}
"""What a training tells of itself beside quality"""
BESIDE_SPEED = ("processes", "device", "parallel_folds", "prepare_workers", "timeout_s", "grace_s", "restarts")
"""Of `world`: what the events tell as it was, or what no step takes longer for"""
WARM_UP = 0.1
"""The share of steps at the beginning whose speed is that of compilers and cold caches"""


@dataclass(frozen=True)
class Units:
    """A metric by independent draws: it is sum(sums) / sum(sizes), or a monotone function of that."""

    ids: NDArray[np.int64]
    """[N], rising"""
    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """One run, as it is compared and as a baseline stores it."""

    run: str
    seed: int
    config: Mapping[str, Any]
    """What decides the weights, seed and name apart"""
    metrics: Mapping[str, Metric]
    """By name, those of the machine among them"""
    protocols: Protocols
    """By id"""
    digests: Mapping[str, str]
    """Of the checkpoint, the data and the evaluation"""
    units: Mapping[str, Units] = field(default_factory=dict)
    """By the metric's name"""


def kind_of(name: str) -> Kind:
    return MACHINE.get(name, "quality")


def read_reading(folder: RunFolder) -> Reading:
    """What an evaluated run left. Raises UserError when it is not evaluated, DamageError when a file is damaged."""
    if not folder.config.is_file():
        raise UserError(f"{folder.path}: no run is there (no run.yaml)")
    if not folder.metrics.is_file():
        raise UserError(f"{folder.path} is not evaluated; run `trainworks evaluate` on it first")
    evaluation, run = read_evaluation(folder), read(folder.config)
    _require_files(folder)
    found = {name: metric for name, metric in evaluation.metrics.items() if not name.startswith(BASELINE)}
    machine, ways = read_machine(folder, run)
    return Reading(
        run=folder.path.resolve().name,
        seed=run.seed,
        config={key: value for key, value in identity(run).items() if key not in ("name", "seed")},
        metrics=found | machine,
        protocols={metric.protocol: evaluation.protocols[metric.protocol] for metric in found.values()} | ways,
        digests=_digests(folder, evaluation),
        units={name: each for name, each in read_units(folder.units).items() if name in found},
    )


def _require_files(folder: RunFolder) -> None:
    """Raises DamageError where a file beside metrics.json is not the one that was written with it."""
    try:
        check_files(folder.evaluation, read_record(folder.metrics).get("files", {}), folder.metrics.name)
    except DamageError as error:
        raise DamageError(f"{error}; evaluate again") from None


def _digests(folder: RunFolder, evaluation: Evaluation) -> dict[str, str]:
    """Of what was scored, on what, what came of it, and by which code."""
    found = {"checkpoint": evaluation.checkpoint, "data": evaluation.data, "evaluation": evaluation.digest}
    code = read_record(folder.metrics).get("code")
    return found | ({"code": code} if code else {})


def read_units(path: Path) -> dict[str, Units]:
    """The scores by unit in a file of tensors NAME/ids, NAME/sums, NAME/sizes; none where there is no file.

    Raises DamageError when it is not such a file.
    """
    if not path.is_file():
        return {}
    try:
        tensors = load_file(path)
        names = [name.removesuffix("/ids") for name in tensors if name.endswith("/ids")]
        return {
            name: Units(tensors[f"{name}/ids"], tensors[f"{name}/sums"], tensors[f"{name}/sizes"]) for name in names
        }
    except (SafetensorError, KeyError) as error:
        raise DamageError(f"{path} is not as the evaluation wrote it ({error}); evaluate again") from None


def read_machine(folder: RunFolder, run: RunConfig) -> tuple[dict[str, Metric], dict[str, Mapping[str, Any]]]:
    """Speed, memory and resume time by the training's events; their protocol is the machine and how it was used."""
    if not folder.events.is_file():
        return {}, {}
    history, resumes = History(), list[float]()
    for event in read_events(folder.events):
        history.add(event)
        if event.get("event") == "start" and event.get("step") and "since_launch_s" in event:
            resumes.append(event["since_launch_s"])
    device = read_record(folder.cost).get("device") if folder.cost.is_file() else None
    machine = {"device": device or history.device, "ranks": history.world} | _setup(run)
    metrics, protocols = {}, {}
    for name, value, n, unit, better, quantity in _of_machine(history, resumes):
        protocol = {"quantity": quantity} | machine
        protocols[protocol_id(protocol)] = protocol
        metrics[name] = Metric(name, value, None, n, unit, better, protocol_id(protocol))
    return metrics, protocols


def _setup(run: RunConfig) -> dict[str, Any]:
    """What of the configuration changes speed and memory and leaves the weights as they are."""
    world: Any = run.world.model_dump(mode="json", exclude=set(BESIDE_SPEED))
    return {"world": world, "deepspeed": dict(run.deepspeed)}


def _of_machine(
    history: History, resumes: list[float]
) -> Iterator[tuple[str, float, int, str, Literal["lower", "higher"], str]]:
    """Name, value, n, unit, direction and what it is of each quantity that the events tell."""
    for name, unit in (("train/tokens_per_s", "tokens/s"), ("train/samples_per_s", "samples/s")):
        if speeds := history.series.get(name, NONE).known:
            cold = WARM_UP * speeds.steps[-1]
            warm = speeds.numbers[speeds.steps > cold].tolist()
            yield name, median(warm), len(warm), unit, "higher", "median over steps, the first tenth left out"
            break  # samples are tokens by another name
    if memory := history.series.get("train/memory_bytes", NONE).known:
        yield "train/memory_bytes", float(memory.numbers.max()), len(memory), "bytes", "lower", "peak of the first rank"
    if resumes:
        quantity = "median over restarts, from launch to restored state"
        yield "train/resume_s", median(resumes), len(resumes), "s", "lower", quantity


def require_repeats(readings: Sequence[Reading]) -> None:
    """Raises ConfigError unless runs of one code differ in seed and name alone, and in their seeds."""
    first = readings[0]
    for other in readings[1:]:
        if found := list(differences(first.config, other.config)):
            raise ConfigError(
                f"{first.run} and {other.run} must differ in seed and name alone; these keys differ "
                f"({first.run}, {other.run}):\n" + "\n".join(f"  - {line}" for line in found)
            )
        codes = [each.digests.get("code") for each in (first, other)]
        if None not in codes and codes[0] != codes[1]:
            raise ConfigError(
                f"{first.run} and {other.run} are of different code ({codes[0]}, {codes[1]}), which is not the noise "
                "of seeds; run all of them with the same code"
            )
    by_seed: dict[int, str] = {}
    for each in readings:
        if each.seed in by_seed:
            raise ConfigError(
                f"{by_seed[each.seed]} and {each.run} have the same seed {each.seed}, which tells nothing of the noise "
                "of seeds; train with another seed=N"
            )
        by_seed[each.seed] = each.run


def config_digest(reading: Reading) -> str:
    return digest(dict(reading.config))
