"""Small generated things for unit and contract tests: runs, data sets, and DeepSpeed's arithmetic in plain torch."""

import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import trainer.engines
from configs.dataset import TextData
from configs.engine import CheckpointConfig
from configs.events import read_events
from configs.folder import RunFolder, file_digest, write_json
from configs.load import load
from configs.schema import RunConfig, identity
from configs.stages import data_key
from configs.suite_file import is_suite
from data.dataset import open_dataset
from data.manifest import SCHEMA_VERSION, Manifest, SourceRecord, Split, TokenizerRecord, content_digest
from data.packing import pack
from data.samples import decode, encode_array
from data.shards import ShardReader, ShardWriter
from data.vocabulary import END_OF_DOCUMENT, stored_tokenizer, train_tokenizer
from trainer.checkpoint import Checkpointer, TrainState
from trainer.distributed import World, seed_all
from trainer.engines import build_engines
from trainer.heartbeat import open_pulse
from trainer.loop import StopRequest, Trainer, fit
from trainer.meter import Meter, Workload
from trainer.pieces import Piece, State, Stored
from trainer.showing import open_showing
from trainer.task import Sample
from trainer.tasks import build_task
from trainer.tracker import open_tracker

torch.set_num_threads(1)  # more threads than idle cores make small tensors many times slower

Ids = NDArray[np.int64]
_HOME = Path(__file__).parent.parent / "configs"
SUITES = [path for path in sorted(_HOME.glob("*.yaml")) if is_suite(path)]
CONFIGS = [path for path in sorted(_HOME.glob("*.yaml")) if path not in SUITES]
CONFIGS += sorted((_HOME / "production").glob("*.yaml"))
FIELDS = ("tokens.npy",)
ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
WORDS = "the king of night and the queen of day met where rivers bend and spoke no word but song".split()  # noqa: SIM905

