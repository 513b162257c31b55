"""The `trainworks` command. Imports inside: `--help` has to answer at once."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.screen import Screen

if TYPE_CHECKING:
    from configs.folder import RunFolder
    from configs.schema import RunConfig

GRAMMAR = "CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]"
COMMANDS = {
    "run": "prepare, train and evaluate as one pipeline on this machine, and write the report",
    "prepare": "stage 1 alone: raw data to shards",
    "train": "stage 2 alone: shards to a checkpoint",
    "evaluate": "stage 3 alone: a checkpoint to metrics",
    "report": "write report.html again from what a run left, or one page that compares several runs",
    "config": "print the resolved run with meanings and units",
    "compile": "write the pipeline as a KFP YAML for a cluster",
}
OWN_COMMANDS = {  # these have options of their own, and run as modules in processes of their own
    "profile": ("trainer.profile", "tell parameters, GFLOPs, activations and memory per device before any data or GPU"),
    "sample": ("trainer.sampling", "write text or draw images with a trained model"),
    "export": ("trainer.interchange", "write a trained model in Hugging Face's layout"),
    "inspect": ("data.inspect", "show what a data set holds, or any sample of it"),
    "verify": ("data.verify", "read a data set again and name every file that is wrong"),
    "verify-resume": ("pipelines.verify_resume", "kill and resume a training on several worlds and compare every step"),
    "overview": ("pipelines.overview", "write one page over several runs: cards, tables, quality against cost"),
    "list": ("pipelines.listing", "list the runs of a folder: state, step, headline metric, age"),
    "events": ("pipelines.events", "print a run's event log, or follow it while it grows"),
    "diagnose": ("pipelines.diagnose", "say why a run ended and what to do, from what it left behind"),
    "explain": ("pipelines.custody.explain", "print the digests from raw bytes to the report, and verify each"),
    "reproduce": ("pipelines.custody.reproduce", "run a recorded configuration again and compare with the original"),
    "smoke": (
        "pipelines.smoke",
        "prepare packaged data, train ten steps and evaluate, to see that an installation works",
    ),
    "nightly": ("pipelines.nightly", "run a suite of small runs with several seeds and gate each against its baseline"),
    "gate": ("pipelines.gate", "say whether runs are better, the same or worse than a baseline, by the noise of seeds"),
    "baseline": ("pipelines.baselines", "store runs as a versioned baseline, show one, or list its history"),
    "submit": ("pipelines.cluster.submit", "start a run's pipeline on a cluster, or print what that would create"),
    "status": ("pipelines.cluster.status", "say where a run on a cluster stands, and what its pods wait for"),
    "logs": ("pipelines.cluster.logs", "print what the pods of a run on a cluster print"),
    "cancel": ("pipelines.cluster.cancel", "end a run on a cluster, and wait until its jobs are gone"),
    "resume": ("pipelines.cluster.resume", "go on with a run on a cluster that failed or was cancelled"),
    "schedule": ("pipelines.cluster.schedule", "make a cluster's recurring runs as schedules in files say"),
    "doctor": ("k8s.doctor", "say what this machine or a cluster lacks for a run, and how to mend it"),
    "sync": ("pipelines.tracking.sync", "send to Weights & Biases what it lacks of runs"),
    "dashboards": ("pipelines.dashboards", "save the workspaces of Weights & Biases that come with this code"),
    "compare": ("pipelines.compare", "print the metrics of several runs beside each other, with their differences"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked, 130 / 137 / 143 stopped by a signal."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in OWN_COMMANDS:
        return _module(OWN_COMMANDS[words[0]][0], words[1:])
    top = parser()
    arguments, more = top.parse_known_args(words)  # overrides may stand after the options too
    if wrong := [word for word in more if word.startswith("-")]:
        top.error(f"unrecognized arguments: {' '.join(wrong)}")
    arguments.config += more
    from configs.process import command_main

    return command_main(arguments.command, lambda: HANDLERS[arguments.command](arguments))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks",
        description="One YAML describes a training run; prepare, train and evaluate carry it out.",
        epilog="exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked, 130/137/143 stopped by a signal",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        command.add_argument(
            "config",
            nargs="+",
            metavar="CONFIG",
            help=f"{GRAMMAR}; later ones win, values are YAML, units are in the names",
        )
        if name not in ("config", "compile"):
            command.add_argument(
                "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)"
            )
            command.add_argument("--name", metavar="NAME", help="the run folder's name (the config's `name`)")
        if name == "report":
            command.epilog = "In place of a configuration: run folders, names in --runs or paths; several are compared."
            command.add_argument(
                "-o", "--output", type=Path, metavar="FILE", help="the page to write (report.html; comparison.html)"
            )
        if name == "compile":
            command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the YAML to write")
    for name, (_, purpose) in OWN_COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    return top


def _module(module: str, words: Sequence[str]) -> int:
    """Run a module as a command in this terminal; returns its exit code as a shell gives it."""
    import subprocess

    command = [sys.executable, "-m", module, *words]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONSAFEPATH": "1"})
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # the terminal sent it to the module too, which may have to clear up
            continue


def _open(arguments: argparse.Namespace, *, there: bool = False) -> "tuple[RunConfig, RunFolder]":
    """The run and its folder, which is made unless it is to be there already."""
    from configs.errors import ConfigError, UserError
    from configs.folder import RunFolder
    from configs.load import load

    run = load(arguments.config)
    name = run.name if arguments.name is None else arguments.name
    if name in ("", ".", "..") or "/" in name:
        raise ConfigError(f"--name {name!r} must name one folder inside --runs, without a slash")
    folder = RunFolder(arguments.runs / name)
    if there and not folder.config.is_file():
        raise UserError(f"{folder.path} holds no run; name one with --runs and --name, or make it: trainworks run")
    folder.open(run)
    return run, folder


def _run(arguments: argparse.Namespace) -> int:
    from configs.lines import LASTING, STAGES, Line
    from configs.stages import complete

    run, folder = _open(arguments)
    done: dict[str, str | None] = {}
    for stage in STAGES:  # a stage is looked at only when those before it are complete
        done[stage] = complete(stage, run, folder) if all(done.values()) else None
    if all(done.values()):
        screen = Screen()
        for stage, summary in done.items():
            screen.show(Line(stage, LASTING, f"complete: {summary}"))
    else:
        from pipelines.local import run_pipeline

        with Screen() as screen:
            outcome = run_pipeline(run, folder, screen.show)
        if outcome.code:
            print(f"trainworks run: {outcome.reason}", file=sys.stderr)
            return outcome.code
    if not folder.report.exists() or not all(done.values()):
        from pipelines.report import write_report

        write_report(folder)
    from pipelines.summary import headline

    print(headline(folder))
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    from pipelines.stages import run_stage

    run, folder = _open(arguments)
    with Screen() as screen:
        outcome = run_stage(arguments.command, run, folder, screen.show)
    if outcome.code:
        print(f"trainworks {arguments.command}: {outcome.reason}", file=sys.stderr)
    return outcome.code


def _report(arguments: argparse.Namespace) -> int:
    from configs.errors import UserError
    from configs.folder import require_output
    from pipelines.report import write_report

    require_output("--output", arguments.output)
    if any(_configures(word) for word in arguments.config):
        _, folder = _open(arguments, there=True)
        folders = [folder]
    else:
        from pipelines.overview import find_runs

        if arguments.name is not None:
            raise UserError("--name names the folder of a configuration; name runs by themselves")
        folders = find_runs(arguments.config, arguments.runs)
    if len(folders) == 1:
        output = arguments.output or folders[0].report
        write_report(folders[0], output)
    else:
        from pipelines.comparison import write_comparison

        output = arguments.output or folders[0].shelf / "comparison.html"
        write_comparison(folders, output)
    print(output.resolve())
    return 0


def _configures(word: str) -> bool:
    """Whether a word is a file or an override of a configuration, and not the name of a run."""
    return "=" in word or word.endswith((".yaml", ".yml")) or Path(word).is_file()


def _config(arguments: argparse.Namespace) -> int:
    from configs.load import explain, load

    print(explain(load(arguments.config)), end="")
    return 0


def _compile(arguments: argparse.Namespace) -> int:
    from configs.load import load

    run = load(arguments.config)
    from pipelines.training import compile_pipeline

    compile_pipeline(run, arguments.output)
    print(arguments.output)
    return 0


HANDLERS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "prepare": _stage,
    "train": _stage,
    "evaluate": _stage,
    "report": _report,
    "config": _config,
    "compile": _compile,
}


if __name__ == "__main__":
    sys.exit(main())
