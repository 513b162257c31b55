"""What is shown of a training: the same samples again and again, and a training that does not notice."""

import contextlib
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trainer.tasks
from configs.events import read_events
from configs.folder import RunFolder
from configs.schema import RunConfig, identity
from configs.stages import train_key
from tests.tiny import (
    ALONE,
    make_trainer,
    on_ranks,
    random_documents,
    run_fit,
    tiny_run,
    without_deepspeed,
    write_dataset,
)
from trainer.distributed import World
from trainer.loop import StopRequest
from trainer.meter import Kind, Meter
from trainer.showing import BINS, NullShowing, histogram, open_showing, untouched

SAMPLES = "{number: 3, max_tokens: 5}"
CLOCKED = ("time", "crc", "train/data_wait_s", "train/samples_per_s", "train/goodput", "train/data_wait_share",
           "train/memory_bytes", "train/tokens_per_s")  # fmt: skip


def shown_run(**overrides: object) -> RunConfig:
    settings: dict[str, object] = {
        "train__steps": 6,
        "train__global_batch_samples": 8,
        "world__micro_batch_samples": 4,
        "train__validate_every_steps": 2,
        "train__schedule": "{kind: constant, warmup_steps: 0}",
        "train__ema": "{decay: 0.8}",
        "train__checkpoint": "{every_steps: 2, keep: 3}",
        "task__model__dropout": 0.2,
    }
    return tiny_run(**settings | overrides)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunFolder]:
    """Three run folders with the same data."""
    without_deepspeed(monkeypatch)
    monkeypatch.setattr("trainer.showing.stored_tokenizer", lambda path: Words())
    documents = {
        "train": random_documents([200, 30, 199], vocabulary_size=270, end=0, seed=1),
        "validation": random_documents([50], vocabulary_size=270, end=0, seed=2),
    }
    found = [RunFolder(tmp_path / name) for name in ("one", "two", "three")]
    for folder in found:
        write_dataset(shown_run(), folder, documents)
    return found


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = signal.getsignal(signal.SIGTERM)
    yield StopRequest()
    signal.signal(signal.SIGTERM, before)


class Words:
    """Numbers as words."""

    def encode(self, text: str, **options: Any) -> Any:
        return type("Encoding", (), {"ids": [len(each) for each in text.split()]})

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def events_of(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder.events) if event.get("event") == name]


def figures(folder: RunFolder) -> list[dict[str, Any]]:
    """Every step and validation, without what a clock says."""
    told = [event for event in read_events(folder.events) if event.get("event") in ("step", "validation")]
    return [{name: value for name, value in event.items() if name not in CLOCKED} for event in told]


def samples_in(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder.train / "samples").iterdir())}


