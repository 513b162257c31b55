"""The grammar that the commands on a cluster share, and the pipeline run that they are about."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import ConfigError
from configs.load import load
from configs.schema import RunConfig
from k8s.api import Api, Object
from pipelines.cluster.kfp import Kfp, is_over, missing, open_cluster

OUTAGE_S = 20.0
"""Seconds that the cluster's API may stay away while somebody waits for an answer"""
NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")


@dataclass(frozen=True)
class Place:
    """A run, the name that its pipeline runs have, and the cluster that it is for."""

    run: RunConfig
    name: str
    api: Api
    kfp: Kfp

    def find(self, identity: str | None = None) -> Object:
        """The pipeline run of that identity, else the newest of the name that goes on, else the newest.

        Raises UserError where there is none.
        """
        if identity is not None:
            found = self.kfp.run(identity)
        else:
            named = self.kfp.runs(self.name)
            found = next((each for each in named if not is_over(each)), next(iter(named), None))
            found = self.kfp.run(found["run_id"]) if found else None  # a list tells no steps
        if found is None:
            raise missing(identity or self.name, self.kfp.experiment)
        return found


def grammar(command: str, description: str, *, by_run: bool = True) -> argparse.ArgumentParser:
    """A command line that names a run and its cluster as every command does."""
    top = argparse.ArgumentParser(
        prog=f"trainworks {command}",
        description=description,
        epilog="exit codes: 0 done, 1 the run or the cluster failed, 2 a mistake in what was asked, 130/143 stopped by "
        "a signal",
    )
    top.add_argument(
        "config",
        nargs="+",
        metavar="CONFIG",
        help="CONFIG.yaml CLUSTER.yaml [OVERLAY.yaml ...] [key.path=value ...]; later ones win",
    )
    top.add_argument("--name", metavar="NAME", help="the pipeline run's name, and its folder's (the config's `name`)")
    if by_run:
        top.add_argument(
            "--run", metavar="ID", help="a pipeline run by its identity, instead of the newest of the name that goes on"
        )
    return top


def words_of(top: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line read; overrides may stand after the options too."""
    arguments, more = top.parse_known_args(argv)
    if wrong := [word for word in more if word.startswith("-")]:
        top.error(f"unrecognized arguments: {' '.join(wrong)}")
    arguments.config += more
    return arguments


def words(arguments: argparse.Namespace) -> str:
    """What names the run on the command line again."""
    name = ["--name", arguments.name] if arguments.name else []
    return shlex.join([*arguments.config, *name])


def name_of(run: RunConfig, name: str | None) -> str:
    """What the pipeline run is called, and its folder in the shared volume."""
    if name is not None and not NAME.match(name):
        raise ConfigError(f"--name {name!r} must be letters, digits, dots, hyphens and underscores, 63 at most")
    return run.name if name is None else name


def open_place(arguments: argparse.Namespace) -> Place:
    """What a command is about. Raises UserError where there is no way to the cluster."""
    run = load(arguments.config)
    api, kfp = open_cluster(run.cluster, told, min(OUTAGE_S, run.cluster.patience.outage_s))
    return Place(run, name_of(run, arguments.name), api, kfp)


def told(text: str) -> None:
    """What is said beside a command's result."""
    print(text, file=sys.stderr, flush=True)
