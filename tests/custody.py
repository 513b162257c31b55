"""Finished runs, as the stages leave them but for the training itself, and what each of their files is a link of."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from configs.code import code_record
from configs.folder import RunFolder, digest, file_digest, write_atomic, write_json
from configs.folds import fold_names, fold_run, open_fold
from configs.load import load
from configs.schema import RunConfig, identity
from configs.stages import (
    asked_checkpoints,
    chosen_step,
    evaluation_key,
    fold_digests,
    read_complete,
    read_record,
    step_folder,
    train_key,
)
from data.manifest import Manifest
from pipelines.custody.seal import sealed
from tests.corpus import prepared, tiny, write_paragraphs
from tests.tiny import BEGINNING, CONFIGS, Memory, checkpoints, shrink, write_images
from trainer.checkpoint import settle_result
from trainer.pretrained import Origin

LINKS = {
    r"raw/.*|raw\.txt": "source",
    r"run/data/tokenizer\.json": "tokenizer",
    r"run/data/(statistics\.json|assignments\.parquet|.*\.labels\.npy)": "data files",
    r"run/data/.*\.tar(\.index\.npy)?": "shards",
    r"run/data/manifest\.json": "manifest",
    r"run/code/data\.json": "data code",
    r"run/train/init\.json": "first weights",
    r"origin/train/step-.*": "first weights",
    r"judge/train/step-.*": "judge",
    r"run/run\.yaml": "settings",
    r"run/code/DATA\.json": "data code",
    r"run/code/[0-9a-f]{16}\.json": "code",
    r"run/train/STEP/.*\.safetensors": "weights",
    r"run/train/STEP/complete\.json": "checkpoint",
    r"run/train/finished\.json": "result",
    r"run/evaluation/(samples|figures|cost)\.json|run/evaluation/units\.safetensors": "evaluation files",
    r"run/evaluation/metrics\.json": "metrics",
    r"run/report\.html": "report",
}
"""The link that breaks first when a file is another; STEP stands for the folder of the result, DATA for the record of
the code that made the data"""

NO_CLAIM = {
    r".*/\.lock": "it says who writes in a folder",
    r"run/data/card\.html": "it is drawn from statistics.json, and nothing is read from it",
    r"run/train/(?!STEP)step-.*": "the metrics are of another checkpoint; a training that goes on reads it with care",
    r"run/train/latest\.json": "a checkpoint is found without it",
    r"run/(train|evaluation)/events\.jsonl": "the course of the training: no metric of the evaluation is taken from it",
    r"run/logs/.*": "for people to read",
    r"run/wandb/.*": "the tracker's own view of the events",
    r"(origin|judge)/(run\.yaml|train/[a-z]*\.jsonl?)": "of a chain of its own, which explain of that run verifies",
}
"""Files that the chain does not hold, with the reason"""


UNITS = {"ids": np.int64, "sums": np.float64, "sizes": np.float64}


def link_of(path: Path, place: Path) -> str | None:
    """The link of a file of a finished run, None for one that carries no claim. Raises LookupError for any other."""
    name = path.relative_to(place).as_posix()
    fold = re.fullmatch(r"run/folds/([^/]*)/(.*)", name)
    folder = RunFolder(place / "run")
    if fold is None:
        return _link_within(folder, name)
    link = _link_within(folder.fold(fold[1]), f"run/{fold[2]}")
    return link and f"fold {fold[1]} {link}"


def _link_within(folder: RunFolder, name: str) -> str | None:
    step = step_folder(folder.train, chosen_step(folder.train) or 0).name
    data = folder.code(read_record(folder.data_code)["code"]).stem if folder.data_code.is_file() else "none"
    for pattern, link in [*LINKS.items(), *dict.fromkeys(NO_CLAIM).items()]:
        if re.fullmatch(pattern.replace("STEP", step).replace("DATA", data), name):
            return link
    raise LookupError(f"{name} is neither a link of the chain nor among the files without a claim")


def write_program(home: Path) -> Path:
    """A program of two files that stands on one package."""
    (home / "requirements.lock").write_text("numpy==0.0\n")
    for name in ("data/one.py", "trainer/two.py"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(f"NAME = {name!r}\n")
    return home


def finished_text(place: Path, home: Path) -> Path:
    """A language model that began from another's weights and whose result is its best checkpoint, not its last."""
    raw = write_paragraphs(place / "raw.txt")
    best = {"metric": "validation/loss", "better": "lower"}
    started = {"train__result": "best", "train__checkpoint": {"every_steps": 2, "keep": 3, "best": best}}
    run = tiny(raw, task__model__init_from="origin", **started)
    origin = RunFolder(place / "origin")
    origin.open(tiny(raw))
    told = train_alike(origin, {"data": "0" * 64, "config": "0" * 64}, {4: 1.0})
    folder, manifest = prepared(run, place / "run")
    code = record_program(folder, home, manifest)
    init = asdict(Origin(str(origin.path), 4, told, 1, "drawn"))
    folder.train.mkdir()
    write_json(folder.first_weights, init)
    facts = {"code": code, "first_weights": file_digest(folder.first_weights)}
    train_alike(folder, {"data": manifest.digest, "config": train_key(run)}, {2: 1.0, 4: 2.0}, run=run, facts=facts)
    settle_result(run, folder, at(4))
    best = read_complete(step_folder(folder.train, 2))["digest"]
    evaluate_alike(run, folder, manifest, code, checkpoint=best, config=evaluation_key(run, folder))
    return place


