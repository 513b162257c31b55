"""Command: a data set's links in the chain of custody, as JSON. Run as `python -m data.chain RUN [--no-sources]`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from blake3 import blake3

from configs.custody import Link, judged, unchecked
from configs.errors import DamageError, DataError, OutageError, UserError
from configs.folder import RunFolder, digest, is_as_written
from configs.load import read
from configs.process import command_main, die_with_parent
from configs.schema import RunConfig
from configs.stages import data_key
from data.found import Found
from data.manifest import Manifest, SourceRecord
from data.phases.work import Part, parts_of
from data.records import Source
from data.sources import open_source
from data.sources.columns import Kind
from data.verify import Report, check_files, check_shards, check_tokenizer, read_claims

ABSENT = (DataError, UserError, OutageError, OSError)
"""What a source or store raises that cannot be reached"""


def data_links(folder: RunFolder, *, sources: bool) -> list[Link]:
    """From the raw bytes to the manifest, in order; each is read again, with `sources` the raw bytes too.

    Nothing is compared with a manifest that is not as it was written. Raises ConfigError when run.yaml cannot be read.
    """
    run = read(folder.config)
    found, problems = Found(folder.data, run.data.store), list[str]()
    try:
        manifest = read_claims(found, problems.append)
    except DamageError as error:
        return [unchecked(name, _UNSOUND) for name in _BEFORE] + [judged("manifest", "", [str(error)])]
    if not problems and not is_as_written(folder.manifest):
        problems.append(f"{folder.manifest}: its bytes are not those that were written")
    if problems:
        return [unchecked(name, _UNSOUND) for name in _BEFORE] + [judged("manifest", manifest.digest, problems)]
    return [
        *_source_links(run, folder, manifest, sources=sources),
        _judge_settings(run, manifest),
        *_judge_files(found, manifest),
        judged("manifest", manifest.digest, []),
    ]


_UNSOUND = "the manifest, which says what it was, is not as it was written"
_BEFORE = ("source", "data settings", "tokenizer", "data files", "shards")


def _judge_settings(run: RunConfig, manifest: Manifest) -> Link:
    got = data_key(run)
    problem = f"the data section of run.yaml is {got[:12]}, the data set was made by {manifest.config[:12]}"
    return judged("data settings", manifest.config, [problem] if got != manifest.config else [])


def _judge_files(found: Found, manifest: Manifest) -> Iterator[Link]:
    if manifest.tokenizer:
        yield _checked("tokenizer", manifest.tokenizer.sha256, lambda say: check_tokenizer(found, manifest, say))
    beside = [manifest.statistics, manifest.assignments]
    beside += [labels.blake3 for split in manifest.splits.values() for labels in split.labels]
    yield _checked("data files", digest(beside), lambda say: check_files(found, manifest, say))
    shards = [[each.blake3, each.index_blake3] for split in manifest.splits.values() for each in split.shards]
    yield _checked("shards", digest(shards), lambda say: check_shards(found, manifest, say, fast=True))


def _checked(name: str, told: str, check: Callable[[Report], object]) -> Link:
    """A link by what a check of it reports; one that is out of reach is not checked."""
    problems: list[str] = []
    try:
        check(problems.append)
    except ABSENT as error:
        return unchecked(name, str(error), told)
    return judged(name, told, problems)


# --- the raw bytes ---


def _source_links(run: RunConfig, folder: RunFolder, manifest: Manifest, *, sources: bool) -> Iterator[Link]:
    why = ""
    if not sources:
        why = "not asked for (--no-sources)"
    elif data_key(run) != manifest.config:
        why = "run.yaml does not say where it was: its data section is another"
    if why:
        yield from (unchecked(_name_of(record), why, record.digest) for record in manifest.sources)
        return
    with tempfile.TemporaryDirectory(prefix="trainworks-chain-") as scratch:
        for part, record in zip(parts_of(run), manifest.sources, strict=True):
            yield _source_link(part, record, run.data.kind, Path(scratch) / (part.name or "source"))


def _name_of(record: SourceRecord) -> str:
    return f"source {record.part}".strip()


def _source_link(part: Part, record: SourceRecord, kind: Kind, scratch: Path) -> Link:
    """Read a source again. One that cannot be listed is gone; one that can, but not read as before, is altered."""
    name = _name_of(record)
    try:
        source = open_source(part.source, kind, scratch)
        files, size = source.files, source.bytes
    except ABSENT as error:
        return unchecked(name, f"{record.description}: {error}", record.digest)
    try:
        got = raw_digest(source)
    except (DataError, DamageError) as error:
        return judged(name, record.digest, [f"{record.description}: {error}"])
    except ABSENT as error:
        return unchecked(name, f"{record.description}: {error}", record.digest)
    if got == record.digest:
        return judged(name, record.digest, [])
    had, has = f"{record.files:,} files of {record.bytes:,} bytes", f"{files:,} files of {size:,} bytes"
    change = f"; there were {had}, there are {has}" if had != has else ""
    problem = f"{record.description}: its bytes are {got[:12]}, the manifest says {record.digest[:12]}{change}"
    return judged(name, record.digest, [problem])


def raw_digest(source: Source) -> str:
    """Digest of the pieces' BLAKE3 digests over every raw byte, as the manifest has it."""
    digests = []
    for piece in source.pieces():
        told = blake3()
        for _ in source.read(piece, told):
            pass  # all records have to be passed for all bytes to be
        digests.append(told.hexdigest())
    return digest(digests)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 whatever the links are like, 2 when run.yaml cannot be read."""
    top = argparse.ArgumentParser(prog="python -m data.chain", description="The links of a data set, as JSON.")
    top.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/NAME")
    top.add_argument("--no-sources", action="store_true", help="leave the raw bytes unread")
    arguments = top.parse_args(argv)

    def show() -> int:
        links = data_links(RunFolder(arguments.run), sources=not arguments.no_sources)
        print(json.dumps([asdict(link) for link in links]))
        return 0

    return command_main("explain", show)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
