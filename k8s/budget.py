"""How many starts a job has spent, by cause, since it last brought a new checkpoint."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from configs.folder import write_json
from configs.schema import RunConfig
from configs.stages import read_record
from k8s.podview import Cause

MEMORY_STARTS = 1
"""Starts after a pod that ran out of memory: the next one is likely to do so too"""


class Budget:
    """Starts that a job may still have. Kept in a file, because launchers may come and go while a job goes on."""

    def __init__(self, run: RunConfig, checkpoints: Callable[[], Collection[str]], path: Path | None = None) -> None:
        self.limits: Mapping[Cause, int] = {
            "crashed": run.world.restarts,
            "memory": min(MEMORY_STARTS, run.world.restarts),
            "evicted": run.cluster.patience.evictions,
            "failed": 0,
        }
        self._checkpoints, self._path = checkpoints, path
        record = read_record(path) if path and path.exists() else {"spent": {}, "seen": checkpoints()}
        self._spent: dict[str, int] = record["spent"]
        self._seen = frozenset(record["seen"])

    def spent(self, cause: Cause) -> int:
        """Starts after this cause, since a checkpoint was new."""
        if new := frozenset(self._checkpoints()) - self._seen:
            self._seen, self._spent = self._seen | new, {}
        return self._spent.get(cause, 0)

    def charge(self, cause: Cause) -> bool:
        """Spend a start on this cause; whether one was left."""
        spent = self.spent(cause)
        if spent >= self.limits[cause]:
            return False
        self._spent[cause] = spent + 1
        if self._path:
            write_json(self._path, {"spent": self._spent, "seen": sorted(self._seen)})
        return True

    def close(self) -> None:
        """The job is over: whoever makes it again begins anew."""
        if self._path:
            self._path.unlink(missing_ok=True)
