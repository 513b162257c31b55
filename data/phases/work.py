"""The work folder: what the phases of prepare leave for each other, a file per unit of work, gone when all is done."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.dataset import ImageData, MixturePart, PlainSource, TextData
from configs.errors import UserError
from configs.folder import RunFolder, digest, file_digest, write_json
from configs.schema import RunConfig
from configs.stages import data_key, read_record
from data.manifest import ASSIGNMENTS, MANIFEST
from data.records import Piece, Source
from data.sources import open_source

VERSION = 2  # of what the phases leave: another one starts anew


@dataclass(frozen=True)
class Part:
    """One source of the data set; the only one has no name."""

    name: str
    source: PlainSource
    weight: float | None = None
    repeat: int | None = None


def parts_of(run: RunConfig) -> tuple[Part, ...]:
    """The sources of a run, in order."""
    source = run.data.source
    if source.kind == "mixture":
        return tuple(_part(each) for each in source.parts)
    return (Part("", source),)


def _part(part: MixturePart) -> Part:
    return Part(part.name, part.source, part.weight, part.repeat)


@dataclass(frozen=True)
class Work:
    """Where the units of one data set lie, and what they are made from."""

    run: RunConfig
    folder: RunFolder

    @property
    def text(self) -> TextData:
        """The settings of a data set of text."""
        assert isinstance(self.run.data, TextData)
        return self.run.data

    @property
    def images(self) -> ImageData:
        """The settings of a data set of images."""
        assert isinstance(self.run.data, ImageData)
        return self.run.data

    @property
    def path(self) -> Path:
        return self.folder.data / ".work"

    @property
    def locks(self) -> Path:
        return self.folder.logs / ".parts"

    @property
    def scratch(self) -> Path:
        """What the sources fetched, a folder each."""
        return self.path / "raw"

    @property
    def listing(self) -> Path:
        return self.path / "pieces.json"

    @property
    def placements(self) -> Path:
        return self.path / "placements.parquet"

    @property
    def decision(self) -> Path:
        return self.path / "decision.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def copies(self) -> Path:
        return self.path / "copies.npy"

    def file(self, phase: str, number: int, suffix: str) -> Path:
        """A file of a unit; the one with suffix `json` is written last and says that the unit is done."""
        return self.path / phase / f"{number:06d}.{suffix}"

    def record(self, phase: str, number: int) -> dict[str, Any]:
        """What a unit noted. Raises UserError when it is not done."""
        if not self.done(phase, number):
            raise UserError(f"phase {phase} is not done: its unit {number} is missing; run all its parts first")
        return read_record(self.file(phase, number, "json"))

    def done(self, phase: str, number: int) -> bool:
        return self.file(phase, number, "json").exists()

    def finish(self, phase: str, number: int, record: dict[str, Any]) -> None:
        write_json(self.file(phase, number, "json"), record)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return parts_of(self.run)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        kind = self.run.data.kind
        return tuple(open_source(part.source, kind, self._scratch_of(part)) for part in self.parts)

    def _scratch_of(self, part: Part) -> Path:
        """By what the source is: what was fetched for another one is never taken for it."""
        return self.scratch / digest(part.source.model_dump(mode="json"))[:16]

    @cached_property
    def _listed(self) -> dict[str, Any]:
        if not self.listing.exists():
            raise UserError("phase plan is not done; run it first")
        return read_record(self.listing)

    @cached_property
    def pieces(self) -> list[tuple[int, Piece]]:
        """Every piece with the number of the part it is of."""
        return [(each["part"], Piece(**each["piece"])) for each in self._listed["pieces"]]

    def begin(self) -> bool:
        """List the sources' pieces, and go on with what an interrupted prepare of the same bytes left; True if any."""
        key = digest([VERSION, data_key(self.run), [source.fingerprint for source in self.sources], *self._files()])
        if self.listing.exists() and read_record(self.listing).get("key") == key:
            return True
        self._clear()
        pieces = [(number, piece) for number, source in enumerate(self.sources) for piece in source.pieces()]
        write_json(
            self.listing,
            {"key": key, "pieces": [{"part": number, "piece": asdict(piece)} for number, piece in pieces]},
        )
        return False

    def _clear(self) -> None:
        """Remove what other data left. What was fetched stays: fingerprints may have fetched some of it just now."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.listing.unlink(missing_ok=True)  # first: units without a listing are never used
        for path in self.path.iterdir():
            if path.is_file():
                path.unlink()
            elif path != self.scratch:
                shutil.rmtree(path)

    def _files(self) -> Sequence[str]:
        """Digests of files that the configuration names."""
        previous = self.run.data.splits.previous
        named = [getattr(getattr(self.run.data, "tokenizer", None), "path", None)]
        named += [str(Path(previous) / name) for name in (MANIFEST, ASSIGNMENTS)] if previous else []
        return [file_digest(Path(name)) if name and Path(name).is_file() else "" for name in named]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
