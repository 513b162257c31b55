"""Command: what the pods of a run's jobs print, while they are there. Run as `trainworks logs CONFIG.yaml ...`."""

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from configs.errors import UserError
from configs.process import command_main
from k8s.api import PODS, Object
from k8s.job import LABEL, MODULES
from k8s.podlogs import PodLogs
from k8s.stopping import StoppedError, stoppable
from pipelines.cluster.follow import DRAIN_S, LOOK_S
from pipelines.cluster.jobs import Found, jobs_of, pods_of
from pipelines.cluster.kfp import is_over, state_of
from pipelines.cluster.place import Place, grammar, open_place, words_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = grammar("logs", "Print what the pods of a run's newest job print, and go on until they end.")
    top.add_argument("--stage", choices=[*MODULES], help="which stage's job, instead of the newest")
    top.add_argument("--fold", metavar="NAME", help="which fold's job of a cross-validation, such as 0-1")
    one = top.add_mutually_exclusive_group()
    one.add_argument("--node", type=int, metavar="N", help="of one node alone, from 0")
    one.add_argument("--rank", type=int, metavar="N", help="of the node alone that this rank is on")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 the pods have ended, 2 there is no such run, job or node, 128+n stopped by a signal."""
    arguments = words_of(parser(), argv)
    return command_main("logs", lambda: _logs(arguments))


def _logs(arguments: argparse.Namespace) -> int:
    place = open_place(arguments)
    node = _node(place, arguments)
    run = place.find(arguments.run)
    job = _chosen(jobs_of(place.api, run["run_id"]), arguments, run)
    try:
        with stoppable():
            _print_until_ended(place, run["run_id"], job, node)
    except StoppedError as stop:
        return 128 + (stop.number if stop.number != signal.SIGHUP else signal.SIGTERM)
    return 0


def _node(place: Place, arguments: argparse.Namespace) -> int | None:
    """Which node is asked for. Raises UserError where the run has none of that number."""
    world, nodes = place.run.world.processes, place.run.cluster.nodes
    for option, value, count in (("--node", arguments.node, nodes), ("--rank", arguments.rank, world)):
        if value is not None and not 0 <= value < count:
            raise UserError(f"{option} {value} is not one of the run's {count}, which count from 0")
    return arguments.rank // (world // nodes) if arguments.rank is not None else arguments.node


def _chosen(jobs: Sequence[Found], arguments: argparse.Namespace, run: Object) -> Found:
    """The newest job that fits what was asked for. Raises UserError where there is none."""
    fitting = [job for job in jobs if arguments.stage in (None, job.stage) and arguments.fold in (None, job.fold)]
    if not fitting:
        remedy = (
            "the whole output of a stage is in logs/STAGE.log of the run folder, that of a step on its page in KFP"
            if is_over(run)
            else "its steps are shown by `trainworks status`, and what they print by `trainworks status --follow`"
        )
        raise UserError(
            f"pipeline run {run['run_id']} ({state_of(run).lower()}) has no such job now: a job comes when its step "
            f"begins, and goes when it has succeeded; {remedy}"
        )
    return fitting[-1]


def _print_until_ended(place: Place, pipeline_run: str, job: Found, node: int | None) -> None:
    """Every line of the job's pods, each with its node where there are several, until none of them runs any more."""
    several = place.run.cluster.nodes > 1 and node is None
    with contextlib.closing(PodLogs(place.api, _printer(several))) as logs:
        while True:
            logs.check()
            pods = place.api.list(PODS, labels=_labels(job))[0]
            views = [view for _, view in pods_of(job, pods)]
            for view in views:
                if node in (None, view.node) and view.phase != "Pending":
                    logs.follow(view.uid, view.name, view.node)
                if view.ended:
                    logs.end(view.uid)
            if all(view.ended for view in views) and (views or _gone(place, job)):
                logs.drain(DRAIN_S)
                return
            time.sleep(LOOK_S)


def _gone(place: Place, job: Found) -> bool:
    """Whether no pods will come: a job without any may be about to have some."""
    found = place.api.list(job.resource, labels=_labels(job))[0]
    return not found or job.kind.state(found[0]).ended


def _labels(job: Found) -> str:
    """What its object and its pods alone have."""
    return ",".join(f"{LABEL}{name}={job.labels[LABEL + name]}" for name in ("key", "attempt"))


def _printer(several: bool) -> Callable[[int, bytes], None]:
    lock = threading.Lock()

    def show(node: int, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        with lock:
            print(f"node {node}: {text}" if several else text, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
