"""Command: re-read every byte of a prepared data set and name each wrong file. Run as `trainworks verify DATA`."""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from pydantic import ValidationError

from configs.errors import DamageError
from configs.folder import file_digest
from configs.process import command_main, die_with_parent
from configs.stages import read_record
from data.card.display import size, visible
from data.found import Found, find
from data.manifest import ASSIGNMENTS, SCHEMA_VERSION, STATISTICS, Manifest, Shard, Split, content_digest
from data.progress import clock, rate
from data.samples import decode_array
from data.shards import index_path
from data.store import Object, open_store
from data.verifying import Checked, Expected, check_shard

Report = Callable[[str], None]

_WORTHWHILE_BYTES = 256 << 20  # for each process: starting one takes about as long as reading these


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks verify",
        description="Re-read a prepared data set: every digest, checksum and count, and what each sample decodes to.",
        epilog="exit codes: 0 all is as it was written, 1 something is not, 2 a mistake in what was asked",
    )
    top.add_argument("data", type=Path, metavar="DATA", help="a run folder, such as runs/NAME, or its data folder")
    top.add_argument("--workers", type=int, metavar="N", help="processes that read (one per processor at most)")
    top.add_argument("--fast", action="store_true", help="check bytes and counts alone; decode no sample")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all is as it was written, 1 something is not, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        parser().error(f"--workers {arguments.workers}: at least one process reads")
    return command_main("verify", lambda: _verify(find(arguments.data), arguments.workers, arguments.fast))


def _verify(found: Found, workers: int | None, fast: bool) -> int:
    begun, problems = time.monotonic(), []

    def report(problem: str) -> None:
        problems.append(problem)
        print(f"wrong: {visible(problem)}", flush=True)

    counts = verify(found, report, workers=workers, fast=fast)
    spent_s = max(1e-6, time.monotonic() - begun)
    totals = (
        f"{counts.shards:,} shards, {counts.samples:,} samples, {size(counts.bytes)} read in {clock(spent_s)} "
        f"({counts.bytes / spent_s / 1e6:.0f} MB/s)"
    )
    if problems:
        print(f"{found.folder} is not as it was written; {totals}")
        return 1
    print(f"all is as it was written: {totals}" + ("; no sample was decoded" if fast else ""))
    return 0


def verify(found: Found, report: Report, *, workers: int | None = None, fast: bool = False) -> Checked:
    """Say everything that is wrong, as it is found; returns the totals.

    Raises DamageError when the manifest cannot be read at all, and DataError or UserError when the store fails.
    """
    manifest = read_claims(found, report)
    check_tokenizer(found, manifest, report)
    check_files(found, manifest, report)
    return check_shards(found, manifest, report, workers=workers, fast=fast)


def check_shards(
    found: Found, manifest: Manifest, report: Report, *, workers: int | None = None, fast: bool = False
) -> Checked:
    """Every shard and its index, and what the splits say. Raises DataError or UserError when the store fails."""
    shards = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    if found.lacks([shard for _, shard in shards]):
        report(found.elsewhere)
    check_strangers(found, [shard for _, shard in shards], report)
    objects, limits = _objects(found), None if fast else _limits(manifest)
    tasks = [
        Expected(found, shard, manifest.fields, limits, _object(objects, shard) if objects is not None else None)
        for _, shard in shards
    ]
    known, results = {shard.blake3: shard.name for _, shard in shards}, {}
    for task, checked in _checked(tasks, workers):
        results[task.shard.name] = checked
        for problem in checked.problems:
            report(problem)
        if (of := known.get(checked.blake3, task.shard.name)) != task.shard.name:
            report(f"{task.name}: these are the bytes of {of}")
    for name, split in manifest.splits.items():
        check_split(found, manifest, name, [results[shard.name] for shard in split.shards], report, decoded=not fast)
    return sum(results.values(), Checked())


