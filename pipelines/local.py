"""The pipeline on this machine through kfp's local runner: a supervised child, because kfp changes its own process."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from configs.folder import RunFolder
from configs.lines import Line
from configs.process import die_with_parent
from configs.schema import RunConfig
from k8s.launch import Outcome, environment, outcome_of, stopping_time
from k8s.processes import Supervised
from pipelines.steps import STOPPING


def run_pipeline(run: RunConfig, folder: RunFolder, show: Callable[[Line], None]) -> Outcome:
    """Execute the pipeline in a child process; returns the failing step's outcome, or success."""
    command = [sys.executable, "-m", "pipelines.local", str(folder.path.resolve())]
    grace_s = stopping_time(run) + 30  # the step waits for its stage
    child = Supervised(command, environment(run), folder.log("pipeline"), show, grace_s=grace_s)
    outcome = outcome_of(child, child.wait())
    return replace(outcome, reason=f"{child.failure.stage}: {outcome.reason}") if child.failure else outcome


def main() -> int:
    """The child: run the pipeline in kfp and leave its exit code."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _pass_on)
    from kfp import local

    from configs.load import read
    from pipelines.launching import LOCAL
    from pipelines.parameters import encode_folder
    from pipelines.training import build

    folder = RunFolder(Path(sys.argv[1]))
    run = read(folder.config)
    with tempfile.TemporaryDirectory(prefix="trainworks-") as scratch:
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=os.path.join(scratch, "root"),
            workspace_root=os.path.join(scratch, "workspace"),
        )
        build(run)(folder=encode_folder(folder.path), launcher=LOCAL)
    return 0


def _pass_on(number: int, frame: object) -> None:
    """Tell the running step, which is in this process's group, to stop; kfp then sees it fail and ends.

    The folds that wait for their turn are started all the same, so they are told not to begin.
    """
    os.environ[STOPPING] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
