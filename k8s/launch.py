"""Launchers: how the processes of a stage are started, followed and ended. This one uses the machine it is on."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from configs.folder import RunFolder
from configs.lines import Line, read_failure
from configs.schema import RunConfig
from k8s.processes import Supervised, describe_signal, last_lines

RANKED = {"train": "trainer", "evaluate": "trainer.evaluation"}


@dataclass(frozen=True)
class Outcome:
    """How a job ended: an exit code as a shell gives it, and the reason when it is not 0."""

    code: int
    reason: str = ""


class Launcher(Protocol):
    """Starts a stage somewhere and follows it."""

    def submit(self, run: RunConfig) -> str: ...
    def wait(self, job: str) -> Outcome: ...
    def logs(self, job: str) -> Iterator[str]: ...
    def cancel(self, job: str) -> None: ...


class LocalLauncher:
    """One stage as processes on this machine, under a node agent where it has ranks.

    Its output goes to logs/STAGE.log; the lines meant for a person are passed to `show`.
    """

    def __init__(self, folder: RunFolder, stage: str, show: Callable[[Line], None]) -> None:
        self.folder, self.stage, self.show = folder, stage, show
        self._jobs: dict[str, Supervised] = {}

    def submit(self, run: RunConfig) -> str:
        """Start the stage; returns the job's name."""
        name = f"{run.name}-{self.stage}"
        self._jobs[name] = Supervised(
            stage_command(run, self.folder, self.stage),
            environment(run),
            self.folder.log(self.stage),
            self.show,
            grace_s=stopping_time(run),
        )
        return name

    def wait(self, job: str) -> Outcome:
        """Follow the job to its end."""
        process = self._jobs[job]
        return outcome_of(process, process.wait())

    def logs(self, job: str) -> Iterator[str]:
        """The job's output so far, line by line."""
        with self.folder.log(self.stage).open(encoding="utf-8", errors="replace") as file:
            yield from file

    def cancel(self, job: str) -> None:
        """Ask the job to save and stop."""
        self._jobs[job].stop()

    def kill(self, job: str) -> None:
        """End the job at once, as a power cut would."""
        self._jobs[job].kill()


def outcome_of(process: Supervised, code: int) -> Outcome:
    """A child's end as an outcome: kfp loses codes and reasons, the child's own words do not."""
    told = 128 + process.received[0] if process.received else 0
    if process.failure and (code or told):
        code, reason = read_failure(process.failure)
        return Outcome(told or code, reason)
    if told:
        return Outcome(told, f"stopped by {describe_signal(process.received[0])}")
    if code < 0:
        return Outcome(128 - code, f"killed by {describe_signal(-code)}")
    return Outcome(code, last_lines(process.output(), process.log) if code else "")


def stage_command(run: RunConfig, folder: RunFolder, stage: str) -> list[str]:
    """The command line of a stage."""
    path = str(folder.path.resolve())
    if stage not in RANKED:
        return [sys.executable, "-m", "data.prepare", path]
    return [sys.executable, "-m", "trainer.node", RANKED[stage], path]


def stopping_time(run: RunConfig) -> float:
    """Seconds that a stage may take to end when asked: the ranks' own, and the agent's for what they leave undone."""
    return run.world.grace_s + 30.0


def environment(run: RunConfig) -> dict[str, str]:
    """The parent's environment with what a stage needs: threads, unbuffered output, no imports from the cwd."""
    return os.environ | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(run.world.threads),
    }
