"""Which stages of a run are done: decided from the file that each writes last, without torch."""

import contextlib
import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import DamageError
from configs.folder import RunFolder, digest, digest_holds, file_digest
from configs.folds import cross_validates, fold_names, fold_run, repeat_folder, repeat_run, repeats_of
from configs.schema import RunConfig, identity

FINISHED = "finished.json"
"""Beside the checkpoints: which of them is the result of a training that early stopping or `result=best` decides"""


def data_key(run: RunConfig) -> str:
    """Digest of all that decides the shards, raw bytes apart."""
    reading: Any = dict.fromkeys(("store", "shuffle_window_samples", "balance"), True)
    reading |= {"splits": {"folds": {"held_out", "repeats"}}}
    return digest(run.data.model_dump(mode="json", exclude=reading))


def train_key(run: RunConfig) -> str:
    """Digest of all that decides the weights, raw bytes apart."""
    return digest(identity(run))


def evaluation_key(run: RunConfig, folder: RunFolder) -> str:
    """Digest of all that decides the metrics of given weights, with the checkpoints of the runs it asks."""
    chosen = run.task.model_dump(mode="json", include={"evaluation", "drawing"})
    return digest(chosen | asked_checkpoints(run, folder))


def asked_checkpoints(run: RunConfig, folder: RunFolder) -> dict[str, str]:
    """Digests of the checkpoints that an evaluation asks of other runs, by what for; of those that are there."""
    found = {}
    for name, asked in asked_runs(run, folder).items():
        step = chosen_step(asked.train)
        if step is not None:
            found[name] = str(read_record(step_folder(asked.train, step) / "complete.json")["digest"])
    return found


def asked_runs(run: RunConfig, folder: RunFolder) -> dict[str, RunFolder]:
    """The other runs that an evaluation asks, by what for; those that are there."""
    runs = {"judge": judge_folder(run, folder), "features": features_folder(run, folder)}
    return {name: asked for name, asked in runs.items() if asked is not None}


def judge_folder(run: RunConfig, folder: RunFolder) -> RunFolder | None:
    """The run that judges this one's drawn images: beside it, or by path. None where none is named or there."""
    return _run_named(getattr(run.task.evaluation, "judge", None), folder)


def features_folder(run: RunConfig, folder: RunFolder) -> RunFolder | None:
    """The run by whose features drawn images are compared with real ones; None where none is named or there."""
    return _run_named(getattr(getattr(run.task.evaluation, "features", None), "run", None), folder)


def _run_named(name: str | None, folder: RunFolder) -> RunFolder | None:
    places = [folder.shelf / name, Path(name)] if name else []
    return next((RunFolder(path) for path in places if RunFolder(path).config.is_file()), None)


def complete(stage: str, run: RunConfig, folder: RunFolder) -> str | None:
    """What a finished stage left, in one line; None when there is work to do. Raises DamageError."""
    if cross_validates(run):
        return _crossed(stage, run, folder)
    return {"prepare": prepared, "train": _trained, "evaluate": _evaluated}[stage](run, folder)


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object that a stage wrote. Raises DamageError when it is not one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamageError(f"{path} cannot be read: {error}; remove it and run the stage again") from None
    if not isinstance(record, dict):
        raise DamageError(f"{path} is not a record of this program; remove it and run the stage again")
    return record


def read_digested(path: Path, remedy: str = "") -> dict[str, Any]:
    """A record that holds its own digest. Raises DamageError, with a remedy, when it is not as it was written."""
    record = read_record(path)
    if not digest_holds(record):
        raise DamageError(f"{path}: its digest is not that of its content{remedy and '; '}{remedy}")
    return record


def read_metrics(folder: RunFolder) -> dict[str, Any]:
    """metrics.json, the files beside it not yet looked at. Raises DamageError when it is not as it was written."""
    return read_digested(folder.metrics, "evaluate again")


