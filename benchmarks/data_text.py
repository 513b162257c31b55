"""Sides of the text cases: documents in Arrow files to ids, and to token blocks on the disk."""

import shutil
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Round, Stopwatch
from configs.dataset import TextData
from configs.folder import RunFolder
from configs.load import read
from configs.stages import read_record
from data.phases.kept import kept
from data.phases.work import Work

SPLITS = ("train", "test")
BATCH = 1000  # documents that `datasets` hands over at a time
_SLICE_BYTES = 4 << 20  # documents that we encode at a time, as prepare does


def open_work(path: Path) -> Work:
    folder = RunFolder(path)
    return Work(read(folder.config), folder)


def block_tokens(work: Work) -> int:
    assert isinstance(work.run.data, TextData)
    return work.run.data.block_tokens


def read_texts(work: Work, split: str) -> list[str]:
    """A split's documents in the order in which our side encodes them."""
    parts = (part for number in range(len(work.pieces)) for part in kept(work, number))
    return [text for part in parts if part.split == split for text in part.contents]


class Prepare:
    """The phases encode, cut and write of prepare as they are, in this process, from the documents that read left."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def round(self) -> Round:
        """Documents to shards; the ids are read back from these, after the clock has stopped."""
        from data.phases.units import Workers
        from data.prepare import encode_pieces, plan_shards, write_shards

        work = open_work(self.path)
        for phase in ("encode", "write"):
            shutil.rmtree(work.path / phase, ignore_errors=True)
        for file in (work.plan, *work.folder.data.glob("*.tar*")):
            file.unlink(missing_ok=True)
        watch = Stopwatch()
        watch.start()
        with Workers(work, 1) as hands:
            for phase in (encode_pieces, plan_shards, write_shards):
                phase(work, hands)
        watch.stop()
        records = [work.record("encode", number)["splits"] for number in range(len(work.pieces))]
        size = sum(split["bytes"] for record in records for split in record.values())
        files = {split: str(self._save(work, split)) for split in SPLITS}
        return Round(size / 1e6, watch.seconds, watch.cpu_s, files)

    def _save(self, work: Work, split: str) -> Path:
        """The joined stream of a split, out of its shards."""
        from data.manifest import Shard
        from data.phases.plan import plan_of
        from data.samples import decode
        from data.shards import ShardReader

        records = [work.record("write", number) for number in range(len(plan_of(work.plan).shards))]
        shards = [Shard(**record["shard"]) for record in records if record["split"] == split]
        reader = ShardReader(work.folder.data, shards, ("tokens.npy",))
        path = self.path / f"ours-{split}.npy"
        np.save(path, np.concatenate([decode(sample)["tokens"][1:] for sample in reader]))
        return path


class Datasets:
    """`datasets.map` to tokenise, `map` to group into blocks and `save_to_disk`: Hugging Face's run_clm recipe.

    It is spared the attention mask and the copy of the ids as labels that the recipe writes too.
    """

    def __init__(self, path: Path) -> None:
        import datasets
        from tokenizers import processors
        from transformers import PreTrainedTokenizerFast

        datasets.disable_progress_bars()
        work = open_work(path)
        note = read_record(work.tokenizer)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(work.folder.tokenizer))
        end = note["end"]
        self.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, note["end_id"])]
        )
        self.block, self.path, self.size = block_tokens(work), path, 0
        for split in SPLITS:
            texts = read_texts(work, split)
            self.size += sum(len(text.encode()) for text in texts)
            datasets.Dataset.from_dict({"text": texts}).save_to_disk(path / "peer" / split)

    def round(self) -> Round:
        """Documents to saved blocks; the ids are read back from these, after the clock has stopped."""
        import datasets

        made = self.path / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        loaded = {split: datasets.Dataset.load_from_disk(str(self.path / "peer" / split)) for split in SPLITS}
        watch = Stopwatch()
        watch.start()
        for split, documents in loaded.items():
            tokens = documents.map(
                self.tokenise, batched=True, remove_columns=["text"], cache_file_name=str(made / f"{split}-ids.arrow")
            )
            blocks = tokens.map(self.group, batched=True, cache_file_name=str(made / f"{split}-blocks.arrow"))
            blocks.save_to_disk(made / split)
        watch.stop()
        files = {split: str(self._save(made / split)) for split in SPLITS}
        return Round(self.size / 1e6, watch.seconds, watch.cpu_s, files)

    def tokenise(self, batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"input_ids": self.tokenizer(batch["text"], return_attention_mask=False)["input_ids"]}

    def group(self, batch: dict[str, list[list[int]]]) -> dict[str, Any]:
        joined = list(chain.from_iterable(batch["input_ids"]))
        whole = len(joined) // self.block * self.block
        return {"input_ids": [joined[at : at + self.block] for at in range(0, whole, self.block)]}

    def _save(self, made: Path) -> Path:
        import datasets

        loaded = datasets.Dataset.load_from_disk(str(made))
        columns = loaded.data.column("input_ids")
        path = made.with_suffix(".npy")
        np.save(
            path, np.concatenate([np.empty(0, np.int32), *(chunk.flatten().to_numpy() for chunk in columns.chunks)])
        )
        return path


def blocks_differ(ours: Any, peer: Any, *, end: int, length: int) -> str | None:
    """Our stream has the peer's ids, of which each batch of documents lost those after its last whole block."""
    for split in SPLITS:
        stream, others = np.load(ours[split]), np.load(peer[split])
        ends = np.flatnonzero(stream == end) + 1
        bounds = [0, *ends[BATCH - 1 :: BATCH].tolist()]
        bounds += [len(stream)] if bounds[-1] < len(stream) else []
        begun = 0
        for first, last in pairwise(bounds):
            whole = (last - first) // length * length
            if not np.array_equal(stream[first : first + whole], others[begun : begun + whole]):
                return f"{split}: the ids of tokens {first} to {first + whole} differ"
            begun += whole
        if begun != len(others):
            return f"{split}: ours are {begun} tokens in whole blocks, the peer's {len(others)}"
    return None


