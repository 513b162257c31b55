"""A record with a digest of its own, and files whose digests a record has."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import DamageError
from configs.folder import digest, is_as_written
from configs.stages import check_files, read_record


@dataclass(frozen=True)
class Recorded:
    """A record, as it was found."""

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

    def says(self, key: str) -> Any:
        """A value of a sound record; None where it is not sound, or has none."""
        return self.content.get(key) if self.sound else None


def differing(root: Path, files: Mapping[str, str], record: str) -> list[str]:
    """Every file of a folder that is not as the sha256 of a record, named so, has it."""
    problems = []
    for name, told in files.items():
        try:
            check_files(root, {name: told}, record)
        except DamageError as error:
            problems.append(str(error))
    return problems


def listed(names: list[str], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
