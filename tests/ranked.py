"""A side of a benchmark on several ranks that only says who it is; imports nothing heavy, so that it starts at once."""

import os
from pathlib import Path

from benchmarks.harness import Round


class Ranked:
    """Rank 1 fails where its folder says so."""

    def __init__(self, folder: Path) -> None:
        if (folder / "broken").exists() and os.environ.get("RANK") == "1":
            raise RuntimeError("rank 1 has no disk")

    def round(self) -> Round:
        place = {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")}
        return Round(10, 2.0, 1.5, place)
