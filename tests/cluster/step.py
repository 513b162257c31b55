"""A step of the pipeline as a process: `python -m tests.cluster.step STAGE RUN_FOLDER PIPELINE_RUN`."""

import sys
from pathlib import Path

from configs.folder import RunFolder
from configs.lines import Line, emit, emit_failure
from configs.load import read
from k8s.joblauncher import launch_job


def show(line: Line) -> None:
    emit(line.stage, line.mark, line.text)


def main(stage: str, path: str, pipeline_run: str) -> int:
    folder = RunFolder(Path(path))
    outcome = launch_job(read(folder.config), stage, folder, show, pipeline_run=pipeline_run)
    if outcome.code:
        emit_failure(stage, outcome.code, outcome.reason)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
