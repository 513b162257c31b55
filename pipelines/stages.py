"""One stage of a run, wherever it is asked for: skipped when complete, else launched and followed."""

from configs.errors import ConfigError, DamageError, UserError
from configs.features import require_features
from configs.folder import RunFolder
from configs.folds import cross_validates, repeat_folder, repeat_run, repeats_of
from configs.lines import LASTING, Line
from configs.schema import RunConfig
from configs.stages import complete
from k8s.launch import Outcome
from pipelines.launching import Launch, Show, launch_here
from pipelines.tracking.watched import watched


def run_stage(stage: str, run: RunConfig, folder: RunFolder, show: Show, launch: Launch = launch_here) -> Outcome:
    """Do what is left of a stage. A user's mistake and damage are not raised: the outcome says what went wrong."""
    try:
        if done := complete(stage, run, folder):
            show(Line(stage, LASTING, f"complete: {done}"))
            return Outcome(0)
        if cross_validates(run):
            return _prepare_repeats(stage, run, folder, show, launch)
        require_features(run)
    except (UserError, DamageError) as error:
        return Outcome(error.exit_code, str(error))
    with watched(stage, run, folder, show):
        return launch(stage, run, folder, show)


def _prepare_repeats(stage: str, run: RunConfig, folder: RunFolder, show: Show, launch: Launch) -> Outcome:
    """The data of a cross-validation: one set for each division into folds. Raises ConfigError for other stages."""
    if stage != "prepare":
        raise ConfigError(
            f"data.splits.folds.held_out is not given, so that there is no one model to {stage}; `trainworks run` "
            f"does it for every fold, data.splits.folds.held_out=0 and --name for one"
        )
    for repeat in repeats_of(run):
        place, divided = repeat_folder(run, folder, repeat), repeat_run(run, repeat)
        if place != folder:
            place.open(divided)
        if done := complete(stage, divided, place):
            show(Line(stage, LASTING, f"complete: {done}"))
            continue
        with watched(stage, divided, place, show):
            outcome = launch(stage, divided, place, show)
        if outcome.code:
            return outcome
    return Outcome(0)