def prepared(run: RunConfig, folder: RunFolder) -> str | None:
    """What the data of this folder alone are, in one line; None when they have to be made. Raises DamageError."""
    if not folder.manifest.exists():
        return None
    manifest = read_record(folder.manifest)
    if manifest.get("config") != data_key(run):
        return None
    try:
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                if run.data.store is None:
                    check_size(folder.data / shard["name"], shard["bytes"], folder.manifest)
                elif (folder.data / shard["name"]).exists():
                    return None  # it has still to go to the store
        documents = sum(source["documents"] for source in manifest["sources"])
        unit = "tokens" if manifest["tokenizer"] else "samples"
        counts = ", ".join(f"{name} {split[unit]:,}" for name, split in manifest["splits"].items())
        more = f"; vocabulary {manifest['tokenizer']['vocabulary_size']}" if manifest["tokenizer"] else ""
        classes = f"; {len(manifest['classes'])} classes" if manifest["classes"] else ""
    except (AttributeError, KeyError, TypeError) as error:
        raise DamageError(f"{folder.manifest} is not a manifest: {error!r}; remove it and prepare again") from None
    return f"{documents:,} {'documents' if more else 'images'}; {unit}: {counts}{more}{classes}"


def check_size(path: Path, expected: int, manifest: Path) -> None:
    """Raises DamageError when a file is absent or not as long as the manifest says."""
    size = path.stat().st_size if path.is_file() else "no file"
    if size != expected:
        raise damaged(path, "bytes", size, expected, manifest)


def damaged(path: Path, what: str, got: object, expected: object, manifest: Path) -> DamageError:
    return DamageError(
        f"shard {path}: {what} is {got}, the manifest says {expected}; restore the file, or remove {manifest} "
        "and prepare again"
    )


def steps_in(root: Path) -> list[int]:
    """Steps saved under a folder, newest first."""
    names = [path.name for path in root.glob("step-*") if path.is_dir()]
    return sorted((int(name[5:]) for name in names if re.fullmatch(r"step-\d{8,}", name)), reverse=True)


def checkpoints(folder: RunFolder) -> frozenset[str]:
    """What tells one completed checkpoint from another: its step, and when it was written."""
    found = set()
    for step in steps_in(folder.train):
        with contextlib.suppress(OSError):
            found.add(f"{step} of {os.stat(step_folder(folder.train, step) / 'complete.json').st_mtime_ns} ns")
    return frozenset(found)


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def final_step(run: RunConfig, folder: RunFolder) -> int | None:
    """The step whose checkpoint is the result of a finished training; None while there is work to do."""
    step: Any = run.train.steps
    if decides(run):
        finished = _finished(folder.train)
        step = finished["step"] if finished and finished["rule"] == result_rule(run) else None
    return step if step is not None and step_folder(folder.train, step).exists() else None


def chosen_step(root: Path) -> int | None:
    """The step whose checkpoint stands for a run: its result, or the newest while it trains. None where is none."""
    finished, steps = _finished(root), steps_in(root)
    if finished and finished["step"] in steps:
        return finished["step"]
    return steps[0] if steps else None


def decides(run: RunConfig) -> bool:
    """Whether anything but the last step may be where training ends or what its result is."""
    return run.train.early_stopping is not None or run.train.chosen_by is not None


def result_rule(run: RunConfig) -> dict[str, Any]:
    """All that decides which checkpoint is the result."""
    train = run.train
    chosen_by = None if train.chosen_by is None else train.chosen_by.model_dump(include={"metric", "better"})
    stopping = None if train.early_stopping is None else train.early_stopping.model_dump()
    return {"config": train_key(run), "early_stopping": stopping, "chosen_by": chosen_by}


