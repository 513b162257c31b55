"""WebDataset tars: walked from front to end, checked, never unpacked; of a sample only the declared fields are read."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.dataset import TarSource
from configs.errors import DataError
from configs.folder import digest as digest_of
from data.records import Digest, Drop, Piece, Record
from data.sources.archive import Archive
from data.sources.columns import EXCERPT_CHARACTERS, TOO_LONG, Kind
from data.sources.encodings import decode
from data.sources.listing import File, Server, list_files
from data.sources.raw import Digested, Reach, contents

SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif")
PICKLED = ("pyd", "pickle", "pkl", "pth", "pt", "npz", "npy")
FIELD_BYTES = 64 << 20  # of the longest field that is held


def suffix_of(name: str) -> str:
    found = re.search(r"(\.tar\.gz|\.[^./]*)$", name.lower())
    return found[0] if found else ""


class Tars:
    """Samples in tars. See data.records.Source."""

    def __init__(self, config: TarSource, kind: Kind, scratch: Path) -> None:
        """Raises DataError for a field that could hold a pickle."""
        self.config = config
        content = config.text_field if kind == "text" else config.image_field
        self.fields = Fields(kind, *map(_lower, (content, config.label_field, config.group_field)))
        self.reach = Reach(Path(), scratch, Server(config.endpoint, config.region))
        self.description = f"tars: {', '.join(config.paths)}"

    @cached_property
    def listed(self) -> list[File]:
        return list_files(self.config.paths, suffix_of, SUFFIXES, root=self.reach.root, server=self.reach.server)

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
        """One a tar."""
        return [Piece(file.name, file.size, {"file": file.reading()}) for file in self.listed]

    def read(self, piece: Piece, digest: Digest) -> Iterator[Record | Drop]:
        """The tar's samples in order. Raises DataError that names tar and member."""
        file = File(*piece.reading["file"])
        with self.reach.open(file) as handle:
            packed = file.name.lower().endswith("gz")
            archive = Archive(contents(file, Digested(handle, digest), packed=packed), file.name)
            for sample in samples(archive, self.fields):
                yield sample if isinstance(sample, Drop) else self.fields.record(sample)


@dataclass
class Sample:
    """Consecutive members of one name."""

    key: str
    origin: str
    members: set[str] = field(default_factory=set)
    values: dict[str, bytes] = field(default_factory=dict)
    """The declared fields"""
    long: str | None = None
    """A declared field that is too long to hold"""


@dataclass(frozen=True)
class Fields:
    """Which fields of a sample are what."""

    kind: Kind
    content: str
    label: str | None
    group: str | None

    def __post_init__(self) -> None:
        for name in filter(None, (self.content, self.label, self.group)):
            if name.lower().rpartition(".")[2] in PICKLED and not name.startswith("json."):
                raise DataError(f"data.source: the field {name!r} can hold a pickle, which is never read; name another")

    def wants(self, field: str) -> bool:
        """Whether a member is read at all; the others are passed over."""
        declared = [name for name in (self.content, self.label, self.group) if name]
        any_image = self.kind == "images" and self.content == "image" and field in IMAGES
        return any_image or field in declared or (field == "json" and any(map(_in_json, declared)))

    def record(self, sample: Sample) -> Record | Drop:
        """Raises DataError for a field that is not there or cannot be read."""
        if sample.long:
            return Drop(TOO_LONG, sample.origin, f"its field {sample.long!r}")
        content = self._text(sample, self.content, "text_field") if self.kind == "text" else self._image(sample)
        label = self._text(sample, self.label, "label_field").strip() if self.label else None
        if label == "":
            raise DataError(f"{sample.origin}: field {self.label!r} is empty; every sample needs a class")
        group = self._text(sample, self.group, "group_field").strip() if self.group else None
        return Record(content, sample.origin, label, group or None)

    def _image(self, sample: Sample) -> bytes:
        if self.content != "image" or "image" in sample.values:
            return self._value(sample, self.content, "image_field")
        found = [name for name in IMAGES if name in sample.values]
        if len(found) > 1:
            raise DataError(
                f"{sample.origin}: has the images {', '.join(found)}; choose one by data.source.image_field"
            )
        return self._value(sample, found[0] if found else "image", "image_field")

    def _text(self, sample: Sample, name: str, setting: str) -> str:
        if name in sample.values or not _in_json(name):
            return decode(self._value(sample, name, setting), ("utf-8",), f"{sample.origin}.{name}")
        value = _json(sample, self._value(sample, "json", setting))
        for part in name.split(".")[1:]:
            if not isinstance(value, dict) or part not in value:
                raise DataError(f"{sample.origin}.json: has no {name!r}; set data.source.{setting}")
            value = value[part]
        if isinstance(value, str) or value is None:
            return value or ""
        if isinstance(value, int) and setting != "text_field":
            return str(value).lower()
        wanted = "text" if setting == "text_field" else "a name or a whole number"
        raise DataError(f"{sample.origin}.json: {name!r} is not {wanted}; set data.source.{setting}")

    def _value(self, sample: Sample, name: str, setting: str) -> bytes:
        if name not in sample.values:
            present = ", ".join(sorted(sample.members))
            raise DataError(f"{sample.origin}: no field {name!r}; there are {present}: set data.source.{setting}")
        return sample.values[name]


def _lower(name: str | None) -> Any:
    return name.lower() if name and not _in_json(name) else name


def _in_json(name: str) -> bool:
    return name.startswith("json.")


def _json(sample: Sample, value: bytes) -> Any:
    try:
        return json.loads(decode(value, ("utf-8",), f"{sample.origin}.json"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{sample.origin}.json: not readable as JSON: {error}") from None


def samples(archive: Archive, fields: Fields) -> Iterator[Sample | Drop]:
    """Members of one name up to the first dot, together. Raises DataError for a key or field that comes twice."""
    keys: set[str] = set()
    sample: Sample | None = None
    for name, info in archive.headers():
        folder, slash, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not stem or not dot or not suffix:
            archive.body(name, info.size, 0)
            yield Drop("not part of a sample", f"{archive.name} {name}"[:EXCERPT_CHARACTERS], "no KEY.FIELD name")
            continue
        key, suffix = f"{folder}{slash}{stem}", suffix.lower()
        if sample is None or sample.key != key:
            if sample:
                yield sample
            if key in keys:
                raise DataError(f"{archive.name}: the sample {key!r} comes twice, at {name!r} again; keys must differ")
            keys.add(key)
            sample = Sample(key, f"{archive.name} {key}")
        if suffix in sample.members:
            raise DataError(f"{archive.name}: {name!r} comes twice; a field stands once in a sample")
        sample.members.add(suffix)
        wanted = fields.wants(suffix)
        body = archive.body(name, info.size, FIELD_BYTES if wanted else 0)
        if wanted and info.size > FIELD_BYTES:
            sample.long = suffix
        elif wanted:
            sample.values[suffix] = body
    if sample:
        yield sample
