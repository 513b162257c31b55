"""Which files a source has: paths, folders and patterns, on this machine and in object stores."""

import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from configs.errors import DataError

REMOTE = ("s3", "gs", "az")


@dataclass(frozen=True)
class File:
    """A file as it was when it was listed."""

    name: str
    """Path as given, or URL"""
    size: int
    version: int | str | None
    """Modification time in ns, or entity tag; None where only the size counts"""

    def reading(self) -> list[Any]:
        """What a piece says of it: plain JSON, `File(*reading)` is the way back."""
        return [self.name, self.size, self.version]

    @property
    def folder(self) -> str:
        """Name of the folder that it lies in."""
        return PurePosixPath(self.name).parent.name or Path(self.name).absolute().parent.name


class Server(NamedTuple):
    """Where URLs lead that do not go to the provider itself."""

    endpoint: str | None = None
    region: str | None = None


def scheme_of(path: str) -> str | None:
    """s3, gs or az of a URL, None of a path. Raises DataError for any other URL and for `pipe:`."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://|pipe:", path)
    if not found:
        return None
    if found[1] in REMOTE:
        return found[1]
    allowed = " ".join(f"{each}://" for each in REMOTE)
    raise DataError(f"data.source.paths: {path!r} is neither a path nor one of {allowed}; nothing was run or fetched")


def list_files(
    paths: Iterable[str],
    suffix: Callable[[str], str],
    allowed: Collection[str],
    *,
    root: Path,
    server: Server,
    check: Callable[[str, Iterable[str]], None] | None = None,
) -> list[File]:
    """Every file that the paths name, in order and once.

    Local paths are from `root`. In a folder only files with an allowed suffix count; one that a path or pattern names
    must have one. `check` gets each folder with the names that count in it. Raises DataError for a path without files
    or with another suffix.
    """
    found: dict[str, File] = {}
    for path in paths:
        remote = scheme_of(path)
        files, folder = _list_remote(path, server) if remote else _list_local(path, root)
        if folder:
            files = {name: stat for name, stat in files.items() if suffix(name) in allowed}
            if check:
                check(path, files)
        if not files:
            if not remote and not set(path) & set("*?[") and not (root / path).exists():
                raise DataError(f"data.source.paths: {path!r} does not exist, seen from {root.absolute()}")
            where = "" if remote else f" from {root.absolute()}"
            raise DataError(f"data.source.paths: {path!r} matches no file; expected {' '.join(allowed)}{where}")
        for name, stat in files.items():
            if suffix(name) not in allowed:
                raise DataError(
                    f"data.source.paths: {name} has suffix {suffix(name)!r}; allowed are {' '.join(allowed)}"
                )
            found.setdefault(name if remote else os.path.abspath(root / name), File(name, *stat()))
    return list(found.values())


Stat = Callable[[], tuple[int, int | str | None]]


def _list_local(pattern: str, root: Path) -> tuple[dict[str, Stat], bool]:
    """Files by name, and whether they are those of a folder."""
    given = Path(pattern)
    path, start = root / given, Path(given.anchor) if given.is_absolute() else root
    if path.is_file():
        return {str(given): _stat_of(path)}, False
    if folder := path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.is_file())
    else:
        try:
            found = sorted(each for each in start.glob(str(given.relative_to(given.anchor))) if each.is_file())
        except (ValueError, NotImplementedError) as error:
            raise DataError(f"data.source.paths: {pattern!r} is not a path or glob pattern: {error}") from None
    named = found if given.is_absolute() else [each.relative_to(root) for each in found]
    return {str(name): _stat_of(each) for name, each in zip(named, found, strict=True)}, folder


def _stat_of(path: Path) -> Stat:
    def stat() -> tuple[int, int]:
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        return found.st_size, found.st_mtime_ns

    return stat


def split_url(url: str) -> tuple[str, str]:
    """A URL as that of its bucket and the path in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", path


def _list_remote(url: str, server: Server) -> tuple[dict[str, Stat], bool]:
    from data.store import open_store

    bucket, pattern = split_url(url)
    fixed = re.split(r"[*?[]", pattern)[0]
    wild = fixed != pattern
    store = open_store(bucket, endpoint=server.endpoint, region=server.region)
    # a store lists by folder: an object itself is found in the one it lies in
    objects = store.list(fixed.rpartition("/")[0])
    if wild:
        matches = glob_matcher(pattern)
        chosen = [each for each in objects if matches(each.path)]
    elif not (chosen := [each for each in objects if each.path == pattern]):
        folder = pattern.rstrip("/") + "/" if pattern.rstrip("/") else ""
        chosen = [each for each in objects if each.path.startswith(folder)]
    stats = {f"{bucket}/{each.path}": _known(each.size, each.etag) for each in sorted(chosen, key=lambda o: o.path)}
    return stats, not wild and f"{bucket}/{pattern}" not in stats


def _known(size: int, etag: str | None) -> Stat:
    return lambda: (size, etag)


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a whole path matches: `**` is any number of folders, `*` and `?` stop at a slash."""
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]+]|.", pattern, re.DOTALL):
        if len(token) > 1 and token.startswith("["):
            parts.append("[" + token[1:-1].replace("\\", r"\\").replace("!", "^", token[1] == "!") + "]")
        else:
            parts.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token)))
    try:
        expression = re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise DataError(f"data.source.paths: {pattern!r} is not a path or glob pattern: {error}") from None
    return lambda path: expression.fullmatch(path) is not None
