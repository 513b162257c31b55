"""Files on this machine or in an object store: whole ones, their lines and paragraphs, and rows of tables."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from configs.dataset import FileSource
from configs.errors import DataError
from configs.folder import digest as digest_of
from data.records import PIECE_BYTES, Digest, Drop, Piece, Record
from data.sources.columns import EXCERPT_CHARACTERS, TOO_LONG, Columns, Kind, Unusable, excerpt
from data.sources.encodings import check_encodings, decode, decoded, has_plain_lines
from data.sources.lines import Span, lines, owned_lines, owned_paragraphs, paragraphs
from data.sources.listing import File, Server, list_files, scheme_of
from data.sources.raw import Digested, Reach, contents, digest_range
from data.sources.rows import Job, csv_rows, jsonl, parquet, row_groups

PROSE = (".txt", ".md")
TEXT = (*PROSE, ".html", ".xml", ".json")
ROWS = (".jsonl", ".csv", ".parquet")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PACKABLE = (*TEXT, ".jsonl", ".csv")
PIECE_FILES = 512


def suffix_of(name: str) -> str:
    """The suffix that says what is in a file, in lower case; `.gz` is passed over where it is opened."""
    path = PurePosixPath(name.lower())
    inner = PurePosixPath(path.stem).suffix
    return inner if path.suffix == ".gz" and inner in PACKABLE else path.suffix


class Files:
    """Documents, rows and images in files. See data.records.Source."""

    def __init__(
        self,
        config: FileSource,
        kind: Kind,
        scratch: Path,
        *,
        package: Path | None = None,
        description: str | None = None,
    ) -> None:
        """Paths are from the folder `package`, if given. Raises DataError for an encoding that is none."""
        check_encodings(config.encodings)
        self.config, self.kind, self.package = config, kind, package
        self.reach = Reach(package or Path(), scratch, Server(config.endpoint, config.region))
        self.description = description or f"files: {', '.join(config.paths)}"
        content = config.text_field if kind == "text" else config.image_field
        self.columns = Columns(
            kind, content, config.label_field, config.group_field, config.max_document_bytes, config.tags_field
        )

    @cached_property
    def listed(self) -> list[File]:
        allowed = (*(TEXT if self.kind == "text" else IMAGES), *ROWS)
        check = _not_mixed if self.kind == "images" else None
        found = list_files(
            self.config.paths, suffix_of, allowed, root=self.reach.root, server=self.reach.server, check=check
        )
        # installed again elsewhere, a package's files have other modification times
        return [replace(file, version=None) for file in found] if self.package else found

    @property
    def fingerprint(self) -> str:
        return digest_of([file.reading() for file in self.listed])

    @property
    def files(self) -> int:
        return len(self.listed)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.listed)

    def pieces(self) -> list[Piece]:
        """Groups of small files, ranges of large ones."""
        found: list[Piece] = []
        group: list[File] = []
        for file in self.listed:
            whole = self._form(file) == "whole"
            full = sum(each.size for each in group) + file.size > PIECE_BYTES or len(group) == PIECE_FILES
            if group and (full or not whole):
                found.append(_group(group))
                group = []
            if whole:
                group.append(file)
            else:
                found += self._cut(file)
        return [*found, _group(group)] if group else found

    def _form(self, file: File) -> str:
        """whole, line, paragraph, jsonl, csv or parquet."""
        suffix = suffix_of(file.name)
        if suffix in ROWS:
            return suffix[1:]
        return self.config.document if suffix in PROSE and self.config.document != "file" else "whole"

    def _cut(self, file: File) -> Iterator[Piece]:
        form = self._form(file)
        reading = {"form": form, "file": file.reading()}
        if form == "parquet" and not scheme_of(file.name):
            with self.reach.open(file):  # raises if it has changed
                runs = row_groups(self.reach.path(file), file, PIECE_BYTES)
            for number, (first, end, size) in enumerate(runs):
                # any division will do for the digest: only all of them together must have every byte
                share = [file.size * number // len(runs), file.size * (number + 1) // len(runs)]
                where = f"{file.name} row groups {first}-{end}"
                yield Piece(where, size, reading | {"groups": [first, end], "range": share})
        elif form == "parquet":
            yield Piece(file.name, file.size, reading | {"groups": [0, None], "range": [0, file.size]})
        elif form == "csv" or _is_packed(file) or not all(map(has_plain_lines, self.config.encodings)):
            yield Piece(file.name, file.size, reading)
        else:
            for start in range(0, max(1, file.size), PIECE_BYTES):
                end = min(file.size, start + PIECE_BYTES)
                yield Piece(f"{file.name} bytes {start}-{end}", end - start, reading | {"range": [start, end]})

    def read(self, piece: Piece, digest: Digest) -> Iterator[Record | Drop]:
        """The piece's records in order."""
        form = piece.reading["form"]
        for each in piece.reading["files"] if form == "whole" else ():
            yield self._whole(File(*each), digest)
        if form != "whole":
            yield from self._rows(form, piece, digest)

    def _whole(self, file: File, digest: Digest) -> Record | Drop:
        limit, name = self.config.max_document_bytes, "text" if self.kind == "text" else "image"
        with self.reach.open(file) as handle:
            content = bytearray()
            for chunk in contents(file, Digested(handle, digest), packed=_is_packed(file)):
                if len(content) <= limit:
                    content += chunk
            content = bytes(content)
            if len(content) > limit:
                shown = content[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace") if name == "text" else content
                return Drop(TOO_LONG, file.name, excerpt(shown))
            value = decode(content, self.config.encodings, file.name) if name == "text" else content
        row = {name: value, "folder": file.folder, "file": file.name}
        try:
            return replace(self.columns, content=name).record(row, file.name, _no_image)
        except Unusable as error:
            raise DataError(f"{file.name}: {error}") from None

    def _rows(self, form: str, piece: Piece, digest: Digest) -> Iterator[Record | Drop]:
        file = File(*piece.reading["file"])
        with self.reach.open(file) as handle:
            path = self.reach.path(file)
            encodings = self.config.encodings
            if len(encodings) > 1 and form != "parquet":
                encodings = (_fitting(file, path, encodings),)
            job = Job(file, path, self.columns, encodings, self.config.max_document_bytes, digest)
            if "range" not in piece.reading:
                yield from _streamed(form, contents(file, Digested(handle, digest), packed=_is_packed(file)), job)
                return
            start, end = piece.reading["range"]
            digest_range(handle, start, end, digest)
            if form == "parquet":
                first, last = piece.reading["groups"]
                yield from parquet(job, first, last)
            else:
                owned = owned_paragraphs if form == "paragraph" else owned_lines
                yield from _documents(form, owned(handle, start, end, job.limit), job)


def _streamed(form: str, stream: Iterator[bytes], job: Job) -> Iterator[Record | Drop]:
    """Documents of a file that can only be read from its beginning on."""
    if not has_plain_lines(job.encodings[0]):
        stream = _as_utf8(stream, job.encodings[0], job.file.name)
        job = replace(job, encodings=("utf-8",))
    spans = lines(stream, 0, job.limit)
    if form == "paragraph":
        spans = paragraphs(spans, None, job.limit, fresh=True)
    yield from _documents(form, spans, job)


def _documents(form: str, spans: Iterator[Span], job: Job) -> Iterator[Record | Drop]:
    if form in ("jsonl", "csv"):
        yield from jsonl(spans, job) if form == "jsonl" else csv_rows(spans, job)
        return
    job = replace(job, columns=replace(job.columns, content="text"))
    for span in spans:
        origin = f"{job.file.name} byte {span.offset}"
        yield job.long(span) if span.long else job.record({"text": job.text(span)}, origin, lambda o=origin: o)


def _as_utf8(stream: Iterator[bytes], encoding: str, name: str) -> Iterator[bytes]:
    for text in decoded(stream, encoding, name):
        yield text.encode()


@lru_cache(maxsize=1024)
def _fitting(file: File, path: Path, encodings: tuple[str, ...]) -> str:
    """The first encoding that the whole file fits, whichever piece asks. Raises DataError."""
    refusals: list[DataError] = []
    for encoding in encodings:
        with path.open("rb") as handle:
            try:
                stream = contents(file, handle, packed=_is_packed(file))
                for _ in decoded(stream, encoding, file.name, tried=encodings):
                    pass
            except DataError as error:
                refusals.append(error)
                continue
        return encoding
    raise refusals[0]


def _is_packed(file: File) -> bool:
    return file.name.lower().endswith(".gz")


def _group(files: list[File]) -> Piece:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    reading = {"form": "whole", "files": [file.reading() for file in files]}
    return Piece(f"{files[0].name}{more}", sum(file.size for file in files), reading)


def _no_image(path: str) -> bytes:
    raise AssertionError(f"a whole file names no other: {path}")


def _not_mixed(folder: str, names: Iterable[str]) -> None:
    """Raise DataError for a folder of images and tables: whether the tables list the images, nobody can know."""
    found: dict[bool, str] = {}
    for name in names:
        found.setdefault(suffix_of(name) in ROWS, name)
    if len(found) == 2:
        raise DataError(
            f"data.source.paths: {folder!r} has images ({found[False]}) and tables ({found[True]}); name one of them "
            f"by a pattern, such as {folder.rstrip('/')}/**/*{suffix_of(found[False])}"
        )
