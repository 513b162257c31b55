"""Command: what this machine or a cluster lacks for a run, each with its remedy. `trainworks doctor [CONFIG ...]`."""

import argparse
import json
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.code import HOME
from configs.errors import UserError
from configs.load import load
from configs.process import STOPPING, command_main
from configs.schema import RunConfig
from k8s.checks.finding import Finding, failed, skipped

if TYPE_CHECKING:
    from k8s.api import Api

STAND_IN = HOME / "configs" / "demo-lm.yaml"
"""Lends its task to files that describe a cluster alone"""
MARKS = {"ok": "ok", "failed": "FAILED", "unknown": "unknown", "skipped": "skipped"}
WIDTH = 118
OUTAGE_S = 10.0
"""Seconds that the cluster's API may stay away: somebody is waiting for the answer"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks doctor",
        description="Say what this machine, or with --cluster a cluster, lacks for a run: one line for each thing that "
        "was looked at, with the remedy below it. Changes nothing.",
        epilog="exit codes: 0 nothing failed, 1 the cluster's API stays away, 2 something has to be mended",
    )
    top.add_argument(
        "config",
        nargs="*",
        metavar="CONFIG",
        help="CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]; later ones win. Where no file has a task, as with a "
        "cluster's overlay alone, configs/demo-lm.yaml stands in",
    )
    top.add_argument("--cluster", action="store_true", help="look at the cluster that the configuration names")
    top.add_argument(
        "--try-pod",
        action="store_true",
        help="look at it from inside too: start one pod like those of a job, for some seconds, and delete it",
    )
    top.add_argument(
        "--wait", type=float, default=300.0, metavar="SECONDS", help="seconds that this pod may take to start (300)"
    )
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("--json", action="store_true", help="print a record for programs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 nothing failed, 1 the cluster's API stays away, 2 something has to be mended."""
    arguments = parser().parse_args(argv)
    return command_main("doctor", lambda: _doctor(arguments))


def _doctor(arguments: argparse.Namespace) -> int:
    run = run_of(arguments.config)
    found = []
    for finding in findings(arguments, run):
        found.append(finding)
        if not arguments.json:
            print(as_text(finding), flush=True)
    bad = sum(finding.state == "failed" for finding in found)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        print(f"{bad} of {len(found)} to be mended" if bad else "nothing has to be mended")
    return UserError.exit_code if bad else 0


def run_of(words: Sequence[str]) -> RunConfig:
    """The run that the words describe; where they name no task, laid over one that stands in."""
    return load(list(words) if any(_has_task(Path(word)) for word in words) else [str(STAND_IN), *words])


def _has_task(path: Path) -> bool:
    """Whether a file describes more than where to run. What is wrong with it, `load` tells."""
    if not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith(("task:", "data:")) for line in lines)


def findings(arguments: argparse.Namespace, run: RunConfig) -> Iterator[Finding]:
    """All that was asked for, as it is found."""
    from k8s.checks.local import local
    from k8s.checks.services import wandb

    on_cluster = arguments.cluster or arguments.try_pod
    yield from local(None if on_cluster else run, arguments.runs)
    yield wandb(run, on_cluster=on_cluster)
    if not on_cluster:
        yield kubeconfig()
        return
    try:
        api = connected(run)
    except UserError as error:
        says, _, remedy = str(error).partition("; ")
        yield failed("cluster access", says, remedy or "log in to the cluster again")
        return
    from k8s.checks import examine

    yield from examine(run, api)
    if arguments.try_pod:
        from k8s.checks.trial import try_pod

        for number in STOPPING:
            signal.signal(number, _leave)  # the pod is deleted on the way out
        yield from try_pod(run, api, wait_s=arguments.wait)


def connected(run: RunConfig) -> "Api":
    """The way to the run's cluster. Raises UserError where there is none."""
    from k8s.api import Api
    from k8s.connect import connect

    def tell(text: str) -> None:
        print(f"trainworks doctor: {text}", file=sys.stderr)

    return Api(connect(run.cluster.context), run.cluster.namespace, OUTAGE_S, tell)


def kubeconfig() -> Finding:
    """Whether a cluster could be reached from here: no fault where none is wanted."""
    from k8s.checks.finding import ok
    from k8s.connect import connect

    try:
        connect()
    except UserError as error:
        return skipped("cluster access", f"{error}; needed for runs on a cluster alone")
    return ok("cluster access", "there is a kubeconfig; trainworks doctor --cluster looks at what it leads to")


def _leave(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def as_text(finding: Finding) -> str:
    """One line, and the remedy indented below it."""
    lead = f"{MARKS[finding.state]:9}{finding.name:17} "
    lines = textwrap.wrap(
        finding.says,
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * 27,
        break_on_hyphens=False,
        break_long_words=False,
    )
    if finding.remedy:
        lines += textwrap.wrap(
            finding.remedy,
            WIDTH,
            initial_indent=" " * 27 + "-> ",
            subsequent_indent=" " * 30,
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
