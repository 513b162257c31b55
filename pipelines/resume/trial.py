"""One training in a folder of its own: started, followed step by step, and killed when its time has come."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from configs.errors import UserError
from configs.events import Tail, read_events
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import step_folder, steps_in
from k8s.launch import LocalLauncher, Outcome, environment
from pipelines.resume.plan import Plan

POLL_S = 0.002
"""Between two looks at the event log: a step of a small model takes little longer"""
TRIES = 3


class TrialError(RuntimeError):
    """A training ended in a way that proves nothing, or failed; `code` is its exit code."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Trial:
    """A training that was killed and resumed until the step at which it is compared."""

    folder: RunFolder
    killed_at: tuple[int, ...]
    """Last logged step of each start but the last"""
    resumed_from: tuple[int, ...]
    """Step of the checkpoint that each start but the first went on from; 0: from the start"""

    @property
    def repeated(self) -> int:
        """Steps done more than once."""
        return sum(max(0, at - since) for at, since in zip(self.killed_at, self.resumed_from, strict=True))


class Steps:
    """The steps that a training logs from now on."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path, from_end=True)
        self.step, self.pace_s, self._time = 0, 0.0, 0.0

    def look(self) -> int:
        """Read what is new; returns the last step logged since this was made, 0 before there is one."""
        for event in self._tail.new():
            if event.get("event") == "step":
                self.step = event["step"]
                self.pace_s = max(0.0, event["time"] - self._time) if self._time else 0.0
                self._time = event["time"]
        return self.step


def train_without_a_kill(plan: Plan, stage: int, data: Path, path: Path) -> RunFolder:
    """The reference of a stage: trained until its last step to be compared is saved. Raises TrialError, UserError."""
    run = plan.runs[stage, plan.reference_world]
    folder = _open(run, data, path)
    _start(run, folder, until=lambda step: _saved(folder, plan.steps))
    return folder


def train_with_kills(plan: Plan, stage: int, world: int, data: Path, path: Path) -> Trial:
    """Start on the reference's world, kill at random, go on with `world` ranks; further kills come there.

    The moments are drawn from the plan's seed, the stage and the world. A training that was too fast to be killed in
    time is started over. Raises TrialError, UserError.
    """
    random = Random(f"{plan.seed} {stage} {world}")
    for _ in range(TRIES):
        shutil.rmtree(path, ignore_errors=True)
        folder = _open(plan.runs[stage, plan.reference_world], data, path)
        killed_at = _kill_at_random(plan, stage, world, folder, random)
        if killed_at is not None:
            _start(plan.runs[stage, world], folder, until=lambda step, folder=folder: _saved(folder, plan.steps))
            starts = [event["step"] for event in read_events(folder.events) if event.get("event") == "start"]
            return Trial(folder, tuple(killed_at), tuple(starts[1:]))
    raise TrialError(f"step {plan.steps} was saved before a kill came, {TRIES} times over; give more --steps")


def _kill_at_random(plan: Plan, stage: int, world: int, folder: RunFolder, random: Random) -> list[int] | None:
    """Start and kill as often as planned; the last step of each start, or None where the last step was saved before."""
    killed_at = []
    for number, target in enumerate(sorted(random.sample(range(plan.every_steps + 1, plan.steps), plan.kills))):
        run = plan.runs[stage, world if number else plan.reference_world]
        share = random.random()
        _start(
            run,
            folder,
            until=lambda step, target=target: step >= target and bool(steps_in(folder.train)),
            share=share,
        )
        if _saved(folder, plan.steps):
            return None
        logged = [event["step"] for event in read_events(folder.events) if event.get("event") == "step"]
        killed_at.append(logged[-1])
    return killed_at


def _start(run: RunConfig, folder: RunFolder, *, until: Callable[[int], bool], share: float = 0.0) -> None:
    """Train until a condition on the last logged step holds, then for a share of a step, then kill the whole job.

    Raises UserError when the training refuses its configuration, TrialError when it ends by itself in another way than
    by finishing.
    """
    folder.open(run)
    launcher = LocalLauncher(folder, "train", lambda line: None)
    steps = Steps(folder.events)
    ended: list[Outcome] = []
    job = launcher.submit(run)
    waiting = threading.Thread(target=lambda: ended.append(launcher.wait(job)))
    waiting.start()
    killed = False
    try:
        while not ended and not until(steps.look()):
            time.sleep(POLL_S)
        killed = not ended
        time.sleep(share * steps.pace_s)
    finally:
        launcher.kill(job)
        waiting.join()
    if killed or not ended[0].code:
        return
    if ended[0].code == UserError.exit_code:
        raise UserError(ended[0].reason)
    raise TrialError(f"exit code {ended[0].code}: {ended[0].reason}")


def _open(run: RunConfig, data: Path, path: Path) -> RunFolder:
    """A run folder that reads another's data."""
    folder = RunFolder(path)
    folder.open(run)
    folder.data.symlink_to(data.resolve(), target_is_directory=True)
    return folder


def _saved(folder: RunFolder, step: int) -> bool:
    return (step_folder(folder.train, step) / "complete.json").exists()


def distances(ours: RunFolder, theirs: RunFolder, run: RunConfig, step: int) -> dict[str, dict[str, Any]]:
    """What `trainer.compare` says of the checkpoints of a step. Raises TrialError."""
    folders = [str(step_folder(folder.train, step).resolve()) for folder in (ours, theirs)]
    command = [sys.executable, "-m", "trainer.compare", *folders]
    done = subprocess.run(command, env=environment(run), capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrialError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "trainer.compare failed")
    return json.loads(done.stdout)
