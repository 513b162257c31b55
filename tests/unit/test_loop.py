"""The training loop: against plain PyTorch, interrupted, resumed, and gone wrong."""

import hashlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs.engine import AnomalyConfig
from configs.errors import Halted, Stopped
from configs.events import EventLog, read_events
from configs.folder import RunFolder
from configs.optimisation import AdamWConfig
from configs.schema import RunConfig
from configs.stages import step_folder, steps_in
from data.manifest import Manifest
from data.order import order
from tests.tiny import (
    ALONE,
    BEGINNING,
    make_trainer,
    on_ranks,
    open_readers,
    raiser,
    random_documents,
    read_samples,
    run_fit,
    steps_of,
    tiny_run,
    without_deepspeed,
    write_dataset,
)
from trainer.checkpoint import TrainState
from trainer.distributed import World, seed_all
from trainer.engines import build_engines, freeze_all_but
from trainer.feed import Feed
from trainer.guard import Guard
from trainer.heartbeat import NullPulse
from trainer.loop import fit
from trainer.meter import Meter, Workload
from trainer.optim import learning_rate
from trainer.recorder import Recorder
from trainer.requests import StopRequest
from trainer.task import Batch, Sample
from trainer.tasks import build_task
from trainer.tracker import Tracker

STEPS = 5


def loop_run(**overrides: object) -> RunConfig:
    """Accumulation 2, clipping that acts, warm-up and a schedule, an epoch's end on the way."""
    settings: dict[str, object] = {
        "train__steps": STEPS,
        "train__global_batch_samples": 8,
        "world__micro_batch_samples": 4,
        "train__optimizer__learning_rate": 0.01,
        "train__schedule": "{kind: cosine, warmup_steps: 2, final: 0.1}",
        "train__clip_grad_norm": 0.5,
        "train__ema": "{decay: 0.8}",
        "train__validate_every_steps": 3,
        "train__validation_samples": None,
        "train__log_every_steps": 2,
        "train__checkpoint": "{every_steps: 2, keep: 2}",
    }
    return tiny_run(**settings | overrides)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A prepared data set of 27 training samples."""
    without_deepspeed(monkeypatch)
    folder = RunFolder(tmp_path / "run")
    documents = {
        "train": random_documents([200, 30, 199], vocabulary_size=270, end=0, seed=1),
        "validation": random_documents([50], vocabulary_size=270, end=0, seed=2),
    }
    write_dataset(loop_run(), folder, documents)
    return folder


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = signal.getsignal(signal.SIGTERM)
    yield StopRequest()
    signal.signal(signal.SIGTERM, before)


def plain_loop(run: RunConfig, folder: RunFolder) -> list[dict[str, float]]:
    """The same training in plain PyTorch: one batch, the mean loss over its tokens."""
    manifest = Manifest.model_validate_json(folder.manifest.read_bytes())
    reader = open_readers(folder, manifest)["train"]
    task = build_task(run, manifest)
    seed_all(run.seed)
    model = task.networks()["model"]
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    config = run.train.optimizer
    assert isinstance(config, AdamWConfig)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        betas=config.betas,
        eps=config.eps,
    )
    samples = run.train.global_batch_samples
    ids = np.concatenate(
        [order(reader.sizes, run.seed, epoch, run.data.shuffle_window_samples) for epoch in range(STEPS)]
    )
    history = []
    for step in range(run.train.steps):
        batch = task.collate(read_samples(reader, ids[step * samples : (step + 1) * samples].tolist()))
        logits = model(batch.tensors["tokens"])
        loss = F.cross_entropy(logits.flatten(0, 1), batch.tensors["targets"].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.train.clip_grad_norm or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, run.train)
        optimizer.step()
        history.append({"train/loss": loss.item(), "train/grad_norm": norm.item()})
    return history


def assert_same_curve(events: dict[int, dict[str, Any]], history: Sequence[dict[str, float]]) -> None:
    assert list(events) == list(range(1, len(history) + 1))
    for event, expected in zip(events.values(), history, strict=True):
        assert event["train/loss"] == pytest.approx(expected["train/loss"], abs=1e-6)
        assert event["train/grad_norm"] == pytest.approx(expected["train/grad_norm"], rel=1e-4)


def test_the_loop_equals_plain_pytorch_with_the_whole_batch_at_once(folder: RunFolder, stop: StopRequest) -> None:
    run = loop_run()
    history = plain_loop(run, folder)
    assert min(each["train/grad_norm"] for each in history) > 0.5  # clipping acts
    run_fit(run, folder, stop)
    assert_same_curve(steps_of(folder), history)


DEEPSPEED_FIT = """
import sys
from pathlib import Path
from torch.distributed import destroy_process_group
from configs.folder import RunFolder
from configs.load import read
from tests.tiny import BEGINNING, make_trainer
from trainer.distributed import World
from trainer.loop import fit
from trainer.requests import StopRequest

