"""Which code a stage ran: digests of the program's own files, and the packages that it stands on."""

import contextlib
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from configs.folder import RunFolder, digest, file_digest, write_json

HOME = Path(__file__).parent.parent
ROOMS = ("configs", "data", "trainer", "pipelines", "k8s")
LOCK = "requirements.lock"


def code_record(home: Path = HOME) -> dict[str, Any]:
    """The commit or version, Python's version, sha256 of every .py file by path, and packages' versions by name."""
    paths = [path for room in ROOMS for path in sorted((home / room).rglob("*.py"))]
    return {
        "release": release(home),
        "python": platform.python_version(),
        "files": {path.relative_to(home).as_posix(): file_digest(path) for path in paths},
        "packages": package_versions(home),
    }


@cache
def own_code() -> tuple[str, dict[str, Any]]:
    """The record of the code of this process, by its digest: files as they are at the first call, for all its life."""
    record = code_record()
    return digest(record), record


def record_code(folder: RunFolder) -> str:
    """Leave the record of the code that runs now in the run folder; returns its digest, which is its name too."""
    told, record = own_code()
    path = folder.code(told)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    return told


def record_data_code(folder: RunFolder, data: str) -> None:
    """Note which code makes the data set of that digest: beside the manifest, whose digest is of the data alone."""
    content = {"data": data, "code": record_code(folder)}
    write_json(folder.data_code, content | {"digest": digest(content)})


def release(home: Path = HOME) -> str | None:
    """The commit of a working copy, else the version that is installed; None where neither is known."""
    if (home / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = ["git", "-C", str(home), "rev-parse", "HEAD"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("trainworks")
    return None


def package_versions(home: Path = HOME) -> dict[str, str]:
    """Installed versions of the packages that the lock names, or of all where the lock is not there."""
    lock = home / LOCK
    if not lock.is_file():
        return {plain_name(each.name): each.version for each in sorted(metadata.distributions(), key=lambda d: d.name)}
    versions = {}
    for name in re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another platform
            versions[plain_name(name)] = metadata.version(name)
    return versions


def plain_name(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def changed_files(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Files of two records of code that differ, or that one of them lacks."""
    ours, theirs = recorded["files"], present["files"]
    return [path for path in sorted({*ours, *theirs}) if ours.get(path) != theirs.get(path)]


def changed_packages(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Packages whose versions differ, Python among them: `torch 2.12.0 and 2.13.0`."""
    ours, theirs = ({"python": each["python"]} | each["packages"] for each in (recorded, present))
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return [f"{name} {ours.get(name, 'none')} and {theirs.get(name, 'none')}" for name in names]
