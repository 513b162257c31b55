"""Phases tokenizer and encode: kept documents to token ids, a piece at a time."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.dataset import TokenizerFile, TrainedTokenizer
from configs.errors import UserError
from configs.folder import file_digest, sync, write_atomic, write_json
from configs.stages import read_record
from data.packing import pack_best_fit, pack_documents
from data.phases.kept import Kept, kept
from data.phases.tagging import UNTAGGED, encode_tagged
from data.phases.work import Work
from data.progress import say
from data.samples import encode_array
from data.splits import trains
from data.tokens import Encoder
from data.vocabulary import build_tokenizer, id_of, id_type, special_ids, vocabulary_size

_GROUP_TOKENS = 4 << 20  # tokens among which best-fit looks for documents that fill a block
LONGEST_WORD = 512
"""Characters of a word, or of a run of white space, that a tokenizer learns from"""
_LONG = re.compile(r"\S{513,}|\s{513,}")
BINS = 32  # of histograms of lengths: bin k holds lengths from 2^k to below 2^(k+1)


def make_tokenizer(work: Work) -> None:
    """The tokenizer of the data set, trained on what the model may learn from; the same one after an interruption."""
    path, config = work.folder.tokenizer, work.text.tokenizer
    if work.tokenizer.exists() and path.exists() and read_record(work.tokenizer)["sha256"] == file_digest(path):
        return
    say("prepare", "loading the tokenizer" if isinstance(config, TokenizerFile) else "training the tokenizer")
    texts = TrainingTexts(work)
    tokenizer, end = build_tokenizer(config, texts)
    write_atomic(path, tokenizer.to_str(pretty=True))
    encoder = Encoder(tokenizer, end)
    encoder.compare(texts)  # decided once for all workers
    say("prepare", f"encoding with {encoder.accelerator or f'tokenizers: {encoder.why_not}'}")
    record = {"sha256": file_digest(path), "end": end, "end_id": id_of(tokenizer, end), "why_not": encoder.why_not}
    record |= {"special": special_ids(tokenizer, config), "vocabulary_size": vocabulary_size(tokenizer)}
    write_json(work.tokenizer, record)


@dataclass(frozen=True)
class TrainingTexts:
    """Documents to train a tokenizer on, as often as they are asked for: all, or of a large corpus a sample by hash."""

    work: Work

    def __iter__(self) -> Iterator[str]:
        counts = read_record(self.work.decision)["splits"]
        whole = sum(count["bytes"] for split, count in counts.items() if trains(split))
        config = self.work.text.tokenizer
        share = config.sample_bytes / max(1, whole) if isinstance(config, TrainedTokenizer) else 1
        for number in range(len(self.work.pieces)):
            chosen = _sampled(self.work, number, share) if share < 1 else None
            for part in kept(self.work, number):
                if trains(part.split):
                    texts = zip(part.rows.tolist(), part.contents, strict=True)
                    yield from (_LONG.sub(_cut, text) for row, text in texts if chosen is None or row in chosen)


def _cut(run: re.Match[str]) -> str:
    """The beginning of what is no word: learning from one takes time in the square of its length."""
    return run[0][:LONGEST_WORD]


def _sampled(work: Work, number: int, share: float) -> set[int]:
    """Rows drawn by the hash of their content."""
    facts = pq.read_table(work.file("read", number, "facts.parquet"), columns=["row", "key_low"])
    below = facts["key_low"].to_numpy() < np.uint64(int(share * 2**64))
    return set(facts["row"].to_numpy()[below].tolist())


def encode_piece(work: Work, number: int) -> None:
    """A piece's documents as ids, per split: NUMBER.SPLIT.tokens, and for packed samples their lengths and labels."""
    if not work.tokenizer.exists():
        raise UserError("phase tokenizer is not done; run it first")
    note = read_record(work.tokenizer)
    encoder = Encoder(Tokenizer.from_file(str(work.folder.tokenizer)), note["end"], why_not=note["why_not"])
    made: dict[str, SplitTokens] = {}
    with ExitStack() as stack:
        for part in kept(work, number):
            if part.split not in made:
                made[part.split] = stack.enter_context(SplitTokens(work, number, part.split, encoder, note))
            made[part.split].add(part)
    record = {split: tokens.record for split, tokens in sorted(made.items())}
    work.finish("encode", number, {"splits": record})


