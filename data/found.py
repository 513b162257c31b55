"""A prepared data set by its path."""

from dataclasses import dataclass
from pathlib import Path

from configs.dataset import StoreConfig
from configs.errors import UserError
from configs.folder import RunFolder
from configs.load import read
from data.manifest import MANIFEST, Shard
from data.shards import index_path


@dataclass(frozen=True)
class Found:
    """Where a data set lies."""

    folder: Path
    """Of the manifest"""
    store: StoreConfig | None
    """Of the shards, where they are not in the folder"""

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    def lacks(self, shards: list[Shard]) -> bool:
        """Whether no shard is here and nothing says where they are."""
        paths = [self.folder / shard.name for shard in shards]
        return self.store is None and not any(path.exists() or index_path(path).exists() for path in paths)

    @property
    def elsewhere(self) -> str:
        """What to do when it lacks them."""
        return (
            f"{self.folder}: none of its shards is here; if they lie in an object store, give the run folder, "
            "whose run.yaml names it (data.store)"
        )


def find(path: Path) -> Found:
    """The data set in a run folder or in its data folder. Raises UserError when there is none."""
    folder = next((each for each in (path, RunFolder(path).data) if (each / MANIFEST).is_file()), None)
    if folder is None:
        what = "is not there" if not path.exists() else "is no folder" if not path.is_dir() else f"holds no {MANIFEST}"
        raise UserError(
            f"{path} {what}; give a run folder, such as runs/NAME, whose data `trainworks prepare` has finished, "
            "or the data folder in it"
        )
    config = RunFolder(folder.absolute().parent).config
    return Found(folder, read(config).data.store if config.is_file() else None)
