"""Cases of the data stage: what one core does in a second, ours against other libraries with equal outputs."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data_first, data_memory
from benchmarks.corpus import write_corpus
from benchmarks.data_samples import pixels_differ, samples_differ
from benchmarks.data_text import block_tokens, blocks_differ, ids_differ, open_work
from benchmarks.harness import BenchmarkError, Case, Pair
from benchmarks.worker import worker
from configs.folder import RunFolder
from configs.load import load
from configs.stages import read_record

HERE = Path(__file__).parent
CORPUS_BYTES = 32 << 20


@contextlib.contextmanager
def sides(ours: str, peer: str, folder: Path) -> Iterator[Pair]:
    """Both sides over what lies in a folder, each in a process of its own, with one thread."""
    with (
        worker(ours, folder, folder / "ours.log", threads=1) as mine,
        worker(peer, folder, folder / "peer.log", threads=1) as other,
    ):
        yield Pair(mine, other)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name:
        yield Path(name)


@contextlib.contextmanager
def samples(ours: str, peer: str) -> Iterator[Pair]:
    """Each side makes its samples itself, the same ones."""
    with (
        scratch() as folder,
        sides(f"benchmarks.data_samples:{ours}", f"benchmarks.data_samples:{peer}", folder) as pair,
    ):
        yield pair


@contextlib.contextmanager
def text(ours: str, peer: str) -> Iterator[Pair]:
    """A generated corpus, prepared by our own command until its documents are cleaned and its tokenizer is trained."""
    with scratch() as folder:
        corpus = folder / "corpus.jsonl"
        write_corpus(corpus, CORPUS_BYTES)
        run = load([str(HERE / "data.yaml"), f"data.source.paths={json.dumps([str(corpus)])}"])
        place = RunFolder(folder / "run")
        place.open(run)
        for phase in ("plan", "read", "decide", "overlap", "tokenizer"):
            prepare(place, phase)
        with sides(f"benchmarks.data_text:{ours}", f"benchmarks.data_text:{peer}", place.path) as pair:
            yield pair


def prepare(folder: RunFolder, *phase: str) -> None:
    """`trainworks prepare` of a run folder, or a phase of it. Raises BenchmarkError with what it said."""
    command = [sys.executable, "-m", "data.prepare", str(folder.path), *phase]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(
            f"prepare ended with exit code {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        )


def tokenised_differ(ours: Any, peer: Any) -> str | None:
    work = open_work(Path(ours["train"]).parent)
    return blocks_differ(ours, peer, end=read_record(work.tokenizer)["end_id"], length=block_tokens(work))


@contextlib.contextmanager
def first_batches() -> Iterator[Pair]:
    """One data set of many shards, opened anew for each round."""
    with scratch() as folder:
        data_first.make_data(folder / "run")
        with sides("benchmarks.data_first:FarIn", "benchmarks.data_first:Beginning", folder / "run") as pair:
            yield pair


CASES = (
    Case(
        name="data/tokenise-datasets",
        measures="our encode and write phases against datasets.map tokenise, group and save_to_disk",
        unit="MB per core-second",
        goal=20,
        libraries=("gigatoken", "tokenizers", "datasets", "transformers"),
        open=partial(text, "Prepare", "Datasets"),
        check=tokenised_differ,
        clock="cpu_s",
    ),
    Case(
        name="data/encode-tokenizers",
        measures="our encoder against tokenizers.encode_batch_fast",
        unit="MB per core-second",
        goal=5,
        libraries=("gigatoken", "tokenizers"),
        open=partial(text, "Encode", "EncodeFast"),
        check=ids_differ,
        clock="cpu_s",
    ),
    Case(
        name="data/write-webdataset",
        measures="our shard writer against webdataset's ShardWriter, samples of about 21 kB",
        unit="samples per core-second",
        goal=6,
        libraries=("webdataset", "blake3", "xxhash"),
        open=partial(samples, "Write", "WriteWebdataset"),
        check=samples_differ,
        clock="cpu_s",
    ),
    Case(
        name="data/read-webdataset",
        measures="our reader, checksums and all, against webdataset's, raw samples of about 21 kB",
        unit="samples per core-second",
        goal=9,
        libraries=("webdataset", "xxhash"),
        open=partial(samples, "Read", "ReadWebdataset"),
        check=samples_differ,
        clock="cpu_s",
    ),
    Case(
        name="data/read-litdata",
        measures="our reader, checksums and all, against litdata's StreamingDataset, raw samples of about 21 kB",
        unit="samples per core-second",
        goal=1,
        libraries=("litdata", "xxhash"),
        open=partial(samples, "Read", "ReadLitdata"),
        check=samples_differ,
        clock="cpu_s",
    ),
    Case(
        name="data/decode-pil",
        measures="our decoder of stored images against Pillow's, JPEG of 256 x 256",
        unit="images per core-second",
        goal=1.4,
        libraries=("simplejpeg", "pillow"),
        open=partial(samples, "Decode", "DecodePillow"),
        check=pixels_differ,
        clock="cpu_s",
    ),
    Case(
        name="data/first-batch",
        measures="time to the first batch at position 10,000,000 (ours) and at 0 (peer): at most 1.2 times as long",
        unit="first batches/s",
        goal=1 / 1.2,
        libraries=("torch",),
        open=first_batches,
        check=data_first.wrong,
    ),
    data_memory.limit(),
)
