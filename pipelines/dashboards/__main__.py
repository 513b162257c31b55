"""Command: workspaces of Weights & Biases from code. Run as `trainworks dashboards push` or `... show FAMILY`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from configs.load import load
from configs.process import command_main, die_with_parent
from configs.schema import RunConfig, WandbConfig
from configs.suite_file import is_suite, load_run, read_suite
from k8s.checks.inside import wandb_address
from k8s.checks.services import KEY
from pipelines.dashboards.names import NIGHTLY, Place, names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks dashboards",
        description="Save the workspace of each family and the overview of the nightly in a project of Weights & "
        "Biases, or print one.",
        epilog="exit codes: 0 done, 1 the server does not answer, 2 no or a wrong key, or a mistake in what was asked",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pushing = commands.add_parser(
        "push",
        help=f"save them; needs {KEY}",
        description=f"Save workspaces as views, each over the one of the time before. Needs {KEY} in the environment.",
    )
    pushing.add_argument(
        "config",
        nargs="*",
        metavar="CONFIG",
        help="CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]: the workspace of its family, in its project; of a "
        "suite, those of its runs and the overview (without: all)",
    )
    pushing.add_argument("--entity", metavar="E", help="team or user (the config's, else the account's own)")
    pushing.add_argument("--project", metavar="P", help="project (the config's)")
    pushing.add_argument("--family", nargs="+", choices=names(), metavar="F", help=", ".join(names()))
    showing = commands.add_parser("show", help="print one as JSON, without a server")
    showing.add_argument("family", choices=names(), metavar="FAMILY", help=", ".join(names()))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the server does not answer, 2 no or a wrong key, or a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    work = {"push": _push, "show": _show}[arguments.command]
    return command_main("dashboards", lambda: work(arguments))


def _push(arguments: argparse.Namespace) -> int:
    asked, settings = chosen(arguments.config)
    key, address = os.environ.get(KEY, "").strip(), wandb_address()
    if not key:
        raise UserError(f"{KEY} is not set; export it, or look at the workspaces with `trainworks dashboards show`")
    from pipelines.dashboards.server import Server

    server = Server(address, key)
    own = server.default_entity()
    entity = arguments.entity or settings.entity or own
    if not entity:
        raise UserError("the account has no entity of its own; name one with --entity")
    from pipelines.dashboards.push import push  # here: it takes seconds, and a wrong key is told before

    place = Place(entity, arguments.project or settings.project)
    for line in push(arguments.family or asked, server, place):
        print(line)
    return 0


def chosen(words: Sequence[str]) -> tuple[list[str], WandbConfig]:
    """The workspaces that a configuration or a suite asks for, all without one, and where its runs are shown."""
    if not words:
        return names(), WandbConfig()
    if Path(words[0]).is_file() and is_suite(Path(words[0])):
        suite = read_suite(Path(words[0]))
        runs: list[RunConfig] = [load_run(Path(words[0]), each, suite.seeds[0]) for each in suite.runs]
        return [*dict.fromkeys(run.task.kind for run in runs), NIGHTLY], runs[0].wandb
    run = load(words)
    return [run.task.kind], run.wandb


def _show(arguments: argparse.Namespace) -> int:
    from pipelines.dashboards.build import to_json, workspace_of

    print(to_json(workspace_of(arguments.family)), end="")
    return 0


if __name__ == "__main__":
    die_with_parent(by=15)
    sys.exit(main())
