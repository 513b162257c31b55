"""Command: a cluster's recurring runs made as files say. Run as `trainworks schedule FILE|DIR ... --cluster FILE`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from configs.cluster import ClusterConfig
from configs.errors import ConfigError, UserError
from configs.process import command_main
from configs.schedule_file import read_schedules
from configs.schema import RunConfig
from pipelines.cluster.kfp import open_cluster
from pipelines.cluster.place import OUTAGE_S, Place, told
from pipelines.cluster.recurring import Wanted, require_one_place, steps, take, wanted_of
from pipelines.cluster.submit import require_ready


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks schedule",
        description="Make the recurring runs of a cluster as the files say: new ones are created, changed ones "
        "replaced, paused ones disabled. Of a folder, those whose file is gone are deleted. "
        "Another time nothing is left to do.",
        epilog="exit codes: 0 the cluster is as the files are, 1 its API stays away, 2 a mistake in what was asked",
    )
    top.add_argument(
        "schedules", nargs="+", type=Path, metavar="SCHEDULE", help="a schedule's file, or a folder of them"
    )
    top.add_argument(
        "--cluster", type=Path, required=True, metavar="FILE", help="the overlay that describes the cluster"
    )
    top.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 the cluster is as the files are, 1 its API stays away, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("schedule", lambda: _schedule(arguments))


def _schedule(arguments: argparse.Namespace) -> int:
    folders = [place for place in arguments.schedules if place.is_dir()]
    if folders and len(arguments.schedules) > 1:
        raise UserError("give one folder, which then says of every schedule whether it is to be there, or files alone")
    schedules = read_schedules(arguments.schedules)
    runs, wanted = _wanted(arguments, schedules)
    run = require_one_place(runs) if runs else None
    api, kfp = open_cluster(run.cluster if run else _cluster_in(arguments.cluster), told, OUTAGE_S)
    scope = None if folders else [each.name for each in schedules.values()]
    todo = list(steps(wanted, kfp.recurring(), scope))
    if run and any(step.verb in ("create", "enable") for step in todo) and not arguments.dry_run:
        require_ready(Place(run, run.name, api, kfp))
    for step in todo:
        print(f"would {step}" if arguments.dry_run else str(step), flush=True)
        if not arguments.dry_run:
            take(step, kfp)
    if not todo:
        count = "1 recurring run is" if len(wanted) == 1 else f"{len(wanted)} recurring runs are"
        print(f"nothing to do: {count} as the files say")
    return 0


def _wanted(arguments: argparse.Namespace, schedules: dict) -> tuple[dict[str, RunConfig], list[Wanted]]:
    """Every recurring run of the files. Raises ConfigError with every problem."""
    runs: dict[str, RunConfig] = {}
    wanted: list[Wanted] = []
    problems: list[str] = []
    for path, schedule in schedules.items():
        try:
            for run, each in wanted_of(path, schedule, arguments.cluster):
                runs[each.name] = run
                wanted.append(each)
        except ConfigError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return runs, wanted


def _cluster_in(overlay: Path) -> ClusterConfig:
    """The cluster of an overlay, where the files have no run that it could be laid over."""
    try:
        tree = yaml.safe_load(overlay.read_text(encoding="utf-8")) or {}
        return ClusterConfig.model_validate_json(json.dumps(tree.get("cluster", {})), strict=True)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{overlay} cannot be read as an overlay for a cluster: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
