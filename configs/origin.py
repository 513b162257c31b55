"""Where a run's first weights come from: found, or refused, before any work is done."""

from pathlib import Path

from configs.errors import ConfigError
from configs.folder import RunFolder
from configs.schema import RunConfig
from configs.stages import steps_in


def find_origin(run: RunConfig, folder: RunFolder) -> Path | None:
    """The folder that `task.model.init_from` names: beside this run, or a path. None where none is named.

    Raises ConfigError when the folder is missing, is this run's own, or holds neither a trained run nor a Hugging Face
    model.
    """
    name = run.task.model.init_from
    if name is None:
        return None
    tried = [folder.shelf / name, Path(name)]
    found = next((path for path in tried if path.is_dir()), None)
    where = f"task.model.init_from={name}"
    if found is None:
        places = " or ".join(dict.fromkeys(str(path) for path in tried))
        raise ConfigError(f"{where}: there is no folder {places}; train that run first, or name another")
    if found.resolve() == folder.path.resolve():
        raise ConfigError(f"{where} is this run's own folder; name another")
    if RunFolder(found).config.exists():
        if not steps_in(RunFolder(found).train):
            raise ConfigError(f"{where}: the run in {found} has no checkpoint; train it first")
    elif not (found / "config.json").exists():
        raise ConfigError(
            f"{where}: {found} holds neither a run (run.yaml) nor a model in Hugging Face's layout (config.json)"
        )
    return found


def require_origin(run: RunConfig, folder: RunFolder) -> None:
    """Raises ConfigError where `find_origin` does; a run that has checkpoints of its own needs its origin no more."""
    if not steps_in(folder.train):
        find_origin(run, folder)
