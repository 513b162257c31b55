"""What a pipeline step does: one stage in the run folder, its outcome left for whoever started the pipeline."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import DamageError, OutageError, UserError
from configs.folder import RunFolder, file_digest
from configs.folds import fold_run, open_fold
from configs.lines import LASTING, Line, emit, emit_failure
from configs.process import die_with_session
from configs.schema import RunConfig
from configs.stages import final_step, read_record, step_folder
from k8s.joblauncher import own_pod
from k8s.launch import Outcome
from pipelines.folds.collect import collect_folds
from pipelines.launching import LOCAL, Asked, Show, launch_asked, launch_here
from pipelines.parameters import decode_config, decode_folder
from pipelines.stages import run_stage
from pipelines.tracking.identity import GROUP
from pipelines.tracking.watched import watched

if TYPE_CHECKING:
    from pipelines.artifacts import Shown

STOPPING = "TRAINWORKS_STOPPING"
"""Set for the steps that kfp still starts when the pipeline was told to end"""


def prepare_step(config: str, folder: str, workspace: str, pipeline_run: str) -> str:
    """Make the shards, and return the digest of the data. Each step exits with its stage's code when that fails."""
    _name_group(pipeline_run)
    _, place = run_step("prepare", config, decode_folder(folder, workspace, pipeline_run))
    return read_record(place.manifest)["digest"]


def train_step(config: str, folder: str, workspace: str, fold: str, asked: Asked) -> str:
    """Train, a fold if one is named, and return the digest of the last checkpoint."""
    _name_group(asked[1])
    run, place = run_step("train", config, decode_folder(folder, workspace, asked[1]), fold, asked)
    step = final_step(run, place)
    assert step is not None, "the training has just finished"
    return read_record(step_folder(place.train, step) / "complete.json")["digest"]


def evaluate_step(config: str, folder: str, workspace: str, fold: str, asked: Asked, shown: "Shown") -> str:
    """Evaluate, a fold if one is named, and return the digest of the metrics."""
    _name_group(asked[1])
    _, place = run_step("evaluate", config, decode_folder(folder, workspace, asked[1]), fold, asked)
    return _evaluated(place, asked[0], shown, told=not fold)


def collect_step(config: str, folder: str, workspace: str, asked: tuple[str, str], shown: "Shown") -> str:
    """Make one evaluation of those of all folds, and return its digest."""
    _name_group(asked[1])
    run, place = decode_config(config), RunFolder(decode_folder(folder, workspace, asked[1]))

    def work(show: Show) -> Outcome:
        place.open(run)
        with watched("evaluate", run, place, show):
            show(Line("evaluate", LASTING, collect_folds(run, place)))
        return Outcome(0)

    _finish("evaluate", "", work)
    return _evaluated(place, asked[0], shown)


def _name_group(pipeline_run: str) -> None:
    """On a cluster, runs of W&B are grouped by the pipeline run, which the labels of pods and jobs name too."""
    if own_pod(os.environ):
        os.environ[GROUP] = pipeline_run


def run_step(
    stage: str, config: str, folder: Path, fold: str = "", asked: Asked | None = None
) -> tuple[RunConfig, RunFolder]:
    """Carry out a stage, and return the run that it was of, with its folder: a fold's where one is named."""
    run, place = decode_config(config), RunFolder(folder)
    own, inside = (fold_run(run, fold), place.fold(fold)) if fold else (run, place)

    def work(show: Show) -> Outcome:
        place.open(run)
        if fold:
            open_fold(run, place, fold)
        return run_stage(stage, own, inside, show, launch_asked(asked, fold) if asked else launch_here)

    _finish(stage, f"fold {fold}: " if fold else "", work)
    return own, inside


def _evaluated(place: RunFolder, launcher: str, shown: "Shown", *, told: bool = True) -> str:
    """The digest of an evaluation, which on a cluster is shown too, and told to whoever follows.

    On this machine the command that started the pipeline does both.
    """
    if launcher != LOCAL:
        from pipelines.artifacts import show_evaluation
        from pipelines.summary import headline

        show_evaluation(place, shown)
        for line in headline(place).splitlines() if told else ():
            emit("evaluate", LASTING, line)
    return file_digest(place.metrics)


def _finish(stage: str, prefix: str, work: Callable[[Show], Outcome]) -> None:
    """Do a step's work, its lines marked with the fold that they are of; ends the process when it fails."""
    die_with_session()  # kfp starts a shell that starts this
    if os.environ.get(STOPPING):
        sys.exit(128 + signal.SIGTERM)
    try:
        outcome = work(lambda line: emit(line.stage, line.mark, prefix + line.text))
    except (UserError, DamageError, OutageError) as error:
        outcome = Outcome(error.exit_code, str(error))
    if outcome.code:
        emit_failure(stage, outcome.code, prefix + outcome.reason)
        sys.exit(outcome.code)
