"""Every link of a run's chain from raw bytes to the report, verified; the links of the data by command."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.code import HOME, changed_files, changed_packages, code_record
from configs.custody import Link, judged, unchecked
from configs.errors import DamageError, UserError
from configs.folder import RunFolder, digest, file_digest, is_as_written
from configs.load import read
from configs.schema import RunConfig
from configs.stages import check_files, evaluation_key, read_record, step_folder, steps_in, train_key
from pipelines.custody.seal import read_seal

SHOWN = 3
"""Files and packages that a line names"""


@dataclass(frozen=True)
class Recorded:
    """A record with a digest of its own, as it was found."""

    path: Path
    blank: bool = False
    """Whether its digest is of a content with an empty digest, as the manifest's is, and not of one without"""

    @property
    def there(self) -> bool:
        return self.path.is_file()

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """Empty where it cannot be read."""
        try:
            return read_record(self.path)
        except DamageError:
            return {}

    @property
    def digest(self) -> str:
        return str(self.content.get("digest", ""))

    @cached_property
    def problems(self) -> list[str]:
        """Why it is not what was written; nothing else is compared with such a record."""
        if not self.there:
            return [f"{self.path} is missing"]
        if not self.content:
            return [f"{self.path} cannot be read"]
        rest = {key: value for key, value in self.content.items() if key != "digest"}
        got = digest(rest | {"digest": ""} if self.blank else rest)
        if got != self.digest:
            return [f"{self.path}: its content is {got[:12]}, it says {self.digest[:12]}"]
        return [] if is_as_written(self.path) else [f"{self.path}: its bytes are not those that were written"]

    @property
    def sound(self) -> bool:
        return not self.problems

    def says(self, key: str) -> str | None:
        """A value of a sound record."""
        return self.content.get(key) if self.sound else None


def chain(folder: RunFolder, *, sources: bool, home: Path = HOME) -> list[Link]:
    """All links, those nearest to the raw bytes first; `home` is where the program's code lies.

    Raises UserError when the folder holds no run.
    """
    if not folder.path.is_dir() or not any(path.exists() for path in (folder.config, folder.data, folder.train)):
        raise UserError(f"{folder.path} holds no run; give a run folder, such as runs/NAME")
    newest = next((step_folder(folder.train, step) for step in steps_in(folder.train)), None)
    complete = Recorded((newest or folder.train) / "complete.json")
    manifest, metrics = Recorded(folder.manifest, blank=True), Recorded(folder.metrics)
    return [
        *data_links(folder, sources=sources),
        judge_settings(folder, complete, metrics),
        judge_code(folder, complete, metrics, home),
        *(judge_checkpoint(complete, manifest) if newest else [unchecked("checkpoint", "the run is not trained yet")]),
        *judge_metrics(folder, metrics, complete, manifest),
        judge_report(folder, metrics),
    ]