folder = RunFolder(Path(sys.argv[1]))
run = read(folder.config)
world = World.join(run.world)
trainer = make_trainer(run, folder, world)
fit(trainer, BEGINNING, StopRequest())
trainer.tracker.finish("completed")
destroy_process_group()
"""


@pytest.mark.slow
def test_the_loop_on_a_real_deepspeed_engine_equals_plain_pytorch_too(folder: RunFolder) -> None:
    run = loop_run(world__device="cpu")
    folder.config.write_text(json.dumps(run.model_dump(mode="json")))
    root = Path(__file__).parents[2]
    distributed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in distributed}
    done = subprocess.run(
        [sys.executable, "-c", DEEPSPEED_FIT, str(folder.path)],
        env=environment | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same_curve(steps_of(folder), plain_loop(run, folder))


def test_every_step_is_logged_with_its_figures_and_the_position(folder: RunFolder, stop: StopRequest) -> None:
    run = loop_run()
    run_fit(run, folder, stop)
    events = list(read_events(folder.events))
    steps = [event for event in events if event["event"] == "step"]
    assert [event["position"] for event in steps] == [8, 16, 24, 32, 40]
    for number, event in enumerate(steps):
        assert event["train/learning_rate"] == learning_rate(number, run.train)
        assert event["train/data_wait_s"] >= 0
    assert [event["step"] for event in events if event["event"] == "validation"] == [3, 5]
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [2, 4, 5]
    assert steps_in(folder.train) == [5, 4]


def test_the_rolling_digest_is_that_of_the_sample_ids_in_order(folder: RunFolder, stop: StopRequest) -> None:
    run = loop_run()
    trainer = run_fit(run, folder, stop)
    sizes = trainer.data.readers["train"].sizes
    ids = np.concatenate([order(sizes, run.seed, epoch, run.data.shuffle_window_samples) for epoch in range(2)])
    rolled = bytes(32)
    for step, event in steps_of(folder).items():
        rolled = hashlib.sha256(rolled + ids[8 * (step - 1) : 8 * step].astype("<i8").tobytes()).digest()
        assert event["samples_digest"] == rolled.hex()


class Interrupted:
    """A task that does something when it has collated so many batches."""

    def __init__(self, task: Any, after: int, action: Callable[[], Any]) -> None:
        self.task, self.after, self.action, self.batches = task, after, action, 0

    def collate(self, samples: Sequence[Sample]) -> Batch:
        self.batches += 1
        if self.batches == self.after:
            self.action()
        return self.task.collate(samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, action: Callable[[], Any]) -> None:
    monkeypatch.setattr("tests.tiny.build_task", lambda *args: Interrupted(build_task(*args), after, action))


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def final_weights(folder: RunFolder) -> bytes:
    return (step_folder(folder.train, STEPS) / "model.weights.rank-00000.safetensors").read_bytes()


@pytest.mark.parametrize("batches", [1, 4, 7, 9])
def test_killed_and_run_again_it_repeats_the_uninterrupted_run_bit_for_bit(
    folder: RunFolder, stop: StopRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batches: int
) -> None:
    run = loop_run(task__model__dropout=0.3)  # so that randomness is seen as well
    with monkeypatch.context() as patch:
        interrupt(patch, batches, raiser(Killed()))
        with pytest.raises(Killed):
            run_fit(run, folder, stop)
    run_fit(run, folder, stop)
    other = RunFolder(tmp_path / "whole")
    other.path.mkdir()
    other.data.symlink_to(folder.data)
    run_fit(run, other, stop)
    assert steps_of(folder) == steps_of(other)
    assert final_weights(folder) == final_weights(other)


def test_sigterm_ends_the_step_saves_and_says_so_and_the_same_command_goes_on(
    folder: RunFolder, stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop_run()
    with monkeypatch.context() as patch:
        interrupt(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))  # while step 3 reads
        with pytest.raises(Stopped, match="stopped after step 3 of 5"):
            run_fit(run, folder, stop)
    assert steps_in(folder.train) == [3, 2]
    assert list(steps_of(folder)) == [1, 2, 3]
    stop.wanted = False
    run_fit(run, folder, stop)
    assert list(steps_of(folder)) == [1, 2, 3, 4, 5]


def test_a_request_in_the_folder_ends_the_step_saves_and_is_no_signal(
    folder: RunFolder, stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.requests.LOOK_S", 0.0)
    stop.watch(folder)
    with monkeypatch.context() as patch:
        interrupt(patch, 5, lambda: ask(folder, "stop"))  # while step 3 reads
        with pytest.raises(Halted, match="stopped after step 3 of 5, which is saved, as was asked for") as halted:
            run_fit(loop_run(), folder, stop)
    assert halted.value.exit_code == 1, "an operator starts again after 143"
    assert steps_in(folder.train) == [3, 2]
    run_fit(loop_run(), folder, stop)
    assert list(steps_of(folder)) == [1, 2, 3, 4, 5], "it was met, and is not asked again"


def test_a_checkpoint_that_is_asked_for_is_made_once_and_changes_nothing(
    folder: RunFolder, stop: StopRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trainer.requests.LOOK_S", 0.0)
    run = loop_run(train__checkpoint__every_steps=100, train__checkpoint__keep=9)
    stop.watch(folder)
    with monkeypatch.context() as patch:
        interrupt(patch, 5, lambda: ask(folder, "checkpoint"))
        run_fit(run, folder, stop)
    assert steps_in(folder.train) == [5, 4], "of the step that was drawn when it was seen"
    assert not folder.request("checkpoint").exists()
    other = RunFolder(tmp_path / "unasked")
    other.path.mkdir()
    other.data.symlink_to(folder.data)
    run_fit(run, other, StopRequest())
    assert final_weights(folder) == final_weights(other)


def ask(folder: RunFolder, name: str) -> None:
    folder.request(name).parent.mkdir(parents=True, exist_ok=True)
    folder.request(name).touch()


def test_sigterm_in_the_last_step_is_a_finished_run(
    folder: RunFolder, stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 2 * STEPS, lambda: signal.raise_signal(signal.SIGTERM))
    run_fit(loop_run(), folder, stop)
    assert steps_in(folder.train)[0] == STEPS


def test_a_finished_run_is_left_as_it_is(folder: RunFolder, stop: StopRequest) -> None:
    run_fit(loop_run(), folder, stop)
    before = final_weights(folder)
    run_fit(loop_run(), folder, stop)
    assert final_weights(folder) == before
    assert sum(event["event"] == "step" for event in read_events(folder.events)) == STEPS


def test_a_loss_that_runs_away_ends_the_run_and_leaves_only_sound_checkpoints(
    folder: RunFolder, stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison() -> None:
        with torch.no_grad():
            trainer.engines["model"].module.get_parameter("embedding.weight").fill_(math.nan)

    interrupt(monkeypatch, 7, poison)  # while step 4 reads
    trainer = make_trainer(loop_run(train__validate_every_steps=100), folder)
    with pytest.raises(FloatingPointError, match=r"train/loss is nan at step 4; .*learning_rate"):
        fit(trainer, BEGINNING, stop)
    trainer.checkpointer.wait()  # as the command does: what is being written may still become whole
    trainer.tracker.finish("failed")
    assert steps_in(folder.train) == [2]
    assert list(steps_of(folder)) == [1, 2, 3]
    assert "NaN" not in folder.events.read_text()


def test_weights_that_run_away_in_the_last_step_are_not_saved(folder: RunFolder, stop: StopRequest) -> None:
    """The loss and gradient of the only step are finite; what validation sees is not."""
    run = loop_run(
        train__steps=1,
        train__optimizer__learning_rate=1e30,
        train__schedule="{kind: constant}",
        train__checkpoint="{every_steps: 1}",
    )
    trainer = make_trainer(run, folder)
    with pytest.raises(FloatingPointError, match="validation/loss"):
        fit(trainer, BEGINNING, stop)
    trainer.tracker.finish("failed")
    assert steps_in(folder.train) == []


def make_recorder(world: World, path: Path) -> Recorder:
    meter = Meter(Workload(samples_per_step=8), memory=lambda: 0)
    return Recorder(world, Tracker(EventLog(path)), Guard(AnomalyConfig()), meter)


@pytest.mark.parametrize("bad", ["train/loss", "train/grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_recorder_raises_at_the_first_figure_that_is_no_number(tmp_path: Path, bad: str, value: float) -> None:
    recorder = make_recorder(ALONE, tmp_path / "events.jsonl")
    for step in (1, 2, 3):
        figures = {"train/loss": 2.0, "train/grad_norm": 1.0} | ({bad: value} if step == 2 else {})
        norm = {"train/grad_norm": torch.tensor(figures["train/grad_norm"])}
        recorder.add(step, {"train/loss": torch.tensor(figures["train/loss"])}, norm)
    with pytest.raises(FloatingPointError, match=f"{bad} is {value} at step 2"):
        recorder.flush()
    recorder.tracker.finish("failed")
    logged = [event["step"] for event in read_events(tmp_path / "events.jsonl") if event["event"] == "step"]
    assert logged == [1]


def test_the_recorder_adds_the_ranks_parts_of_each_step(tmp_path: Path) -> None:
    def work(world: World) -> list[dict[str, Any]]:
        path = tmp_path / f"{world.rank}.jsonl"
        recorder = make_recorder(world, path)
        for step in (1, 2):
            recorder.add(step, {"train/loss": torch.tensor(step * (world.rank + 1.0))}, {"position": 8 * step})
        recorder.flush()
        recorder.flush()  # nothing is pending: nothing happens
        recorder.tracker.finish("completed")
        return [event for event in read_events(path) if event["event"] == "step"]

    for events in on_ranks(3, work):
        assert [(event["train/loss"], event["position"]) for event in events] == [(6.0, 8), (12.0, 16)]


def micro_batches(world: World, accumulation: int, micro: int) -> list[Batch]:
    """What the sampler gives a rank of the first step, with ids equal to positions."""
    starts = [(k * world.size + world.rank) * micro for k in range(accumulation)]
    return [Batch({}, count=10 * world.rank + 1, ids=tuple(range(s, s + micro))) for s in starts]


@pytest.mark.parametrize(("size", "accumulation", "micro"), [(1, 1, 1), (1, 3, 2), (2, 1, 4), (3, 2, 2), (4, 3, 1)])
def test_the_feed_gives_every_rank_the_ids_by_position_the_terms_and_the_wish_to_stop(
    size: int, accumulation: int, micro: int
) -> None:
    def work(world: World) -> Any:
        batches = micro_batches(world, accumulation, micro)
        agreed = []
        for wishing in (-1, size - 1):
            feed = Feed(iter(batches), world, NullPulse(), turns=1, accumulation=accumulation)
            feed.ahead(0, stop=world.rank == wishing, failed=False, overdue=False)
            drawn = feed.take(0)
            assert [[batch.ids for batch in micro] for micro in drawn.micro] == [[batch.ids for batch in batches]]
            agreed.append((drawn.terms, [ids.tolist() for ids in drawn.ids], drawn.stop, drawn.failed))
        return agreed

    terms = [accumulation * sum(10 * rank + 1 for rank in range(size))]
    ids = [list(range(size * accumulation * micro))]
    assert on_ranks(size, work) == [[(terms, ids, False, False), (terms, ids, True, False)]] * size


def test_every_turn_of_a_step_has_its_own_micro_batches_terms_and_ids() -> None:
    batches = [Batch({}, count=number, ids=(10 * number, 10 * number + 1)) for number in range(6)]
    feed = Feed(iter(batches), ALONE, NullPulse(), turns=2, accumulation=3)
    feed.ahead(0, stop=False, failed=True, overdue=False)
    drawn = feed.take(0)
    assert drawn.failed
    assert drawn.terms == [0 + 1 + 2, 3 + 4 + 5]
    assert [ids.tolist() for ids in drawn.ids] == [[0, 1, 10, 11, 20, 21], [30, 31, 40, 41, 50, 51]]


def test_freezing_leaves_gradients_to_the_network_whose_turn_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    without_deepspeed(monkeypatch)
    pair = {name: torch.nn.Linear(2, 2) for name in ("discriminator", "generator")}
    engines, _ = build_engines(pair, tuple(pair), loop_run(), ALONE)
    for turn in ("generator", "discriminator", "generator"):
        freeze_all_but(engines, turn, 0)
        for name, engine in engines.items():
            assert all(p.requires_grad == (name == turn) for p in engine.module.parameters())


def test_what_a_task_froze_stays_frozen_in_its_networks_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    without_deepspeed(monkeypatch)
    pair = {name: torch.nn.Linear(2, 2) for name in ("first", "second")}
    pair["first"].bias.requires_grad_(False)
    engines, _ = build_engines(pair, tuple(pair), loop_run(), ALONE)
    freeze_all_but(engines, "first", 0)
    assert pair["first"].weight.requires_grad
    assert not pair["first"].bias.requires_grad


def test_seeds_are_a_function_of_their_parts() -> None:
    def draw(*parts: int) -> tuple[float, float]:
        seed_all(*parts)
        return torch.rand(()).item(), float(np.random.rand())

    assert draw(0, 1, 2) == draw(0, 1, 2)
    drawn = {draw(0, *parts) for parts in itertools.product((0, 1), repeat=4)}  # step, turn, micro-batch, rank
    assert len(drawn) == 16
    assert draw(0) not in drawn  # initial weights and the first step's dropout are not the same stream


def test_a_world_of_one_exchanges_with_itself() -> None:
    assert ALONE.gather([3, 4]).tolist() == [[3, 4]]
    assert ALONE.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert ALONE.sum_all({"b": torch.tensor(2.0), "a": torch.tensor(1)}) == {"a": 1.0, "b": 2.0}


def test_a_state_holds_no_trace_of_the_world() -> None:
    assert {"step", "position", "samples_digest", "guard", "stopping"} == set(TrainState.__dataclass_fields__)
