"""Which code a stage ran, against its record and against the code that is here."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.code import changed_files, changed_packages
from configs.custody import Link, judged, unchecked
from configs.errors import DamageError
from configs.folder import RunFolder, digest, is_as_written
from configs.stages import read_record
from pipelines.custody.records import Recorded, listed

DATA_ROOMS = ("configs/", "data/")
"""Where the code lies that makes data"""


def judge_code(folder: RunFolder, complete: Recorded, metrics: Recorded, present: Mapping[str, Any]) -> Link:
    """The code that trained and evaluated; what trained earlier steps is said, and what is not here cannot run."""
    told = dict.fromkeys(str(each.says("code")) for each in (complete, metrics) if each.says("code"))
    if strange := _strange(folder, told):
        return judged("code", " ".join(told), strange)
    if not told:
        return unchecked("code", "no sound record says which code ran")
    earlier = complete.says("earlier_code") or ()
    if missing := [f"{folder.code(each)} is missing" for each in earlier if not folder.code(each).is_file()]:
        return judged("code", " ".join(told), missing)
    doubts = [f"{len(earlier)} other versions trained earlier steps"] if earlier else []
    return judge_versions("code", folder, list(told), present, doubts=doubts)


def judge_versions(
    name: str,
    folder: RunFolder,
    versions: Sequence[str],
    present: Mapping[str, Any],
    *,
    rooms: tuple[str, ...] = ("",),
    doubts: Sequence[str] = (),
) -> Link:
    """Records of code by their digests: are they as they were written, and is the code here the same?

    Only files whose path begins with one of `rooms` count. Of the same release, others are a change; of another, and
    where there are `doubts`, nothing can be said.
    """
    problems, doubts = list[str](), list(doubts)
    for each in versions:
        path = folder.code(each)
        try:
            record = _read_code(path)
        except DamageError as error:
            problems.append(str(error))
            continue
        if digest(record) != each:
            problems.append(f"{path}: it is the record of other code than {each[:12]}")
            continue
        files = [file for file in changed_files(record, present) if file.startswith(rooms)]
        if files and record["release"] == present["release"]:
            problems.append(f"of the same release {_release(record)}, these files are others now: {listed(files)}")
        elif files:
            doubts.append(f"it was {_release(record)}, here is {_release(present)}: {listed(files)} differ")
        if packages := changed_packages(record, present):
            doubts.append(f"packages then and now: {listed(packages)}")
    if not problems and doubts:
        return unchecked(name, "; ".join(dict.fromkeys(doubts)), " ".join(versions))
    return judged(name, " ".join(versions), list(dict.fromkeys(problems)))


def _strange(folder: RunFolder, told: Collection[str]) -> list[str]:
    """Files that stand among the records of code and are none; that of the data alone is told of the data."""
    data, problems = Recorded(folder.data_code).says("code"), []
    others = {folder.data_code} if data is None or data in told else {folder.data_code, folder.code(data)}
    for path in sorted(folder.data_code.parent.glob("*.json")):
        if path in others:
            continue
        try:
            named = digest(_read_code(path))[: len(path.stem)]
        except DamageError as error:
            problems.append(str(error))
            continue
        if path != folder.code(named):
            problems.append(f"{path}: its content is {named}, of which it has not the name")
    return problems


def _read_code(path: Path) -> dict[str, Any]:
    """Raises DamageError when a file is no record of code as it was written."""
    record = read_record(path)
    if not {"release", "python", "files", "packages"} <= record.keys() or not is_as_written(path):
        raise DamageError(f"{path}: it is not the record that was written")
    return record


def _release(record: Mapping[str, Any]) -> str:
    return (record["release"] or "unknown")[:12]


def other_code(
    paths: Iterable[Path | None], present: Mapping[str, Any], *, rooms: tuple[str, ...] = ("",)
) -> Iterator[str]:
    """How the code and packages of records differ from what is here; nothing when they do not.

    None stands for a stage that has no record. Only files whose path begins with one of `rooms` count. Raises
    DamageError when a record is not as it was written.
    """
    for path in dict.fromkeys(paths):
        if path is None:
            yield "it is not recorded which"
            continue
        record = _read_code(path)
        if files := [file for file in changed_files(record, present) if file.startswith(rooms)]:
            yield f"release {_release(record)}, here {_release(present)}: {listed(files, 5)} differ"
        if packages := changed_packages(record, present):
            yield f"packages then and now: {listed(packages, 5)}"
