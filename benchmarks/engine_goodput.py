"""The case of goodput: a training whose ranks are killed again and again, and what share of its time counted."""

import hashlib
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_recovery import Job, make_run, our_job, rank_process
from benchmarks.harness import BenchmarkError, Limit, Say
from configs.events import read_events
from configs.folder import RunFolder
from configs.load import read
from data.dataset import order_of
from data.manifest import read_manifest
from data.order import Sampler
from pipelines.goodput import KINDS, goodput

MINUTES, KILL_EVERY_S = 20.0, 120.0
CHECKPOINT_STEPS, STOP_S = 25, 120.0


def lost_percent(say: Say, *, minutes: float = MINUTES, kill_every_s: float = KILL_EVERY_S) -> float:
    """Per cent of the clock that did not compute steps that count, over a training of so many minutes.

    Raises BenchmarkError when a sample was lost or read twice, or the job did not survive.
    """
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name:
        checkpoint = f"train.checkpoint={{every_steps: {CHECKPOINT_STEPS}, keep: 2}}"
        folder = make_run(Path(name), checkpoint, "train.log_every_steps=10")
        kills = train_and_kill(our_job(folder), say, minutes=minutes, kill_every_s=kill_every_s)
        events = list(read_events(folder.events))
        if problem := samples_differ(events, folder):
            raise BenchmarkError(problem)
        account = goodput(events)
        if account is None:
            raise BenchmarkError("the training wrote no span of its time")
        spans = ", ".join(f"{kind} {account.seconds[kind]:.1f} s" for kind in KINDS if account.seconds[kind])
        say(f"  {kills} kills in {account.wall_s:.0f} s, {account.lost_steps} steps done again; {spans}")
        return 100 * (1 - account.share)


def train_and_kill(job: Job, say: Say, *, minutes: float, kill_every_s: float) -> int:
    """Kill one rank or the other every so often until the time is up, then let the job save; returns the kills."""
    rng, kills = random.Random(0), 0
    with job.started() as agent:
        job.wait(agent, lambda events: bool(events))
        end = time.monotonic() + 60 * minutes
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, kill_every_s))
            if agent.poll() is not None:
                raise BenchmarkError(f"the job ended with exit code {agent.returncode} after {kills} kills")
            if left > kill_every_s:
                rank_process(agent.pid, rng.randrange(2)).send_signal(signal.SIGKILL)
                kills += 1
                say(f"  kill {kills}")
        agent.send_signal(signal.SIGTERM)
        try:
            agent.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the job did not end within {STOP_S:g} s of SIGTERM") from None
    return kills


def samples_differ(events: Iterable[Mapping[str, Any]], folder: RunFolder) -> str | None:
    """Whether every step's last event has the digest of exactly the samples that are due by then, in their order."""
    last = {event["step"]: event["samples_digest"] for event in events if event["event"] == "step"}
    if sorted(last) != list(range(1, len(last) + 1)) or not last:
        return f"the log has {len(last)} steps up to {max(last, default=0)}"
    run, manifest = read(folder.config), read_manifest(folder.manifest)
    batch = run.train.global_batch_samples
    sampler = Sampler(order_of(run, folder, manifest), micro=batch, rank=0, world=1)
    rolled = bytes(32)
    for step in sorted(last):
        ids = np.array([sampler.at(position) for position in range((step - 1) * batch, step * batch)], "<i8")
        rolled = hashlib.sha256(rolled + ids.tobytes()).digest()
        if last[step] != rolled.hex():
            return f"step {step} read other samples than those that are due"
    return None


CASES = (
    Limit(
        name="engine/goodput",
        measures=f"time that did not count in {MINUTES:g} minutes with a kill every {KILL_EVERY_S:g} s",
        unit="% of the time",
        most=10.0,
        libraries=("torch", "deepspeed"),
        measure=lost_percent,
    ),
)
