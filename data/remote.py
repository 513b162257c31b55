"""Shards in an object store: put there when they are prepared, read in ranges while training."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from configs.dataset import StoreConfig
from configs.errors import DamageError
from configs.folder import RunFolder
from data.manifest import Manifest, Shard
from data.progress import Progress, say
from data.ranges import RangeCache
from data.shards import index_path
from data.store import Store, open_store


class RemoteShards:
    """What a ShardReader needs of shards that lie in an object store; each worker process opens its own."""

    def __init__(self, config: StoreConfig) -> None:
        self.config = config

    @cached_property
    def _store(self) -> Store:
        return open_store(self.config.url, endpoint=self.config.endpoint, region=self.config.region)

    @cached_property
    def _cache(self) -> RangeCache:
        return RangeCache(self._store, self.config.cache_bytes)

    def get(self, name: str) -> bytes:
        return self._store.get(name)

    def reader(self, shard: Shard) -> Callable[[int, int], memoryview]:
        """A shard's bytes from one offset to another. Raises DamageError when the object is of another size."""
        found = self._store.head(shard.name)
        if found.size != shard.bytes:
            raise DamageError(
                f"{self.config.url}/{shard.name} has {found.size} bytes, the manifest says {shard.bytes}; "
                "prepare again with another data.store.url, or restore the object"
            )
        return lambda start, end: memoryview(self._cache.read(found, start, end - start))

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}


def publish(config: StoreConfig, folder: RunFolder, manifest: Manifest) -> None:
    """Have every shard and index in the store; what lies here is uploaded, and removed once the store has it.

    Raises DamageError when a shard is neither here nor there.
    """
    store = open_store(config.url, endpoint=config.endpoint, region=config.region)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    standing = {each.path: each.size for each in store.list()}
    progress, uploaded = Progress("prepare", len(shards), "shards uploaded"), 0
    for done, shard in enumerate(shards):
        path = folder.data / shard.name
        if path.exists():
            store.upload(index_path(path), index_path(path).name)
            store.upload(path, path.name)
            uploaded += 1
        elif standing.get(shard.name) != shard.bytes or index_path(path).name not in standing:
            raise DamageError(
                f"{config.url}/{shard.name} is not in the store, and its shard is not in {folder.data} either; "
                f"name the store that has it, or remove {folder.manifest} and prepare again"
            )
        path.unlink(missing_ok=True)
        index_path(path).unlink(missing_ok=True)
        if progress.due():
            progress.show(done)
    if uploaded:
        say("prepare", f"{uploaded} shards uploaded to {config.url}")
