"""Command: versioned baselines, which a gate compares with. `trainworks baseline set|show|history NAME`."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from configs.errors import ConfigError, DamageError, UserError
from configs.folder import digest, file_digest, locked, write_atomic, write_json
from configs.metrics import Metric
from configs.process import command_main, die_with_parent
from configs.stages import read_digested
from pipelines.gate.quarantine import quarantined
from pipelines.gate.readings import Reading, config_digest, kind_of, read_reading, read_units, require_repeats
from pipelines.overview import find_runs
from pipelines.readout import show
from pipelines.tracking.verdicts import leave_baseline

SCHEMA_VERSION = 1
VERDICTS = "verdicts.jsonl"
HOME = Path("baselines")


@dataclass(frozen=True)
class Baseline:
    """One version of a baseline: repeats of a training over seeds."""

    name: str
    version: int
    stored: str
    """When, UTC"""
    readings: tuple[Reading, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version:04d}"


def folder_of(name: str, home: Path) -> Path:
    """Where a baseline's versions lie. Raises ConfigError for a name that is no name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"baseline {name!r} must be a name of letters, digits, '.', '_' and '-'")
    return home / name


def versions_in(folder: Path) -> list[int]:
    """Stored versions, oldest first."""
    return sorted(int(path.stem) for path in folder.glob("*.json") if re.fullmatch(r"\d{4,}", path.stem))


def store(name: str, readings: Sequence[Reading], home: Path) -> Baseline:
    """Keep runs as the next version. Raises ConfigError unless they differ in seed and name alone."""
    require_repeats(readings)
    folder = folder_of(name, home)
    with locked(folder):
        version = max(versions_in(folder), default=0) + 1
        stored = datetime.now(UTC).isoformat(timespec="seconds")
        runs = [_stored(reading, folder, f"{version:04d}-seed-{reading.seed}.safetensors") for reading in readings]
        written = {"schema_version": SCHEMA_VERSION, "name": name, "version": version, "stored": stored, "runs": runs}
        write_json(folder / f"{version:04d}.json", written | {"digest": digest(written)})
    return Baseline(name, version, stored, tuple(readings))


def _stored(reading: Reading, folder: Path, units: str) -> dict[str, Any]:
    """A run's record; its units go into a file beside, first."""
    record = asdict(replace(reading, units={})) | {"units": None}
    if reading.units:
        tensors = {
            f"{name}/{part}": value for name, each in reading.units.items() for part, value in vars(each).items()
        }
        write_atomic(folder / units, save(tensors))
        record["units"] = {"file": units, "sha256": file_digest(folder / units)}
    return record


def load_baseline(name: str, home: Path, version: int | None = None) -> Baseline:
    """A version of a baseline, the newest unless one is named. Raises UserError when it is not there."""
    folder = folder_of(name, home)
    versions = versions_in(folder)
    if not versions:
        there = ", ".join(sorted(path.name for path in home.glob("*") if versions_in(path))) or "none"
        raise UserError(
            f"{folder} holds no baseline (there: {there}); store one: trainworks baseline set {name} RUN..."
        )
    if version is not None and version not in versions:
        raise UserError(f"{folder} has no version {version}; it has {', '.join(map(str, versions))}")
    path = folder / f"{version or versions[-1]:04d}.json"
    record = read_digested(path, "restore the file")
    if record["schema_version"] != SCHEMA_VERSION:
        raise DamageError(
            f"{path} is of schema version {record['schema_version']}, this program reads {SCHEMA_VERSION}"
        )
    readings = tuple(_read(run, folder) for run in record["runs"])
    return Baseline(name, record["version"], record["stored"], readings)


def holding(name: str, readings: Sequence[Reading], home: Path) -> Baseline | None:
    """The newest version of a baseline, if it is of these very evaluations."""
    if not versions_in(folder_of(name, home)):
        return None
    newest = load_baseline(name, home)
    ours, theirs = ({run.digests["evaluation"] for run in each} for each in (readings, newest.readings))
    return newest if ours == theirs else None


def _read(run: Mapping[str, Any], folder: Path) -> Reading:
    units = run["units"]
    if units and (not (folder / units["file"]).is_file() or file_digest(folder / units["file"]) != units["sha256"]):
        raise DamageError(f"{folder / units['file']} is missing or not as it was stored; restore the file")
    metrics = {name: Metric(**_tuples(each)) for name, each in run["metrics"].items()}
    return Reading(**dict(run) | {"metrics": metrics, "units": read_units(folder / units["file"]) if units else {}})


def _tuples(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in metric.items()}


