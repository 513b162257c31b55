"""What a pipeline step does: one stage in the run folder, its outcome left for whoever started the pipeline."""

import sys

from configs.errors import UserError
from configs.folder import RunFolder, file_digest
from configs.lines import emit, emit_failure
from configs.process import die_with_session
from configs.stages import read_record, step_folder
from k8s.launch import Outcome
from pipelines.parameters import decode_config, decode_folder
from pipelines.stages import run_stage


def run_step(stage: str, config: str, folder: str, workspace: str) -> str:
    """Run a stage and return the digest of what it made; exits with the stage's code when it fails."""
    die_with_session()  # kfp starts a shell that starts this
    run, place = decode_config(config), RunFolder(decode_folder(folder, workspace))
    try:
        place.open(run)
        outcome = run_stage(stage, run, place, lambda line: emit(*line))
    except UserError as error:
        outcome = Outcome(error.exit_code, str(error))
    if outcome.code:
        emit_failure(stage, outcome.code, outcome.reason)
        sys.exit(outcome.code)
    if stage == "prepare":
        return read_record(place.manifest)["digest"]
    if stage == "train":
        return read_record(step_folder(place.train, run.train.steps) / "complete.json")["digest"]
    return file_digest(place.metrics)
