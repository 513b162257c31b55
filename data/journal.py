"""How an interrupted prepare goes on: what is finished, and where in the stream of tokens the next block begins."""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from configs.folder import file_digest, write_atomic
from data.manifest import Shard
from data.shards import index_path
from data.text import Ids


@dataclass(frozen=True)
class Place:
    """How far a split's stream of tokens was cut into blocks."""

    context: int
    """The token before the next block"""
    document: int = 0
    """Documents used up"""
    skip: int = 0
    """Tokens of the next document already taken"""
    tokens: int = 0
    """Tokens taken in all"""


class Journal:
    """One line per finished step, written after the files that it names; unreadable or of another `key`, anew."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = _read_lines(path)
        if self.lines[:1] != [{"key": key}]:
            self.lines = []
            self._add({"key": key})

    def tokenizer(self, path: Path) -> str | None:
        """The end-of-document token of a finished tokenizer, or None when there is none."""
        done = next((line for line in self.lines if "tokenizer" in line), None)
        return done["end"] if done and path.exists() and file_digest(path) == done["tokenizer"] else None

    def add_tokenizer(self, path: Path, end: str) -> None:
        self._add({"tokenizer": file_digest(path), "end": end})

    def shards(self, split: str) -> list[tuple[Shard, Place]]:
        """A split's finished shards, each with where to go on; from the first whose files have changed, all go."""
        lines = [line for line in self.lines if line.get("split") == split]
        intact = list(takewhile(lambda line: _intact(self.path.parent, Shard(**line["shard"])), lines))
        for line in lines[len(intact) :]:  # or a second interruption would find them again beside their successors
            self.lines.remove(line)
        return [(Shard(**line["shard"]), Place(**line["next"])) for line in intact]

    def add_shard(self, split: str, shard: Shard, place: Place) -> None:
        self._add({"split": split, "shard": shard.model_dump(), "next": asdict(place)})

    def _add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        write_atomic(self.path, "".join(json.dumps(each) + "\n" for each in self.lines))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, ValueError):
        return []


def _intact(folder: Path, shard: Shard) -> bool:
    path = folder / shard.name
    files = ((path, shard.sha256), (index_path(path), shard.index_sha256))
    return all(file.is_file() and file_digest(file) == sha256 for file, sha256 in files)


class Stream:
    """A split's encoded documents, with the place up to which blocks were taken from them."""

    def __init__(self, encoded: Iterator[Ids], place: Place) -> None:
        self.encoded, self.place = encoded, place
        self._begin = place.tokens - place.skip  # where the document at hand begins in the stream
        self._ends: deque[int] = deque()

    def __iter__(self) -> Iterator[Ids]:
        end, skip = self._begin, self.place.skip
        for ids in self.encoded:
            end += len(ids)
            self._ends.append(end)
            yield ids[skip:]
            skip = 0

    def take(self, block: Ids) -> None:
        """Note a block as written."""
        tokens, document = self.place.tokens + len(block) - 1, self.place.document
        while self._ends and self._ends[0] <= tokens:
            self._begin = self._ends.popleft()
            document += 1
        self.place = Place(int(block[-1]), document, tokens - self._begin, tokens)