def test_every_validation_leaves_samples_and_the_training_is_the_same_to_the_last_bit(
    folders: list[RunFolder], stop: StopRequest
) -> None:
    plain, shown = folders[:2]
    without = run_fit(shown_run(), plain, stop)
    with_samples = run_fit(shown_run(train__samples=SAMPLES), shown, stop)
    assert figures(plain) == figures(shown)
    for ours, theirs in zip(
        with_samples.engines["model"].module.parameters(), without.engines["model"].module.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert not (plain.train / "samples").exists()
    assert [(event["step"], event["file"]) for event in events_of(shown, "samples")] == [
        (step, f"samples/step-{step:08d}.json") for step in (2, 4, 6)
    ]
    for event in events_of(shown, "samples"):
        records = json.loads((shown.train / event["file"]).read_text())
        assert [sorted(record) for record in records] == [["prompt", "text"]] * 3
        assert all(len(record["text"].split()) <= 5 for record in records)
    assert len(set(samples_in(shown).values())) == 3


def test_a_resumed_training_writes_the_same_bytes_again(folders: list[RunFolder], stop: StopRequest) -> None:
    folder, run = folders[0], shown_run(train__samples=SAMPLES)
    run_fit(run, folder, stop)
    written = samples_in(folder)
    for step in (4, 6):  # so that they are done again
        (folder.train / "samples" / f"step-{step:08d}.json").write_text("other")
        (folder.train / f"step-{step:08d}" / "complete.json").write_bytes(b"damaged")
    run_fit(run, folder, stop)
    assert samples_in(folder) == written
    assert [event["step"] for event in events_of(folder, "samples")] == [2, 4, 6, 4, 6]


def test_the_weights_and_the_run_are_the_same_with_other_samples() -> None:
    run, other = shown_run(), shown_run(train__samples=SAMPLES)
    assert run.train != other.train
    assert (identity(run), train_key(run)) == (identity(other), train_key(other))


def test_what_fails_in_it_ends_no_training_and_is_told(
    folders: list[RunFolder], stop: StopRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(view: Any) -> Any:
        torch.rand(7)
        random.random()
        raise RuntimeError("no ink")

    plain, failed = folders[:2]
    run_fit(shown_run(), plain, stop)
    monkeypatch.setattr("trainer.showing.showing_of", lambda run: fail)
    run_fit(shown_run(train__samples=SAMPLES), failed, stop)
    assert [(each["step"], each["reason"]) for each in events_of(failed, "samples_failed")] == [
        (step, "RuntimeError: no ink") for step in (2, 4, 6)
    ]
    assert events_of(failed, "samples") == []
    assert "step 2  no samples: RuntimeError: no ink" in capsys.readouterr().out
    assert figures(plain) == figures(failed)


def test_samples_are_of_the_averaged_weights_and_count_as_validating(
    folders: list[RunFolder], stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    counted: list[str] = []
    during = Meter.during

    @contextlib.contextmanager
    def heard(self: Meter, kind: Kind) -> Iterator[None]:
        with during(self, kind):
            counted.append(kind)
            yield
            counted.append("")

    monkeypatch.setattr(Meter, "during", heard)

    def look(view: Any) -> list[dict[str, Any]]:
        seen.append(next(view.nets["model"].parameters()).sum().item())
        view.alive()
        assert counted[-1] == "validate"
        assert not view.nets["model"].training
        assert not torch.is_grad_enabled()
        return []

    monkeypatch.setattr("trainer.showing.showing_of", lambda run: look)
    trainer = run_fit(shown_run(train__samples=SAMPLES), folders[0], stop)
    engine = trainer.engines["model"]
    own = next(engine.module.parameters()).sum().item()
    with engine.averaged():
        assert seen[-1] == next(engine.module.parameters()).sum().item() != own


def test_samples_that_take_too_long_are_left_before_other_ranks_lose_patience(
    folders: list[RunFolder], stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("trainer.showing.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def dawdle(view: Any) -> list[dict[str, Any]]:
        for _ in range(9):
            clock[0] += 1.0
            view.alive()
        return []

    monkeypatch.setattr("trainer.showing.showing_of", lambda run: dawdle)
    run_fit(shown_run(train__samples=SAMPLES, world__timeout_s=10), folders[0], stop)
    assert clock[0] == 3 * 6.0, "a second after half of the patience"
    assert all("take more than 5 s" in event["reason"] for event in events_of(folders[0], "samples_failed"))
    run_fit(shown_run(train__samples=SAMPLES, world__timeout_s=100), folders[1], stop)
    assert len(events_of(folders[1], "samples")) == 3


@pytest.mark.parametrize("change", [{"world__zero": "{stage: 3}"}, {"slices": 2}])
def test_where_each_rank_holds_a_part_there_are_none_and_the_reason_is_told(
    folders: list[RunFolder], change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_trainer(shown_run(), folders[0])
    slices = change.get("slices", 1)
    world = World(rank=0, local_rank=0, size=slices, device=torch.device("cpu"), slices=slices)
    settings = {name: value for name, value in change.items() if name != "slices"}
    run = shown_run(train__samples=SAMPLES, **settings)
    showing = open_showing(run, folders[0], made.task, made.data, world, made.tracker)
    assert "no samples during training: each rank holds a part" in capsys.readouterr().out
    networks = {"model": made.engines["model"].module}
    showing.samples(2, networks, lambda: None)
    showing.weights(2, networks)
    assert [event["event"] for event in read_events(folders[0].events)] == ["log"]
    assert not (folders[0].train / "samples").exists()


def test_other_ranks_show_nothing_and_the_first_asks_them_for_nothing(folders: list[RunFolder]) -> None:
    folder, run = folders[0], shown_run(train__samples=SAMPLES)
    alone = make_trainer(run, folders[1], ALONE)

    def show(world: World) -> None:
        showing = open_showing(run, folder, alone.task, alone.data, world, alone.tracker)
        assert isinstance(showing, NullShowing) == (world.rank > 0)
        if world.rank == 0:  # a collective here would wait for the other for ever
            network = alone.task.networks()["model"]
            showing.samples(1, {"model": network}, lambda: None)
            showing.weights(1, {"model": network})

    on_ranks(2, show)
    assert list(samples_in(folder)) == ["step-00000001.json"]


def test_modes_and_random_numbers_are_as_before_whatever_happens() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[1].eval()  # frozen, while the rest trains
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]

    def use() -> None:
        with untouched({"model": net}, torch.device("cpu"), compiled=False):
            assert not net.training
            torch.manual_seed(7)
            random.random()
            np.random.random()
            raise OSError("anything")

    with pytest.raises(OSError, match="anything"):
        use()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]  # type: ignore[union-attr]
    assert [module.training for module in net.modules()] == [True, True, False]


# --- histograms ------------------------------------------------------------------------------------------------------


def test_a_histogram_counts_every_number_once_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.showing.CHUNK", 100)
    tensors = [torch.randn(37, 5), torch.randn(400).to(torch.bfloat16), torch.tensor(0.5), torch.arange(3)]
    found = histogram(tensors)
    assert found is not None
    edges, counts = found
    numbers = torch.cat([each.float().reshape(-1) for each in tensors[:3]]).numpy()
    assert len(edges) == BINS + 1 == len(counts) + 1
    assert (edges[0], edges[-1]) == (numbers.min(), numbers.max())
    assert sum(counts) == len(numbers)
    expected, _ = np.histogram(numbers.astype(np.float64), edges)
    assert np.abs(expected - counts).sum() <= 2, "a number on an edge may fall to either side"


def test_a_histogram_of_equal_numbers_of_none_and_of_what_is_no_number() -> None:
    found = histogram([torch.zeros(9)])
    assert found is not None
    assert sum(found[1]) == 9
    assert found[0][0] < 0 < found[0][-1]
    assert histogram([]) is None
    assert histogram([torch.empty(0), torch.arange(4)]) is None
    assert histogram([torch.tensor([1.0, float("nan")])]) is None
    assert histogram([torch.tensor([1.0, float("inf")])]) is None


def test_every_validation_tells_the_histogram_of_each_network_and_the_last_step_of_each_flush_the_goodput(
    folders: list[RunFolder], stop: StopRequest
) -> None:
    trainer = run_fit(shown_run(train__log_every_steps=2), folders[0], stop)
    told = events_of(folders[0], "histogram")
    assert [(event["step"], event["name"]) for event in told] == [(step, "weights/model") for step in (2, 4, 6)]
    size = sum(parameter.numel() for parameter in trainer.engines["model"].module.parameters())
    for event in told:
        assert sum(event["counts"]) == size
        assert len(event["edges"]) == len(event["counts"]) + 1 == BINS + 1
        assert event["edges"] == sorted(event["edges"])
    shares = {event["step"]: event.get("train/goodput") for event in events_of(folders[0], "step")}
    assert [step for step, share in shares.items() if share is not None] == [2, 4, 6]
    assert all(0 <= share <= 1 for share in shares.values() if share is not None)


def test_every_registered_family_s_samples_are_functions() -> None:
    for family in trainer.tasks.FAMILIES.values():
        assert family.showing