def check_strangers(found: Found, shards: Sequence[Shard], report: Report) -> None:
    """Shards and indexes in the folder that the manifest does not name; prepare leaves none."""
    paths = [found.folder / shard.name for shard in shards]
    known = {*paths, *map(index_path, paths)}
    for path in sorted([*found.folder.glob("*.tar"), *found.folder.glob("*.tar.index.npy")]):
        if path not in known:
            report(f"{path}: it is no shard of this data set")


def _objects(found: Found) -> dict[str, Object] | None:
    """What lies in the store, by name; this is also where wrong credentials and a lost server show at once."""
    if found.store is None:
        return None
    store = open_store(found.store.url, endpoint=found.store.endpoint, region=found.store.region, stage="verify")
    return {each.path: each for each in store.list()}


def _object(objects: dict[str, Object], shard: Shard) -> tuple[Object | None, Object | None]:
    return objects.get(shard.name), objects.get(index_path(Path(shard.name)).name)


def _limits(manifest: Manifest) -> dict[str, Any]:
    """What decoded samples have to be."""
    limits: dict[str, Any] = {"classes": len(manifest.classes)}
    if manifest.tokenizer:
        limits |= {"vocabulary": manifest.tokenizer.vocabulary_size, "block": manifest.block_tokens + 1}
    if manifest.images:
        limits["shape"] = (manifest.images.height, manifest.images.width, manifest.images.channels)
    return limits


# --- the files beside the shards ---


def read_claims(found: Found, report: Report) -> Manifest:
    """The manifest, even one that was changed. Raises DamageError when it is none."""
    path = found.manifest
    record = read_record(path)
    if (got := record.get("schema_version")) != SCHEMA_VERSION:
        raise DamageError(f"{path} has schema_version={got}, this trainworks reads {SCHEMA_VERSION}; prepare again")
    try:
        manifest = Manifest.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamageError(f"{path} is not a manifest: {where}: {first['msg']}; remove it and prepare again") from None
    if outside := [name for name in _names(manifest) if Path(name).name != name]:
        raise DamageError(f"{path} names {outside[0]!r}, which is no file of its folder; remove it and prepare again")
    if content_digest(manifest) != manifest.digest:
        report(f"{path}: it was changed after it was written, its digest differs")
    return manifest


def _names(manifest: Manifest) -> Iterator[str]:
    """Every file that a manifest names."""
    if manifest.tokenizer:
        yield manifest.tokenizer.file
    for split in manifest.splits.values():
        yield from (shard.name for shard in split.shards)
        yield from (labels.file for labels in split.labels)


def check_tokenizer(found: Found, manifest: Manifest, report: Report) -> None:
    """The tokenizer, where there is one."""
    if manifest.tokenizer:
        path = found.folder / manifest.tokenizer.file
        got = file_digest(path) if path.is_file() else "no file"
        if got != manifest.tokenizer.sha256:
            report(_differs(path, "sha256", got, manifest.tokenizer.sha256))


