"""Command: source -> tokenizer, shards, manifest. Run as `python -m data.prepare RUN_FOLDER`."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from configs.errors import DataError
from configs.folder import RunFolder, digest, file_digest, locked, write_atomic, write_json
from configs.process import stage_main
from configs.schema import DataConfig, RunConfig
from configs.stages import complete, data_key
from data.journal import Journal, Place, Stream
from data.manifest import (
    SCHEMA_VERSION,
    Manifest,
    Shard,
    SourceRecord,
    Split,
    TokenizerRecord,
    content_digest,
    read_manifest,
)
from data.progress import Progress, rate, say
from data.shards import ShardWriter, encode_array, index_path
from data.sources import Source, open_source
from data.splits import SPLITS, assign
from data.text import build_tokenizer, encode, id_of, normalise, pack, vocabulary_size

FIELDS = {"tokens.npy": "npy"}
JOURNAL, CACHE = "journal.jsonl", ".cache"  # gone when all is complete


def prepare(run: RunConfig, folder: RunFolder) -> None:
    """Fill `folder.data`; a finished one is left alone, an interrupted one is continued.

    Raises DataError when the source has no documents, too few tokens for one block, or none for a split.
    """
    with locked(folder.data):
        if not complete("prepare", run, folder):
            source = open_source(run.data.source)
            key = digest([data_key(run), source.sha256, tokenizer_digest(run.data)])
            journal = Journal(folder.data / JOURNAL, key)
            say("prepare", f"{source.description}: {len(source.files)} files, {source.bytes / 1e6:.1f} MB")
            manifest = Preparation(run, folder, source, journal, folder.data / CACHE).make()
            shutil.rmtree(folder.data / CACHE, ignore_errors=True)
            write_json(folder.manifest, manifest.model_dump(mode="json"))
        (folder.data / JOURNAL).unlink(missing_ok=True)
        read_manifest(folder.manifest)  # the tokenizer may have been changed since
        say("prepare", f"complete: {complete('prepare', run, folder)}")


def tokenizer_digest(config: DataConfig) -> str | None:
    """Digest of a tokenizer file that the config names."""
    path = Path(getattr(config.tokenizer, "path", ""))
    return file_digest(path) if path.is_file() else None


@dataclass
class Plan:
    """Which split each document of the source belongs to, and what the splits hold."""

    splits: list[str | None] = field(default_factory=list)
    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def survey(documents: Iterator[str], config: DataConfig, name: str) -> Plan:
    """Read everything once: assign documents to splits and count. Raises DataError when a split would be empty."""
    plan = Plan()
    for text in documents:
        if not text:
            plan.splits.append(None)
            plan.dropped["empty"] += 1
            continue
        split = assign(text, config.splits)
        plan.splits.append(split)
        plan.documents[split] += 1
        plan.bytes[split] += len(text.encode())
        plan.words[split] += len(text.split())
    total = sum(plan.documents.values())
    if not total:
        raise DataError(f"{name}: no document with text in it ({plan.dropped['empty']} empty ones)")
    wanted = {"train": 1.0, "validation": config.splits.validation, "test": config.splits.test}
    if missing := [split for split in SPLITS if wanted[split] and not plan.documents[split]]:
        documents_are = "1 document leaves" if total == 1 else f"{total} documents leave"
        finer = "smaller documents (data.source.document: paragraph or line), " if total < 20 else ""
        raise DataError(
            f"{name}: {documents_are} the {' and '.join(missing)} split empty; try {finer}"
            f"another data.splits.seed than {config.splits.seed}, or other shares"
        )
    return plan


@dataclass
class Preparation:
    """One data set in the making: what is read, where it goes, and how far it has come."""

    run: RunConfig
    folder: RunFolder
    source: Source
    journal: Journal
    cache: Path

    def make(self) -> Manifest:
        """Survey, tokenizer, shards of each split; returns the manifest to write."""
        config = self.run.data
        plan = survey(self.documents(), config, self.source.description)
        tokenizer, end = self.tokenizer(plan)
        splits = {name: self.write_split(name, plan, tokenizer, end) for name in SPLITS if plan.documents[name]}
        if splits["train"].tokens < config.block_tokens:
            raise DataError(
                f"{self.source.description}: the train split has {splits['train'].tokens} tokens, fewer than one block "
                f"of data.block_tokens={config.block_tokens}; add text or choose a smaller block"
            )
        _remove_strangers(self.folder, splits)
        return self.manifest(plan, tokenizer, end, splits)

    def documents(self) -> Iterator[str]:
        """The source's documents, normalised; empty ones too, so that places stay."""
        return (normalise(text, self.run.data.text) for text in self.source.documents(self.cache))

    def of_split(self, name: str, plan: Plan) -> Iterator[str]:
        return (text for text, split in zip(self.documents(), plan.splits, strict=True) if split == name)

    def tokenizer(self, plan: Plan) -> tuple[Tokenizer, str]:
        """The tokenizer that the journal names, or a new one, and its end-of-document token."""
        path, config = self.folder.tokenizer, self.run.data.tokenizer
        if (end := self.journal.tokenizer(path)) is not None:
            return Tokenizer.from_file(str(path)), end
        say("prepare", "training the tokenizer" if config.kind == "bpe" else "loading the tokenizer")
        tokenizer, end = build_tokenizer(config, self.of_split("train", plan))
        write_atomic(path, tokenizer.to_str(pretty=True))
        self.journal.add_tokenizer(path, end)
        return tokenizer, end

    def write_split(self, name: str, plan: Plan, tokenizer: Tokenizer, end: str) -> Split:
        """Encode, pack and write one split, from the first shard that the journal does not hold."""
        config, end_id = self.run.data, id_of(tokenizer, end)
        done = self.journal.shards(name)
        shards = [shard for shard, _ in done]
        place = done[-1][1] if done else Place(context=end_id)
        dtype = np.dtype("<u2" if vocabulary_size(tokenizer) <= 2**16 else "<u4")
        stream = Stream(encode(tokenizer, islice(self.of_split(name, plan), place.document, None), end_id), place)
        progress = Progress("prepare", plan.documents[name], f"{name} documents", start=place.document)
        writer: ShardWriter | None = None
        samples = sum(shard.samples for shard in shards)
        for block in pack(stream, length=config.block_tokens, context=place.context):
            writer = writer or ShardWriter(self.folder.data / f"{name}-{len(shards):05d}.tar", tuple(FIELDS))
            writer.write(f"{name}-{samples:09d}", {"tokens.npy": encode_array(block.astype(dtype))})
            samples += 1
            stream.take(block)
            if samples % config.shard_samples == 0:
                shards.append(self.finish(writer, name, stream.place))
                writer = None
            if progress.due():
                pace = progress.per_s(stream.place.tokens - place.tokens)
                progress.show(stream.place.document, rate(pace, "tokens"))
        if writer:
            shards.append(self.finish(writer, name, stream.place))
        return Split(
            documents=plan.documents[name],
            tokens=stream.place.tokens,
            bytes=plan.bytes[name],
            words=plan.words[name],
            samples=samples,
            shards=tuple(shards),
        )

    def finish(self, writer: ShardWriter, split: str, place: Place) -> Shard:
        """Close a shard and note in the journal where to go on after it."""
        shard = writer.close()
        self.journal.add_shard(split, shard, place)
        return shard

    def manifest(self, plan: Plan, tokenizer: Tokenizer, end: str, splits: dict[str, Split]) -> Manifest:
        """The record of it all, with its digest."""
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            digest="",
            config=data_key(self.run),
            source=SourceRecord(
                description=self.source.description,
                files=len(self.source.files),
                bytes=self.source.bytes,
                documents=sum(plan.documents.values()),
                sha256=self.source.sha256,
            ),
            tokenizer=TokenizerRecord(
                file=self.folder.tokenizer.name,
                sha256=file_digest(self.folder.tokenizer),
                vocabulary_size=vocabulary_size(tokenizer),
                end_of_document=end,
                end_of_document_id=id_of(tokenizer, end),
            ),
            block_tokens=self.run.data.block_tokens,
            fields=FIELDS,
            splits=splits,
            dropped=dict(plan.dropped),
        )
        return manifest.model_copy(update={"digest": content_digest(manifest)})


def _remove_strangers(folder: RunFolder, splits: dict[str, Split]) -> None:
    """Shards of an earlier, abandoned configuration."""
    shards = [folder.data / shard.name for split in splits.values() for shard in split.shards]
    known = {*shards, *map(index_path, shards)}
    for pattern in ("*.tar", "*.tar.index.npy", "*.part"):
        for path in folder.data.glob(pattern):
            if path not in known:
                path.unlink()


if __name__ == "__main__":
    sys.exit(stage_main("prepare", prepare))