def _finished(root: Path) -> dict[str, Any] | None:
    """finished.json as the training wrote it; None where it is absent or torn, for it can be written again."""
    try:
        return read_digested(root / FINISHED)
    except DamageError:
        return None


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Check every file against complete.json, and return that record. Raises DamageError naming what differs."""
    record = read_complete(folder)
    check_files(folder, record["files"])
    return record


def read_complete(folder: Path) -> dict[str, Any]:
    """A checkpoint's record, its files not yet looked at. Raises DamageError when it is not as it was written."""
    path = folder / "complete.json"
    record = read_digested(path)
    files = record.get("files")
    if not isinstance(files, dict) or any(Path(name).name != name for name in files):
        raise DamageError(f"{path}: it does not list the files of its folder")
    return record


def check_files(folder: Path, files: Mapping[str, str], record: str = "complete.json") -> None:
    """Compare files with the sha256 of each, as the record of that name has them.

    Raises DamageError naming the first that differs or cannot be read.
    """
    for name, expected in files.items():
        path = folder / name
        try:
            got = file_digest(path) if path.is_file() else "no file"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            got = "unreadable"  # the disk has lost it
        if got == "no file":
            raise DamageError(f"{path}: the file is missing")
        if got != expected:
            raise DamageError(f"{path}: sha256 is {got[:12]}, {record} says {expected[:12]}")


def _crossed(stage: str, run: RunConfig, folder: RunFolder) -> str | None:
    """The same of a cross-validation: every repeat's data, every fold's training, what was collected of all folds."""
    if stage == "prepare":
        told = [prepared(repeat_run(run, each), repeat_folder(run, folder, each)) for each in repeats_of(run)]
        return f"{told[0]}; {len(told)} divisions" if all(told) and len(told) > 1 else told[0] if all(told) else None
    names = fold_names(run)
    if not all(complete(stage, fold_run(run, name), folder.fold(name)) for name in names):
        return None
    if stage == "train":
        return f"{len(names)} folds"
    if not folder.metrics.exists():
        return None
    try:
        record = _sound_metrics(folder)
    except DamageError:
        return None  # the folds can be collected again
    if record.get("folds") != fold_digests(run, folder):
        return None
    return f"{len(record['metrics'])} metrics of {len(names)} folds in {folder.metrics}"


def fold_digests(run: RunConfig, folder: RunFolder) -> dict[str, str]:
    """Each fold's metrics by their digest. Raises DamageError where a fold has none."""
    return {name: read_record(folder.fold(name).metrics)["digest"] for name in fold_names(run)}


def _trained(run: RunConfig, folder: RunFolder) -> str | None:
    step = final_step(run, folder)
    if step is None or not folder.manifest.exists():
        return None
    try:
        record = verify_checkpoint(step_folder(folder.train, step))
    except DamageError:
        return None  # the trainer says so aloud and falls back
    if record["config"] != train_key(run) or record["data"] != read_record(folder.manifest).get("digest"):
        return None
    figures = ", ".join(f"{name} {value:.4g}" for name, value in record["metrics"].items())
    finished = _finished(folder.train) if decides(run) else None
    why = f"{finished['why']}; " if finished else ""
    return f"{record['step']} steps; {why}{figures}"


def _evaluated(run: RunConfig, folder: RunFolder) -> str | None:
    step = final_step(run, folder)
    if not folder.metrics.exists() or step is None:
        return None
    try:
        record, checkpoint = _sound_metrics(folder), verify_checkpoint(step_folder(folder.train, step))
    except DamageError:
        return None  # metrics can be taken again
    same = record["checkpoint"] == checkpoint["digest"] and record["config"] == evaluation_key(run, folder)
    return f"{len(record['metrics'])} metrics in {folder.metrics}" if same and folder.samples.exists() else None


def _sound_metrics(folder: RunFolder) -> dict[str, Any]:
    """metrics.json. Raises DamageError when that or a file beside it is not as it was written."""
    record = read_metrics(folder)
    check_files(folder.evaluation, record.get("files", {}), folder.metrics.name)
    return record