class SplitTokens:
    """The ids of one split's documents in one piece, packed where a sample is not a cut of the joined stream."""

    def __init__(self, work: Work, number: int, split: str, encoder: Encoder, note: dict[str, Any]) -> None:
        self.work, self.number, self.split, self.encoder, self.note = work, number, split, encoder, note
        self.packing = packing_of(work, split)
        self.classes = {name: place for place, name in enumerate(read_record(work.decision)["classes"])}
        self.record: dict[str, Any] = {"documents": 0, "bytes": 0, "words": 0, "tokens": 0, "unknown": 0, "cut": 0}
        self._counts = np.zeros(note["vocabulary_size"], np.int64)
        self._histogram = np.zeros(BINS, np.int64)
        self._waiting: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._labels: list[int] = []
        names = read_record(work.decision)["tags"]
        self.tags = {name: number for number, name in enumerate(names, 1)}
        self._tags: list[NDArray[np.int16]] = []

    def __enter__(self) -> "SplitTokens":
        self._part = self.work.file("encode", self.number, f"{self.split}.tokens.part")
        self._file = self._part.open("wb")
        return self

    def add(self, part: Kept) -> None:
        """Encode one batch."""
        before = self.encoder.unknown
        flat, lengths = self._encode(part)
        for name, value in (
            ("documents", len(lengths)),
            ("bytes", part.bytes),
            ("words", part.words),
            ("tokens", len(flat)),
            ("unknown", self.encoder.unknown - before),
        ):
            self.record[name] += value
        if trains(self.split):
            self._counts += np.bincount(flat, minlength=len(self._counts))
        self._histogram += np.bincount(np.log2(lengths).astype(np.int64), minlength=BINS)[:BINS]
        if self.packing == "concatenate":
            self._file.write(flat.data)
            return
        if self.packing == "document" and self.classes:
            self._labels += [self.classes[label] for label in part.labels if label is not None]
        self._waiting.append((flat, lengths))
        if sum(len(flat) for flat, _ in self._waiting) >= _GROUP_TOKENS:
            self._pack()

    def _encode(self, part: Kept) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if not self.tags:
            return self.encoder.encode(part.contents)
        end, length = self.note["end_id"], self.work.text.block_tokens
        tokenizer = self.encoder.tokenizer
        flat, lengths, tags = encode_tagged(tokenizer, part.contents, part.tags, self.tags, end)
        self._tags.append(pack_documents(tags, lengths, length=length, context=UNTAGGED)[0])
        return flat.astype(id_type(self.note["vocabulary_size"])), lengths

    def _pack(self) -> None:
        flat = np.concatenate([flat for flat, _ in self._waiting])
        lengths = np.concatenate([lengths for _, lengths in self._waiting])
        length, context = self.work.text.block_tokens, self.note["end_id"]
        if self.packing == "best_fit":
            blocks, sizes = pack_best_fit(flat, lengths, length=length, context=context)
        else:
            context = self.note["special"].get("class", context)
            blocks, sizes, cut = pack_documents(flat, lengths, length=length, context=context)
            self.record["cut"] += cut
        self._file.write(blocks.data)
        self._lengths.append(sizes)
        self._waiting = []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and self._waiting:
            self._pack()
        self._file.close()
        if kind is not None:
            return
        sync(self._part)
        os.replace(self._part, self._part.with_suffix(""))
        self.record["histogram"] = self._histogram.tolist()
        self._save("counts", self._counts)
        if self.packing != "concatenate":
            self._save("lengths", np.concatenate([np.empty(0, np.int64), *self._lengths]))
            self._save("labels", np.asarray(self._labels, np.int64))
            tags = np.concatenate([np.empty(0, np.int16), *self._tags])
            self._save("tags", tags)
            self.record["tags"] = np.bincount(tags[tags != UNTAGGED], minlength=len(self.tags) + 1).tolist()
            self.record["samples"] = sum(map(len, self._lengths))

    def _save(self, name: str, array: NDArray[Any]) -> None:
        write_atomic(self.work.file("encode", self.number, f"{self.split}.{name}.npy"), encode_array(array))


def packing_of(work: Work, split: str) -> str:
    """How a split's samples are made: held-out documents are taken back out of their blocks, so those only join."""
    packing = work.text.packing
    return "concatenate" if packing == "best_fit" and not trains(split) else packing


def token_counts(work: Work) -> NDArray[np.int64]:
    """How often each token stands in what the model learns from."""
    found: Sequence[Any] = [
        np.load(work.file("encode", number, f"{split}.counts.npy"), allow_pickle=False)
        for number in range(len(work.pieces))
        for split in work.record("encode", number)["splits"]
        if trains(split)
    ]
    return np.sum(found, axis=0)
