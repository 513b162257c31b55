"""Hugging Face data sets: fetched once at one commit, then read from Arrow files; or streamed shard by shard."""

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from configs.dataset import HuggingFaceSource
from configs.errors import DataError
from configs.folder import digest as digest_of
from configs.folder import locked, write_json
from data.records import PIECE_BYTES, Digest, Drop, Piece, Record
from data.sources.columns import Columns, Kind, Unusable
from data.sources.hub import explained

HUB_WAIT_S = 10.0  # for the hub's first answer: without one nothing else is tried
FETCH_WAIT_S = 3600.0  # for another process that fetches the same: its lock ends with it
BATCH_BYTES, BATCH_ROWS = 1 << 20, 1024  # of a table that are held at a time


class HuggingFace:
    """Rows of one split. See data.records.Source."""

    def __init__(self, config: HuggingFaceSource, kind: Kind, scratch: Path) -> None:
        """Raises DataError for what is neither a folder nor a name on the hub."""
        self.config, self.scratch = config, scratch / "huggingface"
        folder = Path(config.path)
        self.local = folder.is_dir()
        self.saved = (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()
        self.streaming = config.streaming and not self.saved  # one by save_to_disk is there to be mapped
        if not self.local and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", config.path, re.ASCII):
            raise DataError(
                f"data.source.path: {config.path!r} is neither a folder nor a name on the hub, such as owner/name"
            )
        self.folders = [folder, self.scratch] if self.local else [self.scratch]
        content = config.text_field if kind == "text" else config.image_field
        self.columns = Columns(kind, content, config.label_field, config.group_field, None, config.tags_field)

    @property
    def description(self) -> str:
        commit = "" if self.local else f" at {self.commit}"
        return f"Hugging Face: {self.config.path}{commit}, split {self.config.split}"

    @property
    def fingerprint(self) -> str:
        return digest_of([self.config.model_dump(mode="json"), self.commit])

    @property
    def files(self) -> int:
        return len(self.pieces() if self.streaming else self._tables)

    @property
    def bytes(self) -> int:
        return sum(piece.bytes for piece in self.pieces())

    @cached_property
    def commit(self) -> str:
        """The hub's commit, asked for once a run; of a folder, a digest of its files' names, sizes and times."""
        if self.local:
            folder = Path(self.config.path)
            stats = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
            return digest_of([[str(p.relative_to(folder)), stat.st_size, stat.st_mtime_ns] for p, stat in stats])
        name = digest_of([self.config.path, self.config.revision])
        return self._once(f"commit-{name}.json", self._ask_commit)

    def pieces(self) -> list[Piece]:
        """Runs of rows, or where they are streamed, the shards that the data set has by itself."""
        return self._shards if self.streaming else self._runs

    @cached_property
    def _runs(self) -> list[Piece]:
        found: list[Piece] = []
        before = 0
        for name, rows, size in self._tables:
            at_once = max(1, PIECE_BYTES * rows // max(1, size))
            for start in range(0, rows, at_once):
                end = min(rows, start + at_once)
                where = f"{self.config.path} {self.config.split} rows {before + start}-{before + end}"
                reading = {"table": name, "rows": [start, end], "before": before}
                found.append(Piece(where, size * (end - start) // rows, reading))
            before += rows
        return found

    @cached_property
    def _shards(self) -> list[Piece]:
        with explained(self.config):
            stream = self._load(self.commit, streaming=True)
            count, size = stream.num_shards, stream.info.dataset_size or 0
        where = f"{self.config.path} {self.config.split} shard"
        return [
            Piece(f"{where} {n} of {count}", size // count, {"commit": self.commit, "shard": [n, count]})
            for n in range(count)
        ]

    @cached_property
    def _tables(self) -> list[list[Any]]:
        """Arrow files in order with their rows and bytes: fetched once and listed in `scratch`."""
        key = digest_of([self.config.model_dump(mode="json"), self.commit])[:16]
        name = f"tables-{key}.json"
        tables = self._once(name, lambda: self._fetch(key))
        for table, _, _ in tables:
            if not (path := self.scratch / table).exists():
                raise DataError(f"{path}: has vanished since it was fetched; remove {self.scratch} to fetch all again")
        return tables

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned for the first process of the run that asked."""
        note = self.scratch / name
        if not note.exists():
            with locked(self.scratch, wait_s=FETCH_WAIT_S):
                if not note.exists():
                    write_json(note, make())
        return json.loads(note.read_text(encoding="utf-8"))

    def _ask_commit(self) -> str:
        from huggingface_hub import HfApi

        with explained(self.config):
            found = HfApi().dataset_info(self.config.path, revision=self.config.revision, timeout=HUB_WAIT_S)
        if not found.sha:
            raise DataError(
                f"data.source.path: the hub names no commit of {self.config.path}; give data.source.revision"
            )
        return found.sha

    def _fetch(self, key: str) -> list[list[Any]]:
        from datasets import Dataset

        with explained(self.config):
            table = self._load(self.commit, streaming=False)
            if re.search(r"[+[]", self.config.split):  # slices and sums of splits are no files
                paths = [_write(table, self.scratch / f"slice-{key}.arrow")]
            else:
                paths = [Path(each["filename"]) for each in table.cache_files]
            found, root = [], self.scratch.resolve()
            for path in (each.resolve() for each in paths):
                part = Dataset.from_file(str(path))
                # a scratch folder can be mounted elsewhere in another pod
                name = path.relative_to(root) if path.is_relative_to(root) else path
                found.append([str(name), part.num_rows, part.data.nbytes])
        return found

    def _load(self, commit: str, *, streaming: bool) -> Any:
        """The split, a Dataset or an IterableDataset."""
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        if self.saved:
            found = datasets.load_from_disk(self.config.path, keep_in_memory=False)
            return _split(found, self.config.split) if isinstance(found, datasets.DatasetDict) else found
        return datasets.load_dataset(
            str(Path(self.config.path).absolute()) if self.local else self.config.path,
            self.config.name,
            split=self.config.split,
            revision=None if self.local else commit,
            cache_dir=str(self.scratch / "cache"),
            keep_in_memory=None if streaming else False,
            streaming=streaming,
        )

    def read(self, piece: Piece, digest: Digest) -> Iterator[Record | Drop]:
        """The piece's rows in order; the digest is of what they hold, for the Arrow files are `datasets`' own."""
        where = f"{self.config.path} {self.config.split}"
        with explained(self.config):
            if "table" in piece.reading:
                table, batches, number = self._run(piece)
            else:
                table, batches, number = self._shard(piece)
                where += f" shard {piece.reading['shard'][0]}"
            names = _named_columns(table.features, self.config.label_field, self.config.tags_field)
        while True:
            with explained(self.config):
                batch: Any = next(batches, None)
            if batch is None:
                return
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield self._record(dict(zip(batch, values, strict=True)), names, f"{where} row {number}", digest)

    def _run(self, piece: Piece) -> tuple[Any, Iterator[Any], int]:
        from datasets import Dataset

        start, end = piece.reading["rows"]
        table = self._chosen(Dataset.from_file(str(self.scratch / piece.reading["table"])))
        at_once = max(1, min(BATCH_ROWS, BATCH_BYTES * (end - start) // max(1, piece.bytes)))
        return table, table.select(range(start, end)).iter(batch_size=at_once), start + piece.reading["before"]

    def _shard(self, piece: Piece) -> tuple[Any, Iterator[Any], int]:
        number, count = piece.reading["shard"]
        stream = self._load(piece.reading["commit"], streaming=True)
        table = self._chosen(stream.shard(num_shards=count, index=number))
        return table, table.iter(batch_size=16), 0

    def _chosen(self, table: Any) -> Any:
        """The declared columns alone, with images as they are encoded."""
        from datasets import Image

        if table.features is None:  # a stream that does not know its columns: each row is checked
            return table
        try:
            self.columns.check(list(table.features))
        except Unusable as error:
            raise DataError(f"{self.config.path}: {error}") from None
        table = table.select_columns(self.columns.names)
        if isinstance(table.features[self.columns.content], Image):
            return table.cast_column(self.columns.content, Image(decode=False))
        return table

    def _record(self, row: dict[str, Any], names: dict[str, list[str]], origin: str, digest: Digest) -> Record | Drop:
        for column, known in names.items():
            value = row[column]
            several = isinstance(value, list)
            row[column] = (
                [_class_name(each, known, origin) for each in value] if several else _class_name(value, known, origin)
            )
        try:
            record = self.columns.record(row, origin, partial(_image_file, folders=self.folders))
        except Unusable as error:
            raise DataError(f"{origin}: {error}") from None
        if isinstance(record, Record):
            content = record.content
            content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            tags = [[tag.begin, tag.end, tag.name] for tag in record.tags]
            head = json.dumps([len(content), record.label, record.group, *([tags] if tags else [])])
            digest.update(head.encode() + content)
        return record


def _write(table: Any, path: Path) -> Path:
    """Put the rows into an Arrow file; `save_to_disk` would put into it what they name by path, wherever that is."""
    import pyarrow

    part = path.with_name(path.name + ".part")
    schema = table.features.arrow_schema
    with pyarrow.OSFile(str(part), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS):
            writer.write_table(batch.cast(schema))
    os.replace(part, path)
    return path


def _image_file(name: str, folders: list[Path]) -> bytes:
    """An image that a table names by path: only where the data set itself lies. Raises Unusable."""
    path = Path(os.path.join(folders[0], name)).resolve()
    if not any(path.is_relative_to(folder.resolve()) for folder in folders):
        raise Unusable(f"names the image {name!r}, which is outside the data set; that is refused")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"names the image {name!r}, which cannot be read: {error.strerror}") from None


def _split(found: Any, name: str) -> Any:
    if name not in found:
        raise DataError(f"data.source.split: there is no {name!r}; there are {', '.join(found)}")
    return found[name]


def _named_columns(features: Any, *columns: str | None) -> dict[str, list[str]]:
    found = {column: _class_names(features, column) for column in columns if column}
    return {column: names for column, names in found.items() if names}


def _class_names(features: Any, column: str | None) -> list[str] | None:
    """Names of the classes, where the label column holds their numbers."""
    from datasets import ClassLabel

    kind = features.get(column) if features and column else None
    kind = getattr(kind, "feature", kind)  # of a list, what it holds
    return kind.names if isinstance(kind, ClassLabel) else None


def _class_name(number: int | None, names: list[str], origin: str) -> str | None:
    if number is None or number == -1:  # what the library writes where there is none
        return None
    if not 0 <= number < len(names):
        raise DataError(f"{origin}: label {number} is out of range; there are {len(names)} classes")
    return names[number]
