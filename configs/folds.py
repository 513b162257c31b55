"""The folds of a cross-validation: each a run of its own, in a folder of its own inside the run's."""

import contextlib
import os

from configs.dataset import FoldConfig
from configs.errors import ConfigError
from configs.folder import RunFolder
from configs.load import validate
from configs.schema import RunConfig


def cross_validates(run: RunConfig) -> bool:
    """Whether a run is all the folds of its data, not one training."""
    return run.data.splits.folds is not None and run.data.splits.folds.held_out is None


def fold_names(run: RunConfig) -> list[str]:
    """`REPEAT-FOLD`, both from 0, in the order in which they are trained on one machine."""
    folds = _folds(run)
    return [f"{repeat}-{fold}" for repeat in repeats_of(run) for fold in range(folds.count)]


def repeats_of(run: RunConfig) -> range:
    """The numbers of the divisions into folds."""
    folds = _folds(run)
    return range(folds.repeat, folds.repeat + folds.repeats)


def fold_run(run: RunConfig, name: str) -> RunConfig:
    """The run of one fold: what `data.splits.folds.repeat` and `held_out` make of the same configuration.

    Its seed is the run's, so that folds differ by their samples alone.
    """
    repeat, fold = map(int, name.split("-"))
    return _with_folds(run, repeat=repeat, held_out=fold)


def repeat_run(run: RunConfig, repeat: int) -> RunConfig:
    """The run whose data are one division into folds."""
    return _with_folds(run, repeat=repeat, held_out=None)


def repeat_folder(run: RunConfig, folder: RunFolder, repeat: int) -> RunFolder:
    """Whose `data` a repeat is: the run's own for the first one."""
    return folder if repeat == repeats_of(run)[0] else folder.fold(str(repeat))


def open_fold(run: RunConfig, folder: RunFolder, name: str) -> RunFolder:
    """Make the folder of a fold, whose `data` leads to those of its repeat; the link keeps when all is moved together.

    Raises ConfigError when another run is in it, or data of its own.
    """
    home, inside = repeat_folder(run, folder, int(name.split("-")[0])), folder.fold(name)
    inside.open(fold_run(run, name))
    with contextlib.suppress(FileExistsError):
        inside.data.symlink_to(os.path.relpath(home.data, inside.path), target_is_directory=True)
    if inside.data.resolve() != home.data.resolve():
        raise ConfigError(f"{inside.data} is not the data of {home.path}, which its fold reads; remove {inside.path}")
    return inside


def _folds(run: RunConfig) -> FoldConfig:
    if run.data.splits.folds is None:
        raise ConfigError("this run has no folds; set data.splits.folds.count")
    return run.data.splits.folds


def _with_folds(run: RunConfig, **changes: int | None) -> RunConfig:
    tree = run.model_dump(mode="json")
    tree["data"]["splits"]["folds"] |= {"repeats": 1} | changes
    return validate(tree)