def data_links(folder: RunFolder, *, sources: bool) -> list[Link]:
    """From the raw bytes to the manifest, by a child process: this room does not know how data is read."""
    if not folder.manifest.is_file():
        if folder.data.is_dir() and any(folder.data.glob("*.tar")):
            return [judged("manifest", "", [f"{folder.manifest} is missing"])]
        return [unchecked("manifest", "the data is not prepared yet")]
    command = [sys.executable, "-m", "data.chain", str(folder.path), *([] if sources else ["--no-sources"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip() or f"the check ended with code {done.returncode}").splitlines()[-1]
        return [unchecked("data", told)]
    return [Link(**each) for each in json.loads(done.stdout)]


def judge_settings(folder: RunFolder, complete: Recorded, metrics: Recorded) -> Link:
    """run.yaml against what the checkpoint and the metrics say that they were made by."""
    try:
        run = read(folder.config)
    except (UserError, OSError) as error:
        return judged("settings", "", [f"{folder.config}: {' '.join(str(error).split())}"])
    if complete.says("config") is None and metrics.says("config") is None:
        return unchecked("settings", "no sound record says which settings were used", train_key(run))
    return judged("settings", train_key(run), _settings_problems(run, folder, complete, metrics))


def _settings_problems(run: RunConfig, folder: RunFolder, complete: Recorded, metrics: Recorded) -> list[str]:
    expected = [
        ("what decides the weights", train_key(run), complete.says("config")),
        ("what decides the metrics", evaluation_key(run, folder), metrics.says("config")),
        ("its bytes", file_digest(folder.config), metrics.says("run")),
    ]
    return [
        f"{folder.config}: {what} is {got[:12]}, recorded is {told[:12]}"
        for what, got, told in expected
        if told is not None and got != told
    ]


def judge_code(folder: RunFolder, complete: Recorded, metrics: Recorded, home: Path = HOME) -> Link:
    """The code that trained and evaluated, against its record and against the code that is here now."""
    told = dict.fromkeys(str(each.says("code")) for each in (complete, metrics) if each.says("code"))
    if not told:
        return unchecked("code", "no sound record says which code ran")
    name, problems, doubts = " ".join(told), list[str](), list[str]()
    if complete.says("earlier_code"):
        doubts.append(f"{len(complete.content['earlier_code'])} other versions trained earlier steps")
    present = code_record(home)
    for each in told:
        path = folder.code(each)
        try:
            record = read_record(path)
        except DamageError as error:
            problems.append(str(error))
            continue
        if digest(record) != each or not is_as_written(path):
            problems.append(f"{path}: it is not the record that was written")
            continue
        files = changed_files(record, present)
        if files and record["release"] == present["release"]:
            problems.append(f"of the same release {_release(record)}, these files are others now: {_listed(files)}")
        elif files:
            doubts.append(f"it was {_release(record)}, here is {_release(present)}: {_listed(files)} differ")
        if packages := changed_packages(record, present):
            doubts.append(f"packages then and now: {_listed(packages)}")
    if not problems and doubts:
        return unchecked("code", "; ".join(dict.fromkeys(doubts)), name)
    return judged("code", name, list(dict.fromkeys(problems)))


def _release(record: Mapping[str, Any]) -> str:
    return (record["release"] or "unknown")[:12]


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def judge_checkpoint(complete: Recorded, manifest: Recorded) -> list[Link]:
    """The newest checkpoint's files, and its record."""
    problems = list(complete.problems)
    if not problems and (trained := complete.says("data")) and manifest.sound and trained != manifest.digest:
        problems.append(f"it was trained on data {trained[:12]}, the manifest is {manifest.digest[:12]}")
    record = judged("checkpoint", complete.digest, problems)
    if not complete.sound:
        return [unchecked("weights", "the checkpoint's record, which says what they were, is not sound"), record]
    files = complete.content["files"]
    return [judged("weights", digest(files), _differing(complete.path.parent, files)), record]


def judge_metrics(folder: RunFolder, metrics: Recorded, complete: Recorded, manifest: Recorded) -> list[Link]:
    """What stands beside the metrics, and the metrics."""
    if not metrics.there and not folder.samples.exists():
        return [unchecked("metrics", "the run is not evaluated yet")]
    if not metrics.sound:
        beside = unchecked("evaluation files", "metrics.json, which says what they were, is not sound")
        return [beside, judged("metrics", metrics.digest, metrics.problems)]
    problems = []
    for key, above, what in (("checkpoint", complete, "checkpoint"), ("data", manifest, "data set")):
        if above.sound and metrics.content[key] != above.digest:
            problems.append(f"they are of {what} {metrics.content[key][:12]}, here is {above.digest[:12]}")
    files = metrics.content.get("files", {})
    beside = judged("evaluation files", digest(files), _differing(folder.evaluation, files))
    return [beside, judged("metrics", metrics.digest, problems)]


def _differing(root: Path, files: Mapping[str, str]) -> list[str]:
    problems = []
    for name, told in files.items():
        try:
            check_files(root, {name: told})
        except DamageError as error:
            problems.append(str(error))
    return problems


def judge_report(folder: RunFolder, metrics: Recorded) -> Link:
    """The page by its seal, and whether it shows these metrics."""
    if not folder.report.is_file():
        return unchecked("report", "there is none yet; `trainworks report` writes it")
    content = folder.report.read_bytes()
    seal = read_seal(content.decode("utf-8", "surrogateescape"))
    if seal is None:
        return judged("report", "", [f"{folder.report}: its last line is not the seal that it was written with"])
    shown, whole = seal
    problems = [] if whole else [f"{folder.report}: its bytes are not those that were sealed"]
    if whole and metrics.sound and shown != metrics.digest:
        problems.append(f"{folder.report} shows metrics {shown[:12]}, here are {metrics.digest[:12]}; write it again")
    return judged("report", file_digest(folder.report), problems)