class Texts:
    """Documents in memory, and a tokenizer that is loaded anew for each round, so that no side remembers words."""

    def __init__(self, path: Path) -> None:
        work = open_work(path)
        self.documents = read_texts(work, "train")
        self.size = sum(len(text.encode()) for text in self.documents)
        self.file, self.note = str(work.folder.tokenizer), read_record(work.tokenizer)
        self.path = path

    def finish(self, watch: Stopwatch, ids: NDArray[Any], name: str) -> Round:
        path = self.path / name
        np.save(path, ids)
        return Round(self.size / 1e6, watch.seconds, watch.cpu_s, {"ids": str(path)})


class Encode(Texts):
    """Our encoder, in batches as prepare gives them to it, its comparison with `tokenizers` when it loads included."""

    def round(self) -> Round:
        """Documents to ids."""
        from tokenizers import Tokenizer

        from data.tokens import Encoder

        watch = Stopwatch()
        watch.start()
        encoder = Encoder(Tokenizer.from_file(self.file), self.note["end"], why_not=self.note["why_not"])
        ids = np.concatenate([encoder.encode(batch)[0] for batch in batches(self.documents)])
        watch.stop()
        assert encoder.accelerator, encoder.why_not
        return self.finish(watch, ids, "ours.npy")


class EncodeFast(Texts):
    """`tokenizers`, by its quickest call; each document's ids become an array as large as ours."""

    def round(self) -> Round:
        """Documents to ids."""
        from tokenizers import Tokenizer

        end, parts = [self.note["end_id"]], []
        watch = Stopwatch()
        watch.start()
        tokenizer = Tokenizer.from_file(self.file)
        for batch in batches(self.documents):
            found = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            parts += [np.array(encoding.ids + end, np.uint16) for encoding in found]
        ids = np.concatenate(parts)
        watch.stop()
        return self.finish(watch, ids, "peer.npy")


def batches(documents: Sequence[str]) -> Iterator[Sequence[str]]:
    """Documents in runs of about 4 MB."""
    begin = size = 0
    for place, document in enumerate(documents, 1):
        size += len(document)
        if size >= _SLICE_BYTES or place == len(documents):
            yield documents[begin:place]
            begin, size = place, 0


def ids_differ(ours: Any, peer: Any) -> str | None:
    """The same ids."""
    mine, others = np.load(ours["ids"]), np.load(peer["ids"])
    if len(mine) != len(others):
        return f"ours are {len(mine)} ids, the peer's {len(others)}"
    places = np.flatnonzero(mine != others)
    return f"{len(places)} ids differ, the first is number {places[0]}" if len(places) else None
