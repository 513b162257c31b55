"""Command: send to W&B what it lacks of runs. Run as `trainworks sync RUN ...`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.errors import OutageError, UserError
from configs.events import read_events
from configs.folder import RunFolder, locked
from configs.folds import cross_validates, fold_names
from configs.load import read
from configs.process import command_main
from pipelines.tracking.follower import Follower, home_of, one_line
from pipelines.tracking.identity import identity_of
from pipelines.tracking.rows import Rows
from pipelines.tracking.server import KEY, address, key, look_up, require_server

STAGES = ("prepare", "train", "evaluate")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks sync",
        description="Send to Weights & Biases what it lacks of runs: rows, artifacts and their lineage. It may be "
        "repeated: what is there is not sent again.",
        epilog="exit codes: 0 W&B has everything, 1 it lacks something, 2 a mistake in what was asked",
    )
    top.add_argument("run", nargs="*", metavar="RUN", help="names of run folders, or paths (all in --runs)")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 W&B has everything, 1 it lacks something, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("sync", lambda: _sync(arguments))


def _sync(arguments: argparse.Namespace) -> int:
    from pipelines.overview import find_runs  # here: who follows a stage needs no plots

    folders = find_runs(arguments.run, arguments.runs)
    if key() is None:
        raise UserError(f"there is no key for {address()}: set {KEY}, or run `wandb login`")
    require_server()
    codes = [send(folder, stage) for each in folders for folder in whole(each) for stage in stages_of(folder)]
    return max(codes, default=0)


def whole(folder: RunFolder) -> Iterator[RunFolder]:
    """A run, after the folds that it is made of."""
    run = read(folder.config)
    if cross_validates(run):
        yield from (fold for name in fold_names(run) if (fold := folder.fold(name)).config.is_file())
    yield folder


def stages_of(folder: RunFolder) -> Iterator[str]:
    """The stages that have left something."""
    for stage, path in zip(STAGES, (folder.manifest, folder.events, folder.metrics), strict=True):
        if path.exists():
            yield stage


def lacking(folder: RunFolder, stage: str) -> bool:
    """Whether W&B lacks rows of a stage, or all of it. Raises UserError and OutageError."""
    known = look_up(identity_of(read(folder.config), folder, stage).place)
    path = folder.stage_events(stage)
    rows = Rows()
    for event in read_events(path) if path.exists() else ():
        rows.take(event)
    return known is None or known.rows < rows.count


def send(folder: RunFolder, stage: str) -> int:
    """Bring one stage up to date; returns 1 where something is lacking, which is said."""
    name = f"{folder.path.name} {stage}"

    def say(text: str) -> None:
        print(f"{name}: {text}", flush=True)

    run = read(folder.config)
    if run.wandb.mode == "disabled":
        say("wandb.mode=disabled, so that nothing is sent")
        return 0
    follower = Follower(run, folder, stage, say, live=False)
    try:
        with locked(home_of(folder, stage), wait_s=0.0):
            if not follower.connect():
                return 1
            follower.finish()
            lacks = follower.behind()
    except UserError as error:
        if "is in use" in str(error):
            say("is being sent while it goes on")
            return 0
        raise
    except OutageError as error:
        say(str(error))
        return 1
    except Exception as error:  # whatever a foreign library raises
        say(f"W&B: {one_line(error)}")
        return 1
    say(
        f"{lacks:,} rows are lacking; the same command goes on"
        if lacks
        else f"W&B has all {follower.rows.count:,} rows"
    )
    return 1 if lacks else 0


if __name__ == "__main__":
    sys.exit(main())
