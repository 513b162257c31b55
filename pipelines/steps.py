"""What a pipeline step does: one stage in the run folder, its outcome left for whoever started the pipeline."""

import os
import signal
import sys
from collections.abc import Callable

from configs.errors import DamageError, UserError
from configs.folder import RunFolder, file_digest
from configs.folds import fold_run, open_fold
from configs.lines import LASTING, Line, emit, emit_failure
from configs.process import die_with_session
from configs.stages import final_step, read_record, step_folder
from k8s.launch import Outcome
from pipelines.folds.collect import collect_folds
from pipelines.parameters import decode_config, decode_folder
from pipelines.stages import Show, run_stage

STOPPING = "TRAINWORKS_STOPPING"
"""Set for the steps that kfp still starts when the pipeline was told to end"""


def run_step(stage: str, config: str, folder: str, workspace: str, fold: str = "") -> str:
    """Run a stage, of a fold if one is named, and return the digest of what it made.

    Exits with the stage's code when it fails.
    """
    run, place = decode_config(config), RunFolder(decode_folder(folder, workspace))

    def work(show: Show) -> Outcome:
        place.open(run)
        if not fold:
            return run_stage(stage, run, place, show)
        return run_stage(stage, fold_run(run, fold), open_fold(run, place, fold), show)

    _finish(stage, f"fold {fold}: " if fold else "", work)
    own, inside = (fold_run(run, fold), place.fold(fold)) if fold else (run, place)
    if stage == "prepare":
        return read_record(inside.manifest)["digest"]
    if stage == "train":
        step = final_step(own, inside)
        assert step is not None, "the training has just finished"
        return read_record(step_folder(inside.train, step) / "complete.json")["digest"]
    return file_digest(inside.metrics)


def collect_step(config: str, folder: str, workspace: str) -> str:
    """Make one evaluation of those of all folds, and return its digest."""
    run, place = decode_config(config), RunFolder(decode_folder(folder, workspace))

    def work(show: Show) -> Outcome:
        place.open(run)
        show(Line("evaluate", LASTING, collect_folds(run, place)))
        return Outcome(0)

    _finish("evaluate", "", work)
    return file_digest(place.metrics)


def _finish(stage: str, prefix: str, work: Callable[[Show], Outcome]) -> None:
    """Do a step's work, its lines marked with the fold that they are of; ends the process when it fails."""
    die_with_session()  # kfp starts a shell that starts this
    if os.environ.get(STOPPING):
        sys.exit(128 + signal.SIGTERM)
    try:
        outcome = work(lambda line: emit(line.stage, line.mark, prefix + line.text))
    except (UserError, DamageError) as error:
        outcome = Outcome(error.exit_code, str(error))
    if outcome.code:
        emit_failure(stage, outcome.code, prefix + outcome.reason)
        sys.exit(outcome.code)
