"""How a folder becomes a checkpoint, and what the next start makes of one that did not."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import DamageError
from configs.folder import digest, sync, write_json
from configs.stages import read_record, steps_in
from data.progress import say

POINTER = "latest.json"


def stage(part: Path) -> None:
    """An empty folder for a checkpoint to be."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def commit(root: Path, part: Path, record: Mapping[str, Any]) -> None:
    """Give a staged checkpoint its record, its name, and the pointer, in this order, each flushed before the next."""
    final, record = part.with_suffix(""), dict(record) | {"digest": digest(record)}
    write_json(part / "complete.json", record)
    replaced = final.with_suffix(".replaced.part")
    if final.exists():  # a step that was found damaged, or is saved again; `clear` puts it back if we die here
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    part.rename(final)
    sync(root)
    shutil.rmtree(replaced, ignore_errors=True)
    write_json(root / POINTER, {"step": record["step"], "digest": record["digest"]})


def clear(root: Path) -> list[int]:
    """Remove what a killed save or removal left behind; returns the steps that are there, newest first."""
    for stray in root.glob("step-*.part"):
        final = stray.with_name(stray.name.removesuffix(".replaced.part"))
        if final != stray and not final.exists():
            stray.rename(final)
        else:
            shutil.rmtree(stray, ignore_errors=True)
    (root / f"{POINTER}.part").unlink(missing_ok=True)
    return steps_in(root)


def tell_lost(root: Path, found: int | None) -> None:
    """Say aloud when the newest checkpoint that was ever completed is not the one that was found."""
    if not (root / POINTER).exists():
        return
    try:
        step = read_record(root / POINTER)["step"]
    except (DamageError, KeyError):
        step = None
    begin = "the start" if found is None else f"step {found}"
    if not isinstance(step, int):
        sound = "no checkpoint is sound" if found is None else "the newest sound checkpoint"
        say("train", f"{root / POINTER} cannot be read; going on from {begin}: {sound}")
    elif step > (found or 0):
        say("train", f"{root / POINTER} names step {step}, which is gone or damaged; going on from {begin}")