SMALL: dict[str, Any] = {
    "data.tokenizer": lambda old: (
        {"kind": "wordpiece", "special": "masked"} | old | {"vocabulary_size": 270}
        if old["kind"] != "file"
        else {"kind": "wordpiece", "special": "masked", "vocabulary_size": 270}
    ),
    "data.block_tokens": 16,
    "data.images.height": lambda old: max(16, min(32, old // 8)),
    "data.images.width": lambda old: max(16, min(32, old // 8)),
    "data.shard_samples": 64,
    "data.splits.validation": 0.2,
    "data.splits.test": 0.2,
    "data.splits.folds": None,
    "task.model.num_layers": 2,
    "task.model.width": lambda old: min(old, 32),
    "task.model.num_heads": 4,
    "task.model.num_kv_heads": 2,
    "task.model.feed_forward_width": 96,
    "task.model.blocks": lambda old: [1] * min(len(old), 3),
    "task.model.width_factor": lambda old: old if isinstance(old, int) else 0.15,
    "task.model.growth": 8,
    "task.model.multipliers": [1, 2],
    "task.model.num_blocks": 1,
    "task.model.attention_sides": [8],
    "task.model.head_width": 16,
    "task.model.dropout": 0.0,
    "task.model.stochastic_depth": 0.0,
    "task.model.init_from": None,
    "task.dropout": 0.0,
    "task.label_smoothing": 0.0,
    "task.side": 32,
    "task.resolutions": [],
    "task.drawing.steps": 4,
    "task.evaluation.stride_tokens": 8,
    "task.evaluation.sampling.max_tokens": 8,
    "task.evaluation.images": 8,
    "task.evaluation.judge": None,
    "train.precision": "fp32",
    "train.samples": None,
    "world.processes": 1,
    "world.device": "cpu",
    "world.threads": 1,
    "world.loader_workers": 0,
    "world.prepare_workers": 1,
    "wandb.mode": "disabled",
}
"""What makes any run quick, some of it from what was there; a key that a run does not have is left out"""


def shrink(path: Path, *changes: str, **overrides: object) -> RunConfig:
    """A committed configuration, small enough for a test.

    changes are as on the command line, and made small too; overrides, which have `__` for the dots, stay as given.
    """
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    tree = load([str(path), *changes]).model_dump(mode="json")
    small = {
        key: value(old) if callable(value) else value
        for key, value in SMALL.items()
        if (old := _find(tree, key.split("."))) is not None and not any(_overlap(key, each) for each in given)
    }
    return load([str(path), *changes, *as_arguments(small | given)])


def as_arguments(settings: Mapping[str, object]) -> list[str]:
    """Settings as the command line has them."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def _overlap(key: str, other: str) -> bool:
    """Whether one of two keys is the other or a section that holds it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _find(tree: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def tiny_run(**overrides: object) -> RunConfig:
    """A causal language model of about 50,000 parameters."""
    path = next(path for path in CONFIGS if path.stem == "demo-lm")
    return shrink(path, **{"task__model__width": 48} | overrides)


def write_texts(folder: Path, *, documents: int = 30, sentences: int = 12) -> Path:
    """Text files that a tiny model can learn something from, the same every time."""
    rng = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        lines = [" ".join(rng.choices(WORDS, k=9)).capitalize() + "." for _ in range(sentences)]
        (folder / f"{number:03d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def write_images(folder: Path, *, classes: int = 4, images: int = 24, side: int = 32) -> Path:
    """Folders of noise in colour, a folder a class, each with its own bright quarter; the same every time."""
    rng = np.random.default_rng(7)
    for place in range(classes):
        (folder / f"class-{place}").mkdir(parents=True)
        top, left = place // 2 * side // 2, place % 2 * side // 2
        for number in range(images):
            pixels = rng.integers(0, 200, (side, side, 3), dtype=np.uint8)
            pixels[top : top + side // 2, left : left + side // 2] |= 128
            Image.fromarray(pixels).save(folder / f"class-{place}" / f"{number:03d}.png")
    return folder


def write_rows(path: Path, *, rows: int = 120) -> Path:
    """Passages of different lengths, each of one of three kinds, its first word tagged; the same every time."""
    rng = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            words = [f"w{number}", *rng.choices(WORDS, k=rng.choice((2, 4, 9, 14)))]
            row = {"text": " ".join(words), "kind": f"kind-{number % 3}", "tags": [[0, len(words[0]), "first"]]}
            file.write(json.dumps(row) + "\n")
    return path


def write_source(run: RunConfig, folder: Path) -> str:
    """Raw data of the kind that a run reads, and the `data.source` that reads it."""
    if not isinstance(run.data, TextData):
        return f"{{kind: files, paths: ['{write_images(folder)}'], label_field: folder}}"
    if run.data.packing != "document":
        return f"{{kind: files, paths: ['{write_texts(folder)}']}}"
    folder.mkdir(parents=True)
    rows = write_rows(folder / "rows.jsonl")
    return f"{{kind: files, paths: ['{rows}'], label_field: kind, tags_field: tags}}"


def random_documents(lengths: Sequence[int], *, vocabulary_size: int, end: int, seed: int = 0) -> list[Ids]:
    """Documents of random ids with `end` after each and nowhere else; a length counts it."""
    rng = np.random.default_rng(seed)
    others = np.delete(np.arange(vocabulary_size), end)
    return [np.append(rng.choice(others, length - 1), end).astype(np.int64) for length in lengths]


def write_dataset(run: RunConfig, folder: RunFolder, documents: Mapping[str, Sequence[Ids]]) -> Manifest:
    """Shards, tokenizer and manifest of given documents by split, as prepare leaves them."""
    assert isinstance(run.data, TextData)
    folder.data.mkdir(parents=True)
    tokenizer = train_tokenizer([" ".join(WORDS)], run.data.tokenizer)  # type: ignore[arg-type]  # a bpe one
    tokenizer.save(str(folder.tokenizer))
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    assert end is not None
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        digest="",
        config=data_key(run),
        kind="text",
        sources=(SourceRecord(description="generated", files=0, bytes=0, documents=0, digest="0" * 64),),
        tokenizer=TokenizerRecord(
            file=folder.tokenizer.name,
            sha256=file_digest(folder.tokenizer),
            vocabulary_size=tokenizer.get_vocab_size(),
            end_of_document=END_OF_DOCUMENT,
            end_of_document_id=end,
        ),
        block_tokens=run.data.block_tokens,
        fields=FIELDS,
        checks={},
        splits={name: _write_split(run, folder, name, list(each), end) for name, each in documents.items()},
        dropped={},
    )
    manifest = manifest.model_copy(update={"digest": content_digest(manifest)})
    write_json(folder.manifest, manifest.model_dump(mode="json"))
    return manifest


def _write_split(run: RunConfig, folder: RunFolder, name: str, documents: Sequence[Ids], end: int) -> Split:
    writer = ShardWriter(folder.data / f"{name}-00000.tar", FIELDS)
    samples = 0
    assert isinstance(run.data, TextData)
    for block in pack(documents, length=run.data.block_tokens, context=end):
        writer.write(f"{name}-{samples:09d}", {"tokens.npy": encode_array(block.astype("<u2"))})
        samples += 1
    tokens = sum(map(len, documents))
    return Split(
        documents=len(documents),
        tokens=tokens,
        bytes=3 * tokens,
        words=max(1, tokens // 2),
        samples=samples,
        shards=(writer.close(),),
    )


def open_readers(folder: RunFolder, manifest: Manifest) -> dict[str, ShardReader]:
    return {name: ShardReader(folder.data, split.shards, manifest.fields) for name, split in manifest.splits.items()}


def read_samples(reader: ShardReader, indices: Sequence[int]) -> list[Sample]:
    """Samples as the loader hands them to a task."""
    return [{"position": index, "id": index} | decode(reader[index]) for index in indices]


class Memory:
    """Tensors by name with the two methods that a checkpointer needs."""

    def __init__(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.tensors: Mapping[str, Mapping[str, Tensor]] = tensors

    def state(self) -> State:
        return {
            kind: [Piece(name, tuple(tensor.shape), 0, tensor) for name, tensor in named.items()]
            for kind, named in self.tensors.items()
        }

    def load(self, stored: Stored) -> None:
        self.tensors = {
            kind: {name: stored.read(kind, name).view(stored.shape(kind, name)) for name in stored.names(kind)}
            for kind in stored.kinds()
        }


def checkpoints(
    root: Path,
    origin: Mapping[str, str],
    world: World = ALONE,
    *,
    identity: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Checkpointer:
    """A checkpointer whose `save` waits, so that a test can look at what it left, unless it is set otherwise."""
    config = CheckpointConfig(**{"every_steps": 1, "keep": 9, "asynchronous": False} | settings)
    return Checkpointer(root, world, origin, identity=identity or {}, config=config)


class PlainEngine:
    """What a DeepSpeed engine does on one rank at stage 0; `test_loop` compares the two."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accumulation: int) -> None:
        self.module, self.optimizer, self.accumulation, self.micro = module, optimizer, accumulation, 0

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def backward(self, loss: Tensor) -> None:
        (loss / self.accumulation).backward()

    def is_gradient_accumulation_boundary(self) -> bool:
        return (self.micro + 1) % self.accumulation == 0

    def step(self) -> None:
        if self.is_gradient_accumulation_boundary():
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.micro += 1


def without_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `trainer.engines` start PlainEngine, which needs no process group and no seconds of import."""

    def initialize(
        *, model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any], dist_init_required: bool
    ) -> tuple[PlainEngine]:
        assert not dist_init_required
        assert config["gradient_clipping"] == 0.0, "DeepSpeed would clip a second time"
        return (PlainEngine(model, optimizer, config["gradient_accumulation_steps"]),)

    monkeypatch.setattr(trainer.engines, "quiet_deepspeed", lambda: SimpleNamespace(initialize=initialize))


def raiser(error: BaseException) -> Callable[..., Any]:
    """A function that takes anything and raises."""

    def fail(*args: object, **kwargs: object) -> Any:
        raise error

    return fail


class Rank(World):
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank=rank, local_rank=rank, size=size, device=torch.device("cpu"))
        self.board, self.barrier = board, barrier

    def exchange(self, mine: Any) -> list[Any]:
        """Everybody's value, in the order of the ranks."""
        self.board[self.rank] = mine
        self.barrier.wait(30)
        everyone = list(self.board)
        self.barrier.wait(30)
        return everyone

    def aside(self) -> "Rank":  # type: ignore[override]
        board, barrier = self.exchange(([None] * self.size, threading.Barrier(self.size)))[0]
        return Rank(self.rank, self.size, board, barrier)

    def gather_later(self, values: Sequence[int]) -> Callable[[], Ids]:
        everyone = np.array(self.exchange(list(values)), dtype=np.int64)
        return lambda: everyone

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.exchange(values.detach().double())).sum(0)

    def mean(self, values: Tensor) -> Tensor:
        return torch.stack(self.exchange(values.detach().clone())).mean(0)

    def collect(self, rows: Tensor) -> Tensor:
        everyone = torch.cat(self.exchange(rows))
        return everyone if self.rank == 0 else everyone[:0]

    def _union(self, names: list[str]) -> set[str]:
        return {name for each in self.exchange(names) for name in each}


def on_ranks(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What `work` returns on each rank of a simulated world; an error on one ends them all."""
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size)

    def guarded(rank: int) -> Any:
        try:
            return work(Rank(rank, size, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(guarded, rank) for rank in range(size)]]


def make_trainer(run: RunConfig, folder: RunFolder, world: World = ALONE) -> Trainer:
    """All that `fit` needs, over a data set that `write_dataset` made; its tracker writes to `folder.events`."""
    data = open_dataset(run, folder)
    task = build_task(run, data.manifest, stored_tokenizer(folder.tokenizer))
    seed_all(run.seed)
    engines, frozen = build_engines(task.networks(), task.turns, run, world)
    tracker = open_tracker(folder, "train", rank=world.rank)
    return Trainer(
        run,
        task,
        engines,
        frozen,
        data,
        world,
        Checkpointer(
            folder.train,
            world,
            {"data": data.manifest.digest, "config": "c"},
            identity=identity(run),
            config=run.train.retention,
        ),
        tracker,
        Meter(Workload(run.train.global_batch_samples), memory=lambda: 0),
        open_pulse(world.rank),
        open_showing(run, folder, task, data, world, tracker),
    )


BEGINNING = TrainState(step=0, position=0, samples_digest="00" * 32)


def run_fit(run: RunConfig, folder: RunFolder, stop: StopRequest) -> Trainer:
    """As the train command does: from the latest checkpoint, if there is one."""
    return fit_from_latest(run, folder, stop)[0]


def fit_from_latest(run: RunConfig, folder: RunFolder, stop: StopRequest) -> tuple[Trainer, TrainState]:
    """The same, with the state that training came to."""
    trainer = make_trainer(run, folder)
    latest = trainer.checkpointer.latest()
    state = BEGINNING if latest is None else trainer.checkpointer.load(latest, trainer.engines)
    try:
        state = fit(trainer, state, stop)
    finally:
        trainer.tracker.finish("over")
        trainer.checkpointer.wait()  # its thread would outlive a training that a test kills, and write into the next
    return trainer, state


def steps_of(folder: RunFolder) -> dict[int, dict[str, Any]]:
    """The events of the steps, with what no clock decides."""
    kept = ("event", "step", "position", "samples_digest", "train/loss", "train/grad_norm", "train/learning_rate")
    return {
        event["step"]: {name: value for name, value in event.items() if name in kept}
        for event in read_events(folder.events)
        if event["event"] == "step"
    }
