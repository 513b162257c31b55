"""The links of a training and of an evaluation, each judged by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.custody import Link, judged, unchecked
from configs.errors import DamageError
from configs.folder import RunFolder, digest, file_digest
from configs.schema import RunConfig
from configs.stages import (
    FINISHED,
    asked_checkpoints,
    chosen_step,
    decides,
    evaluation_key,
    result_rule,
    step_folder,
    steps_in,
    train_key,
)
from pipelines.custody.records import Recorded, differing, listed
from pipelines.custody.seal import NO_METRICS, read_seal


@dataclass(frozen=True)
class Records:
    """What a training and its evaluation left, each with a digest of its own."""

    folder: RunFolder
    run: RunConfig | None
    """None where run.yaml cannot be read"""
    manifest: Recorded
    complete: Recorded
    """Of the checkpoint that is the training's result, or of the newest while there is none"""
    finished: Recorded
    metrics: Recorded

    @property
    def decided(self) -> bool:
        """Whether finished.json says which checkpoint is the result."""
        return self.finished.there or (self.run is not None and decides(self.run))


def records_of(folder: RunFolder, run: RunConfig | None) -> Records:
    """Find them; the result is known by several records, so that one that is altered is not the blame of another."""
    metrics, finished = Recorded(folder.metrics), Recorded(folder.train / FINISHED)
    records = Records(folder, run, Recorded(folder.manifest, blank=True), Recorded(Path()), finished, metrics)
    step = _result_step(records)
    place = folder.train if step is None else step_folder(folder.train, step)
    return Records(folder, run, records.manifest, Recorded(place / "complete.json"), finished, metrics)


def _result_step(records: Records) -> int | None:
    train, metrics = records.folder.train, records.metrics
    if records.decided and records.finished.sound:
        return records.finished.content["step"]
    for step in steps_in(train) if metrics.sound else ():
        if Recorded(step_folder(train, step) / "complete.json").digest == metrics.content["checkpoint"]:
            return step
    if metrics.there and not records.decided and records.run is not None:
        return records.run.train.steps  # nothing else is evaluated
    return chosen_step(train)


def judge_settings(records: Records, code: Link) -> Link:
    """run.yaml against what the other records say that they were made by; `code` read it.

    Other code than that may have other fields, and so read another configuration out of the same bytes.
    """
    run, path = records.run, records.folder.config
    assert run, "one that cannot be read is a link of its own"
    complete, finished, metrics = records.complete, records.finished, records.metrics
    expected = [
        ("what decides the weights", train_key(run), complete.says("config")),
        ("what decides the result", digest(result_rule(run)), finished.sound and digest(finished.content["rule"])),
        ("what decides the metrics", _evaluation_key(records, run), metrics.says("config")),
        ("its bytes", file_digest(path), metrics.says("run")),
    ]
    known = [(what, got, told) for what, got, told in expected if told]
    if not known:
        return unchecked("settings", "no sound record says which settings were used", train_key(run))
    problems = [f"{path}: {what} is {got[:12]}, recorded is {told[:12]}" for what, got, told in known if got != told]
    if problems and code.state == "unchecked" and metrics.says("run") == file_digest(path):
        return unchecked("settings", f"{path} has the recorded bytes, which other code reads otherwise", train_key(run))
    return judged("settings", train_key(run), problems)


def _evaluation_key(records: Records, run: RunConfig) -> str:
    """As it is by run.yaml; as recorded where a run that was asked is another now, which is told of that run."""
    told = records.metrics.says("config") or ""
    try:
        same = asked_checkpoints(run, records.folder) == records.metrics.content.get("asked", {})
        return evaluation_key(run, records.folder) if same else told
    except DamageError:
        return told


def judge_checkpoint(records: Records) -> list[Link]:
    """The files of the result's checkpoint, and its record."""
    complete, manifest = records.complete, records.manifest
    if not complete.there and not records.metrics.there and not steps_in(records.folder.train):
        return [unchecked("checkpoint", "the run is not trained yet")]
    problems = list(complete.problems)
    if not problems and manifest.sound and (trained := complete.content["data"]) != manifest.digest:
        problems.append(f"it was trained on data {trained[:12]}, the manifest is {manifest.digest[:12]}")
    record = judged("checkpoint", complete.digest, problems)
    if not complete.sound:
        return [unchecked("weights", "the checkpoint's record, which says what they were, is not sound"), record]
    root, files = complete.path.parent, complete.content["files"]
    strange = sorted(path.name for path in root.iterdir() if path.name not in {*files, complete.path.name})
    added = [f"{root}: {listed(strange)} is no part of the checkpoint"] if strange else []
    return [judged("weights", digest(files), differing(root, files, complete.path.name) + added), record]


def judge_result(records: Records) -> Iterator[Link]:
    """Which checkpoint is the result, where that is not simply the last."""
    finished, complete = records.finished, records.complete
    if not records.decided:
        return
    if not finished.there and not records.metrics.there:
        yield unchecked("result", "the training is not finished")
        return
    problems = list(finished.problems)
    if not problems and complete.sound and (told := finished.content["checkpoint"]) != complete.digest:
        problems.append(f"{finished.path} names checkpoint {told[:12]}, here is {complete.digest[:12]}")
    yield judged("result", finished.digest, problems)


@dataclass(frozen=True)
class Above:
    """What metrics say that they are of, and what is there."""

    key: str
    what: str
    digest: str | None
    """None where what is there is not sound, which is told of that"""


def judge_metrics(folder: RunFolder, metrics: Recorded, above: Sequence[Above]) -> list[Link]:
    """What stands beside the metrics, and the metrics."""
    if not metrics.there and not folder.samples.exists() and _shown_by_report(folder) is None:
        return [unchecked("metrics", "the run is not evaluated yet")]
    if not metrics.sound:
        beside = unchecked("evaluation files", "metrics.json, which says what they were, is not sound")
        return [beside, judged("metrics", metrics.digest, metrics.problems)]
    problems = [
        f"they are of {each.what} {metrics.content[each.key][:12]}, here is {each.digest[:12]}"
        for each in above
        if each.digest is not None and metrics.content[each.key] != each.digest
    ]
    files = metrics.content.get("files", {})
    beside = judged("evaluation files", digest(files), differing(folder.evaluation, files, metrics.path.name))
    return [beside, judged("metrics", metrics.digest, problems)]


def _shown_by_report(folder: RunFolder) -> str | None:
    """The digest of the metrics that the page shows: with such a page there were some."""
    seal = read_seal(_page(folder)) if folder.report.is_file() else None
    return None if seal is None or seal[0] == NO_METRICS else seal[0]


def _page(folder: RunFolder) -> str:
    return folder.report.read_bytes().decode("utf-8", "surrogateescape")


def judge_report(folder: RunFolder, metrics: Recorded) -> Link:
    """The page by its seal, and whether it shows these metrics."""
    if not folder.report.is_file():
        return unchecked("report", "there is none yet; `trainworks report` writes it")
    seal = read_seal(_page(folder))
    if seal is None:
        return judged("report", "", [f"{folder.report}: its last line is not the seal that it was written with"])
    shown, whole = seal
    problems = [] if whole else [f"{folder.report}: its bytes are not those that were sealed"]
    if whole and metrics.sound and shown != metrics.digest:
        problems.append(f"{folder.report} shows metrics {shown[:12]}, here are {metrics.digest[:12]}; write it again")
    return judged("report", file_digest(folder.report), problems)