def earlier_versions(baseline: Baseline, home: Path) -> list[tuple[Reading, ...]]:
    """The runs of older versions of this very configuration, of which the noise of seeds is learnt too."""
    versions = [each for each in versions_in(folder_of(baseline.name, home)) if each < baseline.version]
    earlier = (load_baseline(baseline.name, home, each).readings for each in versions)
    wanted = config_digest(baseline.readings[0])
    return [readings for readings in earlier if config_digest(readings[0]) == wanted]


def read_verdicts(name: str, home: Path) -> list[dict[str, Any]]:
    """The gates so far, oldest first. Raises DamageError naming a line that is none."""
    path = folder_of(name, home) / VERDICTS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [_gate(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _gate(line: str, where: str) -> dict[str, Any]:
    try:
        gate = json.loads(line)
    except ValueError as error:
        raise DamageError(f"{where} is not as a gate wrote it: {error}; restore the file or remove the line") from None
    if not isinstance(gate, dict) or "verdicts" not in gate:
        raise DamageError(f"{where} is no gate: {line[:80]}; restore the file or remove the line")
    return gate


def add_verdict(name: str, home: Path, gate: Mapping[str, Any]) -> None:
    """Append a gate to the history, unless it is the last one over again."""
    folder = folder_of(name, home)
    with locked(folder):
        before = read_verdicts(name, home)
        if before and {**before[-1], "time": None} == {**gate, "time": None}:
            return
        timed = dict(gate) | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
        write_atomic(folder / VERDICTS, "".join(json.dumps(each) + "\n" for each in [*before, timed]))


# --- the command ---


def parser() -> argparse.ArgumentParser:
    """The command line."""
    codes = "exit codes: 0 done, 1 a stored file is damaged, 2 a mistake in what was asked"
    top = argparse.ArgumentParser(
        prog="trainworks baseline",
        description="Versioned baselines: what runs over several seeds reached, for `trainworks gate` to compare with.",
        epilog=codes,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in (
        ("set", "store runs that differ in seed and name alone as the next version"),
        ("show", "print the newest version: each metric over its seeds, and what is in quarantine"),
        ("history", "list versions and gates, oldest first"),
    ):
        description = f"{purpose[0].upper()}{purpose[1:]}."
        command = commands.add_parser(name, help=purpose, description=description, epilog=codes)
        command.add_argument("name", metavar="NAME", help="the baseline's name")
        command.add_argument(
            "--baselines", type=Path, default=HOME, metavar="DIR", help=f"where baselines are ({HOME})"
        )
        if name == "set":
            command.add_argument("run", nargs="+", metavar="RUN", help="run folders: names in --runs, or paths")
            command.add_argument(
                "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)"
            )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a stored file is damaged, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("baseline", lambda: _baseline(arguments))


def _baseline(arguments: argparse.Namespace) -> int:
    name, home = arguments.name, arguments.baselines
    if arguments.command == "set":
        folders = find_runs(arguments.run, arguments.runs)
        readings = [read_reading(folder) for folder in folders]
        before = load_baseline(name, home) if versions_in(folder_of(name, home)) else None
        stored = store(name, readings, home)
        leave_baseline(folders, str(stored))
        print(f"stored {stored}: {len(readings)} runs, {len(readings[0].metrics)} metrics, in {folder_of(name, home)}")
        if before and config_digest(before.readings[0]) != config_digest(readings[0]):
            print(f"note: of another configuration than {before}, with which gates compared until now")
        return 0
    told = shown(load_baseline(name, home), read_verdicts(name, home))
    for line in told if arguments.command == "show" else history(name, home):
        print(line)
    return 0


def shown(baseline: Baseline, gates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A version in lines."""
    first = baseline.readings[0]
    seeds = ", ".join(str(each.seed) for each in baseline.readings)
    yield f"{baseline}, stored {baseline.stored}, seeds {seeds}, configuration {config_digest(first)[:12]}"
    held = quarantined(gates)
    for name, metric in first.metrics.items():
        values = [
            show(asdict(m)) if m.value is not None else "–" for r in baseline.readings if (m := r.metrics.get(name))
        ]
        note = "; in quarantine" if name in held else ""
        yield f"  {name} ({kind_of(name)}, {metric.unit}, {metric.better} is better): {', '.join(values)}{note}"


def history(name: str, home: Path) -> Iterator[str]:
    """Versions and, below each, its gates."""
    gates = read_verdicts(name, home)
    for version in versions_in(folder_of(name, home)):
        baseline = load_baseline(name, home, version)
        yield f"{baseline}, stored {baseline.stored}: {', '.join(each.run for each in baseline.readings)}"
        for gate in gates:
            if gate["version"] == version:
                worse = [metric for metric, word in gate["verdicts"].items() if word == "worse"]
                yield f"  {gate['time']} {', '.join(gate['runs'])}: {gate['verdict']}" + (
                    f" ({', '.join(worse)})" if worse else ""
                )


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