def check_files(found: Found, manifest: Manifest, report: Report) -> None:
    """Statistics, assignments and labels."""
    expected = [(STATISTICS, manifest.statistics)] if manifest.statistics else []
    expected += [(ASSIGNMENTS, manifest.assignments)] if manifest.assignments else []
    expected += [(labels.file, labels.blake3) for split in manifest.splits.values() for labels in split.labels]
    for name, digest in expected:
        path = found.folder / name
        got = blake3(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if got != digest:
            report(_differs(path, "blake3", got, digest))


def _differs(path: Path, what: str, got: str, expected: str) -> str:
    return f"{path}: its {what} is {got[:12]}, the manifest says {expected[:12]}"


def check_split(
    found: Found, manifest: Manifest, name: str, results: Sequence[Checked], report: Report, *, decoded: bool
) -> None:
    """Whether a split's shards, labels and counts agree; what was decoded is compared where all shards are whole."""
    split, where = manifest.splits[name], f"{found.manifest}: {name}"
    if (held := sum(shard.samples for shard in split.shards)) != split.samples:
        report(f"{where}: samples is {split.samples}, its shards have {held}")
    labels = _labels(found, split)
    if labels is not None:
        _check_classes(manifest, split, labels, where, report)
    if not decoded or any(checked.problems for checked in results):
        return
    tokens = sum(checked.tokens for checked in results) + split.cut_tokens
    if manifest.tokenizer and tokens != split.tokens:
        report(f"{where}: tokens is {split.tokens}, its samples and what was cut off them have {tokens}")
    if labels is not None and labels != [label for checked in results for label in checked.labels]:
        report(f"{found.folder / split.labels[0].file}: these are not the labels of the samples of {name}")


def _check_classes(manifest: Manifest, split: Split, labels: Sequence[int], where: str, report: Report) -> None:
    if len(labels) != split.samples:
        report(f"{where}: samples is {split.samples}, its labels are {len(labels)}")
    if strange := [label for label in labels if not 0 <= label < len(manifest.classes)]:
        report(f"{where}: {strange[0]} is one of its labels, there are {len(manifest.classes)} classes")
        return
    counts = np.bincount(np.asarray(labels, np.int64), minlength=len(manifest.classes)).tolist()
    if dict(zip(manifest.classes, counts, strict=True)) != split.classes:
        report(f"{where}: the samples of each class are not as many as its labels say")


def _labels(found: Found, split: Split) -> list[int] | None:
    """The class of each sample; None when there are none, or a file, which is reported already, cannot be read."""
    labels: list[int] = []
    try:
        for each in split.labels:
            labels += decode_array((found.folder / each.file).read_bytes()).tolist()
    except (OSError, DamageError):
        return None
    return labels if split.labels else None


# --- the shards, over processes ---


def _checked(expected: Sequence[Expected], workers: int | None) -> Iterator[tuple[Expected, Checked]]:
    """Each shard and what came out of it, in the order in which they are done."""
    total, done = sum(each.shard.bytes for each in expected), 0
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), total // _WORTHWHILE_BYTES + 1)
    progress = Progress(total)
    results = _parallel(expected, workers) if min(workers, len(expected)) > 1 else _here(expected)
    try:
        for task, checked in results:
            done += task.shard.bytes
            progress.show(done)
            yield task, checked
    finally:
        progress.close()


def _here(expected: Sequence[Expected]) -> Iterator[tuple[Expected, Checked]]:
    with tempfile.TemporaryDirectory(prefix="trainworks-verify-") as scratch:
        for task in expected:
            yield task, check_shard(task, Path(scratch))


def _parallel(expected: Sequence[Expected], workers: int) -> Iterator[tuple[Expected, Checked]]:
    with tempfile.TemporaryDirectory(prefix="trainworks-verify-") as scratch:
        context = multiprocessing.get_context("spawn")  # a store's client does not survive a fork
        pool = ProcessPoolExecutor(min(workers, len(expected)), context, initializer=die_with_parent)
        try:
            tasks = {pool.submit(check_shard, task, Path(scratch)): task for task in expected}
            for future in as_completed(tasks):
                yield tasks[future], future.result()
        except BrokenProcessPool:
            raise DamageError(
                "a process that was reading shards was killed, perhaps for want of memory; try again with --workers 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


class Progress:
    """How far the reading has come, on standard error: drawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.terminal = total, sys.stderr.isatty()
        self.interval_s = 0.5 if self.terminal else 10.0
        self.begun = self.shown = time.monotonic()
        self._drawn = False

    def show(self, done: int) -> None:
        """Say it if it is time to."""
        now = time.monotonic()
        if now - self.shown < self.interval_s:
            return
        self.shown, per_s = now, done / max(1e-6, now - self.begun)
        text = (
            f"{size(done)} of {size(self.total)}  {100 * done // max(1, self.total)}%  {rate(per_s, 'bytes')}  "
            f"{clock((self.total - done) / max(1e-6, per_s))} left"
        )
        print(
            f"\r\x1b[K{text}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )
        self._drawn = self.terminal

    def close(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