def finished_images(place: Path, home: Path) -> Path:
    """A diffusion model whose drawings a classifier beside it has judged."""
    demo = {path.stem: path for path in CONFIGS}
    shared: Any = {"task__evaluation__judge": "judge", "train__steps": 4, "train__schedule__warmup_steps": 1}
    paths = [str(write_images(place / "raw", classes=2, images=9))]
    source = {"kind": "files", "paths": paths, "label_field": "folder"}
    run = shrink(demo["demo-diffusion"], **shared, data__source=source)
    judge = RunFolder(place / "judge")
    judge.open(load([str(demo["demo-cnn"])]))
    train_alike(judge, {"data": "0" * 64, "config": "0" * 64}, {4: 1.0})
    folder, manifest = prepared(run, place / "run")
    code = record_program(folder, home, manifest)
    origin = {"data": manifest.digest, "config": train_key(run)}
    told = train_alike(folder, origin, {4: 1.0}, run=run, facts={"code": code})
    evaluate_alike(run, folder, manifest, code, checkpoint=told, config=evaluation_key(run, folder))
    return place


def finished_folds(place: Path, home: Path) -> Path:
    """A cross-validation of a language model: two folds, and what was collected of them."""
    raw = write_paragraphs(place / "raw.txt")
    run = tiny(raw, data__splits={"validation": 0, "test": 0, "folds": {"count": 2}}, train__steps=60)
    folder, manifest = prepared(run, place / "run")
    code, checkpoints_of = record_program(folder, home, manifest), []
    for name in fold_names(run):
        fold, own = open_fold(run, folder, name), fold_run(run, name)
        fold.code(code).parent.mkdir()
        shutil.copy(folder.code(code), fold.code(code))
        facts, origin = {"code": code}, {"data": manifest.digest, "config": train_key(own)}
        checkpoints_of.append(train_alike(fold, origin, {60: 1.0}, run=own, facts=facts))
        evaluate_alike(own, fold, manifest, code, checkpoint=checkpoints_of[-1], config=evaluation_key(own, fold))
    evaluate_alike(run, folder, manifest, code, checkpoint=digest(checkpoints_of), folds=fold_digests(run, folder))
    return place


def record_program(folder: RunFolder, home: Path, manifest: Manifest) -> str:
    """Have the program of `home` be the one that trained, and an earlier one that made the data; returns its digest."""
    shutil.rmtree(folder.data_code.parent)
    folder.data_code.parent.mkdir()
    record = code_record(home)
    earlier = record | {"files": record["files"] | {"trainer/three.py": "0" * 64}}  # no file that prepares data
    for each in (record, earlier):
        write_json(folder.code(digest(each)), each)
    content = {"data": manifest.digest, "code": digest(earlier)}
    write_json(folder.data_code, content | {"digest": digest(content)})
    return digest(record)


def at(step: int) -> Any:
    return type(BEGINNING)(step=step, position=step, samples_digest="00" * 32)


def train_alike(
    folder: RunFolder,
    origin: Mapping[str, str],
    losses: Mapping[int, float],
    *,
    run: RunConfig | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Checkpoints of a few numbers with a validation loss each; returns the digest of the last."""
    saver = checkpoints(folder.train, origin, identity=identity(run) if run else None)
    saver.facts |= facts or {}
    for step, loss in losses.items():
        memory = Memory({kind: {"w": torch.arange(6.0) + step} for kind in ("weights", "optimizer")})
        saver.save({"model": memory}, at(step), {"validation/loss": loss})
    (folder.train / ".lock").touch()
    (folder.train / "events.jsonl").write_text('{"step": 1}\n')
    return read_complete(step_folder(folder.train, max(losses)))["digest"]


def evaluate_alike(run: RunConfig, folder: RunFolder, manifest: Manifest, code: str, **origin: Any) -> None:
    """What an evaluation and the report leave, and the logs; `origin` is what the metrics say that they are of."""
    folder.evaluation.mkdir()
    write_json(folder.samples, [{"text": "a sample"}])
    write_json(folder.figures, [{"kind": "table", "title": "rows", "columns": ["a"], "rows": [[1]]}])
    write_json(folder.cost, {"parameters": 6})
    write_atomic(folder.units, save({f"test/loss/{part}": np.ones(3, kind) for part, kind in UNITS.items()}))
    files = {path.name: file_digest(path) for path in (folder.samples, folder.figures, folder.units, folder.cost)}
    written = origin | {"data": manifest.digest, "run": file_digest(folder.config), "code": code}
    written |= {"asked": asked_checkpoints(run, folder), "metrics": [], "protocols": {}, "files": files}
    write_json(folder.metrics, written | {"digest": digest(written)})
    (folder.evaluation / "events.jsonl").write_text("{}\n")
    write_atomic(folder.report, sealed("<html>a report</html>", digest(written)))
    folder.log("train").write_text("a line\n")
