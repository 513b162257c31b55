"""The pipeline on this machine through kfp's local runner: a supervised child, because kfp changes its own process."""

import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from configs.folder import STAGES, RunFolder
from configs.process import die_with_parent
from configs.schema import RunConfig
from configs.stages import read_record
from k8s.launch import Outcome, environment
from k8s.processes import Supervised, describe_signal, last_lines
from pipelines.steps import outcome_file

_FOR_PEOPLE = re.compile(rf"\b(?:{'|'.join(STAGES)}) [|~] .*")


def run_pipeline(run: RunConfig, folder: RunFolder, show: Callable[[str], None]) -> Outcome:
    """Execute the pipeline in a child process; returns the failing step's outcome, or success."""
    outcome_file(folder).unlink(missing_ok=True)
    child = Supervised(
        [sys.executable, "-m", "pipelines.local", str(folder.path.resolve())],
        environment(run),
        folder.log("pipeline"),
        select=for_people,
        show=show,
    )
    code = child.wait()
    if outcome_file(folder).exists():
        record = read_record(outcome_file(folder))
        signalled = 128 + child.received[0] if child.received else record["code"]
        return Outcome(signalled, f"{record['stage']}: {record['reason']}")
    if child.received:
        return Outcome(128 + child.received[0], f"stopped by {describe_signal(child.received[0])}")
    return Outcome(0) if code == 0 else Outcome(1, last_lines(folder.log("pipeline")))


def for_people(line: str) -> str | None:
    """The part of a line of kfp's output that a stage wrote for the person who waits."""
    found = _FOR_PEOPLE.search(line)
    return found[0] if found else None


def main() -> int:
    """The child: run the pipeline in kfp and leave its exit code."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _pass_on)
    from kfp import local

    from configs.load import read
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
        build(run)(folder=encode_folder(folder.path))
    return 0


def _pass_on(number: int, frame: object) -> None:
    """Tell the running step, which is in this process's group, to stop; kfp then sees it fail and ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
