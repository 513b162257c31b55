"""One stage of a run, wherever it is asked for: skipped when complete, else launched and followed."""

from collections.abc import Callable

from configs.errors import DamageError
from configs.folder import RunFolder
from configs.lines import LASTING, Line
from configs.schema import RunConfig
from configs.stages import complete
from k8s.launch import LocalLauncher, Outcome


def run_stage(stage: str, run: RunConfig, folder: RunFolder, show: Callable[[Line], None]) -> Outcome:
    """Do what is left of a stage. Raises nothing: the outcome says what went wrong."""
    try:
        if done := complete(stage, run, folder):
            show(Line(stage, LASTING, f"complete: {done}"))
            return Outcome(0)
    except DamageError as error:
        return Outcome(error.exit_code, str(error))
    launcher = LocalLauncher(folder, stage, show)
    return launcher.wait(launcher.submit(run))
