"""Cases of tracking: what a step pays for its figures, and a run's start for a server that does not answer."""

import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import Case, Limit, Pair, Round, Say, Stopwatch
from configs.events import EventLog, read_events
from configs.folder import RunFolder
from configs.load import dump, load
from configs.schema import TrainConfig
from pipelines.tracking.watched import watched
from trainer.tracker import Tracker, open_tracker

SCALARS, STEPS, STEP_S = 20, 300, 0.050
EVERY = TrainConfig.model_fields["log_every_steps"].default
PAUSE_S = 0.002
"""Instead of a step's work, so that threads of the sides get their turn"""
KEYS = tuple(f"train/figure_{number}" for number in range(SCALARS))


def figures(step: int) -> dict[str, float]:
    """The same numbers of a step on both sides."""
    rng = random.Random(step)
    return {key: rng.random() for key in KEYS}


def timed(log: Callable[[int, Mapping[str, float]], None], first: int) -> list[float]:
    """Seconds of each call, over STEPS steps."""
    spent = []
    for step in range(first, first + STEPS):
        values = figures(step)
        time.sleep(PAUSE_S)
        begun = time.perf_counter()
        log(step, values)
        spent.append(time.perf_counter() - begun)
    return spent


def in_a_round(log: Callable[[int, Mapping[str, float]], None], first: int, last: Callable[[], Any]) -> Round:
    watch = Stopwatch()
    watch.start()
    seconds = sum(timed(log, first))
    watch.stop()
    return Round(STEPS, seconds, watch.cpu_s, last())


class Steps:
    """Logs as the training loop does: what steps tell waits for the next flush, which writes all of it at once."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.pending: list[tuple[int, Mapping[str, float]]] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.pending.append((step, values))
        if step % EVERY == 0:
            with self.tracker.together():
                for each, figures in self.pending:
                    self.tracker.log(each, figures)
            self.pending.clear()


@contextmanager
def open_sides() -> Iterator[Pair]:
    """Our event log, flushed per line, and `wandb.log` in the loop, offline, as without a network."""
    import wandb

    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as scratch, ExitStack() as stack:
        log = EventLog(Path(scratch) / "events.jsonl")
        stack.callback(log.close)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        session = wandb.init(mode="offline", dir=scratch, project="benchmark", settings=settings)
        stack.callback(session.finish)
        done = {"ours": 1, "peer": 1}

        def ours() -> Round:
            first, done["ours"] = done["ours"], done["ours"] + STEPS
            return in_a_round(Steps(Tracker(log)), first, lambda: last_logged(log.path))

        def peer() -> Round:
            first, done["peer"] = done["peer"], done["peer"] + STEPS
            write = lambda step, values: session.log(dict(values), step=step, commit=True)  # noqa: E731
            return in_a_round(write, first, lambda: _summary(session, done["peer"] - 1))

        yield Pair(ours, peer)


def last_logged(path: Path) -> dict[str, float]:
    *_, event = read_events(path)
    return {key: event[key] for key in KEYS}


def _summary(session: Any, step: int) -> dict[str, float]:
    """What wandb says of a step, once its process has it."""
    wanted, deadline = figures(step), time.monotonic() + 20
    while (last := {key: session.summary.get(key) for key in KEYS}) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return last


def differ(ours: Mapping[str, float], peer: Mapping[str, float]) -> str | None:
    """What is wrong between the last figures of both sides."""
    wrong = [key for key in KEYS if ours.get(key) != peer.get(key)]
    return f"{', '.join(wrong)} differ" if wrong else None


@contextmanager
def beside_a_silent_server() -> Iterator[tuple[RunFolder, float]]:
    """A run folder that is followed for W&B while nobody answers; with it, the seconds that this took to begin."""
    before = {name: os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_BASE_URL")}
    with (
        tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as scratch,
        socket.create_server(("", 0)) as silent,
    ):
        folder = RunFolder(Path(scratch))
        folder.logs.mkdir()
        run = load([str(Path(__file__).parent.parent / "configs" / "demo-lm.yaml")])
        folder.config.write_text(dump(run))
        os.environ |= {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        try:
            begun = time.perf_counter()
            with watched("train", run, folder, lambda line: None):
                yield folder, time.perf_counter() - begun
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def step_times() -> list[float]:
    with beside_a_silent_server() as (folder, _):
        tracker = open_tracker(folder, "train", rank=0)
        steps = Steps(tracker)
        spent = [each for turn in range(5) for each in timed(steps, 1 + turn * STEPS)]
        tracker.finish("completed")
    return spent


def share_percent(say: Say) -> float:
    """Per cent of a step of STEP_S seconds that logging its figures takes."""
    spent = step_times()
    say(f"  {len(spent)} steps: mean {fmean(spent) * 1e6:.1f} us, longest {max(spent) * 1e3:.3f} ms")
    return 100 * fmean(spent) / STEP_S


def longest_ms(say: Say) -> float:
    """The longest that a step waited for its log, in ms."""
    spent = step_times()
    say(f"  {len(spent)} steps: mean {fmean(spent) * 1e6:.1f} us, longest {max(spent) * 1e3:.3f} ms")
    return 1e3 * max(spent)


def start_s(say: Say) -> float:
    """Seconds that a run begins later where the server does not answer."""
    with beside_a_silent_server() as (_, seconds):
        say(f"  began after {seconds * 1e3:.1f} ms")
        begun = time.perf_counter()
    say(f"  and ended {time.perf_counter() - begun:.1f} s later")
    return seconds


CASES = (
    Case(
        name="tracking/log",
        measures=f"logging {SCALARS} scalars a step: a checked line of the event log against wandb.log, offline",
        unit="steps/s of logging",
        goal=50.0,
        libraries=("wandb", "orjson"),
        open=open_sides,
        check=differ,
    ),
    Limit(
        name="tracking/step-share",
        measures=f"logging {SCALARS} scalars, of a step of {STEP_S * 1e3:.0f} ms, while W&B's server is silent",
        unit="% of a step",
        most=0.5,
        libraries=("wandb", "orjson"),
        measure=share_percent,
    ),
    Limit(
        name="tracking/step-longest",
        measures=f"the longest of {5 * STEPS} steps' logging of {SCALARS} scalars, while W&B's server is silent",
        unit="ms",
        most=1.0,
        libraries=("wandb", "orjson"),
        measure=longest_ms,
    ),
    Limit(
        name="tracking/start",
        measures="what a W&B server that accepts connections and never answers adds to a run's start",
        unit="s",
        most=3.0,
        libraries=("wandb",),
        measure=start_s,
    ),
)
