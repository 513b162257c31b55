"""Command: where a pipeline run stands. Run as `trainworks status CONFIG.yaml CLUSTER.yaml`."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from configs.process import command_main
from k8s.api import Object
from pipelines.cluster.follow import follow
from pipelines.cluster.jobs import Found, job_pods, jobs_of, pods_of, restarts_of
from pipelines.cluster.kfp import is_over, state_of
from pipelines.cluster.place import grammar, open_place, words, words_of

STEPS = ("prepare", "train", "evaluate", "collect")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 shown, 1 the cluster's API stays away, 2 there is no such run."""
    top = grammar("status", "Say where a run on a cluster stands: its steps, its jobs, and what their pods wait for.")
    top.add_argument("--follow", action="store_true", help="then print what it prints, and end as it ends")
    arguments = words_of(top, argv)

    def work() -> int:
        place = open_place(arguments)
        run = place.find(arguments.run)
        jobs, pods = jobs_of(place.api, run["run_id"]), job_pods(place.api, run["run_id"])
        for line in told(run, jobs, pods, datetime.now(UTC)):
            print(line, flush=True)
        return follow(place, run["run_id"], words=words(arguments)) if arguments.follow else 0

    return command_main("status", work)


def told(run: Object, jobs: Sequence[Found], pods: list[Object], now: datetime) -> Iterator[str]:
    """The lines of a status."""
    since = run.get("finished_at") if is_over(run) else run.get("created_at")
    yield f"{run['display_name']}: pipeline run {run['run_id']}, {state_of(run).lower()}{_since(since, now)}"
    rows = [
        [each["display_name"], state_of(each).lower(), _since(_changed(each), now).removeprefix(" since ")]
        for each in steps_of(run)
    ]
    yield from _aligned([["step", "state", "since"], *rows]) if rows else ["no step has started"]
    for each in steps_of(run):
        if message := (each.get("error") or {}).get("message"):
            yield f"{each['display_name']}: {message}"
    for job in jobs:
        yield from _told_of(job, pods)


def steps_of(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps that are ours, in the order in which they were made: KFP lists drivers and loops as well."""
    tasks = (run.get("run_details") or {}).get("task_details") or ()
    ours = [task for task in tasks if task.get("display_name") in STEPS]
    return sorted(ours, key=lambda task: task.get("create_time") or task.get("start_time") or "")


def _changed(task: Mapping[str, Any]) -> str | None:
    return (task.get("end_time") if is_over(task) else None) or task.get("start_time") or task.get("create_time")


def _told_of(job: Found, pods: list[Object]) -> Iterator[str]:
    """A job's state, its pods by phase, and what those wait for that do not run."""
    state, seen = job.state, list(pods_of(job, pods))
    restarts = job.attempt + sum(restarts_of(pod) for pod, _ in seen)
    fold = f" of fold {job.fold}" if job.fold else ""
    word = "waits in its queue" if state.phase == "queued" else state.phase
    message = f": {state.message}" if state.message else ""
    again = f"; started again {restarts} time{'s' * (restarts > 1)}" if restarts else ""
    yield f"{job.stage}{fold}: {job.kind.name} {job.name} {word}{message}{again}"
    phases = Counter(view.phase for _, view in seen)
    if phases:
        yield "  pods: " + ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
    for _, view in seen:
        if view.phase == "Pending" and view.waits:
            yield f"  {view.name} waits: {view.waits}"
        if view.words:
            yield f"  {view.name} {view.words}"


def _since(stamp: str | None, now: datetime) -> str:
    """` since 2026-01-02 03:04 UTC (12 min)`; nothing for no time."""
    if not stamp:
        return ""
    then = datetime.fromisoformat(stamp).astimezone(UTC)
    return f" since {then:%Y-%m-%d %H:%M} UTC ({_lasting((now - then).total_seconds())})"


def _lasting(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
